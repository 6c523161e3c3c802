//! Prepares a run: compares the input with the output and the queue, and prepares the providers if items are to be sent.
//! Then executes it, with its own calls or through the queue.

use std::path::Path;

use batchwright::files::{FileRunError, RunOutput, RunReport};
use batchwright::plan::{Concurrency, EffectiveStrategy, ProviderPlan};
use batchwright::{
    Budget, Context, Error, ErrorKind, FileRun, FileRunOptions, LlmClient, LlmManager, Prompts,
    Request, Response, Route, Settings,
};

use super::plan;
use super::resolve::{self, may_lack};
use super::via_queue::{QueueFacts, RunQueue, ViaQueue};
use crate::args::run::{Resend, RunArgs};
use crate::budget::{self, starts_from_zero};
use crate::display;
use crate::exit::{About, Early, Refusal, could_not_run};
use crate::provider;
use crate::settings::refused;
use crate::signals::Session;
use crate::stdout::ResultsOut;

pub struct Prepared {
    pub run: Plan,
    /// The manager of the calls; `None` if no item is to be sent.
    pub manager: Option<LlmManager>,
    pub setup: Setup,
}

/// A run whose input was compared with the output, and with the queue if the run uses it.
pub enum Plan {
    Direct(Box<FileRun<'static>>),
    ViaQueue(Box<ViaQueue>),
}

/// The options of the calls of a run.
pub struct Setup {
    pub concurrency: Concurrency,
    /// The provider of each step.
    pub steps: Vec<&'static str>,
    pub strategy: EffectiveStrategy,
    /// Rows of the input that make no prompt, each of them a failure.
    pub bad_rows: u64,
    pub budget: Option<Budget>,
}

/// How a run ended.
pub struct Ended {
    pub report: RunReport,
    pub setup: Setup,
    /// Facts about the queue, if the run used it.
    pub queue: Option<QueueFacts>,
}

pub fn prepare(args: &RunArgs, settings: &Settings, session: &Session) -> Result<Prepared, Early> {
    let prompts = resolve::prompts(args, session)?;
    let unnamed = prompts.without_model();
    let providers = resolve::providers(args, settings, unnamed, session)?;
    let strategy = provider::strategy(args, settings, providers.as_ref().ok())?;
    let queue = resolve::queue(args, strategy.strategy)?;
    let from_zero = starts_from_zero(args);
    let models = providers.as_ref().is_ok_and(provider::asks_a_model);
    let output = match &args.output {
        Some(path) if path != Path::new("-") => RunOutput::file(path),
        _ => RunOutput::writer(ResultsOut::new(&session.ctx)),
    };
    let run = compare(args, prompts, output, queue, models)?;
    let plan = run.compared().plan();
    if !plan.resumable && args.output.is_some() && !args.dry_run {
        display::note("the output is not a regular file: this run cannot be resumed");
    }
    plan::lines(args, plan).iter().for_each(display::note);

    let queued = match &run {
        Plan::Direct(_) => None,
        Plan::ViaQueue(run) => run.process()?,
    };
    let is_unlimited = queued.as_ref().is_some_and(|run| run.budget.is_none());
    let budget = if args.dry_run {
        None
    } else {
        budget::open(args, is_unlimited, from_zero)?
    };
    let mut setup = Setup {
        strategy,
        bad_rows: plan.bad_rows,
        budget,
        concurrency: Concurrency::Fixed(1),
        steps: Vec::new(),
    };
    let manager = match providers {
        _ if plan.to_send == 0 && queued.is_none() => None,
        Err(refusal) if may_lack(args, &refusal) => {
            display::note(format!("nothing could be sent: {}", refusal.text()));
            None
        }
        Err(refusal) => return Err(refusal.into()),
        Ok(mut providers) => {
            if args.prompt.json_schema.is_some() {
                provider::for_json(&mut providers)?;
            }
            let choice = provider::choice(&providers, &args.provider);
            choice.iter().for_each(display::note);
            run.announce(args, &providers, unnamed, &mut setup)?;
            Some(LlmManager::of(providers))
        }
    };
    Ok(Prepared {
        run,
        manager,
        setup,
    })
}

fn compare(
    args: &RunArgs,
    prompts: Prompts,
    output: RunOutput,
    queue: Option<RunQueue>,
    asks_a_model: bool,
) -> Result<Plan, Refusal> {
    let options = FileRunOptions::new()
        .redo_extracts(asks_a_model)
        .keep_failed(args.resend == Resend::None)
        .ask_again(args.resend == Resend::All)
        .max_items(args.max_items)
        .ordered(args.ordered)
        .fsync(args.fsync)
        .dedupe(args.dedupe)
        .dry_run(args.dry_run);
    let run = match queue {
        Some(queue) => {
            let run = ViaQueue::prepare(queue, prompts, output, options);
            run.map(|run| Plan::ViaQueue(Box::new(run)))
        }
        None => FileRun::prepare(prompts, output, options).map(|run| Plan::Direct(Box::new(run))),
    };
    run.map_err(|error| match error {
        FileRunError::Usage(error) => Refusal::usage(error.message()).about(About::Output),
        error => Refusal::could_not_run(error.to_string()).about(About::Output),
    })
}

impl Plan {
    /// The input compared with the output.
    pub fn compared(&self) -> &FileRun<'static> {
        match self {
            Self::Direct(run) => run,
            Self::ViaQueue(run) => run.compared(),
        }
    }

