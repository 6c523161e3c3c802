//! The backlog of a worker: the jobs that its store lets it claim, and a few prefetched jobs.
//!
//! A prefetched job is claimed but not started: its quota closed between the claim and the call. They are few, and are given
//! back when they must wait. Claimed jobs of equal history that may share a call are one pack from then on.

mod tickets;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::brief::beginning;
use crate::base::{Error, ErrorKind, Time, WarnOnce};
use crate::engine::availability::Availability;
use crate::engine::limited_by::Limit;
use crate::engine::work::{Take, Ticket};

use super::claim_plan::{ClaimPlan, Claimed, MOST_CLAIMED};
use super::controls::{Controls, Scope};
use super::kind::{JobTicket, Taken};

/// How long a failed access to the store is retried while batches are open.
const STORE_RETRY_TIME: Duration = Duration::from_secs(60);

/// More than 15 fields: what a claim needs, what the last claim returned, and what waits between two claims.
pub(crate) struct StoreBacklog {
    pub controls: Arc<Controls>,
    pub scope: Scope,
    looks: Looks,
    /// A kind that this worker does not support. The last claim found jobs of it.
    unknown: Option<String>,
    warned: WarnOnce,
    /// The next request to the store. It is made without the dispatcher's lock, because a database may be locked or far away.
    pub request: Option<Box<ClaimPlan>>,
    /// Whether one is in flight.
    is_asked: bool,
    /// Its outcome, which the next `take` uses.
    arrived: Option<(Box<ClaimPlan>, Result<Claimed, Error>)>,
    /// Whether jobs have ended or were released since the request.
    is_stale: bool,
    prefetched: VecDeque<JobTicket>,
    /// The last claim found all that it could. Without an event, no more can be claimed before this time.
    quiet_until: Option<Time>,
    /// Only time makes more jobs claimable: calls wait for their limits, and the ends of others make no room.
    only_waits: bool,
    /// Jobs that are claimed and not settled, including prefetched ones.
    running: usize,
    /// The one running job must run by itself, because it may crash its worker.
    alone: bool,
    batch: usize,
    order: u64,
    /// Why no job can be claimed at the moment.
    pub trouble: Option<Error>,
    /// Start of that problem.
    troubled_since: Option<Time>,
    /// What delayed the jobs that the last claim did not return.
    held_by: Option<Limit>,
    /// How many providers and models were closed to calls.
    closed: usize,
}

/// Prefetched jobs that cannot start are given back after this time. They are fetched up to a second early.
const HOLD: Duration = Duration::from_secs(2);
/// Poll intervals between two claims from a database server that has not changed.
const POLLS_OF_A_SERVER: u32 = 12;
/// Time until a failed claim is retried.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// Interval of checks while other programs release a sealed process, and while another machine may be dead.
const CHORES_AGAIN: Duration = Duration::from_millis(20);
const OTHERS_AGAIN: Duration = Duration::from_millis(500);

impl StoreBacklog {
    pub(crate) fn new(controls: Arc<Controls>, scope: Scope) -> Self {
        Self {
            controls,
            scope,
            looks: Looks::default(),
            unknown: None,
            warned: WarnOnce::default(),
            request: None,
            is_asked: false,
            arrived: None,
            is_stale: false,
            prefetched: VecDeque::new(),
            quiet_until: None,
            only_waits: false,
            running: 0,
            alone: false,
            batch: 0,
            order: 0,
            trouble: None,
            troubled_since: None,
            held_by: None,
            closed: 0,
        }
    }

    /// Message about jobs of a kind that this worker does not support.
    pub(crate) fn unknown(&self) -> Option<String> {
        let kind = self.unknown.as_deref()?;
        let kind = beginning(kind, 60);
        Some(format!(
            "jobs of the kind {kind:?} wait for a worker that knows it"
        ))
    }

    /// What delayed the jobs that the last claim did not return. `None` while calls are in flight: then those are
    /// what the worker waits for.
    pub(crate) fn held_by(&self) -> Option<Limit> {
        match self.held_by {
            Some(Limit::Quota) => Some(Limit::Quota),
            _ if self.running > 0 => Some(Limit::Provider),
            held_by => held_by,
        }
    }

