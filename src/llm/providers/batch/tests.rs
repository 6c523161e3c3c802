//! What holds for every wire.

use serde_json::{Value, json};

use super::http::json as body_of;
use super::reply::time;
use super::scripted::{DATE, KEY, NoInput, intent, says, scripted, uploaded};
use super::*;
use crate::base::Timestamp;
use crate::llm::batch::is_unknown;
use crate::llm::providers::config::LlmConfig;
use crate::llm::providers::vendor::VENDORS;
use crate::llm::transport::HttpReply;

const FILED: [&str; 3] = ["openai", "groq", "xai"];

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

#[test]
fn accounts_differ_and_contain_no_secret() {
    let account = |key: &str, base: &str, project: Option<&str>| {
        let env = |name: &str| {
            project
                .filter(|_| name == "OPENAI_PROJECT_ID")
                .map(str::to_owned)
        };
        let config = LlmConfig::new("openai").base_url(base);
        let config = config.api_key(crate::base::secret::Secret::new(key));
        config.batch_client_with(&env, None).unwrap().account()
    };
    let own = account(KEY, "http://me:pass-word@h/v1", None);
    assert_eq!(own.base_url, "http://***@h/v1");
    assert!(!own.credential.is_empty() && !own.credential.contains("sk-"));
    assert_eq!(own, account(KEY, "http://me:pass-word@h/v1/", None));
    assert_ne!(own, account("sk-another", "http://me:pass-word@h/v1", None));
    assert_ne!(
        own,
        account(KEY, "http://me:pass-word@h/v1", Some("proj-1"))
    );
    assert_ne!(own, account(KEY, "http://other/v1", None));
}

