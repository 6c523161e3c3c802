//! The arguments and help of each command, one file per group of commands; arguments of several commands are in [`shared`],
//! [`input`] and [`values`]. This module does not depend on the commands.

pub mod exec;
pub mod export;
pub mod input;
pub mod queue;
pub mod run;
pub mod shared;
pub mod simulate;
pub mod values;
pub mod worker;

use batchwright::config::SettingKey;
use clap::{Parser, Subcommand};
use clap_complete::Shell;

use exec::ExecArgs;
use export::ExportArgs;
use input::ScanArgs;
use queue::{CancelArgs, DoctorArgs, RestoreArgs, ResultsArgs, RetryArgs, StatusArgs, SubmitArgs};
use run::RunArgs;
use shared::{SayArgs, StoreArgs};
use simulate::SimulateArgs;
use values::name;
use worker::{ServeArgs, TokenAction, WorkArgs};

/// Runs thousands of LLM prompts, resumes after a crash, and pays for each answer once
#[derive(Parser)]
#[command(name = "batchwright", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub say: SayArgs,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    Run(Box<RunArgs>),
    Submit(Box<SubmitArgs>),
    Work(Box<WorkArgs>),
    Serve(Box<ServeArgs>),
    Status(StatusArgs),
    Results(ResultsArgs),
    Export(Box<ExportArgs>),
    Scan(ScanArgs),
    Exec(Box<ExecArgs>),
    Cancel(CancelArgs),
    Retry(RetryArgs),
    Doctor(DoctorArgs),
    Restore(RestoreArgs),
    /// Show each provider: usable or why not, model, address, calls
    Providers {
        /// Model to assume for prompts that name none
        ///
        /// [env: BATCHWRIGHT_MODEL] [config: llm.model]
        #[arg(long, value_name = "NAME", value_parser = name)]
        model: Option<String>,
    },
    /// Show and change stored settings: provider, model, limits and more
    ///
    /// Stored settings apply to every run and worker of this data folder, unless the environment or a flag overrides
    /// them.
    #[command(subcommand, after_long_help = help(), arg_required_else_help = true)]
    Config(ConfigAction),
    /// Make tokens for the clients of `batchwright serve`
    #[command(subcommand, after_long_help = include_str!("../../data/help/token.txt"), arg_required_else_help = true)]
    Token(TokenAction),
    Simulate(Box<SimulateArgs>),
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = include_str!("../../data/help/completions.txt"))]
    Completions {
        /// Shell name
        shell: Shell,
    },
}

impl Command {
    /// The address of the queue of a command that uses one.
    pub fn store(&mut self) -> Option<&mut StoreArgs> {
        match self {
            Self::Work(args) => Some(&mut args.worker.store),
            Self::Serve(args) => Some(&mut args.worker.store),
            Self::Submit(args) => Some(&mut args.data.store),
            Self::Status(args) => Some(&mut args.data.store),
            Self::Results(args) => Some(&mut args.data.store),
            Self::Cancel(args) => Some(&mut args.data.store),
            Self::Retry(args) => Some(&mut args.data.store),
            Self::Doctor(args) => Some(&mut args.data.store),
            Self::Restore(args) => Some(&mut args.store),
            _ => None,
        }
    }
}

#[derive(Subcommand)]
pub enum ConfigAction {
    /// Show every setting: its value, and where that comes from
    ///
    /// Also shows the values that it overrides.
    List,
    /// Print the value in effect
    Get {
        /// Name of the setting, for example llm.model
        key: String,
    },
    /// Store a value
    Set {
        /// Name of the setting, for example llm.model; `batchwright help config` lists all
        key: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Delete a stored value
    Unset {
        /// Name of the setting, for example llm.model
        key: String,
    },
}

/// The long help, with the settings that there are.
fn help() -> String {
    let mut out = include_str!("../../data/help/config.txt").to_owned();
    for key in SettingKey::all() {
        let variables = key.variables().iter().map(|name| format!(" [env: {name}]"));
        out.push_str(&format!(
            "  {}{}\n",
            key.name(),
            variables.collect::<String>()
        ));
        out.push_str(&format!(
            "      {}. Takes {}. Default: {}\n",
            key.doc(),
            key.accepts(),
            key.default_text()
        ));
    }
    out.push_str("\nExit codes:\n  0 done    1 the settings cannot be read or written    2 an unknown key or a bad value\n");
    out
}
