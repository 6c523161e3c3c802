//! Batches of Anthropic and Gemini from the first line to the last result, against the simulator.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::time::{Duration, SystemTime};

use batchwright::batch::BatchApi;
use batchwright::client::Sent;
use batchwright::unstable::{
    BatchClient, BatchInput, BatchIntent, BatchLine, BatchLineResult, BatchRefusal, BatchStage,
    BatchState, ListedBatches,
};
use batchwright::{Context, Error, ErrorKind, LlmConfig, Request, Secret};
use batchwright_simulate::{BatchConfig, SimConfig, Simulator};

/// Far beyond what anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const ALL: [&str; 2] = ["anthropic", "gemini"];

struct Lines(Vec<u8>);

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(&self.0[..]))
    }
}

/// A batch of the prompts `prompt 0`, `prompt 1` and so on, and a provider for it.
struct Desk {
    sim: Simulator,
    api: BatchApi,
    intent: BatchIntent,
    lines: Lines,
    ctx: Context,
}

impl Desk {
    fn new(provider: &str, prompts: usize, batches: BatchConfig) -> Self {
        let sim = Simulator::start(SimConfig::default().batches(batches)).unwrap();
        let config = LlmConfig::new(provider)
            .model("m")
            .base_url(format!("http://{}", sim.addr()));
        let api = config.api_key(Secret::new("k")).batch_client().unwrap();
        let mut lines = Vec::new();
        for at in 0..prompts {
            let request = Request::new(format!("prompt {at}"));
            lines.extend(api.line(&format!("r7-p3-{at:06}"), &request).unwrap());
        }
        let intent = BatchIntent {
            label: "r7-p3".to_owned(),
            model: Some("m".to_owned()),
            items: prompts as u64,
            bytes: lines.len() as u64,
            begun: SystemTime::now().into(),
            endpoint: None,
        };
        Self {
            sim,
            api,
            intent,
            lines: Lines(lines),
            ctx: Context::new(),
        }
    }

    fn advance(&mut self, stage: &BatchStage) -> Result<BatchStage, Error> {
        self.api
            .advance(&self.intent, stage, &mut self.lines, &self.ctx)
    }

    /// The stage from which the batch is created.
    fn ready(&mut self) -> BatchStage {
        if self.api.uploads() {
            self.advance(&BatchStage::Ready).unwrap()
        } else {
            BatchStage::Ready
        }
    }

    fn create(&mut self) -> String {
        let ready = self.ready();
        match self.advance(&ready).unwrap() {
            BatchStage::Created { id, .. } => id,
            other => panic!("{other:?}"),
        }
    }

    fn find(&self, stage: &BatchStage, known: &[&str]) -> ListedBatches {
        let known: HashSet<String> = known.iter().map(|id| (*id).to_owned()).collect();
        self.api
            .find(&self.intent, stage, &known, &self.ctx)
            .unwrap()
    }

    fn wait_for_end(&self) {
        let over = |stats: &batchwright_simulate::BatchStats| stats.ended == stats.created;
        assert!(self.sim.wait_for_batches(over, PATIENCE));
    }

    /// What came of each request, by its key.
    fn collect(&self, id: &str) -> Result<BTreeMap<String, BatchLineResult>, Error> {
        let status = self.api.status(id, &self.ctx)?;
        let mut ends = BTreeMap::new();
        for file in &status.results {
            let mut bytes = Vec::new();
            self.api.download(id, file, &mut bytes, &self.ctx)?;
            for line in bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let BatchLine { key, result: end } = self.api.read(line)?;
                assert!(ends.insert(key, end).is_none());
            }
        }
        if let Some(expected) = status.expected {
            assert_eq!(ends.len() as u64, expected);
        }
        Ok(ends)
    }

    fn assert_well_formed(&self) {
        assert_eq!(self.sim.stats().malformed, 0);
    }
}

fn quick() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_millis(20))
}

fn endless() -> BatchConfig {
    BatchConfig::default().duration(Duration::from_secs(80_000))
}

#[test]
fn every_request_of_a_batch_is_answered_under_its_key() {
    for provider in ALL {
        let mut desk = Desk::new(provider, 40, quick());
        let id = desk.create();
        desk.wait_for_end();
        let status = desk.api.status(&id, &desk.ctx).unwrap();
        assert!(matches!(status.state, BatchState::Completed), "{status:?}");
        let counts = status.counts.unwrap();
        assert_eq!((counts.total, counts.completed, counts.failed), (40, 40, 0));
        let ends = desk.collect(&id).unwrap();
        assert_eq!(ends.len(), 40);
        for (at, (key, end)) in ends.iter().enumerate() {
            assert_eq!(*key, format!("r7-p3-{at:06}"));
            match end {
                BatchLineResult::Answered(answer) => {
                    let answer = (**answer).as_ref().unwrap();
                    assert_eq!(answer.text, format!("echo: prompt {at}"));
                    assert_eq!(answer.provider, provider);
                    assert!(answer.usage.is_some());
                }
                BatchLineResult::NotProcessed(error) => panic!("{error}"),
            }
        }
        let stats = desk.sim.batch_stats();
        assert_eq!(
            (stats.created, stats.items_finished, stats.bought_twice),
            (1, 40, 0)
        );
        desk.assert_well_formed();
    }
}

