//! What holds for every wire, and what is not of the form of `recorded.json`.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::http::{end, time};
use super::scripted::{DATE, KEY, Played, Script, intent, says, scripted, uploaded};
use super::*;
use crate::llm::native::{Native, NativeFormat};
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::vendor::VENDORS;

fn with_batches() -> impl Iterator<Item = &'static str> {
    let vendors = VENDORS.iter().filter(|vendor| vendor.batches.is_some());
    vendors.map(|vendor| vendor.name)
}

#[test]
fn providers_without_batches_are_refused_with_the_names_of_those_that_have_them() {
    for vendor in VENDORS.iter().filter(|vendor| vendor.batches.is_none()) {
        let config = LlmConfig::new(vendor.name).base_url("http://h");
        let error = config.batch_client_with(&|_| None, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let names = "groq, anthropic, openai, gemini, xai, deepinfra, azure";
        assert!(error.message().ends_with(names), "{error}");
    }
}

/// The account at this base URL, with these variables.
fn account(provider: &str, base: &str, variables: &[(&str, &str)]) -> BatchAccount {
    let env = |name: &str| {
        let mut all = variables.iter();
        all.find(|(own, _)| *own == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let config = LlmConfig::new(provider).base_url(base);
    config.batch_client_with(&env, None).unwrap().account()
}

#[test]
fn accounts_differ_and_contain_no_secret() {
    let (key, base) = (("OPENAI_API_KEY", KEY), "http://me:pass-word@h/v1");
    let own = account("openai", base, &[key]);
    assert_eq!(own.base_url, "http://***@h/v1");
    assert!(!own.credential.is_empty() && !own.credential.contains("sk-"));
    let same = account("openai", "http://me:pass-word@h/v1/", &[key]);
    assert_eq!(own, same);
    assert_ne!(own, account("openai", "http://other/v1", &[key]));
}

#[test]
fn a_line_that_would_fail_the_batch_is_rejected() {
    let rejects = |api: &BatchApi, key: &str, request: &Request, says: &str| {
        let error = api.line(key, request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{key}");
        assert!(error.message().contains(says), "{error}");
    };
    let plain = Request::new("U");
    let (silent, mut wide) = (Request::chat(Vec::new()), plain.clone());
    wide.params.top_p = Some(1.1);
    for provider in ["openai", "groq", "xai"] {
        let (mut api, _) = scripted(provider, []);
        for key in ["", "a b", "ü", "a\"b", &"x".repeat(65)] {
            rejects(&api, key, &plain, "a key has");
        }
        api.line(&"x".repeat(64), &plain).unwrap();
        let good = plain.clone().with_temperature(2.0).with_max_tokens(1);
        api.line("k", &good).unwrap();
        for (bad, what) in [
            (&silent, "messages"),
            (&wide, "top_p"),
            (&plain.clone().with_temperature(-0.1), "temperature"),
            (&plain.clone().with_temperature(2.5), "temperature"),
            (&plain.clone().with_max_tokens(0), "max_tokens"),
            (&Request::embedding("U"), "embeddings"),
        ] {
            rejects(&api, "k", bad, what);
        }
        api.limits.bytes = 40;
        rejects(&api, "k", &plain, "at most 40");
    }
    let config = LlmConfig::new("openai").api_key(crate::base::secret::Secret::new(KEY));
    let api = config.batch_client_with(&|_| None, None).unwrap();
    rejects(&api, "k", &plain, "no model");
    let (api, _) = scripted("anthropic", []);
    for field in ["speed", "store", "previous_thread_event_id", "cache_hint"] {
        rejects(
            &api,
            "k",
            &plain.clone().with_extra(field, "x".into()),
            field,
        );
    }
    let mut native = plain.clone();
    let body = json!({"max_tokens": 9, "messages": [], "store": null});
    let body = body.as_object().unwrap().clone();
    let format = NativeFormat::AnthropicMessages;
    native.native = Some(Box::new(Native { format, body }));
    rejects(&api, "k", &native, "store");
    let none = plain.clone().with_max_tokens(0);
    rejects(&api, "k", &none, "max_tokens");
    let streamed = api.line("k", &plain.with_extra("stream", true.into()));
    assert!(
        !String::from_utf8(streamed.unwrap())
            .unwrap()
            .contains("stream")
    );
}

#[test]
fn a_refused_key_is_named_by_its_variable_and_not_shown() {
    let echo = json!({"error": {"message": format!("no such key: {KEY}")}});
    let errors = json!({"data": [{"message": format!("see {KEY}"), "line": 1}]});
    let failed = json!({"status": "failed", "errors": errors});
    let (api, _) = scripted("openai", [says(401, echo), says(200, failed)]);
    let error = api.status("b-1", &Context::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    let end = "***; check OPENAI_API_KEY";
    assert!(error.message().ends_with(end), "{error}");
    let status = api.status("b-1", &Context::new()).unwrap();
    assert!(!format!("{status:?}").contains(KEY));
}

#[test]
fn a_circular_or_malformed_list_proves_nothing_about_a_batch() {
    let entry = json!({"id": "b-9", "created_at": 1_795_150_800});
    let page = json!({"data": [entry], "has_more": true, "last_id": "b-9"});
    let find = |replies: Vec<Played>| {
        let (api, _) = scripted("openai", replies);
        let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        found.unwrap_err()
    };
    let error = find(vec![says(200, &page); 9]);
    assert!(error.message().contains("follows itself"), "{error}");
    let ever_new = (0..9_999).map(|n| {
        let entry = json!({"id": format!("b-{n}"), "created_at": 1_795_150_800});
        says(200, json!({"data": [entry], "has_more": true}))
    });
    let error = find(ever_new.collect());
    assert!(error.message().contains("more than 2000 pages"), "{error}");
    for none in ["{}", "[]", r#"{"data": {}}"#] {
        assert_eq!(find(vec![says(200, none)]).kind(), ErrorKind::Malformed);
    }
    assert_eq!(find(vec![says(500, "{}")]).status(), Some(500));
}

/// At Anthropic, by the clock of the provider; a clock that is wrong by hours may have been set since. Results whose first
/// line is too long to hold say nothing.
#[test]
fn a_batch_without_a_label_is_found_by_its_time_and_its_first_result() {
    let list = |id: &str, created: &str, status: &str| {
        let url = format!("http://h/v1/messages/batches/{id}/results");
        let counts = json!({"processing": 2});
        let batch = json!({"id": id, "processing_status": status, "request_counts": counts,
            "created_at": created, "results_url": url});
        says(200, json!({"data": [batch], "has_more": false}))
    };
    let find = |date: Option<i64>, replies: Vec<Played>| {
        let mut clock = says(200, r#"{"data": [], "has_more": false}"#);
        clock.headers.clear();
        clock.headers.extend(date.map(|hours| {
            let now = Timestamp::from(SystemTime::now()).0 + hours * 3_600_000;
            let there = SystemTime::UNIX_EPOCH + Duration::from_millis(now as u64);
            ("date".to_owned(), httpdate::fmt_http_date(there))
        }));
        let (api, script) = scripted("anthropic", [vec![clock], replies].concat());
        let none = HashSet::new();
        let found = api.find(&intent(), &BatchStage::Ready, &none, &Context::new());
        script.played();
        found.unwrap()
    };
    let one = |id: &str| ListedBatches::One(id.to_owned());
    for (date, found) in [
        (Some(-3), one("ours")),
        (None, ListedBatches::None),
        (Some(3), one("ours")),
    ] {
        let early = list("ours", "2026-11-20T02:00:30Z", "in_progress");
        assert_eq!(find(date, vec![early]), found, "{date:?}");
    }
    let ended = list("a", "2026-11-20T05:00:30Z", "ended");
    let long = says(200, "x".repeat(2 << 20) + "\n");
    assert_eq!(find(None, vec![ended, long]), one("a"));
}

#[test]
fn without_a_server_time_a_list_is_read_back_to_a_day_before_the_intent() {
    let day = 24 * 3600 * 1000;
    let file = "file-1".to_owned();
    let untimed = BatchStage::Uploaded { file, time: None };
    for (stage, begun) in [(uploaded(), DATE), (untimed, intent().begun)] {
        assert_eq!(files::since(&intent(), &stage), Timestamp(begun.0 - day));
    }
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
        let script = Arc::new(Script::default());
        script.replies.lock().push_back(Played {
            call: Some(wanted.to_owned()),
            ..says(200, &page)
        });
        let config = LlmConfig::new("azure").model("m").base_url("http://h");
        let env = |name: &str| match name {
            "AZURE_OPENAI_API_KEY" => Some(KEY.to_owned()),
            "OPENAI_API_VERSION" => version.map(str::to_owned),
            _ => None,
        };
        let api = config.batch_client_with(&env, Some(script.clone()));
        let found = api
            .unwrap()
            .find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        assert_eq!(found.unwrap(), ListedBatches::One("b-1".to_owned()));
        script.played();
    }
}

#[test]
fn at_azure_the_account_is_the_address_whatever_the_token() {
    let by_token = |token: &str| account("azure", "http://h", &[("AZURE_OPENAI_AD_TOKEN", token)]);
    let own = by_token("token-1");
    assert_eq!(own, by_token("token-2"));
    // As a header it is the same credential.
    let config = LlmConfig::new("azure").base_url("http://h");
    let config = config.header("Authorization", "Bearer token-3").unwrap();
    let by_header = config.batch_client_with(&|_| None, None).unwrap();
    assert_eq!(own, by_header.account());
    // Elsewhere one address serves many accounts.
    let elsewhere = |key: &str| account("openai", "http://h", &[("OPENAI_API_KEY", key)]);
    assert_ne!(elsewhere("key-1"), elsewhere("key-2"));
}

#[test]
fn times_are_read_in_every_format() {
    let at = |text: &str| time(&Value::from(text));
    for same in [json!(1_795_150_800), json!(1_795_150_800.0)] {
        assert_eq!(time(&same), Some(DATE));
    }
    for same in [
        "1795150800",
        "2026-11-20T05:00:00Z",
        "2026-11-20T05:00:00.000000Z",
        "2026-11-20T05:00:00",
        "2026-11-20 05:00:00",
        "2026-11-20T05:00:00+00:00",
        "2026-11-20T05:00:00.0+00:00",
    ] {
        assert_eq!(at(same), Some(DATE), "{same}");
        assert_eq!(end(&same.into()), Some(DATE), "{same}");
    }
    assert_eq!(at("2026-11-20"), at("2026-11-20T00:00:00Z"));
    assert_eq!(end(&"2026-11-20".into()), at("2026-11-22T00:00:00Z"));
    for none in ["null", "0", "-5", "{}"] {
        assert_eq!(time(&none.parse().unwrap()), None, "{none}");
    }
    for none in [
        "",
        "soon",
        "é-11-20abc",
        "for ever!!",
        "2026-11-20T07:30:00+02:30",
        "2026-11-20T07:30:00.0+02:30",
        "2026-11-20T04:00:00.0-01:00",
        "2026-11-20T05:00:00+999999999999999999:00",
    ] {
        assert_eq!((at(none), end(&none.into())), (None, None), "{none}");
    }
}

/// The line in which a provider gives this body of a reply as a result, with a detail that is none.
fn result_line(provider: &str, body: &str) -> Vec<u8> {
    let line = match provider {
        "anthropic" => {
            format!(r#"{{"custom_id":"k","result":{{"type":"succeeded","message":{body}}}"#)
        }
        "gemini" => format!(r#"{{"key":"k","response":{body}"#),
        "xai" => format!(
            r#"{{"batch_request_id":"k","batch_result":{{"response":{{"chat_get_completion":{body}}}}}"#
        ),
        _ => format!(
            r#"{{"custom_id":"k","error":null,"response":{{"status_code":200,"body":{body}}}"#
        ),
    };
    [line.as_bytes(), b",\"note\":\"\xff\"}"].concat()
}

/// An answer in a provider's dialect.
fn doubtful(provider: &str, text: &str) -> String {
    match provider {
        "anthropic" => format!(
            r#"{{"content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn",
            "usage":{{"input_tokens":2,"output_tokens":1}}}}"#
        ),
        "gemini" => format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}},"finishReason":"STOP"}}],
            "usageMetadata":{{"promptTokenCount":2,"totalTokenCount":3}}}}"#
        ),
        _ => format!(
            r#"{{"choices":[{{"finish_reason":"stop","message":{{"content":"{text}"}}}}],
            "usage":{{"prompt_tokens":2,"completion_tokens":1}}}}"#
        ),
    }
}

