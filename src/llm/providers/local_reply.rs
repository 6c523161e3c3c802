//! The sign of a local server that its model is still loading, which is not part of its format.

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Sent;

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
