//! A run that meets a deadline: observes calls and batches, has it decided how to go on, and carries that out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Clock, SystemClock, Time, Timestamp};
use crate::engine::route::RetryPolicy;
use crate::llm::batch::BatchClient;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::money::call_rate::CallPace;
use crate::money::deadline::{BatchPace, DeadlinePlan, Decision, Outlook, PlanChange, Way};
use crate::queue::batch::{BatchSettings, OwnBatch};
use crate::queue::controls::{Change, Controls};
use crate::queue::job::JobCounts;
use crate::queue::store::BatchNo;
use crate::queue::worker::Worker;

use super::batch_progress::BatchProgress;
use super::in_time::InTime;
use super::meter::Meter;
use super::record::{Course, Known};

/// Polls that a batch needs at least.
const FEWEST_POLLS: u32 = 3;
/// A call that nothing is known about.
const ASSUMED_CALL: f64 = 5.0;
/// The rate of flex calls, as a part of that of standard calls, until it is measured.
const ASSUMED_FLEX: f64 = 0.5;

/// The ways that a worker offers.
#[derive(Clone)]
struct Offers {
    standard: Route<'static>,
    flex: Option<Route<'static>>,
    batches: Option<Arc<dyn BatchClient>>,
    settings: BatchSettings,
    retry: RetryPolicy,
}

/// Keeps a run to its deadline.
pub(super) struct DeadlineControl {
    options: InTime,
    plan: DeadlinePlan,
    /// The rates that earlier runs have measured.
    noted: [Option<CallPace>; 2],
    meters: [Arc<Meter>; 2],
    offers: Option<Offers>,
    began: Timestamp,
    /// When this run employed its present worker.
    employed: Option<Time>,
    way: Option<Way>,
    /// The way that the worker uses.
    applied: Option<Way>,
    was_safe: bool,
    has_withdrawn: bool,
    trial_until: Option<Time>,
    tried: Vec<Way>,
    progress: BatchProgress,
    /// Batches that are to be withdrawn.
    named: HashSet<BatchNo>,
    /// Batches whose late confirmation was told.
    late: HashSet<BatchNo>,
    /// Batches that were told not to be withdrawn.
    kept: HashSet<BatchNo>,
    /// Since when jobs are in batches of other workers, and whether that was told.
    others: Option<(Time, bool)>,
    was_missed: bool,
    /// When it was last stored.
    saved: Option<Time>,
}

impl DeadlineControl {
    pub(super) fn new(options: InTime, known: Known<'_>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let wall = SystemClock.wall();
        let same = known.plan.filter(|plan| {
            let is_over = options.recurs && plan.deadline.left_at(wall).is_zero();
            plan.given.is_some() && plan.given == options.given && !is_over
        });
        let course = known.course.filter(|_| same.is_some());
        let plan = same
            .cloned()
            .unwrap_or_else(|| DeadlinePlan::new(options.deadline, options.given.clone()));
        Self {
            was_safe: course.is_some_and(|course| course.was_safe),
            has_withdrawn: match course {
                Some(course) => course.has_withdrawn,
                None => plan.changes.iter().any(|change| change.withdrawn > 0),
            },
            began: course.map_or(wall, |course| course.began),
            employed: None,
            way: None,
            applied: None,
            options,
            plan,
            noted: known.paces,
            meters: [(); 2].map(|()| Arc::new(Meter::new(clock.clone()))),
            offers: None,
            trial_until: None,
            tried: Vec::new(),
            progress: BatchProgress::with_noted(course.and_then(|course| course.batch_rate)),
            named: HashSet::new(),
            late: HashSet::new(),
            kept: HashSet::new(),
            others: None,
            was_missed: false,
            saved: None,
        }
    }

    pub(super) fn plan(&self) -> &DeadlinePlan {
        &self.plan
    }

    /// Where the run stands, for one that continues it.
    pub(super) fn course(&self) -> Course {
        Course {
            began: self.began,
            was_safe: self.was_safe,
            has_withdrawn: self.has_withdrawn,
            batch_rate: self.progress.per_second(SystemClock.now()),
        }
    }

    /// The known rates of standard and flex calls.
    pub(super) fn paces(&self) -> [Option<CallPace>; 2] {
        let now = SystemClock.now();
        let [sync, flex] = &self.meters;
        [
            sync.pace(now).or(self.noted[0]),
            flex.pace(now).or(self.noted[1]),
        ]
    }

