//! The options of a run that meets a deadline.

use derive_setters::Setters;

use crate::llm::route::Route;
use crate::money::call_rate::CallPace;
use crate::money::deadline::{Deadline, WayPrices};

/// How a [`QueueRun`](super::QueueRun) meets a deadline at the least cost. It begins with batches, if they can end in
/// time. Items that would be late move to calls at the flex tier, then at the standard tier. Items of a batch are sent
/// again only after the provider has confirmed that it will not process them.
///
/// If the deadline passes, the run goes on in the fastest way, and its [report](super::QueueRunReport::deadline_missed)
/// says so.
#[derive(Setters)]
#[setters(generate = false, strip_option)]
pub struct InTime {
    pub(super) deadline: Deadline,
    /// How the deadline was given, for example `06:00`. If a run with the same words was interrupted, its deadline stays.
    /// Default: the new deadline replaces an earlier one.
    #[setters(generate, into)]
    pub(super) given: Option<String>,
    /// The route of calls at the flex tier. Default: the flex tier is not used.
    #[setters(generate, into)]
    pub(super) flex: Option<Route<'static>>,
    /// The prices of the ways. Default: unknown; batches and flex calls are then taken to be cheaper than standard calls.
    #[setters(generate)]
    pub(super) prices: WayPrices,
    /// The rate of standard calls that earlier runs show. Default: unknown, so a few items are sent as a trial if there
    /// is time for that.
    #[setters(generate)]
    pub(super) expected: Option<CallPace>,
    /// The words name a time that comes again, such as a time of day. If the deadline of the interrupted run has passed,
    /// the new one replaces it. Default: `false`.
    #[setters(generate)]
    pub(super) recurs: bool,
    pub(super) on_change: Box<dyn FnMut(&str) + Send>,
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
            recurs: false,
            on_change: Box::new(|line| log::info!("{line}")),
        }
    }

    /// Receives each decision that changes the plan, as one line. Default: a log message.
    pub fn on_change(mut self, tell: impl FnMut(&str) + Send + 'static) -> Self {
        self.on_change = Box::new(tell);
        self
    }
}
