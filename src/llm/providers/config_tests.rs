//! What settings and variables make of a client.

use std::borrow::Cow;

use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::base::{Context, Mark};
use crate::llm::client::LlmClient;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::llm::transport::{HttpHeaders, HttpReply, HttpRequest};

/// Answers everything with one reply, and keeps the headers of what it is sent, and where to.
#[derive(Default)]
struct Always {
    reply: (u16, &'static str),
    headers: Mutex<Vec<(Cow<'static, str>, String)>>,
    urls: Mutex<Vec<String>>,
}

impl Always {
    fn new(status: u16, body: &'static str) -> Arc<Self> {
        let reply = (status, body);
        Arc::new(Self {
            reply,
            ..Self::default()
        })
    }
}

impl Transport for Always {
    fn send(&self, request: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        self.urls.lock().push(request.url.to_owned());
        self.headers.lock().extend_from_slice(request.headers);
        Ok(HttpReply {
            status: self.reply.0,
            headers: HttpHeaders::default(),
            body: self.reply.1.as_bytes().to_vec(),
        })
    }
}

/// The variables with these values.
fn env<'v>(variables: &'v [(&'v str, &'v str)]) -> impl Fn(&str) -> Option<String> + 'v {
    move |name| {
        let found = variables.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

/// What a client with these settings and variables sends: its headers and its address.
fn called(
    config: LlmConfig,
    variables: &[(&str, &str)],
) -> Result<(Vec<(String, String)>, String), Error> {
    let kept = Always::new(200, "");
    let client = config.client_with(&env(variables), Some(kept.clone()))?;
    let _ = client.complete(&Request::new("x"), &Context::new());
    let headers = kept.headers.lock();
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.clone()));
    Ok((headers.collect(), kept.urls.lock().concat()))
}

