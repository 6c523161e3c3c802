//! The program `batchwright`: arguments in, exit code out. Uses the library's public API alone.

mod args;
mod batches;
mod board;
mod config;
mod data_dir;
mod display;
mod doctor;
mod exit;
mod input;
mod kept;
mod left;
mod lines;
mod owned;
mod pacing;
mod process;
mod prompts;
mod provider;
mod providers;
mod queue;
mod queued;
#[cfg(test)]
mod reference;
mod results;
mod routes;
mod run;
mod settings;
mod shell;
mod signals;
mod simulate;
mod simulate_batches;
mod status;
mod status_table;
mod stdout;
mod strategy;
mod submit;
mod summary;
mod table;
mod text;
mod tips;
mod typed;
mod under_way;
mod values;
mod work;

use std::process::ExitCode;

use args::{Cli, Command};
use exit::Exit;

fn main() -> ExitCode {
    let exit = match tips::parse(std::env::args_os()) {
        Ok(cli) => execute(cli),
        Err(exit) => exit,
    };
    // Waits a moment until all that was said is written.
    lines::flush();
    exit.into()
}

fn execute(cli: Cli) -> Exit {
    signals::outlive_size_limits();
    match cli.command {
        Command::Run(args) => run::execute(&args),
        Command::Submit(args) => submit::execute(&args),
        Command::Work(args) => work::execute(&args),
        Command::Status(args) => status::execute(&args),
        Command::Results(args) => results::execute(&args),
        Command::Cancel(args) => process::cancel(&args),
        Command::Retry(args) => process::retry(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Providers(args) => providers::execute(&args),
        Command::Config(args) => config::execute(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Simulate(args) => match simulate::run(&args, signals::wait_for_stop) {
            Ok(()) => Exit::Success,
            Err(error) => exit::Refusal::could_not_run(error.to_string()).end(args.json, false),
        },
    }
}
