//! The prices of `--prices FILE`.

use std::path::Path;

use batchwright::Prices;

use super::args::text_file;
use super::exit::Refusal;
use super::settings::refused;

/// The prices of this file; none without a file.
pub fn of_file(file: Option<&Path>) -> Result<Prices, Refusal> {
    match file {
        Some(file) => {
            let name = format!("--prices {}", file.display());
            let prices = Prices::none().overridden(name, &read(file)?);
            prices.map_err(refused)
        }
        None => Ok(Prices::none()),
    }
}

/// The text of a file with prices.
pub fn read(file: &Path) -> Result<String, Refusal> {
    text_file::read(file)
        .map_err(|error| Refusal::usage(format!("cannot read {}: {error}", file.display())))
}
