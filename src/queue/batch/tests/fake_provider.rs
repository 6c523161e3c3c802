//! A provider of batches that lives in memory, with every trouble a real one may make, on a clock that
//! is moved by hand. It dies on demand: rather, whoever calls it does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::base::random::Random;
use crate::base::{Clock, Context, Error, ErrorKind, Sent, Time};
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine,
    BatchLineResult, BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches, RequestName,
};
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::testing::ManualClock;

use super::super::context::BatchOverview;

/// What a caller that dies panics with.
pub(crate) struct Died;

#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub id: String,
    label: String,
    file: Option<String>,
    pub items: Vec<(String, String)>,
    exists_from: Time,
    listed_from: Time,
    ends: Time,
    expires: Option<usize>,
    pub cancelled: Option<Time>,
    over: bool,
    refused: Option<&'static str>,
    /// Which of its requests failed.
    failed: HashSet<String>,
    /// Times its results came cut short.
    shorts: u32,
}

impl Remote {
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

pub(crate) struct FakeProvider {
    pub random: Random,
    clock: Arc<ManualClock>,
    /// Its input travels as files.
    pub uploads: bool,
    pub names_lines: bool,
    pub trouble: u64,
    /// The longest that a creation whose reply is lost may take to happen.
    pub late: Duration,
    pub lag: Duration,
    pub limits: BatchLimits,
    pub most_queued: Option<usize>,
    pub expiring: u64,
    files: BTreeMap<String, Vec<(String, String)>>,
    /// Creations under way.
    coming: Vec<Remote>,
    pub batches: Vec<Remote>,
    /// Answers that were charged, by prompt.
    pub bought: HashMap<String, u32>,
    flaky: HashSet<String>,
    pub creates: u64,
    /// The call at which whoever makes it dies.
    pub dies_in: Option<u64>,
    /// What the rest of the worker knows.
    pub overview: Arc<BatchOverview>,
    next: u64,
}

pub(crate) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl FakeProvider {
    pub fn new(seed: u64, clock: Arc<ManualClock>) -> Self {
        Self {
            random: Random(seed),
            clock,
            uploads: true,
            names_lines: true,
            trouble: 0,
            late: Duration::ZERO,
            lag: Duration::ZERO,
            limits: BatchLimits {
                requests: 50,
                bytes: 1 << 20,
            },
            most_queued: None,
            expiring: 0,
            files: BTreeMap::new(),
            coming: Vec::new(),
            batches: Vec::new(),
            bought: HashMap::new(),
            flaky: HashSet::new(),
            creates: 0,
            dies_in: None,
            overview: Arc::default(),
            next: 0,
        }
    }

    /// What time has brought about.
    fn catch_up(&mut self) {
        let now = self.clock.now();
        let (come, coming) = std::mem::take(&mut self.coming)
            .into_iter()
            .partition(|remote| remote.exists_from <= now);
        self.coming = coming;
        let come: Vec<Remote> = come;
        for remote in come {
            self.exist(remote);
        }
        for at in 0..self.batches.len() {
            self.end(at, now);
        }
    }

    fn queued(&self) -> usize {
        let busy = self.batches.iter().filter(|batch| !batch.over);
        busy.map(|batch| batch.items.len()).sum()
    }

    /// A creation takes effect, if its input is still there.
    fn exist(&mut self, mut remote: Remote) {
        if let Some(file) = &remote.file {
            match self.files.get(file) {
                Some(items) => remote.items.clone_from(items),
                None => return,
            }
        }
        let queued = self.queued();
        let poisoned = remote
            .items
            .iter()
            .any(|(_, prompt)| prompt.contains("poison"));
        if self
            .most_queued
            .is_some_and(|most| queued + remote.items.len() > most)
        {
            remote.refused = Some("queue");
        } else if poisoned && self.uploads {
            remote.refused = Some("poison");
        }
        remote.over = remote.refused.is_some();
        if self.random.chance(self.expiring) {
            remote.expires = Some(self.random.below(remote.items.len() as u64 + 1) as usize);
        }
        self.batches.push(remote);
    }

    fn end(&mut self, at: usize, now: Time) {
        let remote = &mut self.batches[at];
        let stops = remote
            .cancelled
            .map_or(remote.ends, |at| at.after(seconds(5)).min(remote.ends));
        if remote.over || stops > now {
            return;
        }
        remote.over = true;
        let whole = remote.items.len();
        let done = match (remote.cancelled.is_some(), remote.expires) {
            (true, _) => whole / 3,
            (false, Some(done)) => done,
            (false, None) => whole,
        };
        remote.expires = (done < whole).then_some(done);
        for (_, prompt) in &remote.items[..done] {
            let first = prompt.contains("flaky") && self.flaky.insert(prompt.clone());
            if prompt.contains("bad") || prompt.contains("poison") || first {
                remote.failed.insert(prompt.clone());
            } else {
                *self.bought.entry(prompt.clone()).or_default() += 1;
            }
        }
    }

    /// The batches that hold a prompt, without the rest of what they hold.
    pub fn with(&self, prompt: &str) -> Vec<Remote> {
        let holds = |item: &&(String, String)| item.1 == prompt;
        let holding = self
            .batches
            .iter()
            .filter(|batch| batch.items.iter().any(|i| holds(&i)));
        let mut holding: Vec<Remote> = holding.cloned().collect();
        holding
            .iter_mut()
            .for_each(|batch| batch.items.retain(|i| holds(&i)));
        holding
    }

    /// Whatever exists is listed from now on.
    pub fn list_all(&mut self) {
        let now = self.clock.now();
        for batch in &mut self.batches {
            batch.listed_from = batch.listed_from.min(now);
        }
    }

    /// Batches that are still being worked on, or will be.
    pub fn alive(&mut self) -> usize {
        self.catch_up();
        self.batches
            .iter()
            .filter(|b| !b.over && b.cancelled.is_none())
            .count()
    }
}

/// The client of a fake provider.
pub(crate) struct FakeClient(pub Arc<Mutex<FakeProvider>>);

impl FakeClient {
    /// Lets a call fail without effect, take effect without a reply, or end its caller's life.
    fn call<T>(
        &self,
        effect: impl FnOnce(&mut FakeProvider) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut fake = self.0.lock();
        fake.catch_up();
        let dies = fake.dies();
        if dies && fake.random.chance(50) {
            drop(fake);
            std::panic::panic_any(Died);
        }
        let trouble = fake.trouble;
        if !dies && fake.random.chance(trouble) {
            return Err(match fake.random.below(4) {
                0 => Error::new(ErrorKind::Transient, "no connection").with_sent(Sent::No),
                1 => Error::new(ErrorKind::RateLimited, "slow down").with_status(429),
                2 => Error::new(ErrorKind::Transient, "trouble").with_status(503),
                _ => Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe),
            });
        }
        let result = effect(&mut fake);
        if dies {
            drop(fake);
            std::panic::panic_any(Died);
        }
        if fake.random.chance(trouble) {
            return Err(Error::new(ErrorKind::Transient, "reply lost").with_sent(Sent::Maybe));
        }
        result
    }