fn sent(variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, Error> {
    Ok(called(LlmConfig::new("openai").model("m"), variables)?.0)
}

fn refused(config: LlmConfig, variables: &[(&str, &str)], reply: Arc<Always>) -> Error {
    let client = config.model("m").client_with(&env(variables), Some(reply));
    let answer = client
        .unwrap()
        .complete(&Request::new("x"), &Context::new());
    answer.unwrap_err()
}

#[test]
fn a_key_comes_from_the_variable_then_its_file_then_the_credentials_of_systemd() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = place.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into_os_string().into_string().unwrap()
    };
    let named = file("key", "sk-file\n");
    let folder = place.path().to_str().unwrap();
    let all = [
        ("OPENAI_API_KEY", "sk-variable"),
        ("OPENAI_API_KEY_FILE", &*named),
        ("CREDENTIALS_DIRECTORY", folder),
    ];
    let key = |variables| {
        let headers = sent(variables)?;
        let found = headers.iter().find(|(name, _)| *name == "authorization");
        Ok::<_, Error>(found.map(|(_, value)| value.clone()))
    };
    let error = key(&all[2..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    file("openai_api_key", "sk-lower");
    assert_eq!(key(&all[2..]).unwrap().unwrap(), "Bearer sk-lower");
    file("OPENAI_API_KEY", "sk-systemd");
    for (from, wanted) in [(2, "sk-systemd"), (1, "sk-file"), (0, "sk-variable")] {
        assert_eq!(
            key(&all[from..]).unwrap().unwrap(),
            format!("Bearer {wanted}")
        );
    }
    file("key", " ");
    let error = key(&all[1..]).unwrap_err();
    assert!(error.message().contains(&named), "{error}");
}

#[test]
fn variables_that_end_in_a_line_break_are_trimmed() {
    let headers = sent(&[
        ("OPENAI_API_KEY", " sk-1\r\n"),
        ("OPENAI_ORG_ID", "org-2\r"),
        ("OPENAI_PROJECT_ID", "\tproj-3\n"),
    ])
    .unwrap();
    for wanted in [
        ("authorization", "Bearer sk-1"),
        ("openai-organization", "org-2"),
        ("openai-project", "proj-3"),
    ] {
        let found = headers.iter().find(|(name, _)| *name == wanted.0);
        assert_eq!(found.map(|(_, value)| &**value), Some(wanted.1));
    }
    let blank = sent(&[("OPENAI_API_KEY", "sk-1"), ("OPENAI_ORG_ID", " \r")]).unwrap();
    assert!(blank.iter().all(|(name, _)| *name != "openai-organization"));
}

#[test]
fn a_variable_with_invalid_characters_is_named_before_sending() {
    for variable in ["OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY"] {
        for value in ["two-words here", "line\r\nx-evil: 1", "\u{fc}ber", "nul\0"] {
            let mut variables = vec![(variable, value)];
            variables.push(("OPENAI_API_KEY", "sk-1"));
            let error = sent(&variables).unwrap_err();
            let name = match variable {
                "OPENAI_API_KEY" => "the key",
                other => other,
            };
            assert!(error.message().contains(name), "{error}");
            assert!(error.message().contains("no header takes"), "{error}");
            assert!(!error.message().contains(value), "{error}");
        }
    }
}

fn unset(_: &str) -> Option<String> {
    None
}

#[test]
fn a_rejected_credential_is_named_by_its_variable() {
    let refused = |provider: &str, variable: &str| {
        let config = LlmConfig::new(provider).base_url("http://127.0.0.1:9");
        let error = refused(config, &[(variable, "sk-1")], Always::new(401, "{}"));
        assert_eq!(error.kind(), ErrorKind::Auth);
        error.message().to_owned()
    };
    for (provider, variable) in [
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("anthropic", "ANTHROPIC_AUTH_TOKEN"),
        ("gemini", "GEMINI_API_KEY"),
        ("openai", "OPENAI_API_KEY"),
        ("local", "LOCAL_LLM_API_KEY"),
    ] {
        let message = refused(provider, variable);
        assert!(
            message.ends_with(&format!("; check {variable}")),
            "{message}"
        );
    }
    assert!(refused("local", "NONE").ends_with("; check LOCAL_LLM_API_KEY"));
    let none = LlmConfig::new("anthropic").client_with(&unset, None);
    let error_body = none.unwrap_err().message().to_owned();
    assert!(error_body.ends_with("no key: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN"));
}

#[test]
fn the_key_of_local_is_sent_only_to_a_named_address() {
    let key_at = |config: LlmConfig, url: Option<&str>| {
        let url = url.map(|url| ("LOCAL_LLM_BASE_URL", url));
        let key = [("LOCAL_LLM_API_KEY", "sk-1")].into_iter();
        let headers = sent_with(config, &key.chain(url).collect::<Vec<_>>());
        headers.iter().any(|(name, _)| name == "authorization")
    };
    let (local, url) = (|| LlmConfig::new("local"), "http://127.0.0.1:9/v1");
    assert!(key_at(local(), Some(url)));
    assert!(key_at(local().base_url(url), None));
    assert!(key_at(local().api_key(Secret::new("sk-2")), None));
    assert!(!key_at(local(), None));
    assert!(!key_at(local().found_at(url), None));
    let words = "LOCAL_LLM_API_KEY is sent only to an address that LOCAL_LLM_BASE_URL";
    let error = refused(local().found_at(url), &[], Always::new(401, "{}"));
    assert!(error.message().contains(words), "{error}");
}

#[test]
fn a_client_with_only_one_model_ignores_the_models_of_requests() {
    let body = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;
    let config = LlmConfig::new("local").only_model(true);
    let mut request = Request::new("x");
    request.model = Some("another's".to_owned());
    let ask = |config: &LlmConfig| {
        let client = config.client_over(Always::new(200, body)).unwrap();
        let model = client.model_for(&request);
        client
            .complete(&request, &Context::new())
            .map(|_| model.unwrap())
    };
    let error = ask(&config).unwrap_err();
    assert!(error.message().contains("no model named"), "{error}");
    assert_eq!(ask(&config.model("own")).unwrap(), "own");
}

/// A server chooses every word of its reply, also those that are no text.
#[test]
fn a_key_that_is_echoed_in_any_part_of_an_answer_is_not_shown() {
    const KEY: &str = "key-of-nobody-0123456789";
    let client = |provider: &str, body: &'static str| {
        let key = Secret::new(KEY);
        let config = LlmConfig::new(provider).api_key(key).model("m");
        config.client_over(Always::new(200, body)).unwrap()
    };
    let completions = [
        (
            "openai",
            r#"{"model":"m-key-of-nobody-0123456789","choices":[{"finish_reason":
            "x-key-of-nobody-0123456789","message":{"content":"key-of-nobody-0123456789"}}]}"#,
        ),
        (
            "anthropic",
            r#"{"type":"message","model":"m-key-of-nobody-0123456789","stop_reason":
            "x-key-of-nobody-0123456789","content":[{"type":"text","text":"key-of-nobody-0123456789"}]}"#,
        ),
        (
            "gemini",
            r#"{"modelVersion":"m-key-of-nobody-0123456789","candidates":[{"finishReason":
            "x-key-of-nobody-0123456789","content":{"parts":[{"text":"key-of-nobody-0123456789"}]}}]}"#,
        ),
    ];
    for (provider, body) in completions {
        let answer = client(provider, body).complete(&Request::new("x"), &Context::new());
        let answer = answer.unwrap();
        assert_eq!(answer.text, "***", "{provider}");
        assert_eq!(answer.model.as_deref(), Some("m-***"), "{provider}");
        assert_eq!(answer.finish_reason.as_str(), "x-***", "{provider}");
    }
    let body = r#"{"choices":[{"message":{"reasoning":"key-of-nobody-0123456789",
        "annotations":[{"a":"key-of-nobody-0123456789"}],"tool_calls":[{"id":"key-of-nobody-0123456789",
        "function":{"name":"key-of-nobody-0123456789","arguments":"{\"a\":[\"key-of-nobody-0123456789\"]}"}}]},
        "logprobs":{"a":"key-of-nobody-0123456789"}}],"service_tier":"key-of-nobody-0123456789"}"#;
    let request = Request::new("x").with_keep_reply(true);
    let answer = client("openai", body)
        .complete(&request, &Context::new())
        .unwrap();
    let details = answer.details();
    let line = serde_json::to_string(&Outcome::new(None, Ok(answer.clone()))).unwrap();
    assert!(!line.contains("nobody"), "{line}");
    assert_eq!(details.tool_calls[0].arguments, json!({"a": ["***"]}));
    assert!(
        details
            .reply
            .as_ref()
            .unwrap()
            .as_str()
            .contains(r#""reasoning":"***""#)
    );
    let body = r#"{"model":"m-key-of-nobody-0123456789","data":[{"index":0,"embedding":[1]}]}"#;
    let text = Request::embedding("x");
    let vectors = client("openai", body).embed(&[&text], &Context::new());
    let vectors = vectors.unwrap();
    assert_eq!(vectors[0].as_ref().unwrap().model.as_deref(), Some("m-***"));
}

