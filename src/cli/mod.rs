//! The command line: arguments in, exit code out. Uses the library's public API alone.

pub mod args;
#[cfg(feature = "queue")]
mod config;
mod data_dir;
mod display;
mod exit;
mod provider;
mod providers;
mod run;
mod settings;
mod signals;
#[cfg(feature = "simulate")]
mod simulate;
mod summary;
mod values;
#[cfg(feature = "queue")]
mod work;

pub use exit::Exit;

use args::{Cli, Command};

/// Carries out the command.
pub fn execute(cli: Cli) -> Exit {
    match cli.command {
        Command::Run(args) => run::execute(&args),
        #[cfg(feature = "queue")]
        Command::Work(args) => work::execute(&args),
        Command::Providers(args) => providers::execute(&args),
        #[cfg(feature = "queue")]
        Command::Config(args) => config::execute(&args),
        #[cfg(feature = "simulate")]
        Command::Simulate(args) => match simulate::run(&args, signals::wait_for_stop) {
            Ok(()) => Exit::Success,
            Err(error) => {
                display::error(&error.to_string());
                Exit::CouldNotRun
            }
        },
    }
}
