//! Requests, and the calls that they become for each vendor: the cases of `request_cases.json`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::attached::filled;
use super::dialect::encode;
use super::dialect::testing::encoded;
use super::vendor::Vendor;
use crate::base::{ErrorKind, Sent};
use crate::llm::request::Request;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    vendor: String,
    request: Value,
    path: Option<String>,
    body: Option<Value>,
    /// Parts of the body, by JSON pointer; null if there is no such part.
    #[serde(default)]
    at: Map<String, Value>,
    /// A part of the message, if the request is refused and not sent.
    error: Option<String>,
}

#[test]
fn requests_are_encoded_in_the_format_of_each_vendor() {
    let cases = include_str!("request_cases.json");
    for case in serde_json::from_str::<Vec<Case>>(cases).unwrap() {
        let (vendor, shown) = (&case.vendor, &case.request);
        let request: Request = serde_json::from_value(case.request.clone()).unwrap();
        if let Some(expected) = &case.error {
            let refused = encode(Vendor::named(vendor).unwrap(), &request, Some("m"));
            let error = refused.err().unwrap_or_else(|| panic!("{vendor} {shown}"));
            let found = (error.kind(), error.sent());
            assert_eq!(found, (ErrorKind::Invalid, Sent::No), "{vendor} {shown}");
            assert!(error.message().contains(expected), "{shown}: {error}");
            continue;
        }
        let request = filled(Vendor::named(vendor).unwrap(), &request).unwrap();
        let (path, body) = encoded(vendor, &request);
        assert!(case.path.is_none_or(|expected| expected == path));
        if let Some(expected) = case.body {
            assert_eq!(body, expected, "{vendor} {shown}");
        }
        for (pointer, expected) in &case.at {
            let found = body.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(found, expected, "{vendor} {shown} {pointer}");
        }
    }
}
