//! The client of a provider that lives in memory, with answers of its own where a test wants them.

use std::collections::HashSet;
use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::{Clock, Context, Error, ErrorKind, Sent};
use crate::llm::batch::{
    BatchAccount, BatchClient, BatchCounts, BatchInput, BatchIntent, BatchLimits, BatchLine,
    BatchLineResult, BatchRefusal, BatchStage, BatchState, BatchStatus, ListedBatches,
    RefusalOutcome, RequestName,
};
use crate::llm::request::Request;
use crate::llm::response::Response;

use super::fake_provider::{FakeProvider, Remote, die};
use super::harness::{in_state, lost, refused, refusing};

/// Answers a call in place of the fake provider, if it has an answer.
pub(crate) struct Script<A: ?Sized, T, E = Error>(Mutex<Option<Answer<A, T, E>>>);

type Answer<A, T, E> = Box<dyn FnMut(&A) -> Option<Result<T, E>> + Send>;

impl<A: ?Sized, T, E> Default for Script<A, T, E> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<A: ?Sized, T> Script<A, T> {
    pub fn set(&self, answer: impl FnMut(&A) -> Option<Result<T, Error>> + Send + 'static) {
        *self.0.lock() = Some(Box::new(answer));
    }

    /// Answers the first call only.
    pub fn once(&self, answer: impl FnOnce(&A) -> Result<T, Error> + Send + 'static) {
        let mut answer = Some(answer);
        self.set(move |call| answer.take().map(|answer| answer(call)));
    }
}

impl<A: ?Sized, T> Script<A, T, BatchRefusal> {
    pub fn set<E: Into<BatchRefusal>>(
        &self,
        mut answer: impl FnMut(&A) -> Option<Result<T, E>> + Send + 'static,
    ) {
        let answer = move |call: &A| Some(answer(call)?.map_err(Into::into));
        *self.0.lock() = Some(Box::new(answer));
    }

    pub fn once(&self, answer: impl FnOnce(&A) -> Result<T, Error> + Send + 'static) {
        let mut answer = Some(answer);
        self.set(move |call| answer.take().map(|answer| answer(call)));
    }
}

impl<A: ?Sized, T, E: From<Error>> Script<A, T, E> {
    /// Fails each call.
    pub fn fail(&self, error: Error) {
        *self.0.lock() = Some(Box::new(move |_| Some(Err(error.clone().into()))));
    }

    pub fn clear(&self) {
        *self.0.lock() = None;
    }

    fn or(&self, call: &A, plain: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let answer = self.0.lock().as_mut().and_then(|answer| answer(call));
        answer.unwrap_or_else(plain)
    }
}

/// The client of a fake provider, whose calls can be answered otherwise.
pub(crate) struct FakeClient {
    pub fake: Arc<Mutex<FakeProvider>>,
    pub provider: &'static str,
    pub credential: &'static str,
    pub line: Script<(String, Request), Vec<u8>>,
    pub advance: Script<BatchStage, BatchStage, BatchRefusal>,
    pub status: Script<str, BatchStatus>,
    pub discard: Script<str, ()>,
    pub download: Script<str, String>,
    pub read: Script<str, BatchLine>,
    pub cancel: Script<str, ()>,
}

impl FakeClient {
    pub fn of(fake: &Arc<Mutex<FakeProvider>>) -> Self {
        Self {
            fake: fake.clone(),
            provider: "fake",
            credential: "k",
            line: Script::default(),
            advance: Script::default(),
            status: Script::default(),
            discard: Script::default(),
            download: Script::default(),
            read: Script::default(),
            cancel: Script::default(),
        }
    }

    /// Lets a call fail without effect, take effect without a reply, or end its caller's life.
    fn call<T>(
        &self,
        effect: impl FnOnce(&mut FakeProvider) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut fake = self.fake.lock();
        fake.catch_up();
        let dies = fake.dies();
        if dies && fake.random.chance(50) {
            die(fake);
        }
        let trouble = fake.trouble;
        if !dies && fake.random.chance(trouble) {
            let transient = |why| Error::new(ErrorKind::Transient, why);
            return Err(match fake.random.below(4) {
                0 => transient("no connection").with_sent(Sent::No),
                1 => Error::new(ErrorKind::RateLimited, "slow down").with_status(429),
                2 => transient("trouble").with_status(503),
                _ => lost(),
            });
        }
        let result = effect(&mut fake);
        if dies {
            die(fake);
        }
        if fake.random.chance(trouble) {
            return Err(lost());
        }
        result
    }

