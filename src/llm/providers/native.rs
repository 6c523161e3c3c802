//! Requests in the format of one provider. They are sent unchanged to this provider, and to no other.

use serde_json::Value;

use crate::base::{Error, Sent};
use crate::llm::native::{Native, NativeFormat};
use crate::llm::request::Request;

use super::content::invalid;
use super::vendor::{Dialect, VENDORS, Vendor};

/// The body of a request that is sent unchanged to this vendor.
pub(super) fn own<'r>(vendor: &Vendor, request: &'r Request) -> Option<&'r Native> {
    let native = request.native.as_deref()?;
    let own = match native.format() {
        NativeFormat::AnthropicMessages => vendor.dialect == Dialect::Anthropic,
        NativeFormat::GeminiContent => vendor.dialect == Dialect::Gemini,
    };
    own.then_some(native)
}

/// The same body with the name of the model; `None` if the request is in the common format.
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
    if own(vendor, request).is_none() {
        let why = refusal(vendor, native);
        return Err(invalid(format!("{why}; nothing was sent")).with_sent(Sent::No));
    }
    let mut body = native.body().clone();
    // Gemini's model stands in the address.
    if native.format() == NativeFormat::AnthropicMessages {
        body.insert("model".to_owned(), model.into());
    }
    Ok(Some(body.into()))
}

fn refusal(vendor: &Vendor, native: &Native) -> String {
    let format = native.format().provider();
    format!(
        "a line in the format of {format}'s API goes only to {format}, and not to {}",
        vendor.name
    )
}

/// The providers that cannot get a native request, each with the reason. Empty for other requests.
pub(crate) fn refusals(request: &Request) -> Vec<(&'static str, String)> {
    let Some(native) = request.native.as_deref() else {
        return Vec::new();
    };
    let others = VENDORS
        .iter()
        .filter(|vendor| own(vendor, request).is_none());
    let refusing = others.map(|vendor| (vendor.name, refusal(vendor, native)));
    refusing.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dialect::encode;
    use super::super::dialect::testing::vendor;
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_native_body_is_sent_unchanged_only_to_its_provider() {
        let turn = json!({"role": "user", "content": "hi"});
        let cases = [
            (
                NativeFormat::AnthropicMessages,
                json!({"model": "x", "max_tokens": 9, "messages": [turn], "thinking": {"type": "adaptive"}}),
                ["anthropic", "gemini"],
                "/messages",
            ),
            (
                NativeFormat::GeminiContent,
                json!({"contents": [{"parts": [{"text": "hi"}]}], "generation_config": {"temperature": 0.7}}),
                ["gemini", "anthropic"],
                "/models/m:generateContent",
            ),
        ];
        for (format, body, [own, other], path) in cases {
            let request = Request::from_native(format, body.clone()).unwrap();
            let call = encode(vendor(own), &request, Some("m")).unwrap();
            assert_eq!(call.path, path);
            let sent: Value = serde_json::from_slice(&call.body).unwrap();
            let mut expected = body;
            if own != "gemini" {
                expected["model"] = "m".into();
            }
            assert_eq!(sent, expected);
            for other in [other, "openai"] {
                let refused = encode(vendor(other), &request, Some("m")).err().unwrap();
                assert_eq!(
                    (refused.kind(), refused.sent()),
                    (ErrorKind::Invalid, Sent::No)
                );
                assert!(refused.message().contains("goes only to"), "{refused}");
            }
        }
    }
}
