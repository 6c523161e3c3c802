//! What is found, and who is told what on the way.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::dialect::testing::reply;
use super::*;
use crate::llm::client::LlmClient;
use crate::llm::request::Request;
use crate::llm::transport::raw_server::{listen, request};

fn found(vars: &[(&str, &str)], model: Option<&str>) -> Vec<ProviderStatus> {
    // Port 9 (discard) answers nobody: the probe stays off whatever runs on this machine.
    let nobody = [("LOCAL_LLM_BASE_URL", "http://127.0.0.1:9")];
    let env = |name: &str| {
        let mut all = vars.iter().chain(&nobody);
        let (_, value) = all.find(|(own, _)| *own == name)?;
        Some((*value).to_owned())
    };
    let given = Given {
        model,
        ..Given::default()
    };
    let look = look(&given, &env);
    VENDORS.iter().map(|vendor| look.at(vendor)).collect()
}

fn look<'a>(given: &'a Given<'a>, env: &'a dyn Fn(&str) -> Option<String>) -> Look<'a> {
    Look {
        given,
        patience: BRIEF,
        env,
    }
}

#[test]
fn the_first_provider_with_a_key_and_a_model_is_selected_and_the_reason_says_what_others_lack() {
    let keys = [("OPENAI_API_KEY", "sk-x"), ("XAI_API_KEY", "sk-y")];
    for (vars, model, expected) in [
        (&keys[..], Some("m"), "openai"),
        (&keys[1..], Some("m"), "xai"),
        (&keys[..1], None, "extract"),
        (&[], None, "extract"),
    ] {
        let list = found(vars, model);
        let first = list.iter().find(|status| status.usable).unwrap();
        assert_eq!(first.provider, expected);
        assert!(list.iter().all(|status| !status.reason.is_empty()));
    }
    let address = ("CUSTOM_LLM_BASE_URL", "http://127.0.0.1:9");
    let list = found(&[keys[0], address], None);
    for (name, reason, lacks_model) in [
        ("openai", "a key is set, but no model is named", true),
        ("custom", "an address is set, but no model is named", true),
        (
            "anthropic",
            "no key: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN",
            false,
        ),
    ] {
        let status = list.iter().find(|status| status.provider == name).unwrap();
        assert!(status.reason.starts_with(reason), "{}", status.reason);
        assert_eq!(
            (status.lacks_model, status.half_configured),
            (lacks_model, lacks_model)
        );
    }
}

/// A server that keeps the heads of what it is sent, and answers with `status` and `body`.
fn bystander(status: u16, body: &'static str) -> (String, Arc<Mutex<String>>) {
    let heads = Arc::new(Mutex::new(String::new()));
    let kept = heads.clone();
    let (base, _) = listen(move |listener| {
        for mut stream in listener.incoming().flatten() {
            let (head, _) = request(&stream).unwrap();
            *kept.lock() += &head;
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    (format!("{base}/v1"), heads)
}

const MODELS: &str = r#"{"data":[{"id":"tiny"}]}"#;

/// Looks with a key set and these usual addresses; `named` is what the user names.
fn looked(usual: &str, named: Option<&str>) -> ProviderStatus {
    let vendor = known("local").unwrap();
    look(&Given::default(), &with_key(named)).local(vendor, &[usual])
}

fn with_key(named: Option<&str>) -> impl Fn(&str) -> Option<String> {
    move |name: &str| match name {
        "LOCAL_LLM_API_KEY" => Some("sk-mine".to_owned()),
        "LOCAL_LLM_BASE_URL" => named.map(str::to_owned),
        _ => None,
    }
}

#[test]
fn only_a_server_at_a_named_address_gets_the_key() {
    for named in [false, true] {
        let (url, heads) = bystander(200, MODELS);
        let status = if named {
            looked("http://127.0.0.1:9/v1", Some(&url))
        } else {
            looked(&url, None)
        };
        assert!(status.usable, "{}", status.reason);
        assert_eq!(status.model.as_deref(), Some("tiny"));
        let client = status.config().client_with(&with_key(None), None).unwrap();
        let _ = client.complete(&Request::new("x"), &Context::new());
        let heads = heads.lock();
        assert!(heads.contains("get /v1/models") && heads.contains("post /v1/chat"));
        let keys = heads.matches("authorization: bearer sk-mine").count();
        assert_eq!(keys, if named { 3 } else { 0 });
        assert!(named || !heads.contains("sk-mine") && !heads.contains("authorization"));
    }
}

#[test]
fn the_reason_says_how_to_send_a_key_to_a_server_that_requires_one() {
    let (url, _) = bystander(401, "{}");
    let status = looked(&url, None);
    assert!(!status.usable && status.half_configured);
    assert!(status.reason.contains(&url) && status.reason.contains("answered 401"));
    let named = looked("http://127.0.0.1:9/v1", Some(&url)).reason;
    assert!(named.contains("check LOCAL_LLM_API_KEY"), "{named}");
}

#[test]
fn a_reply_without_a_list_of_models_is_not_a_server() {
    let local = known("local").unwrap();
    let list = r#"{"object":"list","data":[{"id":"a","owned_by":"x"},{"id":"b"},{"no":"id"}]}"#;
    assert_eq!(listed(local, &reply(200, &[], list)).unwrap(), ["a", "b"]);
    for body in ["<html>", "{}", r#"{"data":3}"#] {
        assert!(listed(local, &reply(200, &[], body)).is_err(), "{body}");
    }
    let refused = listed(local, &reply(401, &[], "{}")).unwrap_err();
    assert!(refused.message().contains("LOCAL_LLM_API_KEY"), "{refused}");
    let loading = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
    let loading = listed(local, &reply(503, &[], loading)).unwrap_err();
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
    let found =
        addresses.map(|address| models_at(known("local").unwrap(), &address, &Vec::new(), BRIEF));
    assert!(heads.lock().starts_with("get /v1/models http/1.1\n"));
    assert_eq!(found[0].as_deref().unwrap(), ["a"]);
    assert!(found[1].is_err() && found[2].is_err());
    assert_eq!(found[3].as_deref().unwrap(), ["b"]);
}