#[test]
fn a_batch_whose_creation_had_no_reply_is_found() {
    for (provider, batches) in ALL.into_iter().flat_map(|p| [(p, quick()), (p, endless())]) {
        let mut desk = Desk::new(provider, 3, batches.lost_creates(1));
        let ready = desk.ready();
        assert_eq!(desk.find(&ready, &[]), ListedBatches::None);
        let lost = desk.advance(&ready).unwrap_err();
        assert_eq!(lost.sent(), Sent::Maybe);
        let id = desk.sim.batch_stats().batches[0].id.clone();
        assert_eq!(desk.find(&ready, &[]), ListedBatches::One(id.clone()));
        assert_eq!(desk.find(&ready, &[&id]), ListedBatches::None);
        assert_eq!(desk.sim.batch_stats().created, 1);
        desk.assert_well_formed();
    }
}

#[test]
fn the_batches_of_others_are_told_from_ours() {
    for provider in ALL {
        let mut desk = Desk::new(provider, 2_000, quick());
        desk.create();
        desk.wait_for_end();
        desk.intent.label = "r7-p4".to_owned();
        let stage = BatchStage::Uploaded {
            file: "files/r7-p4".to_owned(),
            time: None,
        };
        assert_eq!(desk.find(&stage, &[]), ListedBatches::None);
        desk.assert_well_formed();
    }
}

#[test]
fn a_cancelled_batch_ends() {
    for provider in ALL {
        let batches = BatchConfig::default().duration(Duration::from_secs(10));
        let mut desk = Desk::new(provider, 3, batches);
        let id = desk.create();
        let status = desk.api.status(&id, &desk.ctx).unwrap();
        assert!(matches!(status.state, BatchState::Running), "{status:?}");
        desk.api.cancel(&id, &desk.ctx).unwrap();
        desk.wait_for_end();
        desk.api.cancel(&id, &desk.ctx).unwrap();
        let ends = desk.collect(&id).unwrap();
        let state = desk.api.status(&id, &desk.ctx).unwrap().state;
        match provider {
            "anthropic" => {
                assert!(matches!(state, BatchState::Completed), "{state:?}");
                assert_eq!(ends.len(), 3);
                let unused =
                    |end: &BatchLineResult| matches!(end, BatchLineResult::NotProcessed(_));
                assert!(ends.values().all(unused), "{ends:?}");
            }
            _ => assert!(matches!(state, BatchState::Cancelled), "{state:?}"),
        }
    }
}

#[test]
fn requests_that_fail_are_told_from_those_that_were_answered() {
    for provider in ALL {
        let mut desk = Desk::new(provider, 40, quick().item_failures(0.5));
        let id = desk.create();
        desk.wait_for_end();
        let ends = desk.collect(&id).unwrap();
        let failed = |end: &&BatchLineResult| match end {
            BatchLineResult::Answered(answer) => match &**answer {
                Ok(_) => false,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                    true
                }
            },
            BatchLineResult::NotProcessed(error) => panic!("{error}"),
        };
        let failed = ends.values().filter(failed).count();
        assert!((1..40).contains(&failed));
        let counts = desk.api.status(&id, &desk.ctx).unwrap().counts.unwrap();
        assert_eq!((counts.total, counts.failed), (40, failed as u64));
        desk.assert_well_formed();
    }
}

#[test]
fn results_that_are_not_kept_any_more_are_gone() {
    for provider in ALL {
        let mut desk = Desk::new(provider, 3, quick().retention(Duration::ZERO));
        let id = desk.create();
        desk.wait_for_end();
        let gone = desk.collect(&id).unwrap_err();
        assert!(matches!(gone.status(), Some(404 | 410)), "{gone:?}");
    }
}

#[test]
fn an_upload_is_made_once_and_a_batch_whose_file_is_gone_never_starts() {
    let mut desk = Desk::new("gemini", 3, quick());
    let ready = desk.ready();
    assert_eq!(desk.ready(), ready);
    assert_eq!(desk.sim.batch_stats().files_uploaded, 1);
    let BatchStage::Uploaded { file, .. } = &ready else {
        panic!("{ready:?}");
    };
    for _ in 0..2 {
        desk.api.discard(file, &desk.ctx).unwrap();
    }
    assert_eq!(desk.advance(&ready).unwrap_err().status(), Some(404));
    assert_eq!(desk.sim.batch_stats().created, 0);
}

#[test]
fn a_line_that_gemini_refuses_is_somewhere_in_the_batch() {
    let mut desk = Desk::new("gemini", 3, quick().poison("prompt 1"));
    let id = desk.create();
    desk.wait_for_end();
    let state = desk.api.status(&id, &desk.ctx).unwrap().state;
    match state {
        BatchState::Refused(why) => {
            let refused = matches!(&why, BatchRefusal::SomeLine(error)
                if error.kind() == ErrorKind::Invalid);
            assert!(refused, "{why:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_expired_batch_of_gemini_leaves_nothing() {
    let mut desk = Desk::new("gemini", 4, quick().expire_first(1, 0.5));
    let id = desk.create();
    desk.wait_for_end();
    let status = desk.api.status(&id, &desk.ctx).unwrap();
    assert!(matches!(status.state, BatchState::Expired), "{status:?}");
    assert!(status.results.is_empty());
}