    /// Rejects providers that do not suit the input or the output, and describes those that are used.
    fn announce(
        &self,
        args: &RunArgs,
        providers: &ProviderPlan,
        unnamed: u64,
        setup: &mut Setup,
    ) -> Result<(), Refusal> {
        let plan = self.compared().plan();
        if let Some(output) = &args.output {
            provider::fits_vectors(providers, unnamed, plan, output)?;
        }
        provider::check(providers, unnamed)?;
        let calls = providers.concurrency();
        setup.concurrency = match self {
            Self::Direct(_) => calls,
            // The slots of a worker.
            Self::ViaQueue(_) => Concurrency::Fixed(calls.start()),
        };
        setup.steps = provider::steps(providers);
        let names: Vec<String> = setup.steps.iter().map(|name| (*name).to_owned()).collect();
        let checked = self.compared().check_providers(&names);
        checked.map_err(|error| refused(error).about(About::Input))?;
        let in_flight = provider::in_flight(setup.concurrency);
        display::note(provider::line(providers, &in_flight));
        if let Some(why) = &setup.strategy.fallback_reason {
            // Also with --quiet, because it may cost twice as much as the setting requests.
            display::say(&format!("strategy: {why}"));
        }
        if let Self::ViaQueue(run) = self {
            let lines = run.lines(providers, setup.strategy.strategy)?;
            lines.iter().for_each(display::note);
        }
        if !provider::asks_a_model(providers) {
            display::note(provider::NO_MODEL);
        }
        Ok(())
    }
}

impl Prepared {
    /// Makes the calls.
    pub fn execute(self, args: &RunArgs, session: &Session) -> Result<Ended, Refusal> {
        let Self {
            run,
            manager,
            setup,
        } = self;
        let budget = setup.budget.as_ref();
        let limited = |manager: &LlmManager| {
            let route = manager.route().map_err(could_not_run)?;
            let route = match budget {
                Some(budget) => route.budget(budget),
                None => route,
            };
            budget::check(args, &route)?;
            Ok(route)
        };
        let (report, queue) = match run {
            Plan::Direct(run) => {
                let route = match &manager {
                    Some(manager) => limited(manager)?,
                    None => Route::new(Nobody),
                };
                let run = run.notifier(session.display.clone());
                let run = match setup.concurrency {
                    Concurrency::Auto { most, .. } => run.up_to(most),
                    fixed => run.concurrency(fixed.most()),
                };
                let run = run.on_error(args.on_error.policy());
                let report = run.context(&session.ctx).run(route);
                session.display.clear();
                if let Some(Err(error)) = budget.map(|budget| budget.close()) {
                    log::warn!("{}", error.message());
                }
                (report.map_err(could_not_run)?, None)
            }
            Plan::ViaQueue(run) => {
                // Refuses a run whose batches have no upper bound.
                if let Some(manager) = manager.as_ref().filter(|_| budget.is_some()) {
                    limited(manager)?;
                }
                let (report, facts) = run.run(args, manager.as_ref(), budget, session)?;
                (report, Some(facts))
            }
        };
        Ok(Ended {
            report,
            setup,
            queue,
        })
    }
}

/// The client of a run that sends nothing.
struct Nobody;

impl LlmClient for Nobody {
    fn complete(&self, _: &Request, _: &Context) -> Result<Response, Error> {
        let why = "something is to be sent now that was answered when the run began: give the same command again";
        Err(Error::new(ErrorKind::Auth, why))
    }
}
