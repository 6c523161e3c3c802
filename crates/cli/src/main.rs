//! The command line: arguments in, exit code out. Uses the library's public API alone.

pub mod args;
#[cfg(feature = "queue")]
mod batches;
#[cfg(feature = "queue")]
mod board;
#[cfg(feature = "queue")]
mod config;
mod data_dir;
mod display;
#[cfg(feature = "queue")]
mod doctor;
mod exit;
mod input;
#[cfg(feature = "queue")]
mod kept;
#[cfg(feature = "queue")]
mod left;
mod lines;
#[cfg(feature = "queue")]
mod owned;
#[cfg(feature = "queue")]
mod pacing;
#[cfg(feature = "queue")]
mod process;
mod prompts;
mod provider;
mod providers;
#[cfg(feature = "queue")]
mod queue;
#[cfg_attr(not(feature = "queue"), path = "no_queue.rs")]
mod queued;
#[cfg(all(test, feature = "queue", feature = "schema", feature = "simulate"))]
mod reference;
#[cfg(feature = "queue")]
mod results;
#[cfg(feature = "queue")]
mod routes;
mod run;
mod settings;
mod shell;
mod signals;
#[cfg(feature = "simulate")]
mod simulate;
#[cfg(feature = "simulate")]
mod simulate_batches;
#[cfg(feature = "queue")]
mod status;
#[cfg(feature = "queue")]
mod status_table;
mod stdout;
mod strategy;
#[cfg(feature = "queue")]
mod submit;
mod summary;
mod table;
mod text;
mod tips;
mod typed;
#[cfg(feature = "queue")]
mod under_way;
mod values;
#[cfg(feature = "queue")]
mod work;

pub use exit::Exit;
pub use tips::parse;

use args::{Cli, Command};

/// Waits a moment until all that was said is written.
pub fn last_lines() {
    lines::flush();
}

/// Carries out the command.
pub fn execute(cli: Cli) -> Exit {
    signals::outlive_size_limits();
    match cli.command {
        Command::Run(args) => run::execute(&args),
        #[cfg(feature = "queue")]
        Command::Submit(args) => submit::execute(&args),
        #[cfg(feature = "queue")]
        Command::Work(args) => work::execute(&args),
        #[cfg(feature = "queue")]
        Command::Status(args) => status::execute(&args),
        #[cfg(feature = "queue")]
        Command::Results(args) => results::execute(&args),
        #[cfg(feature = "queue")]
        Command::Cancel(args) => process::cancel(&args),
        #[cfg(feature = "queue")]
        Command::Retry(args) => process::retry(&args),
        #[cfg(feature = "queue")]
        Command::Doctor(args) => doctor::execute(&args),
        Command::Providers(args) => providers::execute(&args),
        #[cfg(feature = "queue")]
        Command::Config(args) => config::execute(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        #[cfg(feature = "simulate")]
        Command::Simulate(args) => match simulate::run(&args, signals::wait_for_stop) {
            Ok(()) => Exit::Success,
            Err(error) => exit::Refusal::could_not_run(error.to_string()).end(args.json, false),
        },
    }
}