/// What a line of results says of its answer.
fn answer_in(provider: &str, line: &[u8]) -> Result<Response, Error> {
    let line = scripted(provider, []).0.read(line);
    let line = line.unwrap_or_else(|e| panic!("{provider}: {e}"));
    match line.result {
        BatchLineResult::Answered(answer) => *answer,
        BatchLineResult::NotProcessed(error) => panic!("{provider}: {error}"),
    }
}

/// A call and a batch keep what was paid for, whatever detail of its JSON is wrong.
#[test]
fn a_reply_that_is_json_but_for_a_detail_keeps_its_answer() {
    for provider in with_batches() {
        let (usage, twice) = match provider {
            "anthropic" => ("usage", [r#""content":"#, r#""stop_reason":"#]),
            "gemini" => ("usageMetadata", [r#""content":"#, r#""finishReason":"#]),
            _ => ("usage", [r#""content":"#, r#""finish_reason":"#]),
        };
        let plain = doubtful(provider, "Os?lo").into_bytes();
        let put = |detail: &str| [detail.as_bytes(), &plain[1..]].concat();
        let replaced = |what: &str, by: &[u8]| {
            let at = memchr::memmem::find(&plain, what.as_bytes()).unwrap();
            [&plain[..at], by, &plain[at + what.len()..]].concat()
        };
        let again = |name: &str| replaced(name, format!("{name}null,{name}").as_bytes());
        for (body, text, says) in [
            (replaced("?", b"\xff"), "Os\u{fffd}lo", "not valid UTF-8"),
            (put("{\"x\":[NaN,-Infinity],"), "Os?lo", "NaN"),
            (put(&format!("{{\"{usage}\":7,")), "Os?lo", "twice"),
            (again(twice[0]), "Os?lo", "twice"),
            (again(twice[1]), "Os?lo", "twice"),
            (replaced("?", b"\n"), "Os\nlo", "control"),
            (replaced("?", b"\\ud83d"), "Os\u{fffd}lo", "surrogate"),
            (put("{\"id\":\"\\udead\",\"id\":NaN,"), "Os?lo", "; "),
        ] {
            let shown = String::from_utf8_lossy(&body).into_owned();
            let lossy = |text: Vec<u8>| String::from_utf8_lossy(&text).into_owned();
            let marked = result_line(provider, "BODY");
            let line = lossy(marked).replace("\u{fffd}", "").into_bytes();
            let at = memchr::memmem::find(&line, b"BODY").unwrap();
            let line = [&line[..at], &body, &line[at + 4..]].concat();
            let called = dialect::read(Vendor::named(provider).unwrap(), &body, false);
            for answer in [called, answer_in(provider, &line)] {
                let answer = answer.unwrap_or_else(|e| panic!("{provider}: {e}: {shown}"));
                assert_eq!(answer.text, text, "{provider}: {shown}");
                assert_eq!(answer.usage.unwrap().input_tokens, 2, "{provider}: {shown}");
                let warning = answer.warning.unwrap();
                assert!(warning.contains(says), "{provider}: {warning}");
            }
            let reply = scripted(provider, []).0.reply(&line);
            assert!(reply.as_str().starts_with('{'), "{provider}: {reply}");
        }
        // Some servers keep the body as a text, whatever it was.
        let whole = String::from_utf8_lossy(&plain);
        let event = whole
            .replace('\n', " ")
            .replace("\"message\":", "\"delta\":");
        for (body, is_told) in [
            (whole.to_string(), false),
            (format!("data: {event}\n\n"), true),
        ] {
            let line = result_line(provider, &Value::from(body.as_str()).to_string());
            let line: Vec<u8> = line.into_iter().filter(u8::is_ascii).collect();
            let answer = answer_in(provider, &line).unwrap();
            let found = (&*answer.text, answer.warning.is_some());
            assert_eq!(found, ("Os?lo", is_told), "{provider}: {body}");
            assert_eq!(answer.usage.unwrap().input_tokens, 2, "{provider}: {body}");
        }
        for (before, behind) in [("\u{feff}", ""), ("", "\n\ndata: [DONE]\n\n")] {
            let body = [before.as_bytes(), &plain, behind.as_bytes()].concat();
            let answer = dialect::read(Vendor::named(provider).unwrap(), &body, false).unwrap();
            // A mark before it takes nothing from it.
            let is_told = before.is_empty();
            assert_eq!(
                (&*answer.text, answer.warning.is_some()),
                ("Os?lo", is_told)
            );
        }
    }
}

#[test]
fn an_unusable_result_is_kept_completely_and_not_retried() {
    for provider in with_batches() {
        let line = result_line(provider, &doubtful(provider, ""));
        let error = answer_in(provider, &line).unwrap_err();
        assert!(error.is_unusable_reply(), "{provider}: {error}");
        let raw = error.raw().unwrap();
        assert!(raw.contains('2'), "{provider}: {raw:?}");
        assert_eq!(error.usage().unwrap().input_tokens, 2, "{provider}");
    }
    let line = b"{\"custom_id\":\"k\",\"response\":{\"status_code\":200,\"body\":[\"\xe4\"]}}";
    let error = answer_in("openai", line).unwrap_err();
    assert_eq!(error.raw_bytes(), Some(&line[..]));
}

#[test]
fn the_reply_of_a_line_keeps_all_digits_and_loses_the_key() {
    for provider in with_batches() {
        let (api, _) = scripted(provider, []);
        let body = format!(r#"{{"big": 12345678901234567890123, "echo":"{KEY}", "a":[1.50]}}"#);
        let line = String::from_utf8_lossy(&result_line(provider, &body)).into_owned();
        // JSON once more, without the detail that is none.
        let line = format!("{}}}", &line[..line.find(",\"note\"").unwrap()]);
        let reply = api.reply(line.as_bytes());
        let expected = body.replace(KEY, "***");
        assert_eq!(reply.as_str(), expected, "{provider}");
        // What cannot be told apart is kept as it came.
        let mut broken = result_line(provider, &body);
        broken.push(b'x');
        let broken = api.reply(&broken);
        assert!(
            broken.parse::<String>().unwrap().contains("1.50"),
            "{provider}"
        );
    }
}