#[test]
fn an_unusable_address_is_rejected_when_the_client_is_made() {
    let client = |url: &str| LlmConfig::new("custom").base_url(url).client();
    for url in [
        "http:///v1",
        "http://h:99999/v1",
        "http://h/a b",
        "http://me:pw@/v1",
    ] {
        let error = client(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("no host and port"), "{error}");
        assert!(!error.message().contains("pw"), "{error}");
    }
    for url in [
        "http://h",
        "http://h:1/v1",
        "http://[::1]/v1",
        "http://[::1]:8080",
        "https://me:pw@h/v1",
        "https://me:pw@h:65535/v1",
    ] {
        assert!(client(url).is_ok(), "{url}");
    }
}

#[test]
fn the_page_of_a_limiting_proxy_is_distinguished_from_a_servers_503() {
    const PAGE: &str = "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n\
        <center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx/1.22.1</center>\r\n\
        </body>\r\n</html>\r\n";
    for (status, body, by_proxy) in [
        (503, PAGE, true),
        (502, PAGE, false),
        (503, r#"{"error":{"message":"<center>nginx"}}"#, false),
        (503, "<html>unavailable</html>", false),
    ] {
        let config = LlmConfig::new("openai").api_key(Secret::new("k"));
        let error = refused(config, &[], Always::new(status, body));
        assert_eq!(
            (error.kind(), error.is_marked(Mark::ByProxy)),
            (ErrorKind::Transient, by_proxy)
        );
    }
}

#[test]
fn the_error_for_an_unknown_provider_suggests_a_known_one() {
    for (error_body, meant) in [
        ("google", "gemini"),
        ("claude", "anthropic"),
        ("Anthropic", "anthropic"),
        ("grok", "xai"),
        ("ollama", "local"),
    ] {
        let error = known(error_body).unwrap_err();
        let words =
            format!("unknown provider `{error_body}`; did you mean {meant}? expected one of: ");
        assert!(error.message().starts_with(&words), "{error}");
    }
    let error = known("nobody").unwrap_err();
    assert!(!error.message().contains("did you mean"), "{error}");
}

fn sent_with(config: LlmConfig, variables: &[(&str, &str)]) -> Vec<(String, String)> {
    called(config.model("m"), variables).unwrap().0
}

#[test]
fn a_users_header_replaces_the_key_or_a_variable() {
    let key = [
        ("ANTHROPIC_API_KEY", "sk-env"),
        ("OPENAI_API_KEY", "sk-env"),
        ("OPENAI_PROJECT_ID", "env"),
    ];
    let of = |headers: &[(String, String)], name: &str| -> Vec<String> {
        let found = headers.iter().filter(|(own, _)| own == name);
        found.map(|(_, value)| value.clone()).collect()
    };
    let config = LlmConfig::new("anthropic")
        .header("Authorization", "Bearer t-1")
        .unwrap();
    let config = config.header("Anthropic-Version", "2026-10-21").unwrap();
    let headers = sent_with(config.clone(), &key);
    assert!(of(&headers, "x-api-key").is_empty());
    assert_eq!(of(&headers, "authorization"), ["Bearer t-1"]);
    assert_eq!(of(&headers, "anthropic-version"), ["2026-10-21"]);
    // And none is needed.
    assert_eq!(of(&sent_with(config, &[]), "authorization"), ["Bearer t-1"]);
    let config = LlmConfig::new("openai")
        .header("OpenAI-Project", "own")
        .unwrap();
    let headers = sent_with(config.header("X-Team", "maps").unwrap(), &key);
    assert_eq!(of(&headers, "openai-project"), ["own"]);
    assert_eq!(of(&headers, "authorization"), ["Bearer sk-env"]);
    assert_eq!(of(&headers, "x-team"), ["maps"]);
    let shown = format!(
        "{:?}",
        LlmConfig::new("openai")
            .header("X-Key", "hidden-0123")
            .unwrap()
    );
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn only_credentials_and_account_headers_change_the_account() {
    let account = |headers: &[(&str, &str)], variables: &[(&str, &str)]| {
        let config = headers
            .iter()
            .fold(LlmConfig::new("openai"), |config, (name, value)| {
                config.header(name, value).unwrap()
            });
        let access = config.access(Vendor::named("openai").unwrap(), &env(variables));
        access.unwrap().account
    };
    let key = ("OPENAI_API_KEY", "sk-1");
    let plain = account(&[], &[key]);
    assert_eq!(account(&[("authorization", "Bearer sk-1")], &[]), plain);
    assert_eq!(account(&[("x-title", "Summaries")], &[key]), plain);
    assert_ne!(account(&[("authorization", "Bearer sk-2")], &[key]), plain);
    let project = account(&[], &[key, ("OPENAI_PROJECT_ID", "p")]);
    assert_ne!(project, plain);
    assert_eq!(account(&[("OpenAI-Project", "p")], &[key]), project);
}

const RESOURCE: (&str, &str) = ("AZURE_OPENAI_ENDPOINT", "https://r.openai.azure.com/");

#[test]
fn the_version_decides_between_the_two_apis_of_azure() {
    let key = ("AZURE_OPENAI_API_KEY", "k-1");
    let classic = "https://r.openai.azure.com/openai/deployments/my%20gpt";
    for (version, chat) in [
        (
            "2024-10-21",
            format!("{classic}/chat/completions?api-version=2024-10-21"),
        ),
        (
            " 2025-04-01-preview\n",
            format!("{classic}/chat/completions?api-version=2025-04-01-preview"),
        ),
        (
            "preview",
            "https://r.openai.azure.com/openai/v1/chat/completions".to_owned(),
        ),
        (
            "",
            "https://r.openai.azure.com/openai/v1/chat/completions".to_owned(),
        ),
    ] {
        let variables = [RESOURCE, key, ("OPENAI_API_VERSION", version)];
        let (_, url) = called(LlmConfig::new("azure").model("my gpt"), &variables).unwrap();
        assert_eq!(url, chat, "{version:?}");
    }
    // A newer address stays what it is.
    let newer = (
        "AZURE_OPENAI_ENDPOINT",
        "https://r.openai.azure.com/openai/v1/",
    );
    let variables = [newer, key, ("OPENAI_API_VERSION", "2024-10-21")];
    let (_, url) = called(LlmConfig::new("azure").model("m"), &variables).unwrap();
    assert_eq!(url, "https://r.openai.azure.com/openai/v1/chat/completions");
}

#[test]
fn azure_accepts_a_key_or_a_token_and_a_valid_version() {
    let azure = || LlmConfig::new("azure");
    let headers = sent_with(azure(), &[RESOURCE, ("AZURE_OPENAI_API_KEY", "k-1")]);
    let has = |headers: &[(String, String)], wanted: (&str, &str)| {
        let (name, value) = wanted;
        headers.iter().any(|own| own.0 == name && own.1 == value)
    };
    assert!(has(&headers, ("api-key", "k-1")), "{headers:?}");
    assert!(headers.iter().all(|(name, _)| name != "authorization"));
    let headers = sent_with(azure(), &[RESOURCE, ("AZURE_OPENAI_AD_TOKEN", "t-1")]);
    assert!(
        has(&headers, ("authorization", "Bearer t-1")),
        "{headers:?}"
    );
    assert!(headers.iter().all(|(name, _)| name != "api-key"));
    let refused = |variables: &[(&str, &str)]| {
        let client = azure().model("m").client_with(&env(variables), None);
        client.expect_err("a refusal").message().to_owned()
    };
    let key = ("AZURE_OPENAI_API_KEY", "k-1");
    let odd = refused(&[RESOURCE, key, ("OPENAI_API_VERSION", "2024&a=b")]);
    assert!(odd.contains("OPENAI_API_VERSION"), "{odd}");
    let nowhere = refused(&[key]);
    assert!(nowhere.contains("set AZURE_OPENAI_ENDPOINT"), "{nowhere}");
}
