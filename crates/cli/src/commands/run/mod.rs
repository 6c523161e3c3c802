//! `batchwright run`: from arguments to a finished, or resumable, results file.
//!
//! In four steps, one file each: [`resolve`] determines the settings, inputs and providers, [`prepare`] compares the
//! input with finished items, [`prepare::Prepared::execute`] makes the calls, itself or through the queue, and
//! [`report`] shows the results. A [`dry_run`] ends after the second step.

mod confirm;
mod dry_run;
mod plan;
mod prepare;
mod report;
mod resolve;
mod via_queue;

use crate::args::run::RunArgs;
use crate::exit::{Early, Exit};

pub fn execute(args: &RunArgs) -> Result<Exit, Early> {
    args.memory.apply();
    let settings = resolve::settings(args)?;
    let session = resolve::session(args, &settings)?;
    let prepared = prepare::prepare(args, &settings, &session)?;
    if args.dry_run {
        let (manager, run) = (prepared.manager.as_ref(), prepared.run.compared());
        let exit = dry_run::dry_run(args, &settings, manager, run, &prepared.setup)?;
        return Ok(exit);
    }
    confirm::confirm(args, prepared.run.compared().plan(), &session)?;
    let ended = prepared.execute(args, &session)?;
    Ok(report::report(args, &ended, &session))
}