    /// Records that this many jobs have ended or were given back. `is_back`: they can be claimed again.
    pub(crate) fn settled(&mut self, jobs: usize, is_back: bool) {
        if is_back || !self.only_waits {
            self.quiet_until = None;
            self.is_stale = true;
        }
        self.running = self.running.saturating_sub(jobs);
        self.alone &= self.running > 0;
    }

    /// A job has looked for others that it waits for, and waits again; or it has ended, so that others may not wait in vain.
    pub(crate) fn looked(&mut self, waits: bool) {
        self.looks.note(waits, self.closed_batches());
    }

    fn closed_batches(&self) -> u64 {
        self.controls.batch_overview.tally.lock().closed
    }

    /// Takes the prefetched jobs to give back: those that were prefetched too long ago or for a replaced route.
    fn release_claims(&mut self, now: Time) -> Vec<JobTicket> {
        if self.prefetched.is_empty() || self.is_asked || self.arrived.is_some() {
            return Vec::new();
        }
        let version = self.controls.kinds.setup.now().kinds_version;
        let goes = |ticket: &JobTicket| {
            let first = &ticket.task[0];
            let since = first.waiting_since.unwrap_or(now);
            now.since(since) >= HOLD || first.kinds_version != version
        };
        let prefetched = std::mem::take(&mut self.prefetched);
        let (out, prefetched): (VecDeque<_>, _) = prefetched.into_iter().partition(goes);
        self.prefetched = prefetched;
        out.into()
    }

    /// Requests that these jobs are given back, and that jobs for `most` calls are claimed.
    fn ask(
        &mut self,
        back: Vec<JobTicket>,
        most: usize,
        may_end: bool,
        availability: &Availability,
        now: Time,
    ) {
        let mut plan = ClaimPlan {
            controls: self.controls.clone(),
            processes: self.scope.processes.clone(),
            availability: availability.clone(),
            back,
            most,
            idle: false,
            looks: self.looks.since(self.closed_batches()),
            may_end,
            prefetched: self.prefetched.iter().map(Ticket::quota).collect(),
            now,
            wall: self.controls.clock.wall(),
        };
        plan.idle = self.running == plan.given_back();
        self.request = Some(Box::new(plan));
        (self.is_asked, self.is_stale) = (true, false);
        self.quiet_until = None;
    }

    /// Number of jobs to claim: the configured number, doubled after each full claim.
    fn batch(&mut self, free: usize) -> usize {
        let least = self.controls.kinds.setup.now().settings.batch_size.max(1);
        self.batch = self.batch.clamp(least, MOST_CLAIMED.max(least));
        free.min(self.batch)
    }

    fn adapt(&mut self, asked: usize, got: usize) {
        if got >= asked && asked >= self.batch {
            self.batch = self.batch.saturating_mul(2);
        } else if got < asked && got < self.batch / 4 {
            self.batch /= 2;
        }
    }

    /// The result if no job can be claimed now.
    fn idle(&mut self, found: Option<&Claimed>, availability: &Availability, now: Time) -> Taken {
        let poll = self.controls.kinds.setup.now().settings.poll_interval;
        let poll = poll.max(Duration::from_millis(1));
        // Whatever changes a database server is noticed without a claim.
        let poll = if self.controls.store.is_shared() && !self.only_waits {
            poll * POLLS_OF_A_SERVER
        } else {
            poll
        };
        let hold = (!self.prefetched.is_empty()).then(|| now.after(HOLD));
        // The ends of pauses until the next permit are known by the claim: prefetched jobs start then.
        let next_change = availability.next_change(now).filter(|_| !self.only_waits);
        let until = [
            Some(now.after(poll)),
            found.and_then(|found| found.due),
            found.and_then(|found| found.opens),
            next_change,
            hold,
        ];
        let until = until.into_iter().flatten().min();
        self.quiet_until = until.filter(|_| found.is_some());
        idle_until(until)
    }

