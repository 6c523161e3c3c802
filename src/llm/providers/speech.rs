//! Speech: a call with a text, and a reply with its sound.

use std::borrow::Cow;

use serde_json::Value;

use crate::base::Error;
use crate::llm::request::Request;
use crate::llm::response::Response;
use crate::llm::transport::HttpReply;

use super::answer::{malformed, unlike, unreadable};
use super::content::{invalid, named};
use super::dialect::{Call, in_reply, stated_cost, succeeded};
use super::errors::failure_inside;
use super::vendor::Vendor;

/// OpenAI's limit of characters.
const MOST_CHARS: usize = 4096;
/// The default format, because sounds in this format can be joined.
const WAV: &str = "wav";

/// The call for a text.
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) if the vendor does not support speech, if no model or voice is named, or if the request is
/// not a single text of a supported length.
pub(super) fn encode(
    vendor: &Vendor,
    request: &Request,
    model: Option<&str>,
) -> Result<Call, Error> {
    if !vendor.speaks {
        let what = "makes no speech here; these do";
        return Err(vendor.lacking(what, |vendor| vendor.speaks));
    }
    let model = named(model)?;
    let text = request.only_text();
    let text = text.map_err(|found| invalid(format!("speech takes one text, not {found}")))?;
    let chars = text.chars().count();
    if chars > MOST_CHARS || text.trim().is_empty() {
        let why = format!("speech takes 1 to {MOST_CHARS} characters at once, not {chars}");
        return Err(invalid(why));
    }
    let voice = request.extra.get("voice");
    if !voice.is_some_and(|voice| voice.is_string() || voice.is_object()) {
        return Err(invalid("no voice named"));
    }
    let mut body = request.extra.clone();
    body.insert("model".to_owned(), model.into());
    body.insert("input".to_owned(), text.into());
    let format = body.entry("response_format").or_insert_with(|| WAV.into());
    if !format.is_string() {
        return Err(invalid("response_format of speech is a word, such as wav"));
    }
    Ok(Call {
        path: Cow::Borrowed("/audio/speech"),
        body: Value::Object(body).to_string().into_bytes(),
    })
}

/// Turns a complete reply into the sound or a classified error.
/// # Errors
/// The failure in the reply; [`Malformed`](crate::ErrorKind::Malformed) if it is not sound.
pub(super) fn decode(
    vendor: &Vendor,
    reply: HttpReply,
    request: &Request,
) -> Result<Response, Error> {
    let hints = succeeded(vendor, &reply)?;
    let format = request.extra.get("response_format").and_then(Value::as_str);
    sound(vendor, &reply, format.unwrap_or(WAV)).map_err(|error| in_reply(error, &reply, hints))?;
    let cost_usd = stated_cost(&reply);
    Ok(Response {
        audio: Some(reply.body),
        cost_usd,
        ..Response::new(vendor.name, "").with_rate_hints(hints)
    })
}

/// Rejects a reply that is not sound: a web page, JSON with an error, or an empty body.
fn sound(vendor: &Vendor, reply: &HttpReply, format: &str) -> Result<(), Error> {
    let body = &reply.body;
    if body.is_empty() {
        return Err(malformed("it is empty", body));
    }
    let kind = reply.headers.get("content-type").unwrap_or_default();
    let kind = kind.to_ascii_lowercase();
    let is_sound = match format {
        WAV => body.starts_with(b"RIFF"),
        _ => !kind.starts_with("text/") && !kind.contains("json"),
    };
    if is_sound {
        return Ok(());
    }
    Err(match serde_json::from_slice::<Value>(body) {
        Ok(said) if !said["error"].is_null() => failure_inside(vendor, &said["error"], body),
        Ok(_) => unlike("JSON in place of sound", body),
        Err(error) if matches!(body[0], b'{' | b'<') => unreadable(&error, body),
        Err(_) => unlike(format!("no {format} sound"), body),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::dialect::testing::{reply, vendor};
    use super::*;

    fn asked() -> Request {
        Request::speech("Good morning.", "nova").with_extra("speed", json!(1.2))
    }

    #[test]
    fn only_a_single_text_becomes_a_call() {
        let call = encode(vendor("openai"), &asked(), Some("tts-1")).unwrap();
        assert_eq!(call.path, "/audio/speech");
        let body: Value = serde_json::from_slice(&call.body).unwrap();
        let expected = json!({"voice": "nova", "speed": 1.2, "model": "tts-1", "input": "Good morning.",
            "response_format": "wav"});
        assert_eq!(body, expected);
        let long = Request::speech("é".repeat(MOST_CHARS + 1), "nova");
        let mut dumb = asked();
        dumb.extra.clear();
        let mute = asked().with_system("Whisper.");
        for (name, request, why) in [
            ("openai", long, "4096 characters"),
            ("openai", Request::speech(" ", "nova"), "4096 characters"),
            ("openai", dumb, "no voice"),
            ("openai", mute, "not a system text"),
            ("anthropic", asked(), "these do: groq, openai"),
            ("gemini", asked(), "these do: groq, openai"),
            ("deepseek", asked(), "these do: groq, openai"),
        ] {
            let error = encode(vendor(name), &request, Some("m")).err().unwrap();
            assert!(error.message().contains(why), "{error}");
        }
        assert!(encode(vendor("openai"), &asked(), None).is_err());
    }

    #[test]
    fn a_reply_that_is_not_sound_is_classified() {
        let cases = include_str!("speech_replies.json");
        let cases: Vec<(u16, String, String, bool)> = serde_json::from_str(cases).unwrap();
        for (status, body, kind, unusable) in cases {
            let error = decode(vendor("openai"), reply(status, &[], &body), &asked()).unwrap_err();
            let found = (error.kind().as_str(), error.is_unusable_reply());
            assert_eq!(found, (&*kind, unusable), "{body}");
        }
    }

    #[test]
    fn a_reported_price_is_kept_and_none_is_invented() {
        let told = |headers: &[(&str, &str)]| {
            decode(vendor("custom"), reply(200, headers, "RIFF"), &asked()).unwrap()
        };
        let silent = told(&[]);
        assert_eq!((silent.cost_usd, silent.usage), (None, None));
        assert_eq!(silent.audio.as_deref(), Some(&b"RIFF"[..]));
        let priced = told(&[("x-litellm-response-cost", "0.5")]);
        assert_eq!(priced.cost_usd, crate::Usd::from_dollars(0.5));
    }
}
