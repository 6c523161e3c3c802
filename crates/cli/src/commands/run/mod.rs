//! `batchwright run`: from arguments to a finished, or resumable, results file.
//!
//! In four steps, one file each: [`resolve`] determines the settings, inputs and providers, [`prepare`] compares the
//! input with finished items, [`execute`] makes the calls, itself or through the queue, and [`report`] shows the
//! results. A dry run ends after the second step with an [`estimate`].

mod already_submitted;
mod confirm;
mod dry_run;
mod estimate;
mod execute;
mod plan;
mod prepare;
mod preview;
mod report;
mod resolve;
mod run_queue;
mod summary;
mod via_queue;

use crate::args::run::RunArgs;
use crate::exit::{Early, Exit};

pub fn execute(args: RunArgs) -> Exit {
    args.show.say.start_log();
    args.memory.apply();
    run(&args).unwrap_or_else(|early| early.end(args.json, args.show.say.quiet))
}

fn run(args: &RunArgs) -> Result<Exit, Early> {
    let settings = resolve::settings(args)?;
    let session = resolve::session(args, &settings)?;
    let resolved = resolve::resolve(args, settings, &session)?;
    let prepared = prepare::prepare(args, resolved, &session)?;
    if let Some(estimate) = &prepared.estimate {
        return Ok(dry_run::dry_run(args, &prepared, estimate));
    }
    confirm::confirm(args, &prepared.plan, &session)?;
    let ended = execute::execute(args, prepared, &session)?;
    Ok(report::report(args, &ended, &session))
}
