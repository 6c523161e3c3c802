//! The backlog of a worker: what its store lets it claim, and the few jobs it has in hand.
//!
//! A job in hand is claimed but not started: its quota closed between the claim and the call, or it
//! was claimed to fill a call that takes many. They are few, and go back when they have to wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::clock::{Clock, Time};
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::engine::limit::QuotaId;
use crate::engine::pack::{Backlog, PackLimits};
use crate::engine::waiting::Waiting;
use crate::engine::work::{Cost, Gates, Take, Ticket};
use crate::llm::request::{Request, Task};

use super::history::History;
use super::kinds::{Kind, Kinds, Lanes};
use super::prompts;
use super::store::{Claimed, JobStore, Lane, SUSPECT_CRASHES, Wanted, WorkerId};

/// A job on its way.
pub(crate) struct JobTask {
    pub claimed: Claimed,
    pub kind: Arc<Kind>,
    pub history: History,
    /// The payload of a prompt, once somebody has read it.
    pub request: OnceLock<Result<Arc<Request>, Error>>,
}

/// Settings that may change while the worker runs.
pub(crate) struct Pace {
    pub max_retries: AtomicU8,
    pub batch: AtomicU64,
    pub poll_millis: AtomicU64,
}

/// Which jobs a worker takes, and when it has done enough.
#[derive(Default)]
pub(crate) struct Scope {
    /// Of these processes alone; of all when empty.
    pub processes: Vec<ProcessId>,
    /// It ends when nothing is left to claim.
    pub until_empty: bool,
}

pub(crate) struct StoreBacklog {
    pub store: Arc<dyn JobStore>,
    pub worker: WorkerId,
    pub kinds: Arc<Kinds>,
    pub clock: Arc<dyn Clock>,
    pub pace: Arc<Pace>,
    pub scope: Scope,
    lanes: Lanes,
    hand: Waiting<Ticket<JobTask>>,
    /// When something was last put into the hand.
    in_hand_since: Time,
    /// Claimed and not settled, those in hand included.
    running: usize,
    /// The one job that runs is one that may bring its worker down.
    alone: bool,
    /// How many to ask for of a quota that last had room for fewer than were claimed.
    asks: HashMap<QuotaId, usize>,
    batch: usize,
    order: u64,
    /// Lanes whose calls take many jobs, of the packs that are being filled.
    filling: Vec<Arc<Lane>>,
    /// Why nothing can be claimed at the moment.
    pub trouble: Option<Error>,
}

/// What is in hand and cannot be started goes back after this long.
const HOLD: Duration = Duration::from_secs(1);
/// A claim that failed is tried again after this long.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// How soon to look again while others still release what was sealed.
const CHORES_AGAIN: Duration = Duration::from_millis(20);
/// The most jobs in one claim.
const MOST_CLAIMED: usize = 1000;

/// What a claim brought.
struct Found {
    tickets: Vec<Ticket<JobTask>>,
    due: Option<Time>,
    /// Jobs of a kind that is known here wait, due or not.
    known_wait: bool,
}

impl StoreBacklog {
    pub(crate) fn new(
        store: Arc<dyn JobStore>,
        worker: WorkerId,
        kinds: Arc<Kinds>,
        clock: Arc<dyn Clock>,
        pace: Arc<Pace>,
        scope: Scope,
    ) -> Self {
        Self {
            store,
            worker,
            kinds,
            clock,
            pace,
            scope,
            lanes: Lanes::default(),
            hand: Waiting::default(),
            in_hand_since: Time::ZERO,
            running: 0,
            alone: false,
            asks: HashMap::new(),
            batch: 0,
            order: 0,
            filling: Vec::new(),
            trouble: None,
        }
    }

    /// Jobs that ended, or went back.
    pub(crate) fn settled(&mut self, jobs: usize) {
        self.running = self.running.saturating_sub(jobs);
        self.alone &= self.running > 0;
    }

    /// A quota had no room for a job that was claimed for it.
    pub(crate) fn refused(&mut self, quota: QuotaId) {
        self.asks.insert(quota, 1);
    }

