//! Signs of local servers that are not part of their format: the model is still loading, or the prompt was truncated.

use crate::base::{Error, ErrorKind};

use super::vendor::Vendor;

/// Marks the error of a server that is still loading its model. Only servers that users run themselves report this.
pub(super) fn mark_loading(vendor: &Vendor, error: Error) -> Error {
    let refused = error.status() == Some(503) && error.kind() == ErrorKind::Transient;
    let says = || says_loading(error.message()) || error.raw().is_some_and(says_loading);
    if vendor.may_load && refused && says() {
        let name = vendor.name;
        error
            .reworded(format!("{name}: the server is still loading its model"))
            .with_not_ready()
    } else {
        error
    }
}

/// llama.cpp replies `Loading model`; others report that the model is (still, currently) loading. A web page may
/// contain both words by chance.
pub(super) fn says_loading(text: &str) -> bool {
    let has = |wanted: &str| {
        let mut words = text.split(|c: char| !c.is_alphanumeric());
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    !text.trim_start().starts_with('<') && has("loading") && has("model")
}

/// Smaller prompts fit into every context.
const SMALL: u64 = 4096;
/// No text has more bytes per token.
const BYTES_PER_TOKEN: u64 = 10;
/// Usual context sizes of servers. A prompt of exactly such a size was truncated.
const WINDOWS: [u64; 8] = [2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144];

/// The warning for a truncated prompt. Ollama truncates a prompt that exceeds its context without an error, but reports
/// how many tokens it read.
pub(super) fn cut_warning(prompt_bytes: usize, input_tokens: u64) -> Option<String> {
    let bytes = prompt_bytes as u64;
    let too_few = input_tokens.saturating_mul(BYTES_PER_TOKEN) < bytes;
    let whole_window = WINDOWS.contains(&input_tokens) && bytes / 4 > input_tokens;
    // A count of 0 means that the server does not count.
    (bytes >= SMALL && input_tokens > 0 && (too_few || whole_window)).then(|| {
        format!(
            "the server read {input_tokens} tokens of a prompt of {bytes} bytes: it was probably \
             cut to the server's context"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Sent;

    #[test]
    fn truncated_prompts_are_detected() {
        for (bytes, tokens, cut) in [
            (4095, 1, false),
            (4096, 0, false),
            (4096, 409, true),
            (4096, 410, false),
            // German text and code have fewer bytes per token than English, which is not a sign of truncation.
            (40_000, 16_000, false),
            (40_000, 10_000, false),
            (40_000, 4096, true),
            (40_000, 4095, false),
            (16_384, 4096, false),
            (16_388, 4096, true),
            (2_000_000, 262_144, true),
        ] {
            let warning = cut_warning(bytes, tokens);
            assert_eq!(warning.is_some(), cut, "{bytes} bytes, {tokens} tokens");
        }
        let text = cut_warning(40_000, 4096).unwrap();
        assert!(text.contains("4096 tokens") && text.contains("40000 bytes"));
    }

    #[test]
    fn only_a_503_that_mentions_loading_is_waited_for() {
        let vendor = |name| Vendor::named(name).unwrap();
        let refusal = |kind, status, message: &str| {
            let error = Error::new(kind, message).with_status(status);
            let error = error.with_request_id(Some("req-1")).with_raw("the reply");
            mark_loading(vendor("local"), error.with_sent(Sent::Answered))
        };
        let transient = ErrorKind::Transient;
        let loading = "local answered 503 (unavailable_error): Loading model";
        let marked = refusal(transient, 503, loading);
        assert!(marked.is_not_ready() && marked.sent() == Sent::Answered);
        assert_eq!((marked.kind(), marked.status()), (transient, Some(503)));
        assert_eq!(marked.raw(), Some("the reply"));
        assert_eq!(marked.request_id(), Some("req-1"));
        assert!(refusal(transient, 503, "Model x is currently loading").is_not_ready());
        assert!(!refusal(transient, 500, loading).is_not_ready());
        assert!(!refusal(transient, 503, "overloaded").is_not_ready());
        assert!(!refusal(transient, 503, "downloading a model").is_not_ready());
        assert!(!refusal(ErrorKind::RateLimited, 503, loading).is_not_ready());
        let page = |name, text| {
            let page = Error::new(transient, "it answered 503: a reply that is not JSON");
            mark_loading(vendor(name), page.with_status(503).with_raw(text)).is_not_ready()
        };
        let text = "The model is loading. Please wait.";
        assert!(page("local", text) && page("custom", text));
        assert!(!page("openai", text) && !page("groq", text));
        let html = "\n<html><div class=loading></div><script src=model.js></script>";
        assert!(!page("local", html));
    }
}