#[test]
fn a_line_that_would_fail_the_batch_is_rejected() {
    for provider in FILED {
        let (api, _) = scripted(provider, []);
        for key in ["", "a b", "ü", "a\"b", &"x".repeat(65)] {
            let error = api.line(key, &Request::new("U")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{key}");
        }
        api.line(&"x".repeat(64), &Request::new("U")).unwrap();
        let embedding = api.line("k", &Request::embedding("U")).unwrap_err();
        assert!(embedding.message().contains("embeddings"), "{embedding}");
        let mut api = api;
        api.limits.bytes = 40;
        let long = api.line("k", &Request::new("U")).unwrap_err();
        assert!(long.message().contains("at most 40"), "{long}");
    }
    let config = LlmConfig::new("openai").api_key(crate::base::secret::Secret::new(KEY));
    let api = config.batch_client_with(&|_| None, None).unwrap();
    let error = api.line("k", &Request::new("U")).unwrap_err();
    assert!(error.message().contains("no model"), "{error}");
}

#[test]
fn a_creation_without_a_rejection_has_an_unknown_outcome() {
    let none = Error::new(ErrorKind::Transient, "gone").with_sent(crate::base::error::Sent::Maybe);
    let replies: [(_, bool); 10] = [
        (Err(none), true),
        (says(200, "<html>"), true),
        (says(200, "{}"), true),
        (says(200, json!({"id": ""})), true),
        (says(409, "{}"), true),
        (says(408, "{}"), true),
        (says(502, "<html>"), true),
        (says(400, json!({"error": {"message": "no"}})), false),
        (says(401, "{}"), false),
        (says(429, "{}"), false),
    ];
    for (reply, unknown) in replies {
        for provider in FILED {
            let (api, _) = scripted(provider, [reply.clone()]);
            let error = api
                .advance(&intent(), &uploaded(), &mut NoInput, &Context::new())
                .unwrap_err();
            assert_eq!(is_unknown(&error), unknown, "{provider} {error}");
        }
    }
}

#[test]
fn a_refused_key_is_named_by_its_variable_and_not_shown() {
    let echo = json!({"error": {"message": format!("no such key: {KEY}")}});
    let (api, _) = scripted("openai", [says(401, echo)]);
    let error = api.status("b-1", &Context::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(
        error.message().ends_with("***; check OPENAI_API_KEY"),
        "{error}"
    );

    let errors = json!({"data": [{"message": format!("see {KEY}"), "line": 1}]});
    let (api, _) = scripted(
        "openai",
        [says(200, json!({"status": "failed", "errors": errors}))],
    );
    let status = api.status("b-1", &Context::new()).unwrap();
    assert!(!format!("{status:?}").contains(KEY));
}

#[test]
fn a_file_that_is_gone_is_deleted_and_a_wrong_address_deletes_nothing() {
    for provider in FILED {
        let gone = json!({"error": {"message": "No such File object: file-1"}});
        let replies = [
            says(200, "{}"),
            says(404, gone),
            says(404, "<html>"),
            says(500, "{}"),
        ];
        let (api, script) = scripted(provider, replies);
        let ctx = Context::new();
        api.discard("file-1", &ctx).unwrap();
        api.discard("file-1", &ctx).unwrap();
        assert_eq!(api.discard("file-1", &ctx).unwrap_err().status(), Some(404));
        assert_eq!(api.discard("a/b", &ctx).unwrap_err().status(), Some(500));
        assert_eq!(script.calls()[0], "DELETE /files/file-1");
        assert_eq!(script.calls()[3], "DELETE /files/a%2Fb");
    }
}

#[test]
fn cancelling_an_ended_batch_is_not_an_error() {
    let ended = json!({"error": {"message": "Cannot cancel a completed batch."}});
    let status = |word: &str| says(200, json!({"id": "b-1", "status": word}));
    let cancel = |replies: Vec<Result<HttpReply, Error>>| {
        let (api, script) = scripted("openai", replies);
        (api.cancel("b-1", &Context::new()), script.calls())
    };
    let (done, calls) = cancel(vec![says(200, "{}")]);
    done.unwrap();
    assert_eq!(calls, ["POST /batches/b-1/cancel"]);
    for word in ["completed", "cancelling", "failed"] {
        cancel(vec![says(409, &ended), status(word)]).0.unwrap();
        cancel(vec![says(400, &ended), status(word)]).0.unwrap();
    }
    let running = cancel(vec![says(409, &ended), status("in_progress")]).0;
    assert_eq!(running.unwrap_err().status(), Some(409));
    assert_eq!(
        cancel(vec![says(404, "{}")]).0.unwrap_err().status(),
        Some(404)
    );
}

#[test]
fn a_download_follows_redirects_and_keeps_the_key_to_its_host() {
    let moved = |to: &str| {
        Ok(HttpReply {
            status: 302,
            headers: [("location", to)].into_iter().collect(),
            body: Vec::new(),
        })
    };
    let replies = [
        moved("/v1/there"),
        moved("https://store.test/f"),
        says(200, "line\n"),
    ];
    let (api, script) = scripted("openai", replies);
    let mut sink = Vec::new();
    api.download("b-1", "file-9", &mut sink, &Context::new())
        .unwrap();
    assert_eq!(sink, b"line\n");
    let asked = script.asked();
    let calls: Vec<_> = asked.iter().map(|asked| &*asked.what).collect();
    assert_eq!(
        calls,
        [
            "GET /files/file-9/content",
            "GET /there",
            "GET https://store.test/f"
        ]
    );
    let with_key = asked
        .iter()
        .map(|asked| asked.headers.iter().any(|(_, v)| v.contains(KEY)));
    assert_eq!(with_key.collect::<Vec<_>>(), [true, true, false]);

    let (api, _) = scripted(
        "openai",
        std::iter::repeat_with(|| moved("/v1/there")).take(9),
    );
    let round = api.download("b-1", "file-9", &mut sink, &Context::new());
    assert!(round.unwrap_err().message().contains("redirects"));
}

#[test]
fn only_the_api_itself_can_report_that_something_is_gone() {
    let ctx = Context::new();
    let html = "<html>Not Found</html>";
    for (status, body, known) in [(404, "{}", true), (410, "{}", true), (404, html, false)] {
        let known = known.then_some(status);
        let api = || scripted("openai", [says(status, body)]).0;
        let error = api().download("b-1", "file-9", &mut Vec::new(), &ctx);
        let error = error.unwrap_err();
        assert_eq!(error.status(), known, "{error}");
        if known.is_none() {
            assert_eq!(error.kind(), ErrorKind::Transient);
            assert!(error.message().contains("not from the API"), "{error}");
        }
        let of_batch = api().status("b-1", &ctx).unwrap_err();
        assert_eq!(of_batch.status(), known);
        let of_end = api().cancel("b-1", &ctx).unwrap_err();
        assert_eq!(of_end.status(), known);
    }
    // Where a file is kept may have lost it for now; the API knows whether it is gone.
    let moved = HttpReply {
        status: 302,
        headers: [("location", "https://store.test/f")].into_iter().collect(),
        body: Vec::new(),
    };
    let (api, _) = scripted("openai", [Ok(moved), says(404, "{}")]);
    let error = api.download("b-1", "file-9", &mut Vec::new(), &ctx);
    let error = error.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Transient, None));
}

