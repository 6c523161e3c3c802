//! Prepares a run: compares the input with the output and the queue, and prepares a provider if items are to be sent.
//! Nothing is sent yet.

use std::path::Path;

use batchwright::files::{FileRunError, RunOutput, RunPlan};
use batchwright::plan::{Concurrency, ProviderPlan};
use batchwright::{Context, FileRun, FileRunOptions, LlmManager, Prompts, Request};
use serde_json::Value;

use super::estimate::RunEstimate;
use super::resolve::{Resolved, may_lack};
use super::run_queue::RunQueue;
use super::summary::Setup;
use super::via_queue::ViaQueue;
use super::{plan, preview};
use crate::args::run::RunArgs;
use crate::budget::{RunBudget, starts_from_zero};
use crate::display;
use crate::exit::{About, Early, Refusal};
use crate::provider;
use crate::session::Session;
use crate::settings::refused;
use crate::stdout::ResultsOut;

pub struct Prepared {
    /// Requests that a dry run prints.
    pub shown: Vec<Value>,
    pub run: PreparedRun,
    pub plan: RunPlan,
    /// The manager of the calls; `None` if no item is to be sent.
    pub manager: Option<LlmManager>,
    pub setup: Setup,
    /// The estimate of a dry run.
    pub estimate: Option<RunEstimate>,
}

/// A run whose input was compared with the output, and with the queue if the run uses it.
pub enum PreparedRun {
    Direct(Box<FileRun<'static>>),
    ViaQueue(Box<ViaQueue>),
}

pub fn prepare(args: &RunArgs, resolved: Resolved, session: &Session) -> Result<Prepared, Early> {
    let from_zero = starts_from_zero(args);
    let queue = resolved.queue;
    let models = resolved.plan.as_ref().is_ok_and(provider::asks_a_model);
    let output = output(args, &session.ctx);
    let run = compare(args, resolved.prompts, output, queue, models)?;
    let plan = run.compared().plan().clone();
    say_plan(args, &plan, session);

    let budget = if args.dry_run {
        None
    } else {
        RunBudget::open(args, run.is_unlimited()?, from_zero)?
    };
    let mut setup = Setup {
        strategy: resolved.strategy,
        bad_rows: plan.bad_rows,
        budget,
        ..Setup::default()
    };
    let manager = if plan.to_send == 0 && !run.has_items_in_queue()? {
        if resolved.unnamed != 0 {
            let model = resolved.settings.model().map_err(refused)?;
            provider::note_changed_default(&plan, model.as_deref(), &|line| session.say(line));
        }
        None
    } else if let Err(refusal) = &resolved.plan
        && may_lack(args, refusal)
    {
        session.say(format!("nothing could be sent: {}", refusal.text()));
        None
    } else {
        let providers = made_ready(args, resolved.plan?, resolved.provider_notes, session)?;
        run.announce(args, &providers, resolved.unnamed, &mut setup, session)?;
        Some(LlmManager::of(providers))
    };
    let estimate = if args.dry_run {
        let manager = manager.as_ref();
        let estimate = RunEstimate::of(args, &resolved.settings, manager, run.compared())?;
        Some(estimate)
    } else {
        None
    };
    let mut shown = Vec::new();
    if let Some(most) = args.shown_requests {
        let client = preview::client(args, &resolved.settings, manager.as_ref());
        shown = preview::requests(&run.requests_to_send(most)?, client, session)?;
    }
    Ok(Prepared {
        shown,
        run,
        plan,
        manager,
        setup,
        estimate,
    })
}

fn compare(
    args: &RunArgs,
    prompts: Prompts,
    output: RunOutput,
    queue: Option<RunQueue>,
    asks_a_model: bool,
) -> Result<PreparedRun, Refusal> {
    let options = FileRunOptions::new()
        .redo_extracts(asks_a_model)
        .keep_failed(args.keep_failed)
        .ask_again(args.ask_again)
        .max_items(args.max_items)
        .ordered(args.ordered)
        .fsync(args.fsync)
        .dedupe(args.dedupe)
        .dry_run(args.dry_run);
    let run = match queue {
        Some(queue) => {
            let run = ViaQueue::prepare(queue, prompts, output, options);
            if let Ok(run) = &run {
                run.refuse_another_input(args)?;
            }
            run.map(|run| PreparedRun::ViaQueue(Box::new(run)))
        }
        None => {
            FileRun::prepare(prompts, output, options).map(|run| PreparedRun::Direct(Box::new(run)))
        }
    };
    run.map_err(|error| match error {
        FileRunError::Usage(error) => Refusal::usage(error.message()).about(About::Output),
        error => Refusal::could_not_run(error.to_string()).about(About::Output),
    })
}

impl PreparedRun {
    /// The input compared with the output.
    fn compared(&self) -> &FileRun<'static> {
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
        session: &Session,
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
        self.check_providers(&setup.steps)?;
        session.say(provider::line(
            providers,
            &provider::in_flight(setup.concurrency),
        ));
        if let Some(why) = &setup.strategy.fallback_reason {
            // Also with --quiet, because it may cost twice as much as the setting requests.
            display::say(&format!("strategy: {why}"));
        }
        if let Self::ViaQueue(run) = self {
            let lines = run.lines(providers, setup.strategy.strategy)?;
            lines.iter().for_each(|line| session.say(line));
        }
        provider::warn(providers, &|line| session.say(line));
        if unnamed != 0 && args.provider.model.is_none() {
            let default = providers.first.model.as_deref();
            provider::note_changed_default(plan, default, &|line| session.say(line));
        }
        Ok(())
    }

