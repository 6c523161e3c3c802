//! `batchwright token`: tokens for the clients of a server.

use batchwright::ErrorKind;
use batchwright_server::new_token;

use crate::args::worker::{TokenAction, TokenArgs};
use crate::display;
use crate::exit::{Early, Exit, Refusal, could_not_run};
use crate::stdout;

pub fn execute(args: &TokenArgs) -> Result<Exit, Early> {
    let TokenAction::New(args) = &args.action;
    let made = new_token(&args.name, args.role);
    let (token, line) = made.map_err(|error| match error.kind() {
        ErrorKind::Invalid => Refusal::usage(error.message()),
        _ => could_not_run(error),
    })?;
    let exit = stdout::print(&format!("{line}\n"), Exit::Success);
    if exit == Exit::Success {
        display::say(&format!(
            "token of {}, shown only now: {}",
            args.name,
            token.expose()
        ));
    }
    Ok(exit)
}
