//! Batches through the public API, step by step, at each simulated provider.

use std::io::Read;
use std::time::Duration;

use batchwright::batch::BatchApi;
use batchwright::client::Sent;
use batchwright::progress::Timestamp;
use batchwright::unstable::{
    BatchClient, BatchInput, BatchIntent, BatchLine, BatchLineResult, BatchRefusal, BatchStage,
    BatchState, BatchStatus, ListedBatches,
};
use batchwright::{Context, Error, ErrorKind, LlmConfig, Request, Secret};
use batchwright_simulate::{BatchConfig, SimConfig, Simulator, Vendor};

use crate::common::{PATIENCE, simulator};

/// Far beyond what any batch here takes that is to end.
const LONG: Duration = Duration::from_secs(80_000);

/// Those that have a Batch API.
fn all() -> impl Iterator<Item = (&'static str, Vendor)> {
    let others = [("anthropic", Vendor::OpenAi), ("gemini", Vendor::OpenAi)];
    FILED.into_iter().chain(others)
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(20))
}

/// Those that take a file of lines in OpenAI's way.
const FILED: [(&str, Vendor); 7] = [
    ("openai", Vendor::OpenAi),
    ("groq", Vendor::Groq),
    ("mistral", Vendor::Mistral),
    ("xai", Vendor::Xai),
    ("together", Vendor::Together),
    ("deepinfra", Vendor::DeepInfra),
    ("azure", Vendor::Azure),
];

struct Lines(Vec<u8>);

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(&self.0[..]))
    }
}

/// Nothing was sent that could have bought anything, and a later call may do.
fn is_not_yet(error: &Error) -> bool {
    error.kind() == ErrorKind::Transient && error.sent() == Sent::No
}

/// A provider, and a batch for it that is on its way.
struct Trip {
    sim: Simulator,
    api: BatchApi,
    intent: BatchIntent,
    input: Lines,
    stage: BatchStage,
    ctx: Context,
}