    /// A moment in which the caller may die.
    fn moment(&self) {
        let mut fake = self.fake.lock();
        if fake.dies() {
            die(fake);
        }
    }

    fn created(
        &self,
        intent: &BatchIntent,
        file: Option<String>,
        items: Vec<(String, String)>,
    ) -> Result<BatchStage, BatchRefusal> {
        let (mut late, mut full) = (false, false);
        let result = self.call(|fake| {
            if let Some(file) = &file
                && !fake.files.contains_key(file)
            {
                return Err(refused("no such file", 404));
            }
            let room = fake.most_queued.unwrap_or(usize::MAX);
            if file.is_none() && fake.queued() + items.len() > room {
                full = true;
                return Err(refused("the limit of enqueued tokens", 429));
            }
            let (id, is_late) = fake.create(intent, file.clone(), items);
            late = is_late;
            Ok(BatchStage::Created { id, file })
        });
        match result {
            Err(error) if full => Err(refusing(RefusalOutcome::Wait { room: true }, error)),
            _ if late => Err(lost().into()),
            result => Ok(result?),
        }
    }
}

fn parse(input: &mut dyn BatchInput) -> Result<Vec<(String, String)>, Error> {
    let mut text = String::new();
    input.open()?.read_to_string(&mut text).unwrap();
    let pair = |line: &str| {
        let (key, prompt) = line.split_once(' ').unwrap();
        (key.to_owned(), prompt.trim_end().to_owned())
    };
    Ok(text.lines().map(pair).collect())
}

impl BatchClient for FakeClient {
    fn account(&self) -> BatchAccount {
        BatchAccount {
            provider: self.provider.to_owned(),
            base_url: "memory".to_owned(),
            credential: self.credential.to_owned(),
        }
    }

    fn limits(&self) -> BatchLimits {
        self.fake.lock().limits
    }

    fn model_for(&self, request: &Request) -> Option<String> {
        request.model.clone()
    }

    fn line(&self, key: &str, request: &Request) -> Result<Vec<u8>, Error> {
        self.moment();
        let known = self.fake.lock().overview.open(true);
        assert!(known, "jobs left the queue before their batch was known");
        let prompt = request.messages[0].text();
        self.line.or(&(key.to_owned(), request.clone()), || {
            if prompt.contains("unspeakable") {
                return Err(Error::new(ErrorKind::Invalid, "cannot be said"));
            }
            Ok(format!("{key} {prompt}\n").into_bytes())
        })
    }

    fn uploads(&self) -> bool {
        self.fake.lock().uploads
    }

    fn advance(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        input: &mut dyn BatchInput,
        _: &Context,
    ) -> Result<BatchStage, BatchRefusal> {
        let items = match stage {
            BatchStage::Ready => parse(input)?,
            _ => Vec::new(),
        };
        self.advance.or(stage, || match stage {
            BatchStage::Ready if self.uploads() => {
                assert_eq!(items.len() as u64, intent.items);
                Ok(self.call(|fake| {
                    let file = fake.named("file");
                    fake.files.insert(file.clone(), items);
                    Ok(BatchStage::Uploaded { file, time: None })
                })?)
            }
            BatchStage::Ready => self.created(intent, None, items),
            BatchStage::Uploaded { file, .. } => self.created(intent, Some(file.clone()), items),
            BatchStage::Created { .. } => unreachable!("it exists"),
        })
    }

