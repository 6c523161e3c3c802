//! OpenAI's API and its variants at other vendors.

mod fields;
mod format;
mod reply;
mod request;

pub(super) use reply::write as answer;
pub(super) use request::parse;

use super::http::{Request, Shown};
use super::prompt::Problem;
use super::{SimConfig, Vendor};

/// Rejects a request without the required key.
pub(super) fn admit(
    request: &Request<'_>,
    config: &SimConfig,
    vendor: Option<Vendor>,
) -> Result<(), Problem<'static>> {
    if config.api_key.is_none() || vendor == Some(Vendor::Local) {
        return Ok(());
    }
    let shown = match vendor {
        // The newer addresses also accept it in OpenAI's header.
        Some(Vendor::Azure) if !request.versioned => match request.credentials.api_key {
            Shown::Nothing => request.credentials.bearer,
            shown => shown,
        },
        Some(Vendor::Azure) => request.credentials.api_key,
        _ => request.credentials.bearer,
    };
    match shown {
        Shown::Right => Ok(()),
        Shown::Wrong => Err(Problem::WrongKey),
        Shown::Nothing => Err(Problem::NoKey),
    }
}
