//! The server behind a reverse proxy, and called by pages of other origins.

use batchwright::Secret;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Answer, Desk, shout};

const APP: &str = "https://app.example.com";
const PUBLIC: &str = "https://example.com/queue";

/// A server that pages of two origins may call.
fn with_origins() -> Desk {
    Desk::with(SimConfig::default(), |server| {
        let server = server.token(Secret::new("a token of this test"));
        let server = server.allow_origin(APP.parse().unwrap());
        server.allow_origin("http://localhost:3000".parse().unwrap())
    })
}

fn behind_a_proxy() -> Desk {
    Desk::with(SimConfig::default(), |server| {
        let server = server.token(Secret::new("a token of this test"));
        server.public_url(PUBLIC.parse().unwrap())
    })
    .with_token("a token of this test")
}

fn get(desk: &Desk, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = desk.agent().get(desk.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.config().max_redirects(0).build();
    Answer::of(request.call().unwrap())
}

fn preflight(desk: &Desk, origin: &str) -> Answer {
    let request = desk.agent().options(desk.url("/v1/chat/completions"));
    let request = request
        .header("origin", origin)
        .header("sec-fetch-site", "cross-site")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,x-stainless-os",
        );
    Answer::of(request.call().unwrap())
}

const ALLOWED: &str = "access-control-allow-origin";

#[test]
fn a_browser_may_ask_whether_a_page_of_an_allowed_origin_may_send_a_request() {
    let desk = with_origins();
    let answer = preflight(&desk, APP).is(204);
    assert_eq!(answer.header(ALLOWED), Some(APP));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let headers = answer.header("access-control-allow-headers");
    assert_eq!(headers, Some("authorization,x-stainless-os"));
    let methods = answer.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("DELETE"), "{methods}");
    preflight(&desk, "http://localhost:3000").is(204);
    for other in [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://app.example.com.evil.example",
        "null",
    ] {
        let answer = preflight(&desk, other).is(403);
        assert_eq!(answer.header(ALLOWED), None, "{other}");
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    // Without the flag there is no such reply.
    preflight(&Desk::new(), APP).is(403);
}

#[test]
fn pages_of_allowed_origins_read_replies_and_send_the_token_themselves() {
    let desk = with_origins();
    let bearer = ("authorization", "Bearer a token of this test");
    let from = [("origin", APP), ("sec-fetch-site", "cross-site")];
    let [origin, site] = from;
    let models = get(&desk, "/v1/models", &[origin, site, bearer]).is(200);
    // A page can read why its request failed, also one without a token.
    for answer in [models, get(&desk, "/v1/models", &from).is(401)] {
        assert_eq!(answer.header(ALLOWED), Some(APP));
        assert_eq!(answer.header("access-control-expose-headers"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(answer.header("vary"), Some("Origin"));
    }
    let chat =
        json!({"model": "sim-1", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let request = desk.agent().post(desk.url("/v1/chat/completions"));
    let request = request.header(bearer.0, bearer.1).header("origin", APP);
    let request = request.header("content-type", "application/json");
    let streamed = Answer::of(request.send(chat.to_string()).unwrap()).is(200);
    assert_eq!(streamed.header(ALLOWED), Some(APP));
    // A cache must not take a reply to another client for one to the page.
    let other = get(&desk, "/v1/models", &[bearer]).is(200);
    assert_eq!(
        (other.header(ALLOWED), other.header("vary")),
        (None, Some("Origin"))
    );
    let evil = [("origin", "https://evil.example"), bearer];
    let refused = get(&desk, "/v1/models", &evil).is(403);
    assert!(
        refused.text.contains("--allow-origin https://evil.example"),
        "{refused:?}"
    );
    // Requests without an origin, for example those of images, are still those of another site.
    get(&desk, "/healthz", &[site]).is(403);
    let none = get(&Desk::new(), "/healthz", &[]).is(200);
    assert_eq!(none.header("vary"), None);
}

/// A proxy may remove the path or keep it, and pass on the host or replace it.
#[test]
fn the_server_answers_at_its_root_and_below_the_path_of_its_public_url() {
    let desk = behind_a_proxy();
    let hosts: [&[(&str, &str)]; 3] = [
        &[],
        &[("host", "example.com"), ("origin", "https://example.com")],
        &[
            ("origin", "https://example.com"),
            ("sec-fetch-site", "same-origin"),
        ],
    ];
    for base in ["", "/queue"] {
        for path in ["/", "/healthz", "/api/v1/jobs", "/v1/models", "/metrics"] {
            for headers in hosts {
                get(&desk, &format!("{base}{path}"), headers).is(200);
            }
        }
        let problem = get(&desk, &format!("{base}/nothing"), &[]).is(404).json();
        assert_eq!(problem["type"], "urn:batchwright:problem:not_found");
        let error = get(&desk, &format!("{base}/v1/nothing"), &[])
            .is(404)
            .json();
        assert_eq!(error["error"]["type"], "invalid_request_error");
    }
    for path in ["/queuex/healthz", "/queue/queue/healthz", "//queue/healthz"] {
        get(&desk, path, &[]).is(404);
    }
    get(&desk, "/healthz", &[("host", "other.example")]).is(421);
    get(&desk, "/healthz", &[("origin", "http://example.com")]).is(403);
    let redirect = get(&desk, "/queue", &[("sec-fetch-site", "cross-site")]).is(307);
    assert_eq!(redirect.header("location"), Some("/queue/"));
}

#[test]
fn urls_in_replies_contain_the_public_url() {
    let desk = behind_a_proxy();
    for path in ["/api/v1/jobs", "/queue/api/v1/jobs"] {
        let created = desk.post(path, &shout("hi")).is(201);
        let id = created.json()["job_id"].as_str().unwrap().to_owned();
        let place = format!("/queue/api/v1/jobs/{id}");
        assert_eq!(created.header("location"), Some(place.as_str()));
        desk.get(&place).is(200);
    }
    let document = desk.read("/api/v1/openapi.json");
    assert_eq!(document["servers"], json!([{"url": PUBLIC}]));
    let page = desk.get("/").is(200);
    assert!(
        page.text
            .contains("<meta name=\"base\" content=\"/queue/\">")
    );
    let plain = Desk::new();
    let document: Value = plain.get("/api/v1/openapi.json").is(200).json();
    assert_eq!(document["servers"], json!([{"url": "/"}]));
    assert!(!plain.get("/").is(200).text.contains("name=\"base\""));
}
