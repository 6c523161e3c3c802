//! Each API over the wire: a good call, and what is refused for its headers and its address.

use serde_json::{Value, json};

use super::test_client::{Has, start};
use super::{SimConfig, Trouble, Vendor, embedding};

const ANTHROPIC: &str = "x-api-key: k1\r\nanthropic-version: 2023-06-01\r\n";
const GEMINI: &str = "x-goog-api-key: k1\r\n";
const GENERATE: &str = "/v1beta/models/gemini-x:generateContent";
const EMBED: &str = "/v1beta/models/e:batchEmbedContents";

fn chat() -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
}

fn message() -> Value {
    json!({"model": "claude-x", "max_tokens": 50, "system": "1234",
        "messages": [{"role": "user", "content": "hell"}]})
}

fn contents() -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]})
}

#[test]
fn anthropic_answers_with_a_message() {
    let config = SimConfig::default()
        .rpm(60)
        .cached_tokens(1)
        .reasoning_tokens(5);
    let (sim, mut client) = start(config);
    let reply = client.post("/v1/messages", ANTHROPIC, &message()).is(200);
    assert_eq!(reply.header("request-id"), Some("req_sim_1"));
    let limit = reply.header("anthropic-ratelimit-requests-limit");
    assert_eq!(limit, Some("60"));
    assert_eq!(reply.header("x-ratelimit-limit-requests"), None);
    let reset = reply.header("anthropic-ratelimit-requests-reset").unwrap();
    assert!(reset.starts_with("20") && reset.ends_with('Z'), "{reset}");
    let value = reply.json();
    value.has(
        json!({"type": "message", "role": "assistant", "/content/0/type": "thinking",
        "/content/1": {"type": "text", "text": "echo: hell"}, "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1, "output_tokens": 21,
            "output_tokens_details": {"thinking_tokens": 5}, "service_tier": "standard"}}),
    );
    let stats = sim.stats();
    assert_eq!((stats.answered, stats.paid, stats.malformed), (1, 1, 0));
}

#[test]
fn anthropic_wants_one_key_and_its_version() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let version = "anthropic-version: 2026-10-21\r\n";
    let bearer = "Authorization: Bearer k1\r\n";
    let bad = "invalid_request_error";
    let cases = [
        (format!("x-api-key: k1\r\n{version}"), 200, ""),
        (format!("{bearer}{version}"), 200, ""),
        (format!("x-api-key: k1\r\n{bearer}{version}"), 400, bad),
        ("x-api-key: k1\r\n".to_owned(), 400, bad),
        (
            "x-api-key: k1\r\nanthropic-version: 1\r\n".to_owned(),
            400,
            bad,
        ),
        (
            format!("x-api-key: k2\r\n{version}"),
            401,
            "authentication_error",
        ),
        (version.to_owned(), 401, "authentication_error"),
    ];
    for (headers, status, kind) in cases {
        let reply = client.post("/v1/messages", &headers, &message()).is(status);
        let value = reply.json();
        if status != 200 {
            value.has(json!({"type": "error", "/error/type": kind}));
            let id = value["request_id"].as_str();
            assert_eq!(id, reply.header("request-id"));
        }
    }
    let stats = sim.stats();
    assert_eq!((stats.calls, stats.answered, stats.malformed), (7, 2, 3));
}

