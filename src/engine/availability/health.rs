//! What calls have shown about a step of a route, and about a quota.
//!
//! An *outage* begins after consecutive failures, unless an answer comes in between:
//!
//! - five consecutive failed connections;
//! - two consecutive time-outs;
//! - five failed first calls of items, of any sort (5xx, truncated replies), and at least as many failures as there are calls
//!   in flight that may still be answered, because errors are fast and answers slow. If the step has answered before, the
//!   failures must also last five seconds, or be twenty, so that a short disturbance diverts nothing.
//!
//! During an outage, items fail over to the next step immediately, without using their remaining retries. After
//! five seconds one call probes the step, and the other items still fail over. An answer ends the outage. After a failure the
//! next probe waits twice as long as before, up to a minute, because a probe that hangs may be billed.
//!
//! Items without another step wait until the outage ends; then each probe follows after five seconds. Time-outs and truncated
//! replies begin no outage for them. After [`LONGEST_OUTAGE`], or after [`NEVER_REACHED`] if no server was ever reached, the
//! items stop waiting.
//!
//! Rate-limited calls and servers that load their model only cause waits. An invalid request and a refused or blocked
//! answer show nothing about the provider.
//!
//! An internal error of the provider (500) may also be the fault of its prompt. Where items can only wait, it counts with an
//! item's first call alone, and a probe goes on with the outage only if the item was never tried. So untried items decide
//! one after the other. If none is left, the outage ends, and each item ends after its own attempts.

use std::time::Duration;

use crate::base::brief::beginning;
use crate::base::verdict::{Likeness, Whom};
use crate::base::{Error, ErrorKind, Sent, Time};

use super::super::quota::StepId;
use super::doubt::Doubt;

/// Consecutive failed connections that begin an outage, and consecutive failures of any sort.
const UNREACHED: u32 = 5;
const FAILED: u32 = 5;
/// Consecutive time-outs that begin an outage. Each may have occupied a slot for minutes.
const HUNG: u32 = 2;
/// How long a step that has answered before must do nothing but fail.
const NOTHING_BUT_FAILURES: Duration = Duration::from_secs(5);
/// This number of failures suffices, however little time they took.
const MANY: u32 = 20;
/// A step that was not probed for this time has no waiting items.
const UNPROBED: Duration = Duration::from_secs(60);
/// Time until the first probe, and at most, also if the provider asks for more.
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// Items stop waiting for a provider that fails every call after this time.
const LONGEST_OUTAGE: Duration = Duration::from_secs(600);
/// The same if no server was ever reached at its address. A server that is being started is up by then.
const NEVER_REACHED: Duration = Duration::from_secs(8);
/// Consecutive critical failures that single items no longer explain: a content filter or a foreign file id can reject
/// single prompts.
const CRITICAL: u32 = 5;
/// Consecutive equal failures, before any answer, after which all further calls would fail.
const ALIKE: u32 = 10;
/// Bytes of the last reply that the message shows.
const HEAD: usize = 160;
/// After this time, rejections of a server that loads its model count as failures.
pub(crate) const MAX_LOADING: Duration = Duration::from_secs(600);

/// A step or a quota that no call uses until a time, and that one call at a time probes afterwards.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    pub why: Error,
    since: Time,
    wait: Duration,
    /// [`Time::FAR`] until the end of the run.
    pub until: Time,
    /// Since when a call may probe it.
    due: Option<Time>,
    /// The call that probes it.
    pub probe: Option<u64>,
}

impl Closed {
    fn new(why: &Error, (since, wait): (Time, Duration), until: Time) -> Self {
        Self {
            why: why.clone(),
            since,
            wait,
            until,
            due: None,
            probe: None,
        }
    }

    /// Whether no call starts now.
    pub(super) fn holds_calls(&self) -> bool {
        !self.is_due()
    }

    /// Whether the next call probes it.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some() && self.probe.is_none()
    }

    pub(super) fn advance(&mut self, now: Time) {
        if self.until <= now {
            self.due.get_or_insert(now);
        }
    }

    pub(super) fn begin_call(&mut self, number: u64) {
        if self.is_due() {
            self.probe = Some(number);
        }
    }
}