    /// What has been in hand for too long, or all of it.
    pub(crate) fn let_go(&mut self, all: bool, now: Time) -> Vec<Ticket<JobTask>> {
        let mut out = Vec::new();
        if all || now.since(self.in_hand_since) >= HOLD {
            let open = Gates::default();
            while let Some(ticket) = self.hand.pop(&open, Time::FAR) {
                out.push(ticket);
            }
        }
        out
    }

    fn claim(&mut self, most: usize, only: bool, gates: &Gates, now: Time) -> Result<Found, Error> {
        let Self {
            store,
            lanes,
            kinds,
            asks,
            filling,
            ..
        } = self;
        let wall = self.clock.wall();
        lanes.refresh(kinds);
        let mut known_wait = false;
        let mut open = |lane: &Arc<Lane>| {
            let Some(open) = lanes.open(lane, kinds) else {
                return 0;
            };
            known_wait = true;
            let step = at_step(lane.step, open.class.steps());
            let Some(live) = gates.live_step(&open.class, step) else {
                return 0;
            };
            if only && !filling.contains(lane) || gates.holds(&open.class, live, now) {
                return 0;
            }
            let quota = open.class.quota(live);
            asks.get(&quota).copied().unwrap_or(usize::MAX)
        };
        let wanted = Wanted {
            most,
            idle: self.running == 0,
            processes: &self.scope.processes,
            open: &mut open,
        };
        let claims = store.claim(self.worker, wanted, wall)?;
        let mut found = Found {
            tickets: Vec::with_capacity(claims.jobs.len()),
            due: claims.next.map(|due| now.after(due.since(wall))),
            known_wait,
        };
        for claimed in claims.jobs {
            self.running += 1;
            self.alone |= claimed.crashes >= SUSPECT_CRASHES;
            if let Some(ticket) = self.ticket(claimed, now) {
                found.tickets.push(ticket);
            }
        }
        for ticket in &found.tickets {
            if let Some(ask) = self.asks.get_mut(&ticket.quota()) {
                *ask = ask.saturating_mul(2);
            }
        }
        self.asks.retain(|_, ask| *ask < MOST_CLAIMED);
        Ok(found)
    }

    fn ticket(&mut self, claimed: Claimed, now: Time) -> Option<Ticket<JobTask>> {
        let open = self.lanes.open(&claimed.lane, &self.kinds)?.clone();
        let history = claimed.history.as_deref().map(History::parse);
        let history = history.unwrap_or_default();
        // A route may have become shorter since.
        let step = at_step(claimed.lane.step, open.class.steps());
        let wall = self.clock.wall();
        let mut tries = history.tries(step, &self.kinds.trails, now, wall);
        let default = self.pace.max_retries.load(Ordering::Relaxed);
        tries.max_retries = Some(claimed.max_retries.unwrap_or(default));
        tries.in_doubt |= claimed.lost && matches!(*open.kind, Kind::Prompts { .. });
        self.order += 1;
        let cost = match &*open.kind {
            Kind::Host(_) => Cost::default(),
            Kind::Prompts { task, .. } => Cost {
                input: u32::try_from(claimed.payload.get().len() / 4).unwrap_or(u32::MAX),
                output_cap: (*task == Task::Embed).then_some(0),
            },
        };
        if open.pack.inputs > 1 && !self.filling.contains(&claimed.lane) {
            self.filling.push(claimed.lane.clone());
        }
        Some(Ticket {
            cost,
            order: self.order,
            class: open.class,
            tries,
            task: JobTask {
                claimed,
                kind: open.kind,
                history,
                request: OnceLock::new(),
            },
        })
    }

