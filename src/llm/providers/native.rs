//! Requests in the format of one provider. They are sent unchanged to this provider and translated for others. A
//! translation that would lose something is rejected.

use serde_json::{Map, Value};

use crate::base::{Error, Sent};
use crate::llm::native::{Native, NativeFormat};
use crate::llm::request::Request;
use crate::llm::translate::response_items::Signed;

use super::content::invalid;
use super::vendor::{Dialect, VENDORS, Vendor};

/// The path of OpenAI's Responses API.
pub(super) const RESPONSES: &str = "/responses";

/// The reasoning of an earlier turn, among the parts of a request that are omitted.
const REASONING: &str = "messages[].reasoning";

/// The body of a request that is sent unchanged to this vendor.
pub(super) fn own<'r>(vendor: &Vendor, request: &'r Request) -> Option<&'r Native> {
    let native = request.native.as_deref()?;
    let own = match native.format() {
        NativeFormat::OpenAiResponses => vendor.name == NativeFormat::OpenAiResponses.provider(),
        NativeFormat::AnthropicMessages => vendor.dialect == Dialect::Anthropic,
        NativeFormat::GeminiContent => vendor.dialect == Dialect::Gemini,
    };
    own.then_some(native)
}

/// The same body with the name of the model; `None` if the request must be translated.
///
/// # Errors
/// If this vendor does not support a part of it.
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
        NativeFormat::OpenAiResponses => {
            // OpenAI cannot read the reasoning of other providers.
            if let Some(Value::Array(items)) = body.get_mut("input") {
                items.retain(|item| !Signed::is_in(item));
            }
            body.insert("model".to_owned(), model.into());
        }
        NativeFormat::AnthropicMessages => {
            body.insert("model".to_owned(), model.into());
        }
    }
    Ok(Some(body.into()))
}

/// Increases the seed in a configuration in Gemini's format for each further sample, because with the same seed all
/// samples would get the same answer.
pub(super) fn count_up_seed(config: &mut Map<String, Value>, request: &Request) {
    if request.sample > 1
        && let Some(seed) = config.get_mut("seed")
        && let Some(first) = seed.as_i64()
    {
        *seed = request.seed_of_sample(first).into();
    }
}

/// The reason why a native request cannot be translated for this vendor.
fn untold(vendor: &Vendor, request: &Request) -> Option<String> {
    let native = request.native.as_deref()?;
    let (name, format) = (vendor.name, native.format().provider());
    if let Some(field) = native.untranslated() {
        return Some(format!(
            "the field \"{field}\" of {format}'s API has no place at {name}"
        ));
    }
    let left_out = vendor.fields.left_out(request);
    // A provider that does not support the reasoning of earlier turns does not need it.
    let mut lost = left_out.iter().filter(|part| part.field != REASONING);
    let left_out = lost.next()?;
    Some(format!(
        "{name} {left_out}, which a line of {format}'s API must not lose"
    ))
}

/// The providers that cannot get a native request, each with the reason. Empty for other requests.
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
