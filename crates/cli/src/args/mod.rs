//! The arguments and help of each command, one file per command; arguments of several commands are in [`shared`],
//! [`input`] and [`values`]. This module does not depend on the commands.

pub mod cancel;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod folder;
pub mod input;
pub mod providers;
pub mod results;
pub mod retry;
pub mod run;
pub mod sandbox;
pub mod scan;
pub mod serve;
pub mod shared;
pub mod shell;
pub mod simulate;
pub mod status;
pub mod submit;
pub mod text_file;
pub mod token;
pub mod values;
pub mod variables;
pub mod work;
pub mod worker;

use std::path::Path;

use clap::{Parser, Subcommand};

use cancel::CancelArgs;
use config::ConfigArgs;
use doctor::DoctorArgs;
use exec::ExecArgs;
use export::ExportArgs;
use providers::ProvidersArgs;
use results::ResultsArgs;
use retry::RetryArgs;
use run::RunArgs;
use scan::ScanArgs;
use serve::ServeArgs;
use shared::{SayArgs, StoreArgs};
use shell::CompletionsArgs;
use simulate::SimulateArgs;
use status::StatusArgs;
use submit::SubmitArgs;
use token::TokenArgs;
use work::WorkArgs;

/// Runs thousands of LLM prompts, resumes after a crash, and pays for each answer once
#[derive(Debug, Parser)]
#[command(name = "batchwright", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub say: SayArgs,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
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
    Providers(ProvidersArgs),
    Config(ConfigArgs),
    Token(TokenArgs),
    Simulate(Box<SimulateArgs>),
    Completions(CompletionsArgs),
}

impl Command {
    /// Data folder and store arguments of a command that uses the queue.
    pub fn queue(&mut self) -> Option<(Option<&Path>, &mut StoreArgs)> {
        match self {
            Self::Status(args) => args.data.queue.clone_from(&args.file.queue),
            Self::Results(args) => args.data.queue.clone_from(&args.file.queue),
            Self::Doctor(args) => args.data.queue.clone_from(&args.file.queue),
            Self::Cancel(CancelArgs { common, file, .. })
            | Self::Retry(RetryArgs { common, file, .. }) => {
                common.data.queue.clone_from(&file.queue);
            }
            _ => {}
        }
        let data = match self {
            Self::Work(args) => {
                let args = &mut args.worker;
                return Some((args.data_dir.as_deref(), &mut args.store));
            }
            Self::Serve(args) => {
                let args = &mut args.worker;
                return Some((args.data_dir.as_deref(), &mut args.store));
            }
            Self::Submit(args) => &mut args.data,
            Self::Status(args) => &mut args.data,
            Self::Results(args) => &mut args.data,
            Self::Cancel(args) => &mut args.common.data,
            Self::Retry(args) => &mut args.common.data,
            Self::Doctor(args) => &mut args.data,
            _ => return None,
        };
        Some((data.data_dir.as_deref(), &mut data.store))
    }

    /// Whether an error is printed as JSON, too.
    pub fn json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Work(args) => args.json,
            Self::Config(args) => args.json,
            Self::Submit(args) => args.json,
            Self::Status(args) => args.json,
            Self::Export(args) => args.json,
            Self::Scan(args) => args.json,
            Self::Exec(args) => args.results.json,
            Self::Cancel(args) => args.common.json,
            Self::Retry(args) => args.common.json,
            Self::Doctor(args) => args.json,
            Self::Providers(args) => args.json,
            Self::Simulate(args) => args.json,
            Self::Serve(_) | Self::Results(_) | Self::Token(_) | Self::Completions(_) => false,
        }
    }
}