    /// Takes the ways that this worker offers, and has it begin in the present one.
    pub(super) fn employs(&mut self, worker: Worker, counts: Option<&JobCounts>) -> Worker {
        let (standard, batches) = worker.ways();
        let (Some(standard), batches) = (standard.cloned(), batches.cloned()) else {
            return worker;
        };
        let mut settings = worker.settings_now();
        // Near the deadline, batches are polled more often.
        settings.batches.deadline = Some(self.plan.deadline.timestamp());
        let worker = worker.settings(settings);
        self.employed = Some(SystemClock.now());
        let [sync, flex] = &self.meters;
        let metered = |route: &Route<'static>, meter: &Arc<Meter>| {
            let meter = meter.clone();
            route
                .clone()
                .observed_by(|inner| Arc::new(meter.before(inner)))
        };
        let offers = Offers {
            standard: metered(&standard, sync),
            flex: self.options.flex.as_ref().map(|route| metered(route, flex)),
            batches,
            settings: settings.batches,
            retry: settings.retry,
        };
        sync.set_slots(offers.standard.concurrency());
        if let Some(route) = &offers.flex {
            flex.set_slots(route.concurrency());
        }
        self.offers = Some(offers.clone());
        if let Some(counts) = counts {
            self.begin(counts);
        }
        self.applied = self.way;
        let flex = offers.flex.filter(|_| self.way == Some(Way::Flex));
        let worker = worker.completions(flex.unwrap_or(offers.standard));
        match self.way {
            Some(Way::Batch) => worker,
            _ => worker.without_batches(),
        }
    }

    /// Decides how to begin.
    fn begin(&mut self, counts: &JobCounts) {
        let outlook = self.outlook(counts, &[], SystemClock.now());
        let Some(outlook) = outlook.filter(|outlook| self.way.is_none() && outlook.items() > 0)
        else {
            return;
        };
        let decision = outlook.decide();
        self.was_safe |= decision.is_safe;
        self.way = Some(decision.way);
        self.was_missed = outlook.left.is_zero();
        self.note(decision.way, line(&decision, (0, 0)));
    }

    /// The number of items of the next trial, if there is one; `rest` items are not submitted yet.
    pub(super) fn begin_trial(&mut self, rest: u64) -> Option<usize> {
        self.trial_until = None;
        self.way = None;
        let counts = JobCounts {
            pending: rest,
            ..JobCounts::default()
        };
        let now = SystemClock.now();
        let outlook = self.outlook(&counts, &[], now)?;
        // Each way is tried once.
        let trial = outlook.trial().filter(|(way, _)| !self.tried.contains(way));
        let Some((way, items)) = trial else {
            // Decided before the rest is on the queue, because the worker takes it at once.
            if !self.tried.is_empty() {
                self.begin(&counts);
            }
            return None;
        };
        self.tried.push(way);
        self.trial_until = Some(now.after(outlook.trial_time()));
        self.way = Some(way);
        let line = format!("sends {items} items first, to measure the rate of such calls");
        self.note(way, line);
        usize::try_from(items).ok()
    }

    /// Whether a trial is under way, and whether it is over: all its items have ended, or its time has.
    pub(super) fn trial(&self, has_ended: bool) -> Option<bool> {
        let until = self.trial_until?;
        Some(has_ended || SystemClock.now() >= until)
    }

    /// Decides how to go on, and tells the worker. Returns whether the plan has changed.
    pub(super) fn steer(&mut self, counts: &JobCounts, controls: &Controls) -> bool {
        let now = SystemClock.now();
        let own = controls.own_batches();
        if self.trial_until.is_some() {
            self.want(counts.pending > 0, now);
            return false;
        }
        let Some(outlook) = self.outlook(counts, &own, now) else {
            return false;
        };
        let told = self.tell_others(&outlook, &own, now) | self.tell_late(&own);
        let missed = self.is_newly_missed(&outlook);
        if outlook.items() == 0 {
            self.want(false, now);
            if missed {
                let others = outlook.others();
                let line = format!(
                    "the deadline was missed: {others} items are in batches that cannot be withdrawn"
                );
                self.note(self.way.unwrap_or(Way::Batch), line);
            }
            return missed || told || self.is_save_due(now);
        }
        let decision = outlook.decide();
        self.was_safe |= decision.is_safe;
        let is_new = self.way != Some(decision.way);
        self.way = Some(decision.way);
        self.apply(controls);
        self.want(outlook.waiting > 0, now);
        let withdrawn = self.withdraw(&decision, &own, controls);
        if is_new || withdrawn.0 > 0 || missed {
            let line = line(&decision, withdrawn);
            self.has_withdrawn |= withdrawn.0 > 0;
            self.note_withdrawn(decision.way, line, withdrawn.0);
        }
        is_new || withdrawn.0 > 0 || missed || told || self.is_save_due(now)
    }

    /// Whether the rate of batches is to be stored, for a run that continues this one.
    fn is_save_due(&mut self, now: Time) -> bool {
        let is_known = self.progress.per_second(now).is_some();
        let is_due = self.saved.is_none_or(|at| now.since(at) >= BETWEEN_SAVES);
        let is_due = is_known && is_due;
        if is_due {
            self.saved = Some(now);
        }
        is_due
    }

    fn note(&mut self, way: Way, line: String) {
        self.note_withdrawn(way, line, 0);
    }

    fn note_withdrawn(&mut self, way: Way, line: String, withdrawn: u64) {
        let line = format!("strategy {way}: {line}");
        (self.options.on_change)(&line);
        self.plan.change(PlanChange {
            at: SystemClock.wall().0,
            way,
            withdrawn,
            line,
        });
    }

    fn is_newly_missed(&mut self, outlook: &Outlook) -> bool {
        let missed = outlook.left.is_zero() && outlook.items() + outlook.others() > 0;
        !std::mem::replace(&mut self.was_missed, missed) && missed
    }

    /// Time counts for the calls of the present way while items wait for them.
    fn want(&self, waits: bool, now: Time) {
        let [sync, flex] = &self.meters;
        sync.wanted(now, waits && self.way == Some(Way::Sync));
        flex.wanted(now, waits && self.way == Some(Way::Flex));
    }

    /// Has the worker use the present way.
    pub(super) fn apply(&mut self, controls: &Controls) {
        let (Some(offers), Some(way)) = (&self.offers, self.way) else {
            return;
        };
        if self.applied.replace(way) == Some(way) {
            return;
        }
        let flex = offers.flex.as_ref().filter(|_| way == Way::Flex);
        let route = flex.unwrap_or(&offers.standard);
        controls.change(Change {
            completions: Some(Some(Box::new(route.clone()))),
            // Batches that were not sent are dissolved then.
            batches: Some(offers.batches.clone().filter(|_| way == Way::Batch)),
            ..Change::default()
        });
    }

    fn outlook(&mut self, counts: &JobCounts, own: &[OwnBatch], now: Time) -> Option<Outlook> {
        let offers = self.offers.as_ref()?;
        let first = offers.settings.poll_interval.unwrap_or(FIRST_POLL);
        self.progress.report(own, first, now);
        let sum = |which: &dyn Fn(&&OwnBatch) -> bool| -> u64 {
            own.iter().filter(which).map(unanswered).sum()
        };
        let waits = |batch: &&OwnBatch| !batch.is_sent && !batch.has_ended;
        let returns =
            |batch: &&OwnBatch| batch.withdrawn.is_some() && !batch.is_stuck && batch.is_sent;
        // Jobs of batches that were taken over are in one of the groups; a stuck batch counts with those elsewhere.
        let runs = |batch: &&OwnBatch| batch.is_sent && !batch.has_ended && !batch.is_stuck;
        let stays = |batch: &&OwnBatch| runs(batch) && !is_movable(batch) && !returns(batch);
        let stuck = |batch: &&OwnBatch| batch.is_sent && !batch.has_ended && batch.is_stuck;
        let unseen = counts.at_provider.saturating_sub(all(own));
        // A worker takes the batches of an earlier run over soon after it was started.
        let is_new = self.employed.is_none_or(|at| now.since(at) < TAKE_OVER);
        let (unseen, others) = if is_new { (unseen, 0) } else { (0, unseen) };
        let [sync, flex] = self.paces();
        let sync = sync.or(self.options.expected);
        let sync = sync.map(|pace| CallPace {
            measured: pace.measured || is_above_limit(&offers.standard, pace),
            ..pace
        });
        let sync = sync.unwrap_or_else(|| CallPace {
            per_second: offers.standard.concurrency() as f64 / ASSUMED_CALL,
            call_seconds: ASSUMED_CALL,
            measured: false,
        });
        let sync = within_limit(&offers.standard, sync);
        let flex = flex.map(|pace| match &offers.flex {
            Some(route) => CallPace {
                measured: pace.measured || is_above_limit(route, pace),
                ..within_limit(route, pace)
            },
            None => pace,
        });
        let assumed = CallPace {
            per_second: sync.per_second * ASSUMED_FLEX,
            call_seconds: sync.call_seconds / ASSUMED_FLEX,
            measured: false,
        };
        Some(Outlook {
            left: self.plan.deadline.left_at(SystemClock.wall()),
            spent: SystemClock.wall().since(self.began),
            waiting: counts.pending + counts.in_progress + sum(&waits),
            in_batches: sum(&|batch| is_movable(batch)) + unseen,
            returning: sum(&returns),
            unmovable: sum(&stays),
            elsewhere: sum(&stuck) + others,
            now: self.way,
            was_safe: self.was_safe,
            has_withdrawn: self.has_withdrawn,
            batch: offers.batches.as_ref().map(|client| BatchPace {
                per_second: self.progress.per_second(now),
                least: first * FEWEST_POLLS,
                every: self.progress.every(),
                watched: self.progress.watched(now),
                keeps_results: client.keeps_cancelled_results(),
                cancel: offers.settings.cancel_wait,
            }),
            flex: offers.flex.as_ref().map(|_| flex.unwrap_or(assumed)),
            backoff: offers.retry.longest_backoff(),
            longest_flex: self.meters[1].longest(),
            slots: offers.standard.concurrency() as u64,
            sync,
            prices: self.options.prices,
        })
    }

    /// Withdraws as many items as decided, from the batches with the least progress first. Returns the numbers
    /// of items and batches that were not withdrawn before.
    fn withdraw(
        &mut self,
        decision: &Decision,
        own: &[OwnBatch],
        controls: &Controls,
    ) -> (u64, usize) {
        let mut movable: Vec<&OwnBatch> = own.iter().filter(|batch| is_movable(batch)).collect();
        let share = |batch: &OwnBatch| batch.answered.unwrap_or(0) * 1000 / batch.items.max(1);
        movable.sort_by_key(|batch| (!self.named.contains(&batch.no), share(batch), batch.no));
        let (mut items, mut new) = (0, (0, 0));
        for batch in movable {
            let left = unanswered(batch);
            let is_named = self.named.contains(&batch.no);
            if !is_named && items >= decision.withdraw {
                break;
            }
            if !is_named && decision.others_stay && items + left > decision.withdraw {
                continue;
            }
            items += left;
            if self.named.insert(batch.no) {
                new = (new.0 + left, new.1 + 1);
            }
            // A batch that is busy is named again.
            controls.batch_control.withdraw([batch.no]);
        }
        new
    }

    /// Tells once of each batch whose cancellation the provider does not confirm in time.
    fn tell_late(&mut self, own: &[OwnBatch]) -> bool {
        let Some(wait) = self
            .offers
            .as_ref()
            .map(|offers| offers.settings.cancel_wait)
        else {
            return false;
        };
        let wall = SystemClock.wall();
        let mut any = false;
        for batch in own.iter().filter(|batch| is_unconfirmed(batch, wall, wait)) {
            if self.late.insert(batch.no) {
                let line = format!(
                    "the provider has not confirmed the cancellation of batch {} for {} s; its {} items are on hold and \
                     are not sent again before that",
                    batch.name,
                    wait.as_secs(),
                    batch.items
                );
                self.note(self.way.unwrap_or(Way::Sync), line);
                any = true;
            }
        }
        any
    }

    /// Tells once of each batch that has answers that would be lost if it were cancelled, and of batches of other workers.
    fn tell_others(&mut self, outlook: &Outlook, own: &[OwnBatch], now: Time) -> bool {
        let mut any = false;
        let way = self.way.unwrap_or(Way::Batch);
        let drops = outlook.batch.is_some_and(|batch| !batch.keeps_results);
        let has_answers = |batch: &&OwnBatch| {
            let answers = batch.answered.is_some_and(|answered| answered > 0);
            answers && !batch.may_be_cancelled && !batch.has_ended && !batch.is_stuck
        };
        for batch in own.iter().filter(|batch| drops && has_answers(batch)) {
            if self.kept.insert(batch.no) {
                let line = format!(
                    "batch {} has answers that would be lost if it were cancelled, so its {} items stay in it, even if \
                     it misses the deadline",
                    batch.name, batch.items
                );
                self.note(way, line);
                any = true;
            }
        }
        let is_stuck = |batch: &&OwnBatch| batch.is_stuck && batch.is_sent && !batch.has_ended;
        let stuck: u64 = own.iter().filter(is_stuck).map(unanswered).sum();
        let others = outlook.elsewhere.saturating_sub(stuck);
        if others == 0 {
            self.others = None;
            return any;
        }
        // A batch that was just formed may not be reported yet.
        let (since, was_told) = *self.others.get_or_insert((now, false));
        if !was_told && now.since(since) >= TAKE_OVER {
            self.others = Some((since, true));
            let line = format!(
                "{others} items are in batches of another worker, and are left to it, even if they miss the deadline"
            );
            self.note(way, line);
            any = true;
        }
        any
    }

    /// Whether only items are left that cannot be sent, and the deadline has passed: why.
    pub(super) fn is_stuck(&self, counts: &JobCounts, controls: &Controls) -> Option<String> {
        let own = controls.own_batches();
        let wait = self.offers.as_ref()?.settings.cancel_wait;
        let wall = SystemClock.wall();
        let held = |batch: &OwnBatch| is_held(batch, wall, wait);
        let over = self.plan.deadline.left_at(wall).is_zero();
        let any = !own.is_empty() && own.iter().all(held);
        let others = counts.at_provider.saturating_sub(all(&own));
        let rest = counts.pending + counts.in_progress + others;
        (over && any && rest == 0).then(|| {
            "the deadline was missed, and the rest is in batches that may still be answered: its items are on hold and \
             were not sent again"
                .to_owned()
        })
    }
}