    fn find(
        &self,
        intent: &BatchIntent,
        stage: &BatchStage,
        known: &HashSet<String>,
        _: &Context,
    ) -> Result<ListedBatches, Error> {
        // What was never uploaded is in no list of a provider that takes files.
        if self.uploads() && *stage == BatchStage::Ready {
            return Ok(ListedBatches::None);
        }
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
            let found = listed.filter(ours);
            let found = found.filter(|remote| fake.uploads || !others(remote));
            let mut ids: Vec<String> = found.map(|remote| remote.id.clone()).collect();
            Ok(match ids.len() {
                0 => ListedBatches::None,
                1 => ListedBatches::One(ids.remove(0)),
                _ if fake.uploads => ListedBatches::Many(ids),
                _ => ListedBatches::Undecidable("several".to_owned()),
            })
        })
    }

    fn discard(&self, file: &str, _: &Context) -> Result<(), Error> {
        let gone = |fake: &mut FakeProvider| {
            fake.files.remove(file);
            Ok(())
        };
        self.discard.or(file, || self.call(gone))
    }

    fn status(&self, id: &str, _: &Context) -> Result<BatchStatus, Error> {
        let status = |fake: &mut FakeProvider| {
            let mut batches = fake.batches.iter();
            let remote = batches.find(|remote| remote.id == id);
            let remote = remote.ok_or_else(|| refused("no such batch", 404))?;
            let total = remote.items.len() as u64;
            let poisoned = |(_, prompt): &(String, String)| prompt.contains("poison");
            let why = refused(remote.refused.unwrap_or_default(), 400);
            let state = match remote.refused {
                Some("queue") => {
                    BatchState::Refused(refusing(RefusalOutcome::Wait { room: true }, why))
                }
                Some(_) if fake.names_lines => {
                    let line = remote.items.iter().position(poisoned);
                    let line = line.map(|at| (RequestName::Line(at as u64 + 1), why.clone()));
                    let names = RefusalOutcome::Named(line.into_iter().collect());
                    BatchState::Refused(refusing(names, why))
                }
                Some(_) => BatchState::Refused(why.into()),
                None if !remote.over && remote.cancelled.is_some() => BatchState::Cancelling,
                None if !remote.over => BatchState::Running,
                None if remote.cancelled.is_some() => BatchState::Cancelled,
                None if remote.expires.is_some() => BatchState::Expired,
                None => BatchState::Completed,
            };
            let done = remote.expires.map_or(total, |done| done as u64);
            let results = remote.over.then(|| "results".to_owned());
            Ok(BatchStatus {
                results: results.into_iter().collect(),
                expected: remote.over.then_some(done),
                counts: Some(BatchCounts {
                    total,
                    completed: 0,
                    failed: 0,
                }),
                ..in_state(state)
            })
        };
        self.status.or(id, || self.call(status))
    }

    fn download(&self, id: &str, _: &str, sink: &mut dyn Write, _: &Context) -> Result<(), Error> {
        let text = self.download.or(id, || {
            self.call(|fake| {
                let mut batches = fake.batches.iter_mut();
                let remote = batches.find(|remote| remote.id == id).unwrap();
                let done = remote.expires.unwrap_or(remote.items.len());
                let line = |(key, prompt): &(String, String)| {
                    let has_failed = remote.failed.contains(prompt);
                    let mark = if has_failed { '-' } else { '+' };
                    format!("{key} {mark}{prompt}\n")
                };
                let mut lines: Vec<String> = remote.items[..done].iter().map(line).collect();
                if fake.random.chance(20) && done > 0 {
                    lines.push(lines[0].clone());
                }
                if fake.random.chance(20) && done > 0 {
                    lines.push("stranger-7 +who\n".to_owned());
                }
                for at in (1..lines.len()).rev() {
                    let other = fake.random.below(at as u64 + 1) as usize;
                    lines.swap(at, other);
                }
                // What stays missing is missing, and bought again.
                if remote.shorts < 2 && fake.random.chance(fake.trouble) {
                    remote.shorts += 1;
                    lines.truncate(lines.len() / 2);
                }
                Ok(lines.concat())
            })
        })?;
        // As the transport has it.
        let written = sink.write_all(text.as_bytes());
        written.map_err(|error| {
            Error::new(ErrorKind::Invalid, error.to_string()).with_sent(Sent::Maybe)
        })
    }

    fn read(&self, line: &[u8]) -> Result<BatchLine, Error> {
        self.moment();
        let line = String::from_utf8(line.to_vec()).unwrap();
        self.read.or(&line, || Ok(result(&line)))
    }

    fn cancel(&self, id: &str, _: &Context) -> Result<(), Error> {
        let cancelled = |fake: &mut FakeProvider| {
            let now = fake.clock.now();
            let mut batches = fake.batches.iter_mut();
            if let Some(remote) = batches.find(|remote| remote.id == id) {
                remote.cancelled.get_or_insert(now);
            }
            Ok(())
        };
        self.cancel.or(id, || self.call(cancelled))
    }
}

fn result(line: &str) -> BatchLine {
    let (key, prompt) = line.trim_end().split_once(' ').unwrap();
    let error = |kind, status| Error::new(kind, "failed").with_status(status);
    let result = match prompt.strip_prefix('+') {
        Some(prompt) => Ok(Response::new("fake", format!("echo: {prompt}"))),
        None if prompt.contains("flaky") => Err(error(ErrorKind::Transient, 500)),
        None => Err(error(ErrorKind::Invalid, 400)),
    };
    BatchLine {
        key: key.to_owned(),
        result: BatchLineResult::Answered(Box::new(result)),
    }
}