#[test]
fn gemini_answers_with_a_candidate_and_leaves_zeros_out() {
    let (sim, mut client) = start(SimConfig::default().rpm(60));
    let reply = client.post(GENERATE, GEMINI, &contents());
    assert_eq!(
        (reply.status, reply.json()),
        (
            200,
            json!({
            "candidates": [{"finishReason": "STOP",
                "content": {"role": "model", "parts": [{"text": "echo: hello"}]}}],
            "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": 16,
                "totalTokenCount": 18},
            "modelVersion": "gemini-x", "responseId": "sim-1"})
        )
    );
    assert_eq!(reply.header("x-ratelimit-limit-requests"), None);

    let (_sim, mut client) = start(SimConfig::default().reasoning_tokens(20).cached_tokens(9));
    let value = client.post(GENERATE, GEMINI, &contents()).json();
    value.has(json!({"/candidates/0/content/parts/0/thought": true,
        "usageMetadata": {"promptTokenCount": 2, "cachedContentTokenCount": 2, "candidatesTokenCount": 16,
            "thoughtsTokenCount": 20, "totalTokenCount": 38}}));
    let mut small = contents();
    small["generationConfig"] = json!({"maxOutputTokens": 8});
    let value = client.post(GENERATE, GEMINI, &small).json();
    assert_eq!(value["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(value["usageMetadata"]["thoughtsTokenCount"], 8);
    assert_eq!(value["usageMetadata"].get("candidatesTokenCount"), None);
    assert_eq!(sim.stats().malformed, 0);
}

#[test]
fn gemini_wants_its_key_in_its_own_header() {
    let (sim, mut client) = start(SimConfig::default().api_key("k1"));
    let leak = format!("{GENERATE}?key=k1");
    let cases = [
        (GENERATE, GEMINI, 200, "", Value::Null),
        (
            GENERATE,
            "x-goog-api-key: k2\r\n",
            400,
            "INVALID_ARGUMENT",
            "API_KEY_INVALID".into(),
        ),
        (
            GENERATE,
            "Authorization: Bearer k1\r\n",
            403,
            "PERMISSION_DENIED",
            Value::Null,
        ),
        (&leak, GEMINI, 400, "INVALID_ARGUMENT", Value::Null),
    ];
    for (path, headers, code, status, reason) in cases {
        let reply = client.post(path, headers, &contents()).is(code);
        let error = &reply.json()["error"];
        if code != 200 {
            error.has(json!({"code": code, "status": status, "/details/0/reason": reason}));
        }
    }
    assert_eq!(sim.stats().malformed, 1);
}

#[test]
fn gemini_tells_a_wait_in_its_body_alone() {
    let (_sim, mut client) = start(SimConfig::default().rpm(1));
    client.post(GENERATE, GEMINI, &contents()).is(200);
    let reply = client.post(GENERATE, GEMINI, &contents());
    assert_eq!((reply.status, reply.header("retry-after")), (429, None));
    let error = &reply.json()["error"];
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
    let quota = error["details"][0]["violations"][0]["quotaId"]
        .as_str()
        .unwrap();
    assert!(quota.contains("PerMinute"), "{quota}");
    let delay = error["details"][1]["retryDelay"].as_str().unwrap();
    let seconds: f64 = delay.strip_suffix('s').unwrap().parse().unwrap();
    assert!(seconds > 30.0 && seconds <= 60.0, "{delay}");
}

#[test]
fn groq_is_served_below_its_own_path() {
    let config = SimConfig::default().vendor(Vendor::Mistral).rpm(60);
    let (sim, mut client) = start(config);
    let reply = client
        .post("/openai/v1/chat/completions", "", &chat())
        .is(200);
    assert_eq!(reply.header("x-ratelimit-limit-requests"), Some("86400"));
    assert_eq!(reply.json()["x_groq"]["id"], "req_sim_1");
    let mut body = chat();
    body["random_seed"] = json!(1);
    let reply = client
        .post("/openai/v1/chat/completions", "", &body)
        .is(400);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "unknown_parameter");
    assert_eq!(error.get("param"), None);
    client.post("/v1/chat/completions", "", &body).is(200);
    client.get("/openai/v1/models").is(200);

    let embed = json!({"model": "m", "input": "x"});
    client.post("/openai/v1/embeddings", "", &embed).is(404);
    assert_eq!((sim.stats().calls, sim.stats().malformed), (3, 2));
}

#[test]
fn a_wrong_key_is_refused_in_each_vendors_way() {
    let wrong = "Authorization: Bearer k2\r\n";
    let cases = [
        (Vendor::OpenAi, wrong, 401, "error.code", "invalid_api_key"),
        (Vendor::Groq, wrong, 401, "error.code", "invalid_api_key"),
        (Vendor::Mistral, wrong, 401, "message", "Unauthorized"),
        (
            Vendor::Xai,
            wrong,
            400,
            "error",
            "Incorrect API key provided.",
        ),
        (
            Vendor::Xai,
            "",
            401,
            "error",
            "You didn't provide an API key.",
        ),
        (Vendor::Local, wrong, 200, "object", "chat.completion"),
    ];
    for (vendor, headers, status, place, words) in cases {
        let (sim, mut client) = start(SimConfig::default().vendor(vendor).api_key("k1"));
        let reply = client.post("/v1/chat/completions", headers, &chat());
        let pointer = format!("/{}", place.replace('.', "/"));
        let found = reply.json().pointer(&pointer).cloned();
        assert_eq!(
            (reply.status, found),
            (status, Some(words.into())),
            "{vendor}"
        );
        assert_eq!(sim.stats().malformed, 0);
    }
}

#[test]
fn an_answer_fits_the_shape_asked_for_in_every_dialect() {
    let (sim, mut client) = start(SimConfig::default());
    let schema = json!({"type": "object", "required": ["n", "said"], "additionalProperties": false,
        "properties": {"n": {"type": "integer"}, "said": {"type": "string"}}});
    let read = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();

    let mut body = chat();
    body["response_format"] = json!({"type": "json_schema",
        "json_schema": {"name": "row", "strict": true, "schema": schema}});
    let value = client.post("/v1/chat/completions", "", &body).json();
    let text = &value["choices"][0]["message"]["content"];
    assert_eq!(read(text), json!({"n": 1, "said": "echo: hello"}));

    body["response_format"] = json!({"type": "json_object"});
    let value = client.post("/v1/chat/completions", "", &body).json();
    let text = &value["choices"][0]["message"]["content"];
    assert_eq!(read(text), json!({"echo": "echo: hello"}));

    let mut body = message();
    body["output_config"] = json!({"format": {"type": "json_schema", "schema": schema}});
    let value = client.post("/v1/messages", ANTHROPIC, &body).json();
    assert_eq!(
        read(&value["content"][0]["text"]),
        json!({"n": 1, "said": "echo: hell"})
    );

    let mut body = contents();
    body["generationConfig"] =
        json!({"responseMimeType": "application/json", "responseJsonSchema": schema});
    let value = client.post(GENERATE, GEMINI, &body).json();
    let text = &value["candidates"][0]["content"]["parts"][0]["text"];
    assert_eq!(read(text), json!({"n": 1, "said": "echo: hello"}));
    assert_eq!(sim.stats().malformed, 0);
}

