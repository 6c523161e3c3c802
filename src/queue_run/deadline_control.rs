//! A run that meets a deadline: observes calls and batches, has it decided how to go on, and carries that out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Clock, SystemClock, Time};
use crate::engine::route::RetryPolicy;
use crate::llm::batch::BatchClient;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::money::call_rate::CallPace;
use crate::money::deadline::{DeadlinePlan, PlanChange, Way};
use crate::money::outlook::{BatchPace, Decision, Outlook};
use crate::queue::batch::{BatchSettings, OwnBatch};
use crate::queue::controls::Controls;
use crate::queue::job::JobCounts;
use crate::queue::store::BatchNo;
use crate::queue::worker::Worker;

use super::batch_progress::BatchProgress;
use super::deadline_news::{News, TAKE_OVER};
use super::in_time::InTime;
use super::meter::Meter;
use super::own_batches::{Groups, all, is_held, to_withdraw};
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
    /// Those of standard and flex calls.
    meters: [Arc<Meter>; 2],
    offers: Option<Offers>,
    /// Where the run stands, except the rate of its batches.
    course: Course,
    /// When this run employed its present worker.
    employed: Option<Time>,
    way: Option<Way>,
    /// The way that the worker uses.
    applied: Option<Way>,
    trial_until: Option<Time>,
    tried: Vec<Way>,
    progress: BatchProgress,
    /// Batches that are to be withdrawn.
    named: HashSet<BatchNo>,
    news: News,
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
        let course = course.unwrap_or_else(|| Course {
            began: wall,
            was_safe: false,
            has_withdrawn: plan.changes.iter().any(|change| change.withdrawn > 0),
            batch_rate: None,
        });
        let meter = |noted| Arc::new(Meter::with_noted(clock.clone(), noted));
        Self {
            course,
            employed: None,
            way: None,
            applied: None,
            options,
            plan,
            meters: known.paces.map(meter),
            offers: None,
            trial_until: None,
            tried: Vec::new(),
            progress: BatchProgress::with_noted(course.batch_rate),
            named: HashSet::new(),
            news: News::default(),
            saved: None,
        }
    }

    pub(super) fn plan(&self) -> &DeadlinePlan {
        &self.plan
    }

    /// Where the run stands, for one that continues it.
    pub(super) fn course(&self) -> Course {
        Course {
            batch_rate: self.progress.per_second(SystemClock.now()),
            ..self.course
        }
    }

    /// The known rates of standard and flex calls.
    pub(super) fn paces(&self) -> [Option<CallPace>; 2] {
        let now = SystemClock.now();
        self.meters.each_ref().map(|meter| meter.pace(now))
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
        self.course.was_safe |= decision.is_safe;
        self.way = Some(decision.way);
        self.news.was_missed = outlook.left.is_zero();
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

    /// Whether a trial was under way and is over: all its items have ended, or its time has.
    pub(super) fn is_trial_over(&self, has_ended: bool) -> bool {
        let is_over = |until| has_ended || SystemClock.now() >= until;
        self.trial_until.is_some_and(is_over)
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
        let told = self.tell_news(&outlook, &own, now);
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
        self.course.was_safe |= decision.is_safe;
        let is_new = self.way != Some(decision.way);
        self.way = Some(decision.way);
        self.apply(controls);
        self.want(outlook.waiting > 0, now);
        let (batches, withdrawn) = to_withdraw(&own, &decision, &mut self.named);
        controls.batch_control.withdraw(batches);
        if is_new || withdrawn.0 > 0 || missed {
            let line = line(&decision, withdrawn);
            self.course.has_withdrawn |= withdrawn.0 > 0;
            self.note_withdrawn(decision.way, line, withdrawn.0);
        }
        is_new || withdrawn.0 > 0 || missed || told || self.is_save_due(now)
    }

    /// Reports what is new of the batches. Returns whether anything was.
    fn tell_news(&mut self, outlook: &Outlook, own: &[OwnBatch], now: Time) -> bool {
        let Some(offers) = &self.offers else {
            return false;
        };
        let times = (now, SystemClock.wall());
        let wait = offers.settings.cancel_wait;
        let lines = self.news.of(outlook, own, wait, times);
        let any = !lines.is_empty();
        for line in lines {
            self.note(self.way.unwrap_or(Way::Batch), line);
        }
        any
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
        !std::mem::replace(&mut self.news.was_missed, missed) && missed
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
        controls.change(|setup| {
            controls.set_completions(setup, route.clone());
            // Batches that were not sent are dissolved then.
            setup.batches = offers.batches.clone().filter(|_| way == Way::Batch);
        });
    }

    /// The rates of standard and flex calls, as they are known or assumed.
    fn expected(&self, offers: &Offers) -> (CallPace, CallPace) {
        let [sync, flex] = self.paces();
        let sync = standard_pace(
            offers.standard.concurrency(),
            most_per_second(&offers.standard),
            sync.or(self.options.expected),
        );
        let assumed = CallPace {
            per_second: sync.per_second * ASSUMED_FLEX,
            call_seconds: sync.call_seconds / ASSUMED_FLEX,
            measured: false,
        };
        let known = flex.zip(offers.flex.as_ref());
        let flex = known.map(|(pace, route)| within_limit(most_per_second(route), pace));
        (sync, flex.unwrap_or(assumed))
    }

    fn outlook(&mut self, counts: &JobCounts, own: &[OwnBatch], now: Time) -> Option<Outlook> {
        let offers = self.offers.as_ref()?;
        let first = offers.settings.poll_interval.unwrap_or(FIRST_POLL);
        self.progress.report(own, first, now);
        let groups = Groups::of(own);
        let unseen = counts.at_provider.saturating_sub(all(own));
        // A worker takes the batches of an earlier run over soon after it was started.
        let is_new = self.employed.is_none_or(|at| now.since(at) < TAKE_OVER);
        let (unseen, others) = if is_new { (unseen, 0) } else { (0, unseen) };
        let (sync, flex) = self.expected(offers);
        Some(Outlook {
            left: self.plan.deadline.left_at(SystemClock.wall()),
            spent: SystemClock.wall().since(self.course.began),
            waiting: counts.pending + counts.in_progress + groups.unsent,
            in_batches: groups.movable + unseen,
            returning: groups.returning,
            unmovable: groups.staying,
            elsewhere: groups.stuck + others,
            now: self.way,
            was_safe: self.course.was_safe,
            has_withdrawn: self.course.has_withdrawn,
            batch: offers.batches.as_ref().map(|client| BatchPace {
                per_second: self.progress.per_second(now),
                least: first * FEWEST_POLLS,
                every: self.progress.every(),
                watched: self.progress.watched(now),
                keeps_results: client.keeps_cancelled_results(),
                cancel: offers.settings.cancel_wait,
            }),
            flex: offers.flex.as_ref().map(|_| flex),
            backoff: offers.retry.longest_backoff(),
            longest_flex: self.meters[1].longest(),
            slots: offers.standard.concurrency() as u64,
            sync,
            prices: self.options.prices,
        })
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

/// How often the rate of batches is stored.
const BETWEEN_SAVES: Duration = Duration::from_secs(60);
/// The first poll of a batch, if no interval is set.
const FIRST_POLL: Duration = Duration::from_secs(10);

/// The rate of standard calls, as it is known or assumed. An assumed one does not show whether the limit binds: calls may
/// be slower.
fn standard_pace(slots: usize, most: f64, known: Option<CallPace>) -> CallPace {
    if let Some(pace) = known {
        return within_limit(most, pace);
    }
    let assumed = slots as f64 / ASSUMED_CALL;
    CallPace {
        per_second: assumed.min(most),
        call_seconds: ASSUMED_CALL,
        measured: false,
    }
}

/// The rate within the requests per minute that are configured, or that replies report: a provider may accept a burst.
/// If that limit binds, it is the rate.
fn within_limit(most: f64, pace: CallPace) -> CallPace {
    CallPace {
        per_second: pace.per_second.min(most),
        measured: pace.measured || pace.per_second > most,
        ..pace
    }
}

fn most_per_second(route: &Route<'static>) -> f64 {
    let limits = route.limits(&Request::default());
    let requests = limits.first().and_then(|first| first.quota.requests);
    requests.map_or(f64::MAX, |requests| requests.limit as f64 / 60.0)
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
