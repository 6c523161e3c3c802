//! A run that meets a deadline: observes calls and batches, has it decided how to go on, and carries that out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::{Clock, SystemClock, Time, Timestamp};
use crate::engine::route::RetryPolicy;
use crate::llm::batch::BatchClient;
use crate::llm::request::Request;
use crate::llm::route::Route;
use crate::money::batch_rate::BatchRate;
use crate::money::call_rate::CallPace;
use crate::money::deadline::{
    BatchPace, Deadline, DeadlinePlan, Decision, Outlook, PlanChange, Way, WayPrices,
};
use crate::queue::batch::{BatchSettings, OwnBatch};
use crate::queue::controls::{Change, Controls};
use crate::queue::job::JobCounts;
use crate::queue::store::BatchNo;
use crate::queue::worker::Worker;

use super::meter::Meter;

/// Polls that a batch needs at least.
const FEWEST_POLLS: u32 = 3;
/// A call that nothing is known about.
const ASSUMED_CALL: f64 = 5.0;
/// The rate of flex calls, as a part of that of standard calls, until it is measured.
const ASSUMED_FLEX: f64 = 0.5;

/// How a [`QueueRun`](super::QueueRun) meets a deadline at the least cost. It begins with batches, if they can end in
/// time. Items that would be late move to calls at the flex tier, then at the standard tier. Items of a batch are sent
/// again only after the provider has confirmed that it will not process them.
///
/// If the deadline passes, the run goes on in the fastest way, and its [report](super::QueueRunReport::deadline_missed)
/// says so.
pub struct InTime {
    deadline: Deadline,
    given: Option<String>,
    flex: Option<Route<'static>>,
    prices: WayPrices,
    expected: Option<CallPace>,
    on_change: Box<dyn FnMut(&str) + Send>,
}

impl InTime {
    /// By this time. The run's worker names the route of calls at the standard tier, and the Batch API if there is one.
    pub fn new(deadline: Deadline) -> Self {
        Self {
            deadline,
            given: None,
            flex: None,
            prices: WayPrices::default(),
            expected: None,
            on_change: Box::new(|line| log::info!("{line}")),
        }
    }

    /// How the deadline was given, for example `06:00`. If a run with the same words was interrupted, its deadline stays.
    /// Default: the new deadline replaces an earlier one.
    pub fn given(mut self, words: impl Into<String>) -> Self {
        self.given = Some(words.into());
        self
    }

    /// The route of calls at the flex tier. Default: the flex tier is not used.
    pub fn flex(mut self, route: impl Into<Route<'static>>) -> Self {
        self.flex = Some(route.into());
        self
    }

    /// The prices of the ways. Default: unknown; batches and flex calls are then taken to be cheaper than standard calls.
    pub fn prices(mut self, prices: WayPrices) -> Self {
        self.prices = prices;
        self
    }

    /// The rate of standard calls that earlier runs show. Default: unknown, so a few items are sent as a trial if there
    /// is time for that.
    pub fn expected(mut self, pace: CallPace) -> Self {
        self.expected = Some(pace);
        self
    }

    /// Receives each decision that changes the plan, as one line. Default: a log message.
    pub fn on_change(mut self, tell: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_change = Box::new(tell);
        self
    }
}

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
pub(super) struct Pilot {
    options: InTime,
    plan: DeadlinePlan,
    /// The rates that earlier runs have measured.
    noted: [Option<CallPace>; 2],
    meters: [Arc<Meter>; 2],
    offers: Option<Offers>,
    began: Time,
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
    was_missed: bool,
}

