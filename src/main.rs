//! The `batchwright` program.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::execute(cli::args::Cli::parse()).into()
}