    /// Takes the prefetched jobs that can start.
    fn prefetched_first(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Vec<JobTicket> {
        let pauses = &availability.pauses;
        let can_start = |ticket: &Ticket<_>| !pauses.is_paused(ticket.quota(), now);
        let next = || {
            let at = self.prefetched.iter().position(can_start)?;
            self.prefetched.remove(at)
        };
        std::iter::from_fn(next).take(max).collect()
    }

    /// Whether a claim is unnecessary now.
    fn stays_quiet(&mut self, now: Time) -> Option<Taken> {
        if self.is_asked {
            return Some(idle_until(None));
        }
        let controls = &self.controls;
        let has_jobs = controls.heard_of_jobs.swap(false, Ordering::SeqCst);
        let has_writes = controls.heard_of_writes.swap(false, Ordering::SeqCst);
        let quiet_until = self.quiet_until.filter(|until| *until > now);
        let until = quiet_until.filter(|_| !has_jobs && (!has_writes || self.only_waits))?;
        let hold = (!self.prefetched.is_empty()).then(|| now.after(HOLD));
        Some(idle_until(Some(hold.map_or(until, |hold| hold.min(until)))))
    }

    /// Decides after an empty claim whether the worker waits or has finished.
    fn found_nothing(
        &mut self,
        found: &Claimed,
        may_end: bool,
        availability: &Availability,
        now: Time,
    ) -> Taken {
        let overview = &self.controls.batch_overview;
        let may_end = may_end && self.running == 0 && !overview.open(self.scope.until_submitted);
        match found.has_chores.filter(|_| may_end && !found.known_wait) {
            None => self.idle(Some(found), availability, now),
            Some(false) => Take::Done,
            Some(true) if self.controls.store.is_shared() => {
                idle_until(Some(now.after(OTHERS_AGAIN)))
            }
            Some(true) => idle_until(Some(now.after(CHORES_AGAIN))),
        }
    }

    /// Handles a failed access to the store: a full disk or a foreign lock passes, and nothing is lost until then.
    fn store_failed(
        &mut self,
        error: Error,
        out: Vec<JobTicket>,
        now: Time,
    ) -> Result<Taken, Error> {
        let since = *self.troubled_since.get_or_insert(now);
        // A short failure of the database must not end a worker whose batches are at a provider.
        let borne =
            self.controls.batch_overview.has_batches() && now.since(since) < STORE_RETRY_TIME;
        if error.kind() != ErrorKind::Transient && !borne {
            return Err(error);
        }
        self.trouble = Some(error);
        Ok(items_or(out, idle_until(Some(now.after(CLAIM_AGAIN)))))
    }

    /// Takes up to about `max` calls.
    pub(crate) fn take(
        &mut self,
        max: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Taken, Error> {
        let overview = self.controls.batch_overview.clone();
        if overview.critical.lock().is_some() {
            return Ok(Take::Done);
        }
        let closed = availability.reasons().count();
        if closed < std::mem::replace(&mut self.closed, closed) {
            // Jobs that were skipped can start.
            self.controls.heard_of_jobs.store(true, Ordering::SeqCst);
        }
        // Read before the claim, because results of a batch are stored before the batch disappears.
        let batches = overview.open(self.scope.until_submitted);
        let back = self.release_claims(now);
        let mut out = self.prefetched_first(max, availability, now);
        // A job that must run by itself is claimed by itself.
        let is_full = out.len() == max || self.alone && self.arrived.is_none();
        if is_full && back.is_empty() {
            return Ok(if out.is_empty() {
                self.idle(None, availability, now)
            } else {
                Take::Items(out)
            });
        }
        let Some((plan, found)) = self.arrived.take() else {
            let quiet = self.stays_quiet(now).filter(|_| back.is_empty());
            if quiet.is_none() {
                // A claim that failed would hide that jobs were given back.
                let free = max - out.len();
                let most = if is_full || !back.is_empty() {
                    0
                } else if availability.is_suspect(now) {
                    free
                } else {
                    self.batch(free)
                };
                let may_end = (self.scope.until_empty || self.scope.until_submitted) && !batches;
                self.ask(back, most, may_end, availability, now);
            }
            return Ok(items_or(out, quiet.unwrap_or(idle_until(None))));
        };
        let mut found = match found {
            Ok(found) => found,
            Err(error) => return self.store_failed(error, out, now),
        };
        self.unknown = found.unknown.take();
        if let Some(why) = self.unknown() {
            self.warned.warn(why);
        }
        let jobs = std::mem::take(&mut found.jobs);
        let jobs = self.tickets(jobs, &found.lanes);
        (self.trouble, self.troubled_since) = (None, None);
        self.held_by = match (found.opens, found.due) {
            (Some(_), _) => Some(Limit::Quota),
            (None, Some(_)) => Some(Limit::Backoff),
            (None, None) => None,
        };
        let is_partial = jobs.len() < plan.most;
        self.only_waits = is_partial && found.opens.is_some() && !found.waits_for_call;
        self.adapt(plan.most, jobs.len());
        // Events since the request to the store may have made other jobs claimable.
        let Controls {
            heard_of_jobs,
            heard_of_writes,
            ..
        } = &*self.controls;
        let has_writes = heard_of_writes.load(Ordering::SeqCst) && !self.only_waits;
        let is_stale = self.is_stale || heard_of_jobs.load(Ordering::SeqCst) || has_writes;
        if !jobs.is_empty() || !out.is_empty() {
            if is_partial && !is_stale {
                self.idle(Some(&found), availability, now);
            }
            out.extend(tickets::share_calls(jobs));
            return Ok(Take::Items(out));
        }
        if is_stale {
            return self.take(max, availability, now);
        }
        Ok(self.found_nothing(&found, plan.may_end, availability, now))
    }

    /// Keeps jobs prefetched, which is only for jobs that are due.
    pub(crate) fn keep(&mut self, mut ticket: JobTicket) {
        let now = self.controls.clock.now();
        ticket.task[0].waiting_since.get_or_insert(now);
        self.prefetched.push_back(ticket);
    }

    /// Applies the outcome of a request.
    pub(crate) fn arrive(&mut self, mut plan: Box<ClaimPlan>, found: Result<Claimed, Error>) {
        self.is_asked = false;
        if found.is_ok() {
            self.running = self.running.saturating_sub(plan.given_back());
            self.alone &= self.running > 0;
        } else {
            self.prefetched.extend(std::mem::take(&mut plan.back));
        }
        self.is_stale |= plan.most == 0;
        self.arrived = Some((plan, found));
    }
}

/// More jobs may arrive at any time.
fn idle_until(until: Option<Time>) -> Taken {
    Take::Idle {
        until,
        source_open: true,
    }
}

fn items_or(items: Vec<JobTicket>, otherwise: Taken) -> Taken {
    if items.is_empty() {
        otherwise
    } else {
        Take::Items(items)
    }
}

// Whether jobs that wait for others wait in vain.

/// How often waiting jobs have looked for what they wait for, since another job or batch ended here.
#[derive(Default)]
struct Looks {
    looks: u64,
    /// The number of batches that had ended by then.
    closed: u64,
}

impl Looks {
    pub fn note(&mut self, waits: bool, closed: u64) {
        self.looks = if waits { self.since(closed) + 1 } else { 0 };
        self.closed = closed;
    }

    /// The jobs may have waited for a batch that has ended since then.
    pub fn since(&self, closed: u64) -> u64 {
        if self.closed == closed { self.looks } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_job_has_waited_in_vain_for_a_batch_that_has_just_ended() {
        let mut looks = Looks::default();
        looks.note(true, 0);
        looks.note(true, 0);
        assert_eq!(looks.since(0), 2);
        assert_eq!(looks.since(1), 0);
        looks.note(true, 1);
        assert_eq!(looks.since(1), 1);
        looks.note(false, 1);
        assert_eq!(looks.since(1), 0);
    }
}