    /// A moment in which whoever is at work may die.
    fn moment(&self) {
        let mut fake = self.0.lock();
        if fake.dies() {
            drop(fake);
            std::panic::panic_any(Died);
        }
    }
}

impl FakeProvider {
    fn dies(&mut self) -> bool {
        let dies = self.dies_in == Some(0);
        self.dies_in = match self.dies_in {
            Some(0) | None => None,
            Some(n) => Some(n - 1),
        };
        dies
    }

    fn named(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}-{}", self.next)
    }

    fn create(
        &mut self,
        intent: &BatchIntent,
        file: Option<String>,
        items: Vec<(String, String)>,
    ) -> (String, bool) {
        self.creates += 1;
        let now = self.clock.now();
        let id = self.named("batch");
        let late = !self.late.is_zero() && self.random.chance(self.trouble.max(5));
        let wait = if late {
            self.late.mul_f64(self.random.share())
        } else {
            Duration::ZERO
        };
        let exists_from = now.after(wait);
        let lag = self.lag.mul_f64(self.random.share());
        let remote = Remote {
            id: id.clone(),
            label: intent.label.clone(),
            file,
            items,
            exists_from,
            listed_from: exists_from.after(lag),
            ends: exists_from.after(seconds(60 + self.random.below(600))),
            expires: None,
            cancelled: None,
            over: false,
            refused: None,
            failed: HashSet::new(),
            shorts: 0,
        };
        if late {
            self.coming.push(remote)
        } else {
            self.exist(remote)
        }
        (id, late)
    }
}

