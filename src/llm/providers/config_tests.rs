//! What settings and variables make of a client.

use std::borrow::Cow;
use std::collections::HashMap;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::base::{Context, Optional};
use crate::llm::client::LlmClient;
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::llm::transport::{HttpReply, HttpRequest};

/// Answers everything with one reply, and keeps the headers of what it is sent, and where to.
#[derive(Default)]
struct Always {
    reply: (u16, &'static str),
    location: &'static str,
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
            headers: [("location", self.location)].into_iter().collect(),
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

/// Headers, and an address.
type Called = Result<(Vec<(String, String)>, String), Error>;

/// What a client with these settings and variables sends: its headers and its address; or its error, if this is the status of the
/// reply.
fn called(
    config: LlmConfig,
    variables: &dyn Fn(&str) -> Option<String>,
    status: Option<u16>,
) -> Called {
    let kept = Always::new(status.unwrap_or(200), "{}");
    let client = config.client_with(variables, Some(kept.clone()))?;
    let answer = client.complete(&Request::new("x"), &Context::new());
    if status.is_some() {
        answer?;
    }
    let headers = kept.headers.lock();
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.clone()));
    Ok((headers.collect(), kept.urls.lock().concat()))
}

/// Settings and variables, and what becomes of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    provider: String,
    #[serde(default)]
    env: HashMap<String, String>,
    base_url: Option<String>,
    found_at: Option<String>,
    api_key: Option<String>,
    model: Option<String>,
    #[serde(default)]
    headers: HashMap<String, String>,
    /// The status of the reply, if it is a failure.
    status: Option<u16>,
    url: Option<String>,
    /// Headers that are sent; null for one that is not.
    #[serde(default)]
    sent: HashMap<String, Option<String>>,
    kind: Option<String>,
    /// Parts of the error; with `^` its beginning, with `$` its end.
    error: Option<Vec<String>>,
    /// What no error shows.
    hidden: Option<String>,
}

impl Case {
    fn config(&self) -> LlmConfig {
        let config = LlmConfig::new(&self.provider).model(self.model.as_deref().unwrap_or("m"));
        let config = config
            .set(self.base_url.as_ref(), LlmConfig::base_url)
            .set(self.found_at.as_deref(), LlmConfig::found_at)
            .set(self.api_key.as_ref(), |config, key| {
                config.api_key(Secret::new(key))
            });
        let mut headers = self.headers.iter();
        let with =
            |config: LlmConfig, (name, value): (&String, &String)| config.header(name, value);
        headers.try_fold(config, with).unwrap()
    }

    fn fits(&self, found: &Called) -> bool {
        match (found, &self.error) {
            (Err(error), Some(words)) => {
                let message = format!("^{}$", error.message());
                let (kind, hidden) = (self.kind.as_ref(), self.hidden.as_ref());
                words.iter().all(|words| message.contains(words))
                    && kind.is_none_or(|kind| kind == error.kind().as_str())
                    && hidden.is_none_or(|hidden| !message.contains(hidden))
            }
            (Ok((headers, url)), None) => {
                let is_sent = |(name, expected): (&String, &Option<String>)| {
                    let found = headers.iter().filter(|(own, _)| own == name);
                    found.map(|(_, value)| value).eq(expected.iter())
                };
                let expected = self.url.as_ref();
                expected.is_none_or(|expected| expected == url) && self.sent.iter().all(is_sent)
            }
            _ => false,
        }
    }
}

