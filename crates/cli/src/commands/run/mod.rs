//! `batchwright run`: from arguments to a finished, or resumable, results file.
//!
//! In three steps: [`prepare`] determines the settings, inputs and providers and compares the input with finished items,
//! [`prepare::Prepared::execute`] makes the calls, itself or through the queue, and [`report`] shows the results. A
//! [`plan::dry_run`] ends after the first step.

mod plan;
mod prepare;
mod report;
mod via_queue;

use std::io::{IsTerminal, Write, stderr, stdin};
use std::iter;

use batchwright::files::RunPlan;

use crate::args::run::RunArgs;
use crate::background::{Background, Event};
use crate::exit::{Early, Exit, Refusal};
use crate::format::count;
use crate::signals::Session;

pub fn execute(args: &RunArgs) -> Result<Exit, Early> {
    args.memory.apply();
    let settings = prepare::settings(args)?;
    let session = prepare::session(args, &settings)?;
    let prepared = prepare::prepare(args, &settings, &session)?;
    if args.dry_run {
        let (manager, run) = (prepared.manager.as_ref(), prepared.run.compared());
        let exit = plan::dry_run(args, &settings, manager, run, &prepared.setup)?;
        return Ok(exit);
    }
    confirm(args, prepared.run.compared().plan(), &session)?;
    let ended = prepared.execute(args, &session)?;
    Ok(report::report(args, &ended, &session))
}

/// Up to this number of answered items are sent again without confirmation.
const FEW: u64 = 20;

/// On a terminal, asks for confirmation before more than [`FEW`] answered items are billed again, even with `--quiet`.
///
/// # Errors
/// If the answer is no, or a signal came.
fn confirm(args: &RunArgs, plan: &RunPlan, session: &Session) -> Result<(), Early> {
    let most = args.max_items.map_or(u64::MAX, |items| items as u64);
    let again = plan.differing.min(plan.to_send).min(most);
    if again <= FEW || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(());
    }
    let again = count(again);
    crate::stderr::flush();
    let _ = write!(stderr(), "Buy {again} answers again? [y/N] ");
    let _ = stderr().flush();
    // A read from a terminal cannot be interrupted, so after a signal the thread is abandoned.
    let answer = iter::once_with(|| {
        let mut line = String::new();
        let _ = stdin().read_line(&mut line);
        line
    });
    let answer = Background::spawn("batchwright-question", answer, &session.ctx)?;
    let line = match answer.next(None) {
        Event::Item(line) => line,
        Event::Ended | Event::Silence => String::new(),
        Event::Cancelled => return Err(session.interrupted()),
    };
    if ["y", "yes"].contains(&line.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Refusal::usage(format!(
        "nothing was sent: {again} answers would be bought again. To buy them, answer y; to keep the earlier answers, \
         run with the earlier settings, or name another output with -o"
    ))
    .into())
}
