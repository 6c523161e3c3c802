//! A run submits its items in portions: all at once, or a first portion, and the others when that one has shown something.
//!
//! A run with a deadline first submits a trial, which measures the rate of calls. A run in batches that caches beginnings
//! of prompts first submits a pilot of each of them. It never does both, because a deadline leaves no time for pilots.

use std::cell::{Cell, RefCell};

use crate::base::{Clock, Error, ErrorKind, SystemClock, Usage};
use crate::bulk::checkpoint::{Line, Submit};
use crate::engine::dispatch::StopReason;
use crate::llm::outcome::Outcome;
use crate::llm::params::CacheLifetime;
use crate::llm::prompt_cache::PromptPrefix;
use crate::queue::budget::ProcessBudget;
use crate::queue::controls::Controls;
use crate::queue::host::EnqueueError;
use crate::queue::job::{Job, JobCounts, ProcessState};
use crate::queue::store::DeliveredResult;

use super::collecting::line;
use super::execution::{Execution, MakeWorker};
use super::pilot::{Decision, Rule, Sharing};
use super::trouble::{Trouble, waiting};

impl Execution {
    /// Submits the first portion.
    pub(super) fn begin(&mut self, make_worker: &mut MakeWorker<'_>) -> Result<(), StopReason> {
        let items = self.checkpoint.count_unsent();
        self.portions.wait_for(items);
        let first = self.begin_trial(items, make_worker)?;
        self.choose_pilots();
        self.submit(first.unwrap_or(usize::MAX))
    }

    /// The number of items of a trial, if there is one.
    fn begin_trial(
        &mut self,
        items: u64,
        make_worker: &mut MakeWorker<'_>,
    ) -> Result<Option<usize>, StopReason> {
        let mut first = None;
        if let Some(control) = &mut self.control
            && items > 0
            && self.attached == 0
        {
            let worker = make_worker().map_err(StopReason::Fatal)?;
            drop(control.employs(worker, None));
            first = control.begin_trial(items);
        }
        self.unsaved_plan = true;
        self.save_plan().map_err(StopReason::Fatal)?;
        Ok(first)
    }

    /// Chooses the beginnings for which one request is sent first.
    fn choose_pilots(&mut self) {
        let Some(rule) = &self.caching else {
            return;
        };
        let beginnings = self.checkpoint.beginnings().into_iter();
        let sharing =
            beginnings.map(|(prefix, (model, requests))| (prefix, Sharing { model, requests }));
        self.portions
            .pilots
            .choose(rule, &sharing.collect(), SystemClock.wall());
    }

    /// Submits the next portion as soon as it is due. `controls` are those of the worker; `None` if it has ended. If the
    /// process was cancelled, nothing more is submitted.
    pub(super) fn advance(&mut self, controls: Option<&Controls>) -> Result<(), Trouble> {
        if self.portions.waiting == 0 && self.portions.due.is_none() {
            return Ok(());
        }
        let Some(process) = self.open_process()? else {
            self.submit_no_more();
            return Ok(());
        };
        if self.portions.due.is_none() {
            self.portions.due = self.next_portion(&process.counts, controls);
        }
        let Some(most) = self.portions.due else {
            return Ok(());
        };
        self.save_plan()?;
        if let Err(reason) = self.submit(most) {
            // The queue accepts no items of a process that was cancelled meanwhile.
            if self.open_process()?.is_some() {
                return Err(Trouble::of(reason));
            }
            self.submit_no_more();
        }
        Ok(())
    }

    /// The process, if it accepts items. The last result stays while items wait, so it is not gone by itself.
    fn open_process(&self) -> Result<Option<ProcessState>, Error> {
        let found = self.queue.process(self.process)?;
        Ok(found.filter(|process| !process.cancelled))
    }

    fn submit_no_more(&mut self) {
        self.portions.was_cancelled |= self.portions.waiting > 0;
        self.portions.due = None;
        self.portions.wait_for(0);
    }

    /// The maximum number of items of the next portion, if it is due.
    fn next_portion(&mut self, counts: &JobCounts, controls: Option<&Controls>) -> Option<usize> {
        let at_worker = counts.pending + counts.in_progress;
        let Some(control) = &mut self.control else {
            let is_over = controls.is_none() && at_worker + counts.at_provider == 0;
            let pilots = &mut self.portions.pilots;
            let is_due = pilots.advance(counts.pending == 0, is_over, SystemClock.wall());
            return is_due.then_some(usize::MAX);
        };
        if !control.is_trial_over(at_worker == 0) {
            return None;
        }
        let next = control.begin_trial(self.portions.waiting);
        // The worker takes the items as soon as they are submitted.
        if let Some(controls) = controls {
            control.apply(controls);
        }
        self.unsaved_plan = true;
        Some(next.unwrap_or(usize::MAX))
    }

    /// Submits the next portion after the worker has ended.
    pub(super) fn advance_alone(&mut self) -> Result<(), StopReason> {
        let before = self.portions.submitted;
        match self.collect(true).and_then(|()| self.advance(None)) {
            Ok(()) if self.portions.waiting == 0 || self.portions.submitted > before => Ok(()),
            Ok(()) => self.pause(),
            Err(Trouble::Passing(error)) => {
                log::warn!("{}", waiting(&error));
                self.pause()
            }
            Err(Trouble::Lasting(reason)) => Err(reason),
        }
    }