/// What calls have shown about a quota, or about a step whose tasks have no quota.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared {
    pub answered: bool,
    /// Critical failures since the last answer.
    pub critical: u32,
    /// First rate-limited call since the last answer.
    pub refused_since: Option<Time>,
    /// Since when its server has been loading its model.
    pub loading_since: Option<Time>,
    /// A provider that failed critically, or a model that it does not know.
    pub(super) excluded: Option<Closed>,
    pub in_flight: usize,
    /// What unclear ends have shown.
    pub doubt: Doubt,
    /// Items that wait until it is known whom their end concerns.
    pub undecided: usize,
}

/// What the end of a call has shown about its key and its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Nothing,
    /// They were accepted.
    Accepted,
    /// The provider itself has answered.
    Answer,
}

impl Shared {
    pub(super) fn answered(&mut self) {
        (self.answered, self.critical, self.refused_since) = (true, 0, None);
    }

    /// Records a rejected key or a long rate limit. Returns true if every further call would fail in the same way. `out`:
    /// other calls that may still be answered.
    pub(crate) fn is_critical(&mut self, out: usize) -> bool {
        self.critical += 1;
        self.critical >= CRITICAL || (!self.answered && out == 0)
    }

    /// Whether calls in flight will show if it can be called, so that no further one begins.
    pub(super) fn is_held(&self, now: Time) -> bool {
        self.critical > 0 && self.in_flight > 0 || self.doubt.holds_calls(self.in_flight, now)
    }

    /// Whether so many calls have ended alike that the next one is chosen from many.
    pub(super) fn is_in_doubt(&self, now: Time) -> bool {
        let is_open = self.undecided > 0 && self.excluded.is_none();
        is_open && self.doubt.is_suspect() && !self.is_held(now)
    }

    pub(super) fn begin_call(&mut self, number: u64) {
        self.in_flight += 1;
        if let Some(closed) = &mut self.excluded {
            closed.begin_call(number);
        }
    }

    /// Records a server that loads its model. Returns true if items still wait for it.
    pub(crate) fn is_loading(&mut self, now: Time) -> bool {
        now.since(*self.loading_since.get_or_insert(now)) < MAX_LOADING
    }

    /// Excludes it. Calls that were in flight fail after the first one.
    pub(super) fn exclude(&mut self, error: &Error, until: Time) {
        if (self.excluded.as_ref()).is_none_or(|closed| closed.due.is_some()) {
            self.excluded = Some(Closed::new(error, Default::default(), until));
        }
    }

    /// An answered probe ends the exclusion; after another failure the next one may start.
    pub(super) fn end_call(&mut self, number: u64, end: Shown, now: Time) {
        self.in_flight -= 1;
        self.doubt.ended(number, end == Shown::Answer, now);
        let probed = |closed: &&mut Closed| closed.probe == Some(number);
        if let Some(closed) = self.excluded.as_mut().filter(probed) {
            closed.probe = None;
            if end != Shown::Nothing {
                self.excluded = None;
            }
        }
    }
}

/// What calls have shown about a step.
#[derive(Debug, Default, Clone)]
pub(crate) struct StepHealth {
    pub id: StepId,
    pub shared: Shared,
    pub(super) outage: Option<Closed>,
    /// Start of the first call.
    pub first_call: Option<Time>,
    /// The server has replied at least once, with any status.
    reached: bool,
    last_answer: Option<Time>,
    /// The longest time that an answer took.
    slowest: Duration,
    since_answer: Failures,
    /// What the latest replies have in common, and their number.
    alike: (Likeness, u32),
}

/// Failures since the last answer.
#[derive(Debug, Default, Clone)]
struct Failures {
    /// Consecutive failures without a connection, and consecutive time-outs.
    unreached: u32,
    hung: u32,
    /// Failures of any sort, and how many of them were first calls of their items.
    all: u32,
    firsts: u32,
    began: Option<Time>,
}

/// What the end of a call shows about its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// The model answered, with any finish reason.
    Answered,
    /// A reply that shows nothing about other items.
    Reached,
    /// A failure that other items may share.
    Failed,
    /// No connection was made.
    Unreached,
    /// The call timed out.
    Hung,
    /// This program ended the call, or never sent it.
    Unknown,
}

impl Sign {
    fn of(error: &Error) -> Self {
        let replied = error.status().is_some() || error.sent() == Sent::Answered;
        match error.kind() {
            ErrorKind::Blocked => Self::Answered,
            _ if error.is_schema_mismatch() => Self::Answered,
            _ if error.is_not_ready() || error.is_unusable_reply() => Self::Reached,
            _ if error.is_unreachable() && !replied => Self::Unreached,
            ErrorKind::Transient if error.timed_out() => Self::Hung,
            ErrorKind::Transient | ErrorKind::Malformed => Self::Failed,
            _ if error.is_unreachable() => Self::Failed,
            _ if replied => Self::Reached,
            _ => Self::Unknown,
        }
    }
}