fn unanswered(batch: &OwnBatch) -> u64 {
    batch.items.saturating_sub(batch.answered.unwrap_or(0))
}

/// The items of all these batches.
fn all(own: &[OwnBatch]) -> u64 {
    own.iter().map(|batch| batch.items).sum()
}

/// A worker has taken the batches of an earlier run over after this time.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// How often the rate of batches is stored.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);
/// The first poll of a batch, if no interval is set.
const FIRST_POLL: Duration = Duration::from_secs(10);

/// The rate within the requests per minute that are configured, or that replies report: a provider may accept a burst.
fn within_limit(route: &Route<'static>, pace: CallPace) -> CallPace {
    CallPace {
        per_second: pace.per_second.min(most_per_second(route)),
        ..pace
    }
}

/// Whether such a rate is more than the limit: then the limit is the rate.
fn is_above_limit(route: &Route<'static>, pace: CallPace) -> bool {
    pace.per_second > most_per_second(route)
}

fn most_per_second(route: &Route<'static>) -> f64 {
    let limits = route.limits(&Request::default());
    let requests = limits.first().and_then(|first| first.quota.requests);
    requests.map_or(f64::MAX, |requests| requests.limit as f64 / 60.0)
}

/// Whether the unanswered items of a batch can be moved.
fn is_movable(batch: &OwnBatch) -> bool {
    batch.withdrawn.is_none()
        && batch.is_sent
        && !batch.is_stuck
        && !batch.has_ended
        && batch.may_be_cancelled
}

fn is_unconfirmed(batch: &OwnBatch, now: Timestamp, wait: Duration) -> bool {
    let since = batch.withdrawn.map(|since| now.since(since));
    since.is_some_and(|since| since > wait) && !batch.has_ended && !batch.is_stuck
}

/// Whether nothing can be done for a batch now. An earlier run may have withdrawn it, so it is asked at least once.
/// Missing results have their own wait.
fn is_held(batch: &OwnBatch, now: Timestamp, wait: Duration) -> bool {
    let was_asked = batch.every.is_some();
    !batch.has_ended && (batch.is_left || was_asked && is_unconfirmed(batch, now, wait))
}

/// What is decided, for people.
fn line(decision: &Decision, (items, batches): (u64, usize)) -> String {
    let reason = &decision.reason;
    if items > 0 {
        let batches = if batches == 1 {
            "1 batch".to_owned()
        } else {
            format!("{batches} batches")
        };
        return format!("withdraws {items} items from {batches}: {reason}");
    }
    reason.clone()
}

#[cfg(test)]
#[path = "deadline_control_tests.rs"]
mod tests;
