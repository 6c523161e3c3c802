//! The `batchwright` program.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli::execute(cli),
        Err(exit) => exit,
    };
    cli::last_lines();
    exit.into()
}