/// What items can do while a provider is unavailable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detour {
    /// They can fail over to another step.
    NextStep,
    /// They can only wait for this step.
    Wait,
    /// They share no quota, so they cannot be held back: the call is made.
    None,
}

/// Whether the failure may affect other items too. Only such failures count towards an outage.
pub(crate) fn may_be_shared(error: &Error) -> bool {
    matches!(Sign::of(error), Sign::Failed | Sign::Unreached | Sign::Hung)
}

/// Whether the prompt may have caused the failure: the provider replied, and not with a status that concerns every
/// request.
fn may_be_of_item(error: &Error) -> bool {
    let is_unclear = error.verdict().whom == Whom::Unclear && !error.timed_out();
    is_unclear && error.kind() == ErrorKind::Transient && error.status().is_some()
}

/// Facts about a call that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndFacts {
    /// The number of the call.
    pub number: u64,
    pub step: StepId,
    pub took: Duration,
    /// The item's first call at this step.
    pub first: bool,
    /// The call was shared, and one of its items may have caused the failure of all.
    pub of_one: bool,
    /// It showed whether an outage is over.
    pub probed: bool,
    pub detour: Detour,
    /// Other calls to the step that may still be answered.
    pub out: usize,
    /// The call was rate-limited.
    pub refused: bool,
}

impl StepHealth {
    pub(super) fn of(id: StepId) -> Self {
        Self {
            id,
            ..Self::default()
        }
    }

    /// Records how a call ended. Returns true if an outage began or ended.
    pub(crate) fn note(&mut self, call: EndFacts, error: Option<&Error>, now: Time) -> bool {
        let sign = error.map_or(Sign::Answered, Sign::of);
        self.reached |= !matches!(sign, Sign::Unreached | Sign::Unknown);
        let waits = call.detour == Detour::Wait;
        let error = match (sign, error) {
            (Sign::Answered, _) | (_, None) => {
                self.last_answer = Some(now);
                self.slowest = self.slowest.max(call.took);
                return self.close(true);
            }
            (Sign::Reached, _) => return self.close(false),
            (Sign::Failed, _) if call.of_one => return self.close(false),
            (Sign::Failed, Some(error)) if waits && !call.first && may_be_of_item(error) => {
                return call.probed && self.close(false);
            }
            (_, Some(error)) => error,
        };
        self.count(sign, call.first, now);
        match &self.outage {
            // Items do not wait for a slow provider.
            Some(_) if call.probed && sign == Sign::Hung && waits => self.close(false),
            Some(_) if call.probed => {
                self.open(error, waits, now);
                false
            }
            None if self.trips(call, error, now) => {
                self.open(error, waits, now);
                true
            }
            _ => false,
        }
    }

    /// Whether the step has answered recently: then a single failure concerns only its item.
    pub(super) fn answers(&self, now: Time) -> bool {
        let lately = NOTHING_BUT_FAILURES.max(self.slowest * 2);
        let is_recent = |last: Time| now.since(last) <= lately;
        self.outage.is_none() && self.last_answer.is_some_and(is_recent)
    }

    /// The outage, while no call starts at the step.
    pub(super) fn closed(&self) -> Option<&Closed> {
        self.outage.as_ref().filter(|outage| outage.holds_calls())
    }

    /// Whether a probe may start. Outages without a recent probe are ignored: no item waits for them.
    pub(super) fn wants_probe(&self, now: Time) -> bool {
        let outage = self.outage.as_ref().filter(|outage| outage.is_due());
        let since = outage.and_then(|outage| outage.due);
        since.is_some_and(|since| now.since(since) <= UNPROBED)
    }

    /// If items without another step stop waiting after this failure: the reason. `out`: other calls to the step that
    /// may still be answered.
    pub(crate) fn patience_over(&self, error: &Error, out: usize, now: Time) -> Option<Error> {
        // A call in flight may have a connection, which only its reply shows.
        let undecided = !self.reached && out > 0;
        let since = self.outage.as_ref().map_or(now, |outage| outage.since);
        if undecided || self.patience_ends(since) > now {
            return None;
        }
        let error = error.clone();
        Some(if self.reached {
            error.context("no call was answered for ten minutes")
        } else {
            let hint = "no server has been reached there: check the address and its port, and whether the server runs";
            let why = format!("{}; {hint}", error.message());
            error.reworded(why)
        })
    }