#[test]
fn a_circular_or_malformed_list_proves_nothing_about_a_batch() {
    let entry = json!({"id": "b-9", "created_at": 1_795_150_800});
    let page = json!({"data": [entry], "has_more": true, "last_id": "b-9"});
    let endless = std::iter::repeat_with(|| says(200, &page));
    let ctx = Context::new();
    let find = |replies: Vec<Result<HttpReply, Error>>| {
        let (api, _) = scripted("openai", replies);
        api.find(&intent(), &uploaded(), &HashSet::new(), &ctx)
    };
    let error = find(endless.take(9).collect()).unwrap_err();
    assert!(error.message().contains("follows itself"), "{error}");
    let ever_new = (0..9_999).map(|n| {
        let entry = json!({"id": format!("b-{n}"), "created_at": 1_795_150_800});
        says(200, json!({"data": [entry], "has_more": true}))
    });
    let error = find(ever_new.collect()).unwrap_err();
    assert!(error.message().contains("more than 2000 pages"), "{error}");
    for none in [json!({}), json!([]), json!({"data": {}})] {
        let error = find(vec![says(200, none)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
    }
    assert!(find(vec![says(500, "{}")]).is_err());
}

#[test]
fn times_are_read_in_every_format() {
    let at = |value: Value| time(&value);
    for same in [
        json!(1_795_150_800),
        json!(1_795_150_800.0),
        json!("1795150800"),
        json!("2026-11-20T05:00:00Z"),
        json!("2026-11-20T05:00:00.000000Z"),
        json!("2026-11-20T05:00:00"),
        json!("2026-11-20 05:00:00"),
        json!("2026-11-20T07:30:00+02:30"),
        json!("2026-11-20T04:00:00.5-01:00"),
    ] {
        let read = at(same.clone()).unwrap();
        assert!(read.0 - DATE.0 <= 500 && read >= DATE, "{same}: {read:?}");
    }
    assert_eq!(
        at(json!("2026-11-20")),
        Some(Timestamp(DATE.0 - 5 * 3_600_000))
    );
    for none in [
        json!(null),
        json!(""),
        json!(0),
        json!(-5),
        json!("soon"),
        json!({}),
        json!("é-11-20abc"),
    ] {
        assert_eq!(at(none.clone()), None, "{none}");
    }
}

#[test]
fn a_success_reply_that_is_not_json_keeps_its_status() {
    let error = body_of(&says(202, "<html>").unwrap()).unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Malformed, Some(202))
    );
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

#[test]
fn a_line_with_wrong_bytes_keeps_its_answer() {
    for provider in with_batches() {
        let (api, _) = scripted(provider, []);
        let line = result_line(provider, &doubtful(provider, "Os?lo"));
        let broken = |byte| if byte == b'?' { 0xff } else { byte };
        let came: Vec<u8> = line.into_iter().map(broken).collect();
        let line = api
            .read(&came)
            .unwrap_or_else(|e| panic!("{provider}: {e}"));
        let BatchLineResult::Answered(answer) = line.result else {
            panic!("{provider}: not processed");
        };
        let answer = answer.unwrap_or_else(|e| panic!("{provider}: {e}"));
        assert_eq!(answer.text, "Os\u{fffd}lo", "{provider}");
        assert_eq!(answer.details().reply_bytes, Some(came), "{provider}");
        assert_eq!(answer.usage.unwrap().input_tokens, 2, "{provider}");
        let warning = answer.warning.unwrap();
        assert!(warning.contains("not valid UTF-8"), "{provider}: {warning}");
    }
}

#[test]
fn an_unusable_result_is_kept_completely_and_not_retried() {
    for provider in with_batches() {
        let (api, _) = scripted(provider, []);
        let line = api
            .read(&result_line(provider, &doubtful(provider, "")))
            .unwrap();
        let BatchLineResult::Answered(answer) = line.result else {
            panic!("{provider}: not processed");
        };
        let error = answer.unwrap_err();
        assert!(error.is_unusable_reply(), "{provider}: {error}");
        assert!(
            error.raw().unwrap().contains('2'),
            "{provider}: {:?}",
            error.raw()
        );
        assert_eq!(error.usage().unwrap().input_tokens, 2, "{provider}");
    }
    let (api, _) = scripted("openai", []);
    let line = b"{\"custom_id\":\"k\",\"response\":{\"status_code\":200,\"body\":[\"\xe4\"]}}";
    let BatchLineResult::Answered(answer) = api.read(line).unwrap().result else {
        panic!("not processed");
    };
    assert_eq!(answer.unwrap_err().raw_bytes(), Some(&line[..]));
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
        let expected = r#"{"big":12345678901234567890123,"echo":"***","a":[1.50]}"#;
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
