//! What Azure does in its own way, against scripted replies.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use std::collections::HashSet;

use super::*;
use crate::base::{Context, ErrorKind};
use crate::llm::batch::{BatchClient, BatchIntent, BatchStage};
use crate::llm::providers::batch::scripted::{
    DATE, KEY, NoInput, Script, intent, says, scripted, uploaded,
};
use crate::llm::providers::config::LlmConfig;
use crate::llm::request::Request;

#[test]
fn azure_is_polled_until_a_batch_may_use_the_file() {
    let (api, script) = scripted(
        "azure",
        [
            says(200, json!({"id": "file-1", "status": "pending"})),
            says(200, json!({"id": "file-1", "status": "processed"})),
            says(200, json!({"id": "batch_1", "status": "Validating"})),
        ],
    );
    let begin = || api.advance(&intent(), &uploaded(), &mut NoInput, &Context::new());
    let early = begin().unwrap_err();
    assert_eq!(
        (early.kind(), early.sent()),
        (ErrorKind::Transient, Sent::No)
    );
    let Ok(BatchStage::Created { id, .. }) = begin() else {
        panic!()
    };
    assert_eq!(id, "batch_1");
    let calls = ["GET /files/file-1", "GET /files/file-1", "POST /batches"];
    assert_eq!(script.calls(), calls);
    let asked = script.asked().pop().unwrap();
    assert_eq!(asked.json()["endpoint"], "/chat/completions");
    assert_eq!(asked.header("api-key"), Some(KEY));
    assert_eq!(asked.header("authorization"), None);
    let line = api.line("r-1", &Request::new("U")).unwrap();
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["url"], "/chat/completions");
}

#[test]
fn azure_is_called_at_the_address_of_the_configured_version() {
    let page = json!({"data": [{"id": "b-1", "input_file_id": "file-1",
        "created_at": DATE.0 / 1_000}], "has_more": false});
    for (version, wanted) in [
        (None, "GET http://h/openai/v1/batches?limit=100"),
        (
            Some("2024-10-21"),
            "GET http://h/openai/batches?limit=100&api-version=2024-10-21",
        ),
    ] {
        let script = std::sync::Arc::new(Script::default());
        script.on(wanted, 200, &page);
        let config = LlmConfig::new("azure").model("m").base_url("http://h");
        let env = |name: &str| match name {
            "AZURE_OPENAI_API_KEY" => Some(KEY.to_owned()),
            "OPENAI_API_VERSION" => version.map(str::to_owned),
            _ => None,
        };
        let api = config.batch_client_with(&env, Some(script.clone()));
        let none = HashSet::new();
        let found = api
            .unwrap()
            .find(&intent(), &uploaded(), &none, &Context::new());
        assert_eq!(found.unwrap(), ListedBatches::One("b-1".to_owned()));
        script.played();
    }
}

#[test]
fn a_new_file_that_azure_does_not_show_yet_is_polled_again() {
    for (after, kind) in [(0, ErrorKind::Transient), (61, ErrorKind::Invalid)] {
        let gone = json!({"error": {"message": "no such file"}});
        let (api, script) = scripted("azure", [says(404, gone)]);
        let begun = Timestamp(DATE.0 + 1_000 * after);
        let intent = BatchIntent { begun, ..intent() };
        let refused = api.advance(&intent, &uploaded(), &mut NoInput, &Context::new());
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert_eq!(refused.is_not_found(), kind == ErrorKind::Invalid);
        assert_eq!(script.calls(), ["GET /files/file-1"]);
    }
}

/// A token of Microsoft Entra.
fn token(claims: Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2ln", part(&json!({"alg": "RS256"})), part(&claims))
}

#[test]
fn the_account_of_a_token_depends_only_on_its_owner() {
    let account = |provider: &str, variable: &str, secret: &str| {
        let env = |name: &str| (name == variable).then(|| secret.to_owned());
        let config = LlmConfig::new(provider).base_url("http://h");
        config.batch_client_with(&env, None).unwrap().account()
    };
    let by_token = |token: &str| account("azure", "AZURE_OPENAI_AD_TOKEN", token);
    let claims = |changed: Value| {
        let mut claims = json!({"aud": "https://cognitiveservices.azure.com", "exp": 1, "tid": "t-1",
            "oid": "o-1", "sub": "s-1", "appid": "a-1"});
        let changed = changed.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(changed);
        token(claims)
    };
    let own = by_token(&claims(json!({})));
    assert_eq!(own, by_token(&claims(json!({"exp": 3_601, "uti": "x"}))));
    for other in [
        json!({"tid": "t-2"}),
        json!({"oid": "o-2"}),
        json!({"appid": "a-2"}),
    ] {
        assert_ne!(own, by_token(&claims(other.clone())), "{other}");
    }
    // As a header it is the same credential.
    let by_header = |value: &str| {
        let config = LlmConfig::new("azure").base_url("http://h");
        let config = config.header("Authorization", value).unwrap();
        config.batch_client_with(&|_| None, None).unwrap().account()
    };
    let bearer = format!("Bearer {}", claims(json!({"exp": 7_201})));
    assert_eq!(own, by_header(&bearer));
    // What says not whose it is, is told from others by itself.
    let [one, two] = ["one", "two"].map(|claim| token(json!({"claim": claim})));
    assert_ne!(by_token(&one), by_token(&two));
    assert_ne!(by_token("opaque-1"), by_token("opaque-2"));
    assert_ne!(by_token("a.b.c"), by_token("a.b.d"));
    // Elsewhere one address serves many accounts.
    let [now, later] = [json!({}), json!({"exp": 3_601})].map(claims);
    for (provider, variable) in [
        ("azure", "AZURE_OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_AUTH_TOKEN"),
    ] {
        let [now, later] = [&now, &later].map(|token| account(provider, variable, token));
        assert_ne!(now, later, "{provider}");
    }
}
