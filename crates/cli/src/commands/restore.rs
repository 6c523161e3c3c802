//! `batchwright restore`: a queue and a `server.db` of different moments go on together.

use batchwright::Context;
use batchwright::queue::SqliteOptions;

use crate::args::queue::RestoreArgs;
use crate::display;
use crate::exit::{Exit, Refusal};
use crate::queue::{check_server, failed, open};
use crate::stdout;

pub fn execute(args: &RestoreArgs) -> Result<Exit, Refusal> {
    let options = SqliteOptions::default().existing();
    let queue = open(&args.store, None, &args.folder, options, &Context::new()).map_err(failed)?;
    if !args.original_is_gone {
        check_server(&queue, None, &args.folder)?;
    }
    let said = batchwright_server::restore(&queue, &args.folder).map_err(failed)?;
    if said.is_empty() {
        display::note("the queue and server.db belong together: nothing was changed");
        return Ok(Exit::Success);
    }
    display::note("they go on together from here on:");
    let lines: String = said.iter().map(|line| format!("- {line}\n")).collect();
    Ok(stdout::print(&lines, Exit::Success))
}
