//! The arguments of `batchwright budget`.

use batchwright::Usd;
use clap::{Args, value_parser};

use super::shared::{ProcessArgs, QueueFileArg};
use super::values::dollars;

/// Show or change the budgets of processes
///
/// A process with a budget is paused before it could cost more. A new limit resumes it.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/budget.txt"))]
pub struct BudgetArgs {
    /// Id of the process, or its first or last characters
    ///
    /// [default: all processes with a budget]
    pub process: Option<String>,

    /// New limit in US dollars
    ///
    /// It includes what the process has spent before
    #[arg(long, value_name = "USD", value_parser = dollars, conflicts_with = "tokens", requires = "process")]
    pub usd: Option<Usd>,

    /// New limit in input and output tokens
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..), requires = "process")]
    pub tokens: Option<u64>,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub common: ProcessArgs,
}
