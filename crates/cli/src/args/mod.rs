//! What can be typed, and the help that teaches it: a file for each command, and what several take in
//! [`shared`], [`input`] and [`values`]. Nothing here knows what a command does.

pub mod cancel;
pub mod config;
pub mod doctor;
pub mod exec;
pub mod export;
pub mod folder;
pub mod input;
pub mod providers;
pub mod queue;
pub mod results;
pub mod retry;
pub mod run;
pub mod sandbox;
pub mod scan;
pub mod serve;
pub mod shared;
pub mod shell;
pub mod simulate;
pub mod simulate_batches;
pub mod status;
pub mod submit;
pub mod values;
pub mod variables;
pub mod work;
pub mod worker;
pub mod workers;

use clap::{Parser, Subcommand};

use cancel::CancelArgs;
use config::ConfigArgs;
use doctor::DoctorArgs;
use exec::ExecArgs;
use export::ExportArgs;
use providers::ProvidersArgs;
use queue::QueueArgs;
use results::ResultsArgs;
use retry::RetryArgs;
use run::RunArgs;
use scan::ScanArgs;
use serve::ServeArgs;
use shell::{CompletionsArgs, ManArgs};
use simulate::SimulateArgs;
use status::StatusArgs;
use submit::SubmitArgs;
use work::WorkArgs;
use workers::WorkersArgs;

/// Takes thousands of LLM prompts to completion, loses none, and pays for each once
#[derive(Debug, Parser)]
#[command(name = "batchwright", version, arg_required_else_help = true)]
pub struct Cli {
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
    Workers(WorkersArgs),
    Results(ResultsArgs),
    Export(Box<ExportArgs>),
    Scan(ScanArgs),
    Exec(Box<ExecArgs>),
    Cancel(CancelArgs),
    Retry(RetryArgs),
    Queue(QueueArgs),
    Doctor(DoctorArgs),
    Providers(ProvidersArgs),
    Config(ConfigArgs),
    Simulate(Box<SimulateArgs>),
    Completions(CompletionsArgs),
    Man(ManArgs),
}