    /// Records a reply that is no answer. Returns the error that ends the run if all further calls would fail in the
    /// same way.
    pub(crate) fn failed_at_first(&mut self, error: &Error) -> Option<Error> {
        let complete = error.status().is_none_or(|status| status < 300);
        let malformed = error.kind() == ErrorKind::Malformed && complete;
        let unusable = malformed || error.is_unusable_reply();
        // Temporary failures do not show how the provider treats a request.
        let trouble = matches!(error.kind(), ErrorKind::Transient | ErrorKind::RateLimited);
        if self.shared.answered || trouble || !(unusable || error.status().is_some()) {
            return None;
        }
        let alike = match error.status() {
            _ if unusable => Likeness::default(),
            // What is unclear is learned from other calls.
            Some(_) if error.is_unclassified() && !error.verdict().is_unclear() => error.likeness(),
            _ => {
                self.alike.1 = 0;
                return None;
            }
        };
        if self.alike.0 != alike {
            self.alike = (alike, 0);
        }
        self.alike.1 += 1;
        let why = if unusable {
            let head = beginning(error.raw().unwrap_or_default(), HEAD);
            format!(
                "the first {ALIKE} replies were all unusable, and each was billed: {error}; the last one begins with {head:?}"
            )
        } else {
            format!("the first {ALIKE} requests were all rejected in the same way: {error}")
        };
        (self.alike.1 == ALIKE).then(|| error.clone().reworded(why))
    }

    fn count(&mut self, sign: Sign, first: bool, now: Time) {
        let failures = &mut self.since_answer;
        match sign {
            Sign::Unreached => failures.unreached += 1,
            Sign::Hung => failures.hung += 1,
            Sign::Failed => (failures.unreached, failures.hung) = (0, 0),
            Sign::Answered | Sign::Reached | Sign::Unknown => return,
        }
        failures.all += 1;
        failures.firsts += u32::from(first);
        failures.began.get_or_insert(now);
    }

    fn trips(&self, call: EndFacts, error: &Error, now: Time) -> bool {
        match call.detour {
            Detour::NextStep => {}
            // Waiting makes a slow provider no faster. An item that waits for a truncated reply would pay for it
            // again and again.
            Detour::Wait if error.timed_out() || error.kind() != ErrorKind::Transient => {
                return false;
            }
            Detour::Wait => {}
            Detour::None => return false,
        }
        let failures = &self.since_answer;
        let quiet = self
            .last_answer
            .map_or(Duration::ZERO, |_| NOTHING_BUT_FAILURES);
        let lasted = failures.began.map_or(Duration::ZERO, |at| now.since(at));
        let fails_all = failures.firsts >= FAILED
            && failures.all as usize >= call.out
            && (lasted >= quiet || failures.all >= MANY);
        failures.unreached >= UNREACHED || failures.hung >= HUNG || fails_all
    }

    /// When items without another step stop waiting in an outage since this time.
    fn patience_ends(&self, outage: Time) -> Time {
        if self.reached {
            outage.after(LONGEST_OUTAGE)
        } else {
            self.first_call.unwrap_or(outage).after(NEVER_REACHED)
        }
    }

    /// Ends an outage; returns true if there was one. An answer resets all counts; any reply shows that the server
    /// is reachable.
    fn close(&mut self, answered: bool) -> bool {
        let was_open = self.outage.take().is_some();
        let failures = &mut self.since_answer;
        if answered || was_open {
            *failures = Failures::default();
        } else {
            (failures.unreached, failures.hung) = (0, 0);
        }
        was_open
    }

    /// Begins an outage, or goes on with it after a probe.
    fn open(&mut self, why: &Error, waits: bool, now: Time) {
        let (since, before) = match &self.outage {
            Some(outage) => (outage.since, outage.wait),
            None => (now, Duration::ZERO),
        };
        let wait = if waits { SHORTEST } else { before * 2 };
        let wait = wait.clamp(SHORTEST, LONGEST);
        let mut until = now.after(wait);
        if waits {
            let asked = why.retry_after().unwrap_or_default().min(LONGEST);
            until = until.max(now.after(asked));
            // The last call before items stop waiting is the last probe.
            let end = self.patience_ends(since);
            until = if end > now { until.min(end) } else { until };
        }
        self.outage = Some(Closed::new(why, (since, wait), until));
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
