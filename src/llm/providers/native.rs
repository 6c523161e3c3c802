//! Requests in a provider's own words: as they stand to that provider, translated to the others, and
//! refused where something would be lost.

use serde_json::{Map, Value};

use crate::base::error::{Error, Sent};
use crate::llm::native::{Native, NativeFormat};
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, VENDORS, Vendor};

/// Where OpenAI takes bodies of its newer API.
pub(super) const RESPONSES: &str = "/responses";

/// The body of a request that goes to this vendor as it stands.
pub(super) fn own<'r>(vendor: &Vendor, request: &'r Request) -> Option<&'r Native> {
    let native = request.native.as_deref()?;
    let own = match native.format() {
        NativeFormat::OpenAiResponses => vendor.name == NativeFormat::OpenAiResponses.provider(),
        NativeFormat::AnthropicMessages => vendor.dialect == Dialect::Anthropic,
        NativeFormat::GeminiContent => vendor.dialect == Dialect::Gemini,
    };
    own.then_some(native)
}

/// The same, with the model that is asked; none where the request is to be said in other words.
///
/// # Errors
/// When something of it cannot be said to this vendor.
pub(super) fn body(
    vendor: &Vendor,
    request: &Request,
    model: &str,
) -> Result<Option<Value>, Error> {
    if request.native.is_none() {
        return Ok(None);
    }
    let Some(native) = own(vendor, request) else {
        return match untold(vendor, request) {
            Some(why) => Err(invalid(format!("{why}; nothing was sent")).with_sent(Sent::No)),
            None => Ok(None),
        };
    };
    let mut body = native.body().clone();
    match native.format() {
        // Its model stands in the address.
        NativeFormat::GeminiContent => {
            for field in ["generationConfig", "generation_config"] {
                if let Some(Value::Object(config)) = body.get_mut(field) {
                    count_up_seed(config, request);
                }
            }
        }
        NativeFormat::OpenAiResponses | NativeFormat::AnthropicMessages => {
            body.insert("model".to_owned(), model.into());
        }
    }
    Ok(Some(body.into()))
}

/// Counts up the seed of a configuration in Gemini's words, since with one seed all samples would have
/// the same answer.
pub(super) fn count_up_seed(config: &mut Map<String, Value>, request: &Request) {
    if request.sample > 1
        && let Some(seed) = config.get_mut("seed")
        && let Some(first) = seed.as_i64()
    {
        *seed = request.seed_of_sample(first).into();
    }
}

/// What of a native request another vendor cannot be told.
fn untold(vendor: &Vendor, request: &Request) -> Option<String> {
    let native = request.native.as_deref()?;
    let (name, format) = (vendor.name, native.format().provider());
    if let Some(field) = native.untranslated() {
        return Some(format!(
            "the field \"{field}\" of {format}'s API has no place at {name}"
        ));
    }
    let left_out = vendor.fields.left_out(request);
    let left_out = left_out.first()?;
    Some(format!(
        "{name} {left_out}, which a line of {format}'s API must not lose"
    ))
}

/// Why vendors refuse a native request: the providers, each with its reason. Empty for other requests.
pub(crate) fn refusals(request: &Request) -> Vec<(&'static str, String)> {
    if request.native.is_none() {
        return Vec::new();
    }
    let others = VENDORS
        .iter()
        .filter(|vendor| own(vendor, request).is_none());
    let refusing = others.filter_map(|vendor| Some((vendor.name, untold(vendor, request)?)));
    refusing.collect()
}