fn parse(input: &mut dyn BatchInput) -> Vec<(String, String)> {
    let mut text = String::new();
    input.open().unwrap().read_to_string(&mut text).unwrap();
    let pair = |line: &str| {
        let (key, prompt) = line.split_once(' ').unwrap();
        (key.to_owned(), prompt.trim_end().to_owned())
    };
    text.lines().map(pair).collect()
}

impl BatchClient for FakeClient {
    fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: "fake".to_owned(),
            base_url: "memory".to_owned(),
            credential: "k".to_owned(),
        }
    }

    fn limits(&self) -> BatchLimits {
        self.0.lock().limits
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        request.model.clone()
    }

    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        self.moment();
        let known = self.0.lock().overview.open(true);
        assert!(
            known,
            "jobs left the queue before anybody knew of their batch"
        );
        let prompt = request.messages[0].text();
        if prompt.contains("unspeakable") {
            Err(Error::new(ErrorKind::Invalid, "cannot be said"))
        } else {
            Ok(format!("{key} {prompt}\n").into_bytes())
        }
    }

    fn uploads(&self) -> bool {
        self.0.lock().uploads
    }

    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        _: &Context,
    ) -> Result<BatchStage, Error> {
        let uploads = self.uploads();
        match stage {
            BatchStage::Ready if uploads => {
                let items = parse(input);
                assert_eq!(items.len() as u64, intent.items);
                self.call(|fake| {
                    let file = fake.named("file");
                    fake.files.insert(file.clone(), items);
                    Ok(BatchStage::Uploaded { file, time: None })
                })
            }
            BatchStage::Ready => {
                let items = parse(input);
                self.created(intent, None, items)
            }
            BatchStage::Uploaded { file, .. } => {
                self.created(intent, Some(file.clone()), Vec::new())
            }
            BatchStage::Created { .. } => unreachable!("it exists"),
        }
    }

    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        _: &Context,
    ) -> Result<ListedBatches, Error> {
        self.call(|fake| {
            let now = fake.clock.now();
            let listed =
                |remote: &&Remote| remote.listed_from <= now && !known.contains(&remote.id);
            let listed = fake.batches.iter().filter(listed);
            let ours = |remote: &&Remote| match stage {
                BatchStage::Uploaded { file, .. } => remote.file.as_ref() == Some(file),
                _ => remote.items.len() as u64 == intent.items,
            };
            // Those that have ended show whose they are.
            let others = |remote: &&Remote| remote.over && remote.label != intent.label;
            let found = listed
                .filter(ours)
                .filter(|remote| fake.uploads || !others(remote));
            let found: Vec<&Remote> = found.collect();
            if !fake.uploads && found.len() > 1 {
                return Ok(ListedBatches::Undecidable("several".to_owned()));
            }
            let ids: Vec<String> = found.iter().map(|remote| remote.id.clone()).collect();
            Ok(match ids.len() {
                0 => ListedBatches::None,
                1 => ListedBatches::One(ids[0].clone()),
                _ => ListedBatches::Many(ids),
            })
        })
    }

    fn discard(&self, file: &str, _: &Context) -> Result<(), Error> {
        self.call(|fake| {
            fake.files.remove(file);
            Ok(())
        })
    }

    fn status(&self, id: &str, _: &Context) -> Result<BatchStatus, Error> {
        self.call(|fake| {
            let names_lines = fake.names_lines;
            let remote = fake.batches.iter().find(|remote| remote.id == id);
            let Some(remote) = remote else {
                return Err(Error::new(ErrorKind::Invalid, "no such batch").with_status(404));
            };
            let refusal = |prompt: &str| Error::new(ErrorKind::Invalid, prompt).with_status(400);
            let poisoned = |remote: &Remote| {
                let lines = remote.items.iter().enumerate();
                let bad = lines.filter(|(_, (_, prompt))| prompt.contains("poison"));
                bad.map(|(at, _)| (RequestName::Line(at as u64 + 1), refusal("poison")))
                    .take(1)
                    .collect()
            };
            let total = remote.items.len() as u64;
            let state = match remote.refused {
                Some("queue") => BatchState::Refused(BatchRefusal::TooMuchQueued(refusal("queue"))),
                Some(_) if names_lines => {
                    BatchState::Refused(BatchRefusal::Named(poisoned(remote)))
                }
                Some(_) => BatchState::Refused(BatchRefusal::Unnamed(refusal("poison"))),
                None if !remote.over && remote.cancelled.is_some() => BatchState::Cancelling,
                None if !remote.over => BatchState::Running,
                None if remote.cancelled.is_some() => BatchState::Cancelled,
                None if remote.expires.is_some() => BatchState::Expired,
                None => BatchState::Completed,
            };
            let done = remote.expires.map_or(total, |done| done as u64);
            Ok(BatchStatus {
                results: if remote.over {
                    vec!["results".to_owned()]
                } else {
                    Vec::new()
                },
                expected: remote.over.then_some(done),
                counts: Some(BatchCounts {
                    total,
                    completed: 0,
                    failed: 0,
                }),
                state,
                poll_after: None,
            })
        })
    }

    fn download(&self, id: &str, _: &str, sink: &mut dyn Write, _: &Context) -> Result<(), Error> {
        self.call(|fake| {
            let remote = fake
                .batches
                .iter()
                .find(|remote| remote.id == id)
                .unwrap()
                .clone();
            let done = remote.expires.unwrap_or(remote.items.len());
            let mut lines = Vec::new();
            for (key, prompt) in &remote.items[..done] {
                let mark = if remote.failed.contains(prompt) {
                    '-'
                } else {
                    '+'
                };
                lines.push(format!("{key} {mark}{prompt}\n"));
            }
            if fake.random.chance(20) && !lines.is_empty() {
                lines.push(lines[0].clone());
            }
            if fake.random.chance(20) && !lines.is_empty() {
                lines.push("stranger-7 +who\n".to_owned());
            }
            for at in (1..lines.len()).rev() {
                let other = fake.random.below(at as u64 + 1) as usize;
                lines.swap(at, other);
            }
            let trouble = fake.trouble;
            // What stays missing is missing, and bought again.
            let short = remote.shorts < 2 && fake.random.chance(trouble);
            if short {
                let same = |other: &&mut Remote| other.id == remote.id;
                let known = fake.batches.iter_mut().find(same);
                known.unwrap().shorts += 1;
                lines.truncate(lines.len() / 2);
            }
            for line in lines {
                sink.write_all(line.as_bytes()).unwrap();
            }
            Ok(())
        })
    }

    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        self.moment();
        let line = String::from_utf8(line.to_vec()).unwrap();
        let (key, prompt) = line.trim_end().split_once(' ').unwrap();
        let error = |kind, status| Error::new(kind, "failed").with_status(status);
        let result = match prompt.strip_prefix('+') {
            Some(prompt) => Ok(Response::new("fake", format!("echo: {prompt}"))),
            None if prompt.contains("flaky") => Err(error(ErrorKind::Transient, 500)),
            None => Err(error(ErrorKind::Invalid, 400)),
        };
        Ok(BatchLine {
            key: key.to_owned(),
            result: BatchLineResult::Answered(Box::new(result)),
        })
    }

    fn cancel(&self, id: &str, _: &Context) -> Result<(), Error> {
        self.call(|fake| {
            let now = fake.clock.now();
            if let Some(remote) = fake.batches.iter_mut().find(|remote| remote.id == id) {
                remote.cancelled.get_or_insert(now);
            }
            Ok(())
        })
    }
}

impl FakeClient {
    pub(crate) fn created(
        &self,
        intent: &BatchIntent,
        file: Option<String>,
        items: Vec<(String, String)>,
    ) -> Result<BatchStage, Error> {
        let mut late = false;
        let result = self.call(|fake| {
            if let Some(file) = &file
                && !fake.files.contains_key(file)
            {
                return Err(Error::new(ErrorKind::Invalid, "no such file").with_status(404));
            }
            let room = fake.most_queued.unwrap_or(usize::MAX);
            if file.is_none() && fake.queued() + items.len() > room {
                return Err(Error::new(ErrorKind::RateLimited, "queue").with_status(429));
            }
            let (id, is_late) = fake.create(intent, file.clone(), items);
            late = is_late;
            Ok(BatchStage::Created { id, file })
        });
        if late {
            Err(Error::new(ErrorKind::Transient, "cut off").with_sent(Sent::Maybe))
        } else {
            result
        }
    }
}
