//! Executes a prepared run, with its own calls or through the queue.

use batchwright::files::RunReport;
use batchwright::plan::Concurrency;
use batchwright::{
    Context, Error, ErrorKind, FileRun, LlmClient, LlmManager, Request, Response, Route,
};

use super::prepare::{Prepared, PreparedRun};
use super::summary::{QueueFacts, Setup};
use crate::args::run::RunArgs;
use crate::budget::{self, RunBudget};
use crate::exit::{Refusal, could_not_run};
use crate::session::Session;

/// How a run ended.
pub struct Ended {
    pub report: RunReport,
    pub setup: Setup,
    /// Facts about the queue, if the run used it.
    pub queue: Option<QueueFacts>,
}

pub fn execute(args: &RunArgs, prepared: Prepared, session: &Session) -> Result<Ended, Refusal> {
    let manager = prepared.manager;
    let (report, queue) = match prepared.run {
        PreparedRun::Direct(run) => {
            let route = match manager {
                Some(manager) => limited(args, &manager, &prepared.setup)?,
                None => Route::new(Nobody),
            };
            let run = run.notifier(session.display.clone());
            let report = direct(args, run, route, &prepared.setup, session)?;
            (report, None)
        }
        PreparedRun::ViaQueue(run) => {
            // Refuses a run whose batches have no upper bound.
            if let Some(manager) = &manager
                && prepared.setup.budget.is_some()
            {
                limited(args, manager, &prepared.setup)?;
            }
            let budget = prepared
                .setup
                .budget
                .as_ref()
                .map(|limited| &limited.budget);
            let (report, facts) = run.run(args, manager.as_ref(), budget, session)?;
            (report, Some(facts))
        }
    };
    Ok(Ended {
        report,
        setup: prepared.setup,
        queue,
    })
}

/// The route of a run, within its budget.
fn limited(args: &RunArgs, manager: &LlmManager, setup: &Setup) -> Result<Route<'static>, Refusal> {
    let mut route = manager.route().map_err(could_not_run)?;
    if let Some(RunBudget { budget, .. }) = &setup.budget {
        route = route.budget(budget);
    }
    budget::check(args, &route)?;
    Ok(route)
}

/// The client of a run that sends nothing.
struct Nobody;

impl LlmClient for Nobody {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        let why = "something is to be sent now that was answered when the run began: give the same command again";
        Err(Error::new(ErrorKind::Auth, why))
    }
}

fn direct(
    args: &RunArgs,
    run: FileRun<'static>,
    route: Route<'static>,
    setup: &Setup,
    session: &Session,
) -> Result<RunReport, Refusal> {
    let run = match setup.concurrency {
        Concurrency::Auto { most, .. } => run.up_to(most),
        fixed => run.concurrency(fixed.most()),
    };
    let report = run
        .on_error(args.on_error.policy())
        .context(&session.ctx)
        .run(route);
    session.display.clear();
    if let Some(RunBudget { budget, .. }) = &setup.budget
        && let Err(error) = budget.close()
    {
        log::warn!("{}", error.message());
    }
    report.map_err(could_not_run)
}
