//! All files and batches of all APIs. Time passes when the store is read: each access first applies what has happened
//! since the last one, so no thread is needed.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::life::{Batch, Failure, Fate, Item, Phase, Plan};
use crate::config::{BatchConfig, BatchSeen, BatchStats};
use crate::dialect::Dialect;
use crate::problems::Problem;
use crate::serve::Shared;
use crate::trouble::{mix, unit};
use crate::{SimConfig, Trouble, Vendor};

/// Makes these random draws independent of each other and of those of troubles.
const FAILS: u64 = 0x6661_696c;
const LACKS: u64 = 0x6c61_636b;

/// An input file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) dialect: Dialect,
    pub(super) name: String,
    pub(super) purpose: String,
    pub(super) created: Duration,
    pub(super) content: Arc<[u8]>,
    /// Whether its client has polled it.
    pub(super) looked_at: bool,
}

/// A resumable upload that has been started.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) size: u64,
    /// The file, still without its content.
    pub(super) file: File,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(super) files: Vec<File>,
    pub(super) sessions: Vec<Session>,
    /// The oldest first.
    pub(super) batches: Vec<Batch>,
    /// Creates that take effect later.
    late: Vec<(Duration, Plan)>,
    pub(super) counts: BatchStats,
    /// Prompts that have been missing once.
    lacked: HashSet<u64>,
    lost: u64,
    expiring: u64,
    cuts: u64,
    shorts: u64,
    ids: u64,
    salt: u64,
}

/// The fault of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoiled {
    No,
    Cut,
    Short,
}

impl Shared {
    /// Runs `work` on the files and batches of this moment, which it may change.
    pub(crate) fn with_batches<R>(&self, work: impl FnOnce(&mut Store, Duration) -> R) -> R {
        let mut store = self.batches.lock();
        // Read under the lock, otherwise time could go back between two accesses.
        let now = self.started.elapsed();
        store.catch_up(self, now);
        work(&mut store, now)
    }
}

impl Store {
    pub(crate) fn new(config: &BatchConfig) -> Store {
        Store {
            lost: config.lost_creates,
            expiring: config.expire_first.0,
            cuts: config.cut_downloads,
            shorts: config.short_downloads,
            salt: RandomState::new().hash_one(0),
            ..Store::default()
        }
    }

