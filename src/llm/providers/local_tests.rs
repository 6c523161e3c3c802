//! Local servers by what they answer.

use super::super::access::mark_loading;
use super::super::dialect::testing::reply;
use super::super::survey::tests::bystander;
use super::super::vendor::Vendor;
use super::*;
use crate::base::Sent;

#[test]
fn a_reply_without_a_list_of_models_is_not_a_server() {
    let list = r#"{"object":"list","data":[{"id":"a","owned_by":"x"},{"id":"b"},{"no":"id"}]}"#;
    assert_eq!(listed(&reply(200, &[], list)).unwrap(), ["a", "b"]);
    for body in ["<html>", "{}", r#"{"data":3}"#] {
        assert!(listed(&reply(200, &[], body)).is_err(), "{body}");
    }
    let refused = listed(&reply(401, &[], "{}")).unwrap_err();
    assert!(refused.message().contains("LOCAL_LLM_API_KEY"), "{refused}");
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let loading = listed(&reply(503, &[], loading)).unwrap_err();
    assert_eq!(loading.kind(), ErrorKind::Transient);
    assert!(loading.message().contains("still loading"), "{loading}");
}

#[test]
fn servers_are_found_beside_addresses_without_one() {
    let (first, heads) = bystander(200, r#"{"data":[{"id":"a"}]}"#);
    let (last, _) = bystander(200, r#"{"data":[{"id":"b","owned_by":"vllm"}]}"#);
    // Nobody answers at the second; the third takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [
        first,
        "http://127.0.0.1:9/v1".to_owned(),
        format!("http://{}/v1", silent.local_addr().unwrap()),
        last,
    ];
    let found = addresses.map(|address| models(&address, &Vec::new(), BRIEF));
    assert!(heads.lock().starts_with("get /v1/models http/1.1\n"));
    assert_eq!(found[0].as_deref().unwrap(), ["a"]);
    assert!(found[1].is_err() && found[2].is_err());
    assert_eq!(found[3].as_deref().unwrap(), ["b"]);
}

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
