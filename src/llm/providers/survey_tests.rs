//! What is found, and who is told what on the way.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

use super::*;
use crate::base::Context;
use crate::llm::client::LlmClient;
use crate::llm::request::Request;

fn found(vars: &[(&str, &str)], model: Option<&str>) -> Vec<ProviderStatus> {
    let vars: std::collections::HashMap<_, _> = vars.iter().copied().collect();
    // Port 9 (discard) answers nobody: the probe stays off whatever runs on this machine.
    let mut vars = vars;
    vars.entry("LOCAL_LLM_BASE_URL")
        .or_insert("http://127.0.0.1:9");
    let env = |name: &str| vars.get(name).map(|v| (*v).to_owned());
    let given = Given {
        model,
        ..Given::default()
    };
    look(&given, &env).at_all()
}

fn look<'a>(given: &'a Given<'a>, env: &'a dyn Fn(&str) -> Option<String>) -> Look<'a> {
    Look {
        given,
        patience: local::BRIEF,
        env,
    }
}

fn first_usable(list: &[ProviderStatus]) -> &str {
    list.iter().find(|s| s.usable).unwrap().provider
}

#[test]
fn without_any_key_only_extract_is_usable() {
    let list = found(&[], None);
    assert_eq!(first_usable(&list), "extract");
    assert!(
        list.iter()
            .filter(|s| !s.usable)
            .all(|s| !s.reason.is_empty())
    );
}

#[test]
fn a_key_without_a_model_is_not_usable() {
    let list = found(&[("OPENAI_API_KEY", "sk-x")], None);
    assert_eq!(first_usable(&list), "extract");
    let openai = list.iter().find(|s| s.provider == "openai").unwrap();
    assert!(openai.reason.contains("no model"), "{}", openai.reason);
}

#[test]
fn the_first_provider_with_a_key_is_selected() {
    let keys = [("OPENAI_API_KEY", "sk-x"), ("XAI_API_KEY", "sk-y")];
    assert_eq!(first_usable(&found(&keys, Some("m"))), "openai");
    assert_eq!(first_usable(&found(&keys[1..], Some("m"))), "xai");
}

/// A server that keeps the heads of what it is sent, and answers with `status` and `body`.
pub(in crate::llm::providers) fn bystander(
    status: u16,
    body: &'static str,
) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(String::new()));
    let kept = heads.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines = lines.map_while(Result::ok);
            for line in lines.take_while(|line| !line.is_empty()) {
                *kept.lock() += &format!("{}\n", line.to_lowercase());
            }
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n");
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    (url, heads)
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
fn a_server_on_a_usual_port_does_not_get_the_key() {
    let (url, heads) = bystander(200, MODELS);
    let status = looked(&url, None);
    assert!(status.usable, "{}", status.reason);
    assert_eq!(status.model.as_deref(), Some("tiny"));
    let client = status.config().client_with(&with_key(None), None).unwrap();
    let _ = client.complete(&Request::new("x"), &Context::new());
    let heads = heads.lock();
    assert!(heads.contains("get /v1/models") && heads.contains("post /v1/chat"));
    assert!(!heads.contains("sk-mine") && !heads.contains("authorization"));
}

#[test]
fn a_named_address_gets_the_key() {
    let (url, heads) = bystander(200, MODELS);
    let status = looked("http://127.0.0.1:9/v1", Some(&url));
    assert!(heads.lock().contains("authorization: bearer sk-mine"));
    heads.lock().clear();
    let env = with_key(None);
    let client = status.config().client_with(&env, None).unwrap();
    let _ = client.complete(&Request::new("x"), &Context::new());
    assert!(heads.lock().contains("authorization: bearer sk-mine"));
}

#[test]
fn the_reason_says_how_to_send_a_key_to_a_server_that_requires_one() {
    let (url, _) = bystander(401, "{}");
    let status = looked(&url, None);
    assert!(!status.usable && status.half_configured());
    let words = format!("{url} answers 401 and was sent no key; name it with --base-url");
    assert!(status.reason.contains(&words), "{}", status.reason);
    let named = looked("http://127.0.0.1:9/v1", Some(&url)).reason;
    assert!(named.contains("check LOCAL_LLM_API_KEY"), "{named}");
}

#[test]
fn the_reason_names_what_is_missing() {
    let list = found(&[("CUSTOM_LLM_BASE_URL", "http://127.0.0.1:9")], None);
    let of = |name: &str| list.iter().find(|s| s.provider == name).unwrap();
    let custom = of("custom");
    assert!(custom.lacks_model() && custom.half_configured());
    let words = "an address is set, but no model is named";
    assert!(custom.reason.starts_with(words), "{}", custom.reason);
    let anthropic = of("anthropic");
    assert!(!anthropic.lacks_model());
    let words = "no key: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN";
    assert_eq!(anthropic.reason, words);
}
