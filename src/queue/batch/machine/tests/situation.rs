//! A batch with all that matters for what may happen to it: its record, its row, and what is true at the
//! provider.

use std::time::Duration;

use crate::config::choices::OnUnknown;
use crate::queue::batch::machine::AWAY;
use crate::queue::batch::settings::LISTINGS;

use super::super::apply::apply;
use super::super::event::{Effects, Event, Facts};
use super::super::state::Record;
use super::super::state::{Fence, Remote, State};
use super::examples::{NOW, facts, record};

/// What is true at the provider, whoever knows of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Provider {
    /// The input file is there.
    pub file: bool,
    /// A creation is on its way, and may take effect as long as the file is there that it needs.
    pub coming: bool,
    /// The batch exists.
    pub exists: bool,
    /// It has for the time to reconcile, in one piece: no list can lag for longer.
    pub is_listed: bool,
    /// What it has answered was paid for.
    pub paid: bool,
}

/// A batch, its row, and all that is beside it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub record: Record,
    /// What its row says.
    pub saved: Record,
    pub provider: Provider,
    pub uploads: bool,
    pub policy: OnUnknown,
    pub is_stopped: bool,
    /// Nothing was known of withheld results when its process was cancelled.
    pub stopped_early: bool,
    /// New batches use another account.
    pub is_elsewhere: bool,
}

impl Node {
    pub fn new(uploads: bool) -> Self {
        let mut record = record(State::Forming);
        (record.due, record.intent.begun) = (NOW, NOW);
        Self {
            saved: record.clone(),
            record,
            provider: Provider::default(),
            uploads,
            policy: if uploads {
                OnUnknown::Resubmit
            } else {
                OnUnknown::Hold
            },
            is_stopped: false,
            stopped_early: false,
            is_elsewhere: false,
        }
    }

    pub fn facts(&self) -> Facts {
        let facts = facts(self.uploads, Some(self.policy), self.is_stopped);
        // Results are found to be withheld now, at the earliest.
        let late = NOW.after(Duration::from_secs(1));
        Facts {
            stopped_at: self
                .is_stopped
                .then_some(if self.stopped_early { NOW } else { late }),
            is_elsewhere: self.is_elsewhere,
            ..facts
        }
    }

    pub fn apply(&mut self, event: Event) -> Effects {
        let facts = self.facts();
        apply(&mut self.record, event, &facts)
    }

    /// What tells it apart from others, as far as that makes a difference.
    pub fn key(&self) -> String {
        let lags = self.uploads && self.provider.exists && !self.provider.is_listed;
        let longest = NOW.after(self.reconcile_wait());
        let text = |record: &Record| {
            let is_late = lags && record.due >= longest;
            let Record {
                intent,
                state,
                failures,
                lost_files,
                not_ours,
                waits,
                // Always the same.
                account: _,
                // Without effect.
                problem: _,
                due: _,
                most: _,
                refusals: _,
                halt: _,
            } = normal(record.clone());
            let sizes = (intent.label, intent.items, intent.bytes);
            let counts = (failures, lost_files, not_ours, waits);
            let parts = (sizes, state, counts, is_late);
            serde_json::to_string(&parts).unwrap()
        };
        let (record, provider) = (text(&self.record), &self.provider);
        let is_saved = self.saved == self.record;
        let saved = if is_saved {
            String::new()
        } else {
            text(&self.saved)
        };
        let decided = (self.policy, self.is_stopped, self.stopped_early);
        format!("{record} {saved} {provider:?} {decided:?}")
    }

    pub fn reconcile_wait(&self) -> Duration {
        self.facts().settings.reconcile_wait
    }

    /// The time until the next step passes.
    pub fn pass(&mut self) {
        let wait = self.record.due.since(NOW);
        self.record.due = NOW;
        let left = self.saved.due.since(NOW).saturating_sub(wait);
        self.saved.due = NOW.after(left);
        // Where no file is deleted nothing is waited for: there a list may lag for ever.
        let is_enough = self.uploads && wait >= self.reconcile_wait();
        self.provider.is_listed |= self.provider.exists && is_enough;
    }

    /// It dies, and another worker takes its row over.
    pub fn dies(mut self) -> Self {
        self.record = self.saved.clone();
        let effects = self.apply(Event::TakenOver);
        assert!(!effects.refused);
        self
    }

    /// With and without a creation that is on its way taking effect.
    pub fn with_late_creation(self) -> Vec<Self> {
        let takes_effect = self.provider.coming && (self.provider.file || !self.uploads);
        let mut created = self.clone();
        created.provider.coming = false;
        created.provider.exists = true;
        if takes_effect {
            vec![self, created]
        } else {
            vec![self]
        }
    }

    /// Whether the batch may be there, or come into being, without our having its id.
    pub fn may_exist(&self) -> bool {
        let comes = self.provider.coming && (self.provider.file || !self.uploads);
        self.record.id().is_none() && (self.provider.exists || comes)
    }
}

/// A record without what makes no difference to what may happen.
fn normal(mut record: Record) -> Record {
    record.problem = None;
    record.not_ours.sort();
    record.not_ours.dedup();
    record.waits = record.waits.min(AWAY);
    if !matches!(record.state, State::Forming | State::Sending(_)) {
        record.lost_files = 0;
    }
    record.failures = match &mut record.state {
        // Lost connections count in sixes.
        State::Sending(_) => record.failures % 12,
        State::Unknown(unknown) => {
            unknown.listings = unknown.listings.min(LISTINGS);
            if let Fence::Open { refusals } = &mut unknown.fence {
                *refusals = (*refusals).min(3);
            }
            0
        }
        State::Running(remote) => {
            normal_remote(remote);
            record.failures.min(3)
        }
        State::Forming => 0,
    };
    record
}

fn normal_remote(remote: &mut Remote) {
    (remote.status, remote.counts, remote.fetches) = (None, None, 0);
    if let Some(uncollected) = &mut remote.uncollected {
        uncollected.why.clear();
    }
}
