//! The `batchwright` program.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(cli) => cli::execute(cli).into(),
        Err(exit) => exit.into(),
    }
}
