//! `batchwright completions`: completion scripts, made from the same definitions as the help.

use std::io::{self, Write};

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::exit::Exit;

pub fn execute(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "batchwright", &mut script);
    // A reader may close the pipe early.
    let _ = io::stdout().write_all(&script);
    Exit::Success
}