impl Trip {
    fn start(provider: &str, vendor: Vendor, batches: BatchConfig, prompts: &[&str]) -> Self {
        let sim = simulator(SimConfig::default().vendor(vendor).batches(batches));
        let config = LlmConfig::new(provider).model("sim-1");
        let config = config.base_url(format!("http://{}", sim.addr()));
        let api = config
            .api_key(Secret::new("sk-simulated-key"))
            .batch_client()
            .unwrap();
        let lines = prompts.iter().enumerate().map(|(n, prompt)| {
            let request = Request::new(*prompt).with_max_tokens(50);
            api.line(&key(n), &request).unwrap()
        });
        let input = Lines(lines.collect::<Vec<_>>().concat());
        let intent = BatchIntent {
            label: "run-1".to_owned(),
            model: Some("sim-1".to_owned()),
            items: prompts.len() as u64,
            bytes: input.0.len() as u64,
            begun: Timestamp::from(std::time::SystemTime::now()),
            endpoint: None,
        };
        Self {
            sim,
            api,
            intent,
            input,
            stage: BatchStage::Ready,
            ctx: Context::new(),
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        let Self {
            api,
            intent,
            input,
            stage,
            ctx,
            ..
        } = self;
        let next = api.advance(intent, stage, input, ctx);
        // Azure's input files are looked through before a batch may be made of them.
        let next = match next {
            Err(not_yet) if is_not_yet(&not_yet) => api.advance(intent, stage, input, ctx),
            next => next,
        };
        *stage = next?;
        Ok(())
    }

    /// To the stage from which the batch is created.
    fn upload(&mut self) {
        if self.api.uploads() {
            self.step().unwrap();
            assert!(matches!(self.stage, BatchStage::Uploaded { .. }));
        }
    }

    fn find(&self, known: &[&str]) -> ListedBatches {
        let known = known.iter().map(|id| (*id).to_owned()).collect();
        self.api
            .find(&self.intent, &self.stage, &known, &self.ctx)
            .unwrap()
    }

    /// Uploads and creates.
    fn submit(&mut self) -> String {
        self.upload();
        self.step().unwrap();
        match &self.stage {
            BatchStage::Created { id, .. } => id.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn ended(&self, id: &str) -> BatchStatus {
        assert!(self.sim.wait_for_batches(|seen| seen.ended == 1, PATIENCE));
        let status = self.api.status(id, &self.ctx).unwrap();
        assert!(status.state.is_final(), "{status:?}");
        status
    }

    fn refusal(&self, id: &str) -> BatchRefusal {
        match self.ended(id).state {
            BatchState::Refused(why) => why,
            other => panic!("{other:?}"),
        }
    }

    /// All lines of all results, by key.
    fn results(&self, id: &str, status: &BatchStatus) -> Vec<BatchLine> {
        let mut all = Vec::new();
        for file in &status.results {
            self.api.download(id, file, &mut all, &self.ctx).unwrap();
        }
        let lines = all.split_inclusive(|byte| *byte == b'\n');
        let mut lines: Vec<_> = lines.map(|line| self.api.read(line).unwrap()).collect();
        lines.sort_by(|one, other| one.key.cmp(&other.key));
        lines
    }
}

fn key(n: usize) -> String {
    format!("run-1-{n:06}")
}

fn keys(lines: &[BatchLine]) -> Vec<String> {
    lines.iter().map(|line| line.key.clone()).collect()
}

fn is_answer(line: &BatchLine) -> bool {
    matches!(&line.result, BatchLineResult::Answered(answer) if answer.is_ok())
}

#[test]
fn a_batch_goes_from_lines_to_answers() {
    for (provider, vendor) in all() {
        let prompts: Vec<String> = (0..20).map(|n| format!("prompt „{n}“\n")).collect();
        let prompts: Vec<&str> = prompts.iter().map(|prompt| &**prompt).collect();
        let mut trip = Trip::start(provider, vendor, quick().item_failures(0.3), &prompts);
        trip.upload();
        let uploaded = trip.stage.clone();
        assert_eq!(trip.find(&[]), ListedBatches::None);
        trip.step().unwrap();
        let BatchStage::Created { id, file } = trip.stage.clone() else {
            panic!("{:?}", trip.stage)
        };
        trip.stage = uploaded;
        assert_eq!(trip.find(&[]), ListedBatches::One(id.clone()), "{provider}");
        assert_eq!(trip.find(&[&id]), ListedBatches::None);

        let status = trip.ended(&id);
        assert!(matches!(status.state, BatchState::Completed), "{status:?}");
        assert_eq!(status.counts.is_none(), vendor == Vendor::Together);
        if let Some(counts) = status.counts {
            assert_eq!(counts.total, 20, "{provider}");
        }
        let lines = trip.results(&id, &status);
        assert_eq!(status.expected.unwrap_or(20), 20, "{provider}");
        assert_eq!(keys(&lines), (0..20).map(key).collect::<Vec<_>>());
        let answered = lines.iter().filter(|line| is_answer(line)).count() as u64;
        if let Some(counts) = status.counts {
            assert_eq!((counts.completed, counts.failed), (answered, 20 - answered));
        }
        assert!(answered < 20, "the simulator failed none");
        for (line, prompt) in lines.into_iter().zip(prompts) {
            match line.result {
                BatchLineResult::Answered(answer) => match *answer {
                    Ok(answer) => {
                        assert_eq!(answer.text.trim(), format!("echo: {}", prompt.trim()));
                        assert_eq!(answer.provider, provider);
                        assert!(answer.usage.unwrap().input_tokens > 0);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid, "{provider}"),
                },
                BatchLineResult::NotProcessed(error) => panic!("{error}"),
            }
        }
        if let Some(file) = file {
            trip.api.discard(&file, &trip.ctx).unwrap();
        }
        let seen = trip.sim.batch_stats();
        assert_eq!(
            (seen.created, seen.files_left, seen.bought_twice),
            (1, 0, 0)
        );
        assert_eq!(trip.sim.stats().malformed, 0, "{provider}");
    }
}

#[test]
fn a_creation_whose_reply_was_lost_is_found() {
    for (provider, vendor) in all() {
        for batches in [quick(), quick().duration(LONG)] {
            let mut trip = Trip::start(provider, vendor, batches.lost_creates(1), &["a"]);
            trip.upload();
            assert_eq!(trip.find(&[]), ListedBatches::None);
            let lost = trip.step().unwrap_err();
            assert_eq!(
                (lost.status(), lost.sent()),
                (None, Sent::Maybe),
                "{provider} {lost}"
            );
            let ListedBatches::One(id) = trip.find(&[]) else {
                panic!("{provider}")
            };
            assert_eq!(trip.find(&[&id]), ListedBatches::None);
            assert_eq!(trip.sim.batch_stats().created, 1);
            if trip.sim.batch_stats().ended == 1 {
                let status = trip.ended(&id);
                assert_eq!(keys(&trip.results(&id, &status)), [key(0)]);
            }
        }
    }
}

#[test]
fn a_poisoned_line_is_named_by_those_who_can() {
    for (provider, vendor) in FILED {
        let config = quick().poison("arsenic");
        let mut trip = Trip::start(provider, vendor, config, &["a", "b", "arsenic", "c"]);
        let id = trip.submit();
        match (trip.refusal(&id), vendor) {
            (
                BatchRefusal::Lines(lines),
                Vendor::OpenAi | Vendor::Groq | Vendor::DeepInfra | Vendor::Azure,
            ) => {
                let numbers: Vec<u64> = lines.iter().map(|(line, _)| *line).collect();
                assert_eq!(numbers, [3]);
                assert_eq!(lines[0].1.kind(), ErrorKind::Invalid);
            }
            (BatchRefusal::SomeLine(error), Vendor::Mistral | Vendor::Xai | Vendor::Together) => {
                assert_eq!(error.kind(), ErrorKind::Invalid);
            }
            (why, _) => panic!("{provider} {why:?}"),
        }
        let unnamed = quick().poison("arsenic").name_lines(false);
        let mut trip = Trip::start(provider, vendor, unnamed, &["arsenic", "b"]);
        let id = trip.submit();
        let why = trip.refusal(&id);
        assert!(
            matches!(why, BatchRefusal::SomeLine(_)),
            "{provider} {why:?}"
        );
    }
}

#[test]
fn a_full_queue_is_told_from_a_bad_request() {
    for (provider, vendor) in &FILED[..2] {
        let config = quick().enqueued_tokens(1);
        let mut trip = Trip::start(provider, *vendor, config, &["several words of a prompt"]);
        let id = trip.submit();
        let why = trip.refusal(&id);
        assert!(
            matches!(why, BatchRefusal::TooMuchQueued(_)),
            "{provider} {why:?}"
        );
    }
}

#[test]
fn a_batch_whose_file_was_deleted_before_buys_nothing() {
    for (provider, vendor) in FILED {
        let mut trip = Trip::start(provider, vendor, quick(), &["a"]);
        trip.step().unwrap();
        let BatchStage::Uploaded { file, .. } = &trip.stage else {
            panic!()
        };
        trip.api.discard(file, &trip.ctx).unwrap();
        match trip.step() {
            Err(refused) if is_not_yet(&refused) => assert_eq!(provider, "azure"),
            Err(refused) => assert!(matches!(refused.status(), Some(400..500)), "{refused}"),
            Ok(()) => {
                let BatchStage::Created { id, .. } = trip.stage.clone() else {
                    panic!()
                };
                let why = trip.refusal(&id);
                assert!(matches!(why, BatchRefusal::Whole(_)), "{provider} {why:?}");
            }
        }
        assert_eq!(trip.sim.batch_stats().started, 0, "{provider}");
    }
}

#[test]
fn an_expired_batch_keeps_what_it_had_finished() {
    for (provider, vendor) in FILED {
        let config = quick().expire_first(1, 0.5);
        let mut trip = Trip::start(provider, vendor, config, &["a", "b", "c", "d"]);
        let id = trip.submit();
        let status = trip.ended(&id);
        assert!(!matches!(status.state, BatchState::Completed) || status.expected.is_none());
        let lines = trip.results(&id, &status);
        assert_eq!(
            lines.iter().filter(|line| is_answer(line)).count(),
            2,
            "{provider}"
        );
        let rest = lines.iter().filter(|line| !is_answer(line));
        let untouched = |line: &BatchLine| matches!(line.result, BatchLineResult::NotProcessed(_));
        assert!(rest.into_iter().all(untouched), "{provider}");
    }
}

#[test]
fn a_download_that_breaks_off_is_an_error_and_works_again() {
    for (provider, vendor) in FILED {
        let config = quick().cut_downloads(1);
        let mut trip = Trip::start(provider, vendor, config, &["a", "b", "c"]);
        let id = trip.submit();
        let status = trip.ended(&id);
        let mut sink = Vec::new();
        let cut = trip
            .api
            .download(&id, &status.results[0], &mut sink, &trip.ctx);
        assert_eq!(cut.unwrap_err().kind(), ErrorKind::Transient, "{provider}");
        assert_eq!(trip.results(&id, &status).len(), 3);
    }
}

#[test]
fn cancelling_may_come_too_late() {
    for (provider, vendor) in FILED {
        let mut trip = Trip::start(provider, vendor, quick(), &["a", "b"]);
        let id = trip.submit();
        trip.api.cancel(&id, &trip.ctx).unwrap();
        trip.ended(&id);
        trip.api.cancel(&id, &trip.ctx).unwrap();
        let unknown = trip.api.cancel("batch_none", &trip.ctx).unwrap_err();
        assert_eq!(unknown.status(), Some(404), "{provider}");
        let unknown = trip.api.status("batch_none", &trip.ctx).unwrap_err();
        assert_eq!(unknown.status(), Some(404), "{provider}");
    }
}

const OTHERS: [&str; 2] = ["anthropic", "gemini"];

fn prompts(n: usize) -> Vec<String> {
    (0..n).map(|at| format!("prompt {at}")).collect()
}

/// A batch of this many prompts at a provider that takes no file in OpenAI's way.
fn other(provider: &str, n: usize, batches: BatchConfig) -> Trip {
    let prompts = prompts(n);
    let prompts: Vec<&str> = prompts.iter().map(|prompt| &**prompt).collect();
    Trip::start(provider, Vendor::OpenAi, batches, &prompts)
}

#[test]
fn the_batches_of_others_are_told_from_ours() {
    for provider in OTHERS {
        let mut trip = other(provider, 2_000, quick());
        let id = trip.submit();
        trip.ended(&id);
        trip.intent.label = "run-2".to_owned();
        trip.stage = BatchStage::Uploaded {
            file: "files/run-2".to_owned(),
            time: None,
        };
        assert_eq!(trip.find(&[]), ListedBatches::None);
        assert_eq!(trip.sim.stats().malformed, 0);
    }
}

#[test]
fn a_cancelled_batch_ends() {
    for provider in OTHERS {
        let mut trip = other(provider, 3, quick().duration(Duration::from_secs(10)));
        let id = trip.submit();
        let status = trip.api.status(&id, &trip.ctx).unwrap();
        assert!(matches!(status.state, BatchState::Running), "{status:?}");
        trip.api.cancel(&id, &trip.ctx).unwrap();
        let status = trip.ended(&id);
        trip.api.cancel(&id, &trip.ctx).unwrap();
        if provider == "gemini" {
            assert!(matches!(status.state, BatchState::Cancelled), "{status:?}");
            continue;
        }
        assert!(matches!(status.state, BatchState::Completed), "{status:?}");
        let lines = trip.results(&id, &status);
        let unused = |line: &BatchLine| matches!(line.result, BatchLineResult::NotProcessed(_));
        assert!(lines.len() == 3 && lines.iter().all(unused));
    }
}

#[test]
fn results_that_are_not_kept_any_more_are_gone() {
    for provider in OTHERS {
        let mut trip = other(provider, 3, quick().retention(Duration::ZERO));
        let id = trip.submit();
        assert!(trip.sim.wait_for_batches(|seen| seen.ended == 1, PATIENCE));
        let fetch = |status: BatchStatus| {
            let mut files = status.results.iter();
            files.try_for_each(|file| trip.api.download(&id, file, &mut Vec::new(), &trip.ctx))
        };
        let gone = trip.api.status(&id, &trip.ctx).and_then(fetch);
        assert!(matches!(gone.unwrap_err().status(), Some(404 | 410)));
    }
}

#[test]
fn an_upload_is_made_once_and_a_batch_whose_file_is_gone_never_starts() {
    let mut trip = other("gemini", 3, quick());
    trip.upload();
    let ready = std::mem::replace(&mut trip.stage, BatchStage::Ready);
    trip.upload();
    assert_eq!(trip.stage, ready);
    assert_eq!(trip.sim.batch_stats().files_uploaded, 1);
    let BatchStage::Uploaded { file, .. } = &ready else {
        panic!("{ready:?}");
    };
    for _ in 0..2 {
        trip.api.discard(file, &trip.ctx).unwrap();
    }
    assert_eq!(trip.step().unwrap_err().status(), Some(404));
    assert_eq!(trip.sim.batch_stats().created, 0);
}

#[test]
fn a_line_that_gemini_refuses_is_somewhere_in_the_batch() {
    let mut trip = other("gemini", 3, quick().poison("prompt 1"));
    let id = trip.submit();
    let why = trip.refusal(&id);
    assert!(
        matches!(&why, BatchRefusal::SomeLine(error) if error.kind() == ErrorKind::Invalid),
        "{why:?}"
    );
}

#[test]
fn an_expired_batch_of_gemini_leaves_nothing() {
    let mut trip = other("gemini", 4, quick().expire_first(1, 0.5));
    let id = trip.submit();
    let status = trip.ended(&id);
    assert!(matches!(status.state, BatchState::Expired), "{status:?}");
    assert!(status.results.is_empty());
}