    fn catch_up(&mut self, shared: &Shared, now: Duration) {
        let (due, later) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(due, _)| *due <= now);
        self.late = later;
        for (due, plan) in due {
            let gone = plan
                .input
                .as_deref()
                .is_some_and(|id| self.file(plan.dialect, id).is_none());
            if !gone {
                self.open(plan, due, &shared.config);
            }
        }
        for batch in &mut self.batches {
            let finished = batch.finished(now, &shared.config.batches);
            if finished > batch.booked {
                self.counts.bought_twice += book(batch, finished, shared);
            }
        }
    }

    /// Creates a batch, immediately or later; `None` if its reply is to be lost.
    pub(super) fn create(
        &mut self,
        plan: Plan,
        now: Duration,
        config: &SimConfig,
    ) -> Option<usize> {
        if self.lost == 0 {
            return Some(self.open(plan, now, config));
        }
        self.lost -= 1;
        match config.batches.late_creates {
            Duration::ZERO => {
                self.open(plan, now, config);
            }
            delay => self.late.push((now + delay, plan)),
        }
        None
    }

    fn open(&mut self, mut plan: Plan, now: Duration, config: &SimConfig) -> usize {
        let validates = |vendor| vendor != Some(Vendor::Xai);
        if matches!(plan.dialect, Dialect::OpenAi(vendor) if validates(vendor))
            && plan.failures.is_empty()
            && self.is_full(&plan, now, &config.batches)
        {
            plan.failures.push(Failure {
                line: None,
                code: "token_limit_exceeded",
                message: format!(
                    "Enqueued token limit reached for {} in organization org-sim. Please try \
                     again once some in_progress batches have been completed.",
                    plan.model
                ),
            });
        }
        self.counts.created += 1;
        let id = format!("{}{:016x}", plan.prefix, self.fresh());
        let starts = plan.failures.is_empty();
        self.counts.started += u64::from(starts);
        let expires = (starts && self.expiring > 0).then_some(config.batches.expire_first.1);
        self.expiring -= u64::from(expires.is_some());
        self.decide(&mut plan.items, starts, config);
        self.batches.push(Batch {
            id,
            created: now,
            plan,
            expires,
            ..Batch::default()
        });
        self.batches.len() - 1
    }

    /// Decides what becomes of the requests of a batch, which starts or not.
    fn decide(&mut self, items: &mut [Item], starts: bool, config: &SimConfig) {
        let salted = |item: u64, what| unit(item ^ mix(config.seed ^ what));
        for item in items.iter_mut().filter(|item| item.fate == Fate::Waiting) {
            if salted(item.key, FAILS) < config.batches.item_failures {
                item.fate = Fate::Done(Some(Trouble::BadRequest));
            } else if starts
                && salted(item.key, LACKS) < config.batches.missing
                && self.lacked.insert(item.key)
            {
                item.fate = Fate::Missing;
            }
        }
        if starts {
            self.counts.items_accepted += items.len() as u64;
        }
    }

    /// Whether the plan would exceed the limit of enqueued tokens.
    pub(super) fn is_full(&self, plan: &Plan, now: Duration, config: &BatchConfig) -> bool {
        let queued = self.batches.iter().filter(|batch| {
            batch.is_of(plan.dialect) && !batch.has_failed() && !batch.phase(now, config).is_over()
        });
        let queued: u64 = queued.map(|batch| batch.plan.tokens).sum();
        let most = config.enqueued_tokens.unwrap_or(u64::MAX);
        queued.saturating_add(plan.tokens) > most
    }

    /// A number that no id has had.
    pub(super) fn fresh(&mut self) -> u64 {
        self.ids += 1;
        mix(self.salt ^ mix(self.ids))
    }

    /// Stores an input file.
    pub(super) fn add(&mut self, file: File) -> &File {
        self.counts.files_uploaded += 1;
        let place = self.files.len();
        self.files.push(file);
        &self.files[place]
    }

    pub(super) fn file(&mut self, dialect: Dialect, id: &str) -> Option<&mut File> {
        let mut files = self.files.iter_mut();
        files.find(|file| file.id == id && file.dialect == dialect)
    }

    /// Deletes a file. Returns whether it existed.
    pub(super) fn delete_file(&mut self, dialect: Dialect, id: &str) -> bool {
        let before = self.files.len();
        self.files
            .retain(|file| file.id != id || file.dialect != dialect);
        let deleted = self.files.len() < before;
        self.counts.files_deleted += u64::from(deleted);
        deleted
    }

    /// A batch that has not been deleted.
    pub(super) fn batch(&mut self, dialect: Dialect, id: &str) -> Result<&mut Batch, Problem> {
        let is_it = |batch: &&mut Batch| batch.id == id && batch.is_of(dialect);
        let mut batches = self.batches.iter_mut().filter(|batch| !batch.deleted);
        let found = batches.find(is_it);
        found.ok_or_else(|| Problem::missing("batch", id))
    }

    /// The batches that a list shows, the newest first.
    pub(super) fn listed(
        &self,
        dialect: Dialect,
        now: Duration,
        config: &BatchConfig,
    ) -> Vec<&Batch> {
        let mut batches: Vec<_> = self
            .batches
            .iter()
            .filter(|batch| batch.is_of(dialect) && !batch.deleted)
            .filter(|batch| batch.created + config.listing_lag <= now)
            .collect();
        // Late ones are created out of turn.
        batches.sort_by_key(|batch| std::cmp::Reverse(batch.created));
        batches
    }

    /// The fault of the next download of results.
    pub(super) fn next_download(&mut self) -> Spoiled {
        self.counts.downloads += 1;
        for (left, spoiled) in [
            (&mut self.cuts, Spoiled::Cut),
            (&mut self.shorts, Spoiled::Short),
        ] {
            if *left > 0 {
                *left -= 1;
                return spoiled;
            }
        }
        Spoiled::No
    }

    pub(crate) fn stats(&self, now: Duration, config: &BatchConfig) -> BatchStats {
        let mut stats = self.counts.clone();
        stats.files_left = self.files.len() as u64;
        for batch in &self.batches {
            let phase = batch.phase(now, config);
            stats.ended += u64::from(phase.is_over());
            stats.failed += u64::from(phase == Phase::Failed);
            stats.expired += u64::from(phase == Phase::Expired);
            stats.cancelled += u64::from(phase == Phase::Cancelled);
            stats.items_finished += batch.done + batch.failed;
            stats.batches.push(BatchSeen {
                id: batch.id.clone(),
                label: batch.plan.label.clone(),
                items: batch.total(),
                finished: batch.done + batch.failed,
                state: phase.name(),
                deleted: batch.deleted,
            });
        }
        stats
    }
}

/// Finishes the items of a batch up to `finished`; returns how many of them had been billed before.
fn book(batch: &mut Batch, finished: usize, shared: &Shared) -> u64 {
    let items = &mut batch.plan.items[batch.booked..finished];
    batch.booked = finished;
    let waiting = |fate| fate == Fate::Waiting;
    let asked: Vec<_> = items
        .iter()
        .filter(|item| waiting(item.fate))
        .map(|item| (item.key, item.form))
        .collect();
    let (met, again) = shared.ledger.lock().buy(&asked, &shared.config);
    let bought = items.iter_mut().filter(|item| waiting(item.fate));
    for (item, met) in bought.zip(met) {
        item.fate = Fate::Done(met);
    }
    let mut cost = 0;
    for item in items {
        cost += item.cost();
        match item.fate {
            Fate::Missing => batch.missing += 1,
            fate if fate.is_error() => batch.failed += 1,
            _ => batch.done += 1,
        }
    }
    shared.ledger.lock().counts.billed_picos += cost;
    again
}