#[test]
fn settings_and_variables_become_an_address_and_headers_or_an_error() {
    let cases = include_str!("config_cases.json");
    let cases: Vec<Case> = serde_json::from_str(cases).unwrap();
    for (at, case) in cases.iter().enumerate() {
        let variable = |name: &str| case.env.get(name).cloned();
        let found = called(case.config(), &variable, case.status);
        assert!(case.fits(&found), "case {at}, {}: {found:?}", case.provider);
    }
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
    let marked = [
        "'sk-x'",
        "\"sk-x\"",
        "OPENAI_API_KEY=sk-x",
        "export OPENAI_API_KEY=\"sk-x\"\n",
    ];
    let in_variables = marked.map(|text| [("OPENAI_API_KEY", text)]);
    let key = |variables: &[(&str, &str)]| {
        let config = LlmConfig::new("openai").model("m");
        let (headers, _) = called(config, &env(variables), None)?;
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
    // A named file comes before the credentials of another variable.
    file("ANTHROPIC_API_KEY", "sk-other");
    let token = [("ANTHROPIC_AUTH_TOKEN_FILE", &*named), all[2]];
    let config = LlmConfig::new("anthropic").model("m");
    let (headers, _) = called(config, &env(&token), None).unwrap();
    let found = headers.iter().find(|(name, _)| *name == "authorization");
    assert_eq!(found.unwrap().1, "Bearer sk-file");
    for (text, variable) in marked.iter().zip(&in_variables) {
        file("key", text);
        for variables in [variable, &all[1..2]] {
            assert_eq!(key(variables).unwrap().unwrap(), "Bearer sk-x", "{text}");
        }
    }
    file("key", " ");
    let error = key(&all[1..]).unwrap_err();
    assert!(error.message().contains(&named), "{error}");
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
    let client = |provider: &str, body: &str| {
        let config = LlmConfig::new(provider)
            .api_key(Secret::new(KEY))
            .model("m");
        let body = body.replace("KEY", KEY).leak();
        config.client_over(Always::new(200, body)).unwrap()
    };
    let cases = include_str!("echo_cases.json");
    let cases: Vec<[String; 2]> = serde_json::from_str(cases).unwrap();
    for [provider, body] in cases {
        let answer = client(&provider, &body).complete(&Request::new("x"), &Context::new());
        let answer = answer.unwrap();
        let found = [
            &*answer.text,
            answer.model.as_deref().unwrap(),
            answer.finish_reason.as_str(),
        ];
        assert_eq!(found, ["***", "m-***", "x-***"], "{provider}");
    }
    let body = r#"{"choices":[{"message":{"reasoning":"KEY","annotations":[{"a":"KEY"}],"tool_calls":[{"id":"KEY",
        "function":{"name":"KEY","arguments":"{\"a\":[\"KEY\"]}"}}]},"logprobs":{"a":"KEY"}}],"service_tier":"KEY"}"#;
    let request = Request::new("x").with_keep_reply(true);
    let answer = client("openai", body).complete(&request, &Context::new());
    let line = serde_json::to_string(&Outcome::new(None, answer)).unwrap();
    assert!(!line.contains("nobody"), "{line}");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["tool_calls"][0]["arguments"], json!({"a": ["***"]}));
    assert_eq!(line["reply"]["choices"][0]["message"]["reasoning"], "***");
    // The value of a header is a part of it.
    let config = LlmConfig::new("openai")
        .api_key(Secret::new(KEY))
        .model("m");
    let config = config.header("x-team", "of-nobody").unwrap();
    let refused = Always::new(
        401,
        "{\"error\":{\"message\":\"no key-of-nobody-0123456789\"}}",
    );
    let error = config.client_over(refused).unwrap();
    let error = error.complete(&Request::new("x"), &Context::new());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no ***") && !error.contains("0123"),
        "{error}"
    );
    let body = r#"{"model":"m-KEY","data":[{"index":0,"embedding":[1]}]}"#;
    let vectors = client("openai", body).embed(&[&Request::embedding("x")], &Context::new());
    let vectors = vectors.unwrap();
    assert_eq!(vectors[0].as_ref().unwrap().model.as_deref(), Some("m-***"));
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

#[test]
fn a_failure_that_a_missing_key_may_have_caused_says_that_none_was_sent() {
    let db = r#"{"error":{"message":"No connected db.","type":"no_db_connection","code":400}}"#;
    for (status, body, kind) in [
        (500, "Internal Server Error", ErrorKind::Transient),
        (400, "{}", ErrorKind::Invalid),
        (400, db, ErrorKind::Auth),
        (401, "{}", ErrorKind::Auth),
    ] {
        for (variables, says) in [
            (vec![], "no key was sent; check CUSTOM_LLM_API_KEY"),
            (
                vec![("CUSTOM_LLM_API_KEY", "k")],
                "check CUSTOM_LLM_API_KEY",
            ),
        ] {
            let config = LlmConfig::new("custom")
                .model("m")
                .base_url("http://127.0.0.1:9");
            let always: Arc<dyn Transport> = Always::new(status, body);
            let client = config.client_with(&env(&variables), Some(always)).unwrap();
            let error = client
                .complete(&Request::new("x"), &Context::new())
                .unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {body}");
            let is_told = variables.is_empty() || kind == ErrorKind::Auth;
            assert_eq!(error.message().contains(says), is_told, "{status}: {error}");
        }
    }
}

#[test]
fn a_redirect_names_its_place_and_the_base_url_of_the_same_host() {
    for (location, says) in [
        (
            "https://a.test/v1/chat/completions?x=1",
            "to https://a.test/v1/chat/completions; set the base URL to https://a.test/v1",
        ),
        (
            "/api/v1/chat/completions",
            "set the base URL to http://a.test:8080/api/v1",
        ),
        (
            "/v1/chat/completions/",
            "to http://a.test:8080/v1/chat/completions/; the server, or",
        ),
        (
            "https://login.test/sso?token=s",
            "to https://login.test/sso; is the base URL right?",
        ),
    ] {
        let always = Always {
            reply: (307, ""),
            location,
            ..Always::default()
        };
        let config = LlmConfig::new("custom")
            .model("m")
            .base_url("http://a.test:8080/v1");
        let client = config
            .client_with(&env(&[]), Some(Arc::new(always)))
            .unwrap();
        let error = client
            .complete(&Request::new("x"), &Context::new())
            .unwrap_err();
        assert!(error.message().contains(says), "{location}: {error}");
        assert!(error.is_unreachable(), "{error}");
    }
}