    /// Rejects lines in the format of a provider that is not in the route.
    fn check_providers(&self, steps: &[(&str, Option<String>)]) -> Result<(), Refusal> {
        let providers = steps.iter().map(|(provider, _)| (*provider).to_owned());
        let providers: Vec<String> = providers.collect();
        let checked = self.compared().check_providers(&providers);
        checked.map_err(|error| refused(error).about(About::Input))
    }

    fn requests_to_send(&self, most: usize) -> Result<Vec<Request>, Refusal> {
        let requests = self.compared().requests_to_send(most);
        requests.map_err(|error| refused(error).about(About::Input))
    }

    fn has_items_in_queue(&self) -> Result<bool, Refusal> {
        match self {
            Self::Direct(_) => Ok(false),
            Self::ViaQueue(run) => run.has_items(),
        }
    }

    /// Whether an earlier run without a budget has items in the queue.
    fn is_unlimited(&self) -> Result<bool, Refusal> {
        match self {
            Self::Direct(_) => Ok(false),
            Self::ViaQueue(run) => run.is_unlimited(),
        }
    }
}

fn output(args: &RunArgs, ctx: &Context) -> RunOutput {
    match &args.output {
        Some(path) if path != Path::new("-") => RunOutput::file(path),
        _ => RunOutput::writer(ResultsOut::new(ctx)),
    }
}

fn say_plan(args: &RunArgs, plan: &RunPlan, session: &Session) {
    if !plan.resumable && args.output.is_some() && !args.dry_run {
        session.say("the output is not a regular file: this run cannot be resumed");
    }
    session.say(plan::plan_line(plan));
    let bad_rows = plan::bad_row_lines(plan);
    bad_rows.iter().for_each(|line| session.say(line));
    let differing = plan::differing_line(args, plan);
    differing.iter().for_each(|line| session.say(line));
    let unusable = plan::unusable_line(args, plan);
    unusable.iter().for_each(|line| session.say(line));
}

/// The plan, with what is said about it.
fn made_ready(
    args: &RunArgs,
    mut plan: ProviderPlan,
    notes: Vec<String>,
    session: &Session,
) -> Result<ProviderPlan, Early> {
    let say = |line: String| session.say(line);
    if args.prompt.json_mode || args.prompt.json_schema.is_some() {
        provider::for_json(&mut plan, &say)?;
    }
    notes.into_iter().for_each(say);
    Ok(plan)
}
