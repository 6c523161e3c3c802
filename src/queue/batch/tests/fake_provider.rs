//! A provider of batches that lives in memory, with every trouble a real one may make, on a clock that
//! is moved by hand. A call of it can end the life of its caller.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use crate::base::random::Random;
use crate::base::{Clock, Time};
use crate::llm::batch::{BatchIntent, BatchLimits};
use crate::testing::ManualClock;

use super::super::context::BatchOverview;

/// What a caller that dies panics with.
pub(crate) struct Died;

#[derive(Debug, Clone, Default)]
pub(crate) struct Remote {
    pub id: String,
    pub label: String,
    pub file: Option<String>,
    pub items: Vec<(String, String)>,
    exists_from: Time,
    pub listed_from: Time,
    ends: Time,
    pub expires: Option<usize>,
    pub cancelled: Option<Time>,
    pub over: bool,
    pub refused: Option<&'static str>,
    /// Which of its requests failed.
    pub failed: HashSet<String>,
    /// Times its results came cut short.
    pub shorts: u32,
}

pub(crate) struct FakeProvider {
    pub random: Random,
    pub clock: Arc<ManualClock>,
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
    pub files: BTreeMap<String, Vec<(String, String)>>,
    /// Creations under way.
    coming: Vec<Remote>,
    pub batches: Vec<Remote>,
    /// Answers that were charged, by prompt.
    pub bought: HashMap<String, u32>,
    flaky: HashSet<String>,
    pub creates: u64,
    /// How many calls are left until one ends its caller's life.
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
    pub fn catch_up(&mut self) {
        let now = self.clock.now();
        let coming = std::mem::take(&mut self.coming).into_iter();
        let (come, coming): (Vec<_>, _) = coming.partition(|remote| remote.exists_from <= now);
        self.coming = coming;
        for remote in come {
            self.exist(remote);
        }
        for at in 0..self.batches.len() {
            self.end(at, now);
        }
    }

    pub fn queued(&self) -> usize {
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
        let mut prompts = remote.items.iter().map(|(_, prompt)| prompt);
        let poisoned = prompts.any(|prompt| prompt.contains("poison"));
        let room = self.most_queued.unwrap_or(usize::MAX);
        if queued + remote.items.len() > room {
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
        let mut holding = self.batches.clone();
        for batch in &mut holding {
            batch.items.retain(|item| item.1 == prompt);
        }
        holding.retain(|batch| !batch.items.is_empty());
        holding
    }

    /// Batches that are still being worked on, or will be.
    pub fn alive(&mut self) -> usize {
        self.catch_up();
        let is_alive = |batch: &&Remote| !batch.over && batch.cancelled.is_none();
        self.batches.iter().filter(is_alive).count()
    }

    pub fn dies(&mut self) -> bool {
        let before = self.dies_in;
        self.dies_in = before.and_then(|left| left.checked_sub(1));
        before == Some(0)
    }

    pub fn named(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}-{}", self.next)
    }

    pub fn create(
        &mut self,
        intent: &BatchIntent,
        file: Option<String>,
        items: Vec<(String, String)>,
    ) -> (String, bool) {
        self.creates += 1;
        let now = self.clock.now();
        let id = self.named("batch");
        let late = !self.late.is_zero() && self.random.chance(self.trouble.max(5));
        let wait = late.then(|| self.late.mul_f64(self.random.share()));
        let exists_from = now.after(wait.unwrap_or_default());
        let lag = self.lag.mul_f64(self.random.share());
        let remote = Remote {
            id: id.clone(),
            label: intent.label.clone(),
            file,
            items,
            exists_from,
            listed_from: exists_from.after(lag),
            ends: exists_from.after(seconds(60 + self.random.below(600))),
            ..Remote::default()
        };
        if late {
            self.coming.push(remote)
        } else {
            self.exist(remote)
        }
        (id, late)
    }
}

pub(super) fn die(fake: MutexGuard<'_, FakeProvider>) -> ! {
    drop(fake);
    std::panic::panic_any(Died)
}
