//! The arguments of `batchwright prices`.

use std::path::PathBuf;

use batchwright::provider::Price;
use clap::{Args, Subcommand};

use super::values::name;

/// Show what models cost, and set prices
///
/// The cost of a call is the one that its reply reports. If the reply reports none, it is computed by the prices of the
/// model: those of `run --prices FILE`, then those of `prices set`, then those of the table. A model without a price
/// has an unknown cost. No command fetches prices.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/prices.txt"))]
pub struct PricesArgs {
    #[command(subcommand)]
    pub action: Option<PricesAction>,

    /// Name of a model, or a part of it [default: all models]
    #[arg(value_name = "MODEL")]
    pub model: Option<String>,

    /// Prices that come before all others; see `prices --help`
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,

    /// Only this provider
    #[arg(long, value_name = "NAME", value_parser = name, global = true)]
    pub provider: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,

    /// Folder of the prices that are set
    ///
    /// [env: BATCHWRIGHT_HOME] [default: the platform's data folder]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum PricesAction {
    /// Store the prices of a model, in US dollars per million tokens
    Set {
        /// Name of the model
        #[arg(value_parser = name)]
        model: String,
        /// Price of input tokens
        #[arg(long, value_name = "USD", value_parser = dollars)]
        input: f64,
        /// Price of output tokens
        #[arg(long, value_name = "USD", value_parser = dollars)]
        output: f64,
        /// Price of cached input [default: that of input]
        #[arg(long, value_name = "USD", value_parser = dollars)]
        cached_input: Option<f64>,
        /// Price of cache writes [default: that of input]
        #[arg(long, value_name = "USD", value_parser = dollars)]
        cache_write: Option<f64>,
        /// Price of cache writes for an hour
        ///
        /// Default: that of input; with --cache-write, unknown.
        #[arg(long = "cache-write-1h", value_name = "USD", value_parser = dollars)]
        cache_write_1h: Option<f64>,
        /// Tier, for example batch [default: standard]
        #[arg(long, value_name = "TIER", value_parser = name)]
        tier: Option<String>,
    },
    /// Delete the stored prices of a model, at all providers or at one
    Unset {
        /// Name of the model
        #[arg(value_parser = name)]
        model: String,
    },
    /// Replace the table of prices by the one in a file
    ///
    /// The file has the format of src/money/prices.json in the source of batchwright. The prices that are set stay.
    Update {
        /// The file
        file: PathBuf,
    },
}

/// A price that can be stored exactly.
fn dollars(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| {
        // JSON has no infinity; it would be stored as null.
        serde_json::from_value::<Price>(serde_json::json!(number)).is_ok()
    });
    number.ok_or_else(|| {
        "expected a number of US dollars per million tokens, with at most 6 decimals".to_owned()
    })
}
