//! The arguments of `batchwright ledger`.

use std::path::PathBuf;

use batchwright::provider::{Day, LedgerColumn};
use clap::Args;

use super::shared::{DataArgs, QueueFileArg, SayArgs};

/// Show what was paid, by day, model, key or run
///
/// The ledger has each call that was billed: those of the queue, and those of `run`, which the data folder keeps.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/ledger.txt"))]
pub struct LedgerArgs {
    /// Output file of a run [default: all runs and the queue]
    #[arg(conflicts_with = "queue")]
    pub output: Option<PathBuf>,

    /// Only this month (UTC), for example 2026-11
    #[arg(long, value_name = "MONTH", value_parser = month, conflicts_with_all = ["since", "until"])]
    pub month: Option<Day>,

    /// First day (UTC), for example 2026-11-26
    #[arg(long, value_name = "DAY")]
    pub since: Option<Day>,

    /// Last day (UTC)
    #[arg(long, value_name = "DAY")]
    pub until: Option<Day>,

    /// Columns to group by
    ///
    /// The columns are month, day, provider, model, tier, key, run and owner; a model is shown with its provider.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "day,model,tier,key"
    )]
    pub by: Vec<LedgerColumn>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print CSV, with exact costs in US dollars
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,

    #[command(flatten)]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

/// The first day of a month.
fn month(text: &str) -> Result<Day, String> {
    let first = format!("{text}-01").parse();
    first.map_err(|_| "a month is written like 2026-11".to_owned())
}

impl LedgerArgs {
    /// The first and the last day.
    pub fn days(&self) -> [Option<Day>; 2] {
        match self.month {
            Some(month) => [Some(month), Some(month.last_of_month())],
            None => [self.since, self.until],
        }
    }
}
