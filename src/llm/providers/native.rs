//! Requests in the format of one provider. They are sent unchanged to this provider, and to no other.

use serde_json::Value;

use crate::base::{Error, Sent};
use crate::llm::native::NativeFormat;
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, Vendor};

fn takes(vendor: &Vendor, format: NativeFormat) -> bool {
    match format {
        NativeFormat::AnthropicMessages => vendor.dialect == Dialect::Anthropic,
        NativeFormat::GeminiContent => vendor.dialect == Dialect::Gemini,
    }
}

/// The body of a request in the format of its provider, with the name of the model; `None` if the request is in the common format.
///
/// # Errors
/// If it is in the format of another vendor.
pub(super) fn body(
    vendor: &Vendor,
    request: &Request,
    model: &str,
) -> Result<Option<Value>, Error> {
    let Some(native) = request.native.as_deref() else {
        return Ok(None);
    };
    if !takes(vendor, native.format()) {
        let why = refusal(vendor, native.format());
        return Err(invalid(format!("{why}; nothing was sent")).with_sent(Sent::No));
    }
    let mut body = native.body().clone();
    // Gemini's model stands in the address.
    if native.format() == NativeFormat::AnthropicMessages {
        body.insert("model".to_owned(), model.into());
    }
    Ok(Some(body.into()))
}

/// Why a provider does not get a body of this format, if it does not. Clients of users get all.
pub(crate) fn refused(format: NativeFormat, provider: &str) -> Option<String> {
    let vendor = Vendor::named(provider)?;
    (!takes(vendor, format)).then(|| refusal(vendor, format))
}

fn refusal(vendor: &Vendor, format: NativeFormat) -> String {
    let own = format.provider();
    format!(
        "a line in the format of {own}'s API goes only to {own}, and not to {}",
        vendor.name
    )
}
