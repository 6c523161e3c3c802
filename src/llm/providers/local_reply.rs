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
        let cases = include_str!("loading_cases.json");
        let cases: Vec<(String, u16, String, String, bool)> = serde_json::from_str(cases).unwrap();
        for (vendor, status, message, raw, is_loading) in cases {
            let vendor = Vendor::named(&vendor).unwrap();
            let error = Error::new(ErrorKind::Transient, message).with_status(status);
            let error = error.with_raw(&raw).with_request_id(Some("req-1"));
            let error = error.with_sent(Sent::Answered);
            let marked = mark_loading(vendor, error.clone());
            assert_eq!(
                marked.is_not_ready(),
                is_loading,
                "{} {error:?}",
                vendor.name
            );
            let kept = |error: &Error| (error.kind(), error.status(), error.sent());
            assert_eq!(kept(&marked), kept(&error));
            let kept = (marked.raw(), marked.request_id());
            assert_eq!(kept, (error.raw(), error.request_id()));
        }
    }
}