impl Pilot {
    pub(super) fn new(
        options: InTime,
        (known, noted): (Option<&DeadlinePlan>, [Option<CallPace>; 2]),
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let same = known.filter(|plan| plan.given.is_some() && plan.given == options.given);
        let plan = same
            .cloned()
            .unwrap_or_else(|| DeadlinePlan::new(options.deadline, options.given.clone()));
        Self {
            // An earlier run of the same store began when there was time.
            was_safe: !plan.changes.is_empty(),
            has_withdrawn: plan.changes.iter().any(|change| change.withdrawn > 0),
            way: None,
            applied: None,
            options,
            plan,
            noted,
            meters: [(); 2].map(|()| Arc::new(Meter::new(clock.clone()))),
            offers: None,
            began: SystemClock.now(),
            trial_until: None,
            tried: Vec::new(),
            progress: BatchProgress::default(),
            named: HashSet::new(),
            late: HashSet::new(),
            was_missed: false,
        }
    }

    pub(super) fn plan(&self) -> &DeadlinePlan {
        &self.plan
    }

    /// The rates of standard and flex calls, as far as they are known.
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
        let (Some(standard), batches) = worker.ways() else {
            return worker;
        };
        let batches = batches.cloned();
        let settings = worker.settings_now();
        let [sync, flex] = &self.meters;
        let metered = |route: &Route<'static>, meter: &Arc<Meter>| {
            let meter = meter.clone();
            route
                .clone()
                .observed_by(|inner| Arc::new(meter.before(inner)))
        };
        let offers = Offers {
            standard: metered(standard, sync),
            flex: self.options.flex.as_ref().map(|route| metered(route, flex)),
            batches,
            settings: settings.batches,
            retry: settings.retry,
        };
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
        if outlook.items() == 0 {
            self.want(false, now);
            return false;
        }
        let decision = outlook.decide();
        self.was_safe |= decision.is_safe;
        let is_new = self.way != Some(decision.way);
        self.way = Some(decision.way);
        self.apply(controls);
        self.want(outlook.waiting > 0, now);
        let withdrawn = self.withdraw(&decision, &own, controls);
        let missed = self.is_newly_missed(&outlook);
        if is_new || withdrawn.0 > 0 || missed {
            let line = line(&decision, withdrawn);
            self.has_withdrawn |= withdrawn.0 > 0;
            self.note_withdrawn(decision.way, line, withdrawn.0);
        }
        let late = self.tell_late(&own);
        is_new || withdrawn.0 > 0 || missed || late
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
        let missed = outlook.left.is_zero() && outlook.items() > 0;
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
            // Batches of which nothing was sent are dissolved then.
            batches: Some(offers.batches.clone().filter(|_| way == Way::Batch)),
            ..Change::default()
        });
    }

    fn outlook(&mut self, counts: &JobCounts, own: &[OwnBatch], now: Time) -> Option<Outlook> {
        let offers = self.offers.as_ref()?;
        let every = offers.settings.poll_interval.unwrap_or(FIRST_POLL);
        self.progress.report(own, every, now);
        let unanswered = |batch: &OwnBatch| {
            let answered = batch.answered.unwrap_or(0);
            batch.items.saturating_sub(answered)
        };
        let sum = |which: &dyn Fn(&&OwnBatch) -> bool| -> u64 {
            own.iter().filter(which).map(unanswered).sum()
        };
        let waits = |batch: &&OwnBatch| !batch.is_sent && !batch.has_ended;
        // A worker takes the batches of an earlier run over when it runs.
        let is_new = self.way.is_none() && own.is_empty();
        let unseen = if is_new { counts.at_provider } else { 0 };
        let [sync, flex] = self.paces();
        let sync = sync.or(self.options.expected);
        let sync = sync.unwrap_or_else(|| CallPace {
            per_second: offers.standard.concurrency() as f64 / ASSUMED_CALL,
            call_seconds: ASSUMED_CALL,
            measured: false,
        });
        let sync = within_limit(&offers.standard, sync);
        let flex = flex.map(|pace| match &offers.flex {
            Some(route) => within_limit(route, pace),
            None => pace,
        });
        let assumed = CallPace {
            per_second: sync.per_second * ASSUMED_FLEX,
            call_seconds: sync.call_seconds / ASSUMED_FLEX,
            measured: false,
        };
        Some(Outlook {
            left: self.plan.deadline.left_at(SystemClock.wall()),
            spent: now.since(self.began),
            waiting: counts.pending + counts.in_progress + sum(&waits),
            in_batches: sum(&|batch| is_movable(batch)) + unseen,
            returning: sum(&|batch| batch.withdrawn.is_some() && !batch.is_stuck && batch.is_sent),
            now: self.way,
            was_safe: self.was_safe,
            has_withdrawn: self.has_withdrawn,
            batch: offers.batches.as_ref().map(|_| BatchPace {
                per_second: self.progress.rate.per_second(now),
                least: every * FEWEST_POLLS,
                cancel: offers.settings.cancel_wait,
            }),
            flex: offers.flex.as_ref().map(|_| flex.unwrap_or(assumed)),
            backoff: offers.retry.longest_backoff(),
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
            let left = batch.items.saturating_sub(batch.answered.unwrap_or(0));
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

    /// Whether only items are left that cannot be sent, and the deadline has passed: why.
    pub(super) fn is_stuck(&self, counts: &JobCounts, controls: &Controls) -> Option<String> {
        let own = controls.own_batches();
        let wait = self.offers.as_ref()?.settings.cancel_wait;
        let wall = SystemClock.wall();
        let held = |batch: &OwnBatch| batch.is_stuck || is_unconfirmed(batch, wall, wait);
        let over = self.plan.deadline.left_at(wall).is_zero();
        let any = !own.is_empty() && own.iter().all(held);
        let rest = counts.pending + counts.in_progress;
        (over && any && rest == 0).then(|| {
            "the deadline was missed, and the rest is in batches that may still be answered: its items are on hold and \
             were not sent again"
                .to_owned()
        })
    }
}

/// The first poll of a batch, if no interval is set.
const FIRST_POLL: Duration = Duration::from_secs(10);

/// The rate within the requests per minute that are configured, or that replies report: a provider may accept a burst.
fn within_limit(route: &Route<'static>, pace: CallPace) -> CallPace {
    let limits = route.limits(&Request::default());
    let requests = limits.first().and_then(|first| first.quota.requests);
    let most = requests.map_or(f64::MAX, |requests| requests.limit as f64 / 60.0);
    CallPace {
        per_second: pace.per_second.min(most),
        ..pace
    }
}

/// Whether the unanswered items of a batch can be moved.
fn is_movable(batch: &OwnBatch) -> bool {
    batch.withdrawn.is_none()
        && batch.is_sent
        && !batch.is_stuck
        && !batch.has_ended
        && batch.keeps_results
}

fn is_unconfirmed(batch: &OwnBatch, now: Timestamp, wait: Duration) -> bool {
    let since = batch.withdrawn.map(|since| now.since(since));
    since.is_some_and(|since| since > wait) && !batch.has_ended && !batch.is_stuck
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

/// How many requests in batches were answered, and how fast.
#[derive(Default)]
struct BatchProgress {
    rate: BatchRate,
    /// The requests of batches that are no longer there, and those of the others that are answered.
    ended: u64,
    open: HashMap<BatchNo, (u64, u64)>,
}

impl BatchProgress {
    fn report(&mut self, own: &[OwnBatch], every: Duration, now: Time) {
        let there: HashSet<BatchNo> = own.iter().map(|batch| batch.no).collect();
        let gone = self.open.extract_if(|no, _| !there.contains(no));
        self.ended += gone.map(|(_, (_, answered))| answered).sum::<u64>();
        for batch in own.iter().filter(|batch| batch.is_sent) {
            let answered = batch.answered.unwrap_or(0);
            self.open.insert(batch.no, (batch.items, answered));
        }
        if self.open.is_empty() && self.ended == 0 {
            return;
        }
        let open: u64 = self.open.values().map(|(_, answered)| answered).sum();
        self.rate.report(now, self.ended + open, every);
    }
}