#[test]
fn embeddings_come_back_in_another_order_and_each_with_its_index() {
    let (sim, mut client) = start(SimConfig::default());
    let texts = ["one", "two", "three", "one"];
    let body = json!({"model": "e", "input": texts, "dimensions": 5});
    let value = client.post("/v1/embeddings", "", &body).json();
    value.has(json!({"usage": {"prompt_tokens": 4, "total_tokens": 4}}));
    let data = value["data"].as_array().unwrap();
    let places: Vec<_> = data
        .iter()
        .map(|one| one["index"].as_u64().unwrap())
        .collect();
    assert_eq!(places, [3, 2, 1, 0]);
    for one in data {
        let vector: Vec<f32> = serde_json::from_value(one["embedding"].clone()).unwrap();
        let text = texts[one["index"].as_u64().unwrap() as usize];
        assert_eq!(vector, embedding(text, 5));
    }
    let body = json!({"model": "e", "input": "one", "encoding_format": "base64"});
    let value = client.post("/v1/embeddings", "", &body).json();
    let text = value["data"][0]["embedding"].as_str();
    assert_eq!(text.map(str::len), Some(44));
    let stats = sim.stats();
    let calls = (stats.calls, stats.embedding_calls, stats.embedded);
    assert_eq!(calls, (2, 2, 5));
    assert_eq!((stats.prompts, stats.paid_twice), (3, 1));
}

#[test]
fn gemini_embeds_a_batch_in_order() {
    let (sim, mut client) = start(SimConfig::default());
    let request = |text: &str| {
        json!({"model": "models/e", "content": {"parts": [{"text": text}]},
            "outputDimensionality": 3})
    };
    let body = json!({"requests": [request("one"), request("two")]});
    let value = client.post(EMBED, GEMINI, &body).json();
    assert_eq!(
        value,
        json!({"embeddings": [{"values": embedding("one", 3)}, {"values": embedding("two", 3)}]})
    );
    assert_eq!((sim.stats().embedded, sim.stats().malformed), (2, 0));
}

#[test]
fn one_bad_input_spoils_its_pack_and_no_other() {
    let config = SimConfig::default().trouble(Trouble::BadRequest, 0.3);
    let (sim, mut client) = start(config);
    let texts: Vec<_> = (0..20).map(|n| format!("text {n}")).collect();
    let plan = |text: &String| sim.config().plan(text).is_some();
    let (bad, good): (Vec<_>, Vec<_>) = texts.into_iter().partition(plan);
    assert!(!bad.is_empty() && !good.is_empty());
    let mixed = [&bad[..1], &good].concat();
    for (input, status) in [(&mixed, 400), (&good, 200)] {
        let body = json!({"model": "e", "input": input});
        client.post("/v1/embeddings", "", &body).is(status);
    }
    assert_eq!(sim.stats().embedded, good.len() as u64);
    assert_eq!(sim.stats().malformed, 0);
}

#[test]
fn content_is_not_filtered_where_none_is_made() {
    for kind in [Trouble::ContentFilter, Trouble::Refusal, Trouble::Length] {
        let (sim, mut client) = start(SimConfig::default().trouble(kind, 1.0));
        let body = json!({"model": "e", "input": "x"});
        client.post("/v1/embeddings", "", &body).is(200);
        assert_eq!(sim.stats().embedded, 1);
    }
    let (_sim, mut client) = start(SimConfig::default().trouble(Trouble::Empty, 1.0));
    let body = json!({"model": "e", "input": "x"});
    let empty = client.post("/v1/embeddings", "", &body).json();
    assert_eq!(empty["data"], json!([]));
    let full = client.post("/v1/embeddings", "", &body).json();
    assert_eq!(full["data"][0]["index"], 0);
}

#[test]
fn each_api_lists_its_models_its_own_way() {
    let (_sim, mut client) = start(SimConfig::default().models(["a", "b"]));
    let mut get = |path: &str, headers: &str| {
        client.send(&format!("GET {path}"), headers, b"");
        client.read()
    };
    assert_eq!(get("/v1/models", "").json()["object"], "list");
    let anthropic = get("/v1/models", ANTHROPIC).json();
    anthropic.has(json!({"/data/1/id": "b", "has_more": false}));
    assert_eq!(
        get("/v1beta/models", GEMINI).json()["models"][0]["name"],
        "models/a"
    );
    assert_eq!(get("/v1beta/models", "").status, 403);
}