    /// Submits at most this many items. They start when all of them are on the queue.
    fn submit(&mut self, most: usize) -> Result<(), StopReason> {
        let most = self.rest_of_attempt(most).map_err(StopReason::Fatal)?;
        self.portions.due = Some(most);
        let jobs = self.jobs().map_err(StopReason::Fatal)?;
        self.portions.attempt = Some((jobs, self.checkpoint.left()));
        let submitted = self.enqueue(most)?;
        self.portions.attempt = None;
        self.portions.submitted += submitted;
        // If the store fails from here on, nothing but the end of the submission is due.
        self.portions.due = Some(0);
        let others_wait = most < usize::MAX || self.portions.pilots.is_waiting();
        let rest = self.portions.waiting.saturating_sub(submitted);
        self.portions.wait_for(if others_wait { rest } else { 0 });
        self.note_pilots().map_err(StopReason::Fatal)?;
        // An earlier run may have been killed when all its items were on the queue.
        let found = self.queue.process(self.process);
        if found
            .map_err(StopReason::Fatal)?
            .is_some_and(|process| !process.sealed)
        {
            self.queue.seal(self.process).map_err(StopReason::Fatal)?;
        }
        self.portions.due = None;
        Ok(())
    }

    /// If the last attempt failed, finds out which items it has submitted. Returns how many of this many are left.
    fn rest_of_attempt(&mut self, most: usize) -> Result<usize, Error> {
        let Some((jobs, left)) = self.portions.attempt else {
            return Ok(most);
        };
        self.attach(false)?;
        let there = self.jobs()?.saturating_sub(jobs);
        self.portions.attempt = None;
        self.portions.submitted += there;
        self.portions
            .wait_for(self.portions.waiting.saturating_sub(there));
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        self.checkpoint.limit(left.saturating_sub(there));
        Ok(match most {
            usize::MAX => most,
            _ => most.saturating_sub(there),
        })
    }

    /// How many jobs the process has ever had.
    fn jobs(&self) -> Result<u64, Error> {
        let found = self.queue.process(self.process)?;
        Ok(found.map_or(0, |process| process.counts.total))
    }

    fn enqueue(&mut self, most: usize) -> Result<u64, StopReason> {
        let ctx = &self.ctx;
        let pilots = RefCell::new(&mut self.portions.pilots);
        let is_pilot = Cell::new(false);
        let mut decide = |prefix: Option<&PromptPrefix>| {
            let decision = pilots.borrow().decide(prefix);
            is_pilot.set(decision == Decision::Pilot);
            match decision {
                Decision::Submit(lifetime) => Submit::Now(lifetime),
                Decision::Pilot => Submit::Now(Some(CacheLifetime::Hour)),
                Decision::Hold => Submit::Later,
            }
        };
        let unsent = self.checkpoint.unsent(&mut decide);
        let jobs = unsent.take(most).map(|request| {
            let (request, prefix) = request?;
            if let (true, Some(prefix)) = (is_pilot.get(), prefix) {
                let id = request.id.as_deref().unwrap_or_default();
                pilots.borrow_mut().sent(&prefix, id, SystemClock.wall());
            }
            if ctx.is_cancelled() {
                Err(Error::cancelled())
            } else {
                Ok(Job::from(&request))
            }
        });
        if let Some(budget) = &self.budget {
            let limited = ProcessBudget::new(budget.limit(), budget.spent());
            self.record.limited(limited);
        }
        let queue = self.record.described();
        let submitted = queue.try_enqueue_iter(self.process, jobs);
        submitted.map_err(|error| match error {
            EnqueueError::Source(error) if error.kind() == ErrorKind::Cancelled => {
                StopReason::Cancelled
            }
            EnqueueError::Source(error) | EnqueueError::Queue(error) => StopReason::Fatal(error),
        })
    }

    /// Takes in which pilots have ended.
    pub(super) fn pilots_ended(&mut self, results: &[DeliveredResult]) -> Result<(), Error> {
        if !self.portions.pilots.is_waiting() {
            return Ok(());
        }
        let mut any = false;
        for delivery in results {
            let pilots = &mut self.portions.pilots;
            any |= match line(delivery) {
                Some(line) => {
                    let usage = usage_of(&line, self.caching.as_ref());
                    pilots.ended(&line.id, usage, SystemClock.wall())
                }
                None => pilots.lost(|item| delivery.result.item_id.as_deref() == Some(item)),
            };
        }
        if any { self.note_pilots() } else { Ok(()) }
    }

    /// Stores which pilots were sent and have ended, for a run that continues this one.
    fn note_pilots(&mut self) -> Result<(), Error> {
        match self.portions.pilots.noted() {
            noted if noted.is_empty() => Ok(()),
            noted => self.record.piloted(noted),
        }
    }
}

/// The tokens of a success, if it is from the provider whose cache the others are to read.
fn usage_of(line: &Line, rule: Option<&Rule>) -> Option<Option<Usage>> {
    let outcome: Outcome = serde_json::from_str(&line.text).ok()?;
    let is_there = rule.is_some_and(|rule| outcome.provider.as_deref() == Some(&*rule.provider));
    (line.success && is_there).then(|| outcome.usage())
}
