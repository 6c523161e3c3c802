//! The part of a run in batches that caches beginnings of prompts: what it submits when.

use std::sync::atomic::Ordering;

use crate::base::clock::{Clock, SystemClock};
use crate::base::usage::Usage;
use crate::bulk::checkpoint::Line;
use crate::engine::dispatch::StopReason;
use crate::llm::outcome::Outcome;
use crate::queue::store::DeliveredResult;

use super::execution::{Execution, Trouble, line, waiting};
use super::pilot::{Pilots, Sharing};

impl Execution {
    /// Chooses the beginnings for which one request is sent first.
    pub(super) fn choose_pilots(&mut self) {
        let Some(rule) = &self.caching else {
            return;
        };
        let beginnings = self.checkpoint.beginnings().into_iter();
        let sharing =
            beginnings.map(|(prefix, (model, requests))| (prefix, Sharing { model, requests }));
        self.pilots = Pilots::choose(rule, &sharing.collect(), SystemClock.wall());
    }

    /// Submits what need not wait for a pilot any more. If the process was cancelled, nothing more is submitted.
    pub(super) fn submit_waiting(&mut self) -> Result<(), Trouble> {
        if self.takes_no_more()? {
            self.wait_for(0);
            return Ok(());
        }
        let before = self.submitted;
        if let Err(reason) = self.submit(None) {
            // It may have been cancelled meanwhile.
            if !self.takes_no_more()? {
                return Err(Trouble::Lasting(reason));
            }
            self.wait_for(0);
            return Ok(());
        }
        let submitted = self.submitted - before;
        let is_over = submitted == 0 && !self.pilots.is_waiting();
        self.wait_for(if is_over {
            0
        } else {
            self.waiting.saturating_sub(submitted)
        });
        Ok(())
    }

    /// Whether the process was cancelled or deleted. The last result stays while items wait, so it is not gone by itself.
    fn takes_no_more(&self) -> Result<bool, Trouble> {
        let found = self.queue.process(self.process)?;
        Ok(found.is_none_or(|process| process.cancelled))
    }

    pub(super) fn wait_for(&mut self, items: u64) {
        self.waiting = items;
        self.unsubmitted.store(items, Ordering::Relaxed);
    }

    /// Looks whether pilots have reached their batch or have ended, and which take too long; `is_over` if no worker has
    /// them any more. Submits what became free.
    pub(super) fn advance_pilots(&mut self, is_over: bool) -> Result<(), Trouble> {
        if self.waiting == 0 {
            return Ok(());
        }
        let found = self.queue.process(self.process)?;
        // Until then, other requests would get into the batch of the pilots.
        let taken = found.is_none_or(|process| process.counts.pending == 0);
        self.is_free |= taken && self.pilots.are_in_batch();
        self.is_free |= self.pilots.give_up(is_over, SystemClock.now());
        if self.is_free {
            self.submit_waiting()?;
            self.is_free = false;
        }
        Ok(())
    }

    /// Goes on after the worker has ended while items wait for a pilot. The last result stays, because without it the
    /// process would be gone, and submitting the items would create it again, even if it was cancelled.
    pub(super) fn go_on_with_pilots(&mut self) -> Result<(), StopReason> {
        let advanced = self.collect(true).and_then(|()| {
            let found = self.queue.process(self.process)?;
            let left = found.map_or(0, |now| {
                let counts = now.counts;
                counts.pending + counts.in_progress + counts.at_provider
            });
            self.advance_pilots(left == 0)
        });
        match advanced {
            Ok(()) if self.waiting == 0 => return Ok(()),
            Ok(()) => {}
            Err(Trouble::Passing(error)) => log::warn!("{}", waiting(&error)),
            Err(Trouble::Lasting(reason)) => return Err(reason),
        }
        self.pause()
    }

    /// Notes pilots that have ended.
    pub(super) fn note_pilots(&mut self, results: &[DeliveredResult]) {
        let lines = results
            .iter()
            .filter_map(|result| line(result, &self.record));
        for line in lines {
            self.is_free |= self.pilots.ended(&line.id, usage_of(&line));
        }
    }
}

/// The tokens of a success.
fn usage_of(line: &Line) -> Option<Option<Usage>> {
    let outcome: Outcome = serde_json::from_str(&line.text).ok()?;
    line.success.then(|| outcome.usage())
}
