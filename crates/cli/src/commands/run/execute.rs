//! Carries out a prepared run, by calls of its own or through the queue.

use batchwright::files::RunReport;
use batchwright::{Extract, FileRun, Limits, RetryPolicy, Route};

use super::prepare::{Prepared, PreparedRun};
use super::summary::{QueueFacts, Setup};
use super::via_queue::QueuedRunner;
use crate::args::run::RunArgs;
use crate::data_dir::data_dir;
use crate::exit::Refusal;
use crate::provider::{Chosen, Clients};
use crate::session::Session;
use crate::settings::refused;

/// How a run ended.
pub struct Ended {
    pub report: RunReport,
    pub setup: Setup,
    /// What the queue adds, where the run went through it.
    pub queue: Option<QueueFacts>,
}

pub fn execute(args: &RunArgs, prepared: Prepared, session: &Session) -> Result<Ended, Refusal> {
    let retry = prepared
        .settings
        .retry_policy(args.pace.max_retries)
        .map_err(refused)?
        .fall_back_when_blocked(args.provider.fallback_blocked);
    let (provider, limits) = (prepared.provider, prepared.limits);
    let make_route =
        |chosen: &Chosen, clients| route(args, clients, limits, chosen.shares_limits(), retry);
    let (report, queue) = match prepared.run {
        PreparedRun::Direct(run) => {
            let route = match provider {
                Some((chosen, clients)) => make_route(&chosen, clients),
                // Nothing is to be sent.
                None => Route::new(Extract).retry(retry),
            };
            (direct(args, *run, route, &prepared.setup, session)?, None)
        }
        PreparedRun::ViaQueue(run) => {
            let runner = QueuedRunner {
                args,
                settings: &prepared.settings,
                chosen: provider.as_ref().map(|(chosen, _)| chosen),
                make_route: &make_route,
                retry,
            };
            let (report, facts) = runner.run(*run, session)?;
            (report, Some(facts))
        }
    };
    Ok(Ended {
        report,
        setup: prepared.setup,
        queue,
    })
}

fn direct(
    args: &RunArgs,
    run: FileRun<'static>,
    route: Route<'static>,
    setup: &Setup,
    session: &Session,
) -> Result<RunReport, Refusal> {
    let report = run
        .concurrency(setup.concurrency)
        .on_error(args.on_error.policy())
        .context(&session.ctx)
        .notifier(session.display.clone())
        .run(route);
    session.display.clear();
    report.map_err(|error| Refusal::could_not_run(error.message()))
}

fn route(
    args: &RunArgs,
    clients: Clients,
    limits: Limits,
    shared: bool,
    retry: RetryPolicy,
) -> Route<'static> {
    let mut route = Route::limited(clients.first, limits);
    let folder = data_dir(args.pace.data_dir.as_deref());
    if let Some(folder) = folder.filter(|_| shared && !args.dry_run) {
        route = route.share_limits(&folder.join("quotas"));
    }
    for (fallback, limits) in clients.fallbacks {
        route = route.then(fallback, limits);
    }
    route.retry(retry)
}