    /// As many as were set, and twice as many after each claim that brought all it asked for.
    fn batch(&mut self, free: usize) -> usize {
        let least = self.pace.batch.load(Ordering::Relaxed).max(1) as usize;
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

    /// Nothing can be claimed now.
    fn idle(&mut self, found: Option<&Found>, gates: &Gates, now: Time) -> Take<JobTask> {
        let poll = Duration::from_millis(self.pace.poll_millis.load(Ordering::Relaxed));
        let due = found.and_then(|found| found.due);
        let hand = self.hand.next_due(gates, now);
        let release = (!self.hand.is_empty()).then(|| now.after(HOLD));
        let until = [Some(now.after(poll)), due, hand, release];
        Take::Idle {
            until: until.into_iter().flatten().min(),
            source_open: true,
        }
    }

    /// True when nothing is left that this worker could ever claim.
    fn is_empty(&self, found: &Found) -> Result<bool, Error> {
        if self.running > 0 || found.due.is_some() {
            return Ok(false);
        }
        if self.scope.processes.is_empty() {
            return Ok(!found.known_wait);
        }
        for process in &self.scope.processes {
            let state = self.store.process(*process)?;
            if state.is_some_and(|state| state.sealed && state.counts.pending > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn at_step(step: u8, steps: usize) -> u8 {
    step.min(u8::try_from(steps.saturating_sub(1)).unwrap_or(u8::MAX))
}

impl Backlog for StoreBacklog {
    type Task = JobTask;

    fn take(&mut self, max: usize, gates: &Gates, now: Time) -> Result<Take<JobTask>, Error> {
        self.filling.clear();
        let mut out = Vec::new();
        while out.len() < max
            && let Some(ticket) = self.hand.pop(gates, now)
        {
            if ticket.task.kind.pack_limits().inputs > 1 {
                self.filling.push(ticket.task.claimed.lane.clone());
            }
            out.push(ticket);
        }
        if out.len() == max || self.alone {
            return Ok(match out.is_empty() {
                true => self.idle(None, gates, now),
                false => Take::Items(out),
            });
        }
        let asked = self.batch(max - out.len());
        let found = match self.claim(asked, false, gates, now) {
            Ok(found) => found,
            // Full disk, somebody else's lock: it passes, and until then nothing is lost.
            Err(error) if error.kind() == ErrorKind::Transient => {
                self.trouble = Some(error);
                return Ok(match out.is_empty() {
                    true => Take::Idle {
                        until: Some(now.after(CLAIM_AGAIN)),
                        source_open: true,
                    },
                    false => Take::Items(out),
                });
            }
            Err(error) => return Err(error),
        };
        self.trouble = None;
        self.adapt(asked, found.tickets.len());
        if found.tickets.is_empty() && out.is_empty() {
            if self.scope.until_empty && self.is_empty(&found)? {
                return Ok(match self.store.chore(self.clock.wall())? {
                    true => Take::Idle {
                        until: Some(now.after(CHORES_AGAIN)),
                        source_open: true,
                    },
                    false => Take::Done,
                });
            }
            return Ok(self.idle(Some(&found), gates, now));
        }
        out.extend(found.tickets);
        Ok(Take::Items(out))
    }

    fn more(&mut self, gates: &Gates, now: Time) -> Result<Take<JobTask>, Error> {
        let none = Take::Idle {
            until: None,
            source_open: true,
        };
        if let Some(ticket) = self.hand.pop(gates, now) {
            return Ok(Take::Items(vec![ticket]));
        }
        if self.filling.is_empty() || self.alone {
            return Ok(none);
        }
        let found = match self.claim(MOST_CLAIMED / 10, true, gates, now) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::Transient => return Ok(none),
            Err(error) => return Err(error),
        };
        let mut tickets = found.tickets.into_iter();
        let Some(first) = tickets.next() else {
            // Looked in vain: this pack is not filled further.
            self.filling.clear();
            return Ok(none);
        };
        for ticket in tickets {
            self.wait(ticket, Time::ZERO);
        }
        Ok(Take::Items(vec![first]))
    }

    fn wait(&mut self, ticket: Ticket<JobTask>, due: Time) {
        self.in_hand_since = self.clock.now();
        self.hand.push(ticket.quota(), due, ticket.order, ticket);
    }

    fn limits(&self, task: &JobTask) -> PackLimits {
        task.kind.pack_limits()
    }

    fn alike(&self, a: &JobTask, b: &JobTask) -> bool {
        let read = |task: &JobTask| match &*task.kind {
            Kind::Prompts { task: kind, .. } => {
                let read = || prompts::request(task, *kind).map(Arc::new);
                task.request.get_or_init(read).clone().ok()
            }
            Kind::Host(_) => None,
        };
        let same_route = match (&*a.kind, &*b.kind) {
            (Kind::Prompts { route: a, .. }, Kind::Prompts { route: b, .. }) => Arc::ptr_eq(a, b),
            _ => false,
        };
        let requests = read(a).zip(read(b));
        same_route && requests.is_some_and(|(a, b)| a.shares_calls_with(&b))
    }
}
