//! Former bugs of the providers' clients.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use batchwright::provider::inspect;
use batchwright::unstable::{HttpHeaders, HttpReply, HttpRequest, ReplyShare, Transport};
use batchwright::{
    Client, Context, Error, ErrorKind, LlmClient, LlmConfig, Request, Response, Secret,
};

use super::hang::ends;

/// Returns the same reply to every request.
struct Canned(u16, String);

impl Transport for Canned {
    fn send(&self, _: &HttpRequest<'_>, _: &Context) -> Result<HttpReply, Error> {
        Ok(HttpReply {
            status: self.0,
            headers: HttpHeaders::default(),
            body: self.1.clone().into_bytes(),
        })
    }
}

fn asked(key: &str, status: u16, body: &str) -> Result<Response, Error> {
    let client = LlmConfig::new("local")
        .base_url("http://h")
        .model("m")
        .api_key(Secret::new(key))
        .client_over(Arc::new(Canned(status, body.to_owned())))
        .unwrap();
    client.complete(&Request::new("x"), &Context::new())
}

#[test]
fn a_placeholder_key_does_not_mask_answers_or_usage() {
    let text = "none of the local tokens match the content of this test; EMPTY prompt_tokens";
    let body = format!(
        r#"{{"model":"local-model","choices":[{{"finish_reason":"stop","message":{{"content":"{text}"}}}}],
        "usage":{{"prompt_tokens":3,"completion_tokens":4}}}}"#
    );
    for key in [
        "none", "local", "token", "tokens", "content", "EMPTY", "test", "model", "stop", "usage",
        "choices", "x", "1234",
    ] {
        let answer = asked(key, 200, &body).unwrap();
        assert_eq!(answer.text, text, "{key}");
        assert_eq!(answer.model.as_deref(), Some("local-model"), "{key}");
        let usage = answer.usage.unwrap();
        assert_eq!((usage.input_tokens, usage.output_tokens), (3, 4), "{key}");
    }
}

#[test]
fn an_echoed_key_is_masked_in_any_encoding() {
    let key = "sk-live/0123456789/abcdef";
    for written in [key.to_owned(), key.replace('/', "\\/")] {
        let body = format!(
            r#"{{"choices":[{{"finish_reason":"stop","message":{{"content":"you sent {written}!"}}}}]}}"#
        );
        assert_eq!(asked(key, 200, &body).unwrap().text, "you sent ***!");
        let mut errors = Vec::new();
        for status in [400, 401, 429, 500] {
            // In the documented format of an error, as a string, and not as JSON.
            errors.push((
                status,
                format!(r#"{{"error":{{"message":"bad {written}"}}}}"#),
            ));
            errors.push((status, format!(r#"{{"error":"bad {written}"}}"#)));
            errors.push((status, format!("<html>bad {written}")));
        }
        errors.push((200, format!(r#"{{"choices":[],"error":"bad {written}"}}"#)));
        errors.push((200, format!(r#"{{"broken": "{written}"#)));
        errors.push((
            200,
            format!(r#"{{"choices":[{{"message":{{"refusal":"not {written}"}}}}]}}"#),
        ));
        for (status, body) in errors {
            let error = asked(key, status, &body).unwrap_err();
            let raw = error.raw().unwrap_or_default();
            let shown = format!("{error} {error:?} {raw}").replace("\\/", "/");
            assert!(!shown.contains("0123456789"), "{status} {body}: {shown}");
        }
    }
}

#[test]
fn debug_output_contains_no_secret() {
    let url = "http://me:hunter2-password@127.0.0.1:9/v1";
    let config = LlmConfig::new("openai")
        .base_url(url)
        .model("m")
        .api_key(Secret::new("sk-secret-0123456789"));
    let headers = [(
        "authorization".into(),
        "Bearer sk-secret-0123456789".to_owned(),
    )];
    let request = HttpRequest {
        url,
        headers: &headers,
        body: Some(b"a private prompt"),
        timeout: Duration::from_secs(1),
        reply_limit: 1,
        memory: &ReplyShare::of_process(1),
    };
    let status = inspect("openai", Some(url), Some("m"), false).unwrap();
    let client: Client = config.client().unwrap();
    for shown in [
        format!("{config:?} {config:#?}"),
        format!("{request:?} {request:#?}"),
        format!("{status:?} {status:#?}"),
        serde_json::to_string(&status).unwrap(),
        format!("{client:?} {client:#?}"),
    ] {
        for secret in ["hunter2", "sk-secret", "private"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    assert!(format!("{config:?}").contains("***@127.0.0.1:9"));
    // The masked value is still used.
    assert!(format!("{:?}", status.config()).contains("***@"));
}

/// A server that sends endlessly, byte by byte.
fn dripping(head: &'static str, byte: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.set_nodelay(true);
        let _ = stream.read(&mut [0; 65536]);
        stream.write_all(head.as_bytes()).unwrap();
        while stream.write_all(byte).is_ok() {
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    url
}

const DRIPS: [(&str, &[u8]); 3] = [
    ("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", b" "),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"1\r\n \r\n",
    ),
    // Not even the header ends.
    ("HTTP/1.1 200 OK\r\nx-long: ", b"x"),
];

fn drip(head: &'static str, byte: &'static [u8], timeout: Duration, ctx: Context) -> Error {
    let config = LlmConfig::new("local").base_url(dripping(head, byte));
    let client = config.model("m").request_timeout(timeout).client().unwrap();
    ends(move || client.complete(&Request::new("x"), &ctx).unwrap_err())
}

#[test]
fn a_slow_reply_is_limited_by_the_total_time_out() {
    for (head, byte) in DRIPS {
        let error = drip(head, byte, Duration::from_millis(120), Context::new());
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
        assert!(error.timed_out(), "{error}");
    }
}

#[test]
fn a_slow_reply_is_limited_by_the_deadline_of_the_context() {
    for (head, byte) in DRIPS {
        let ctx = Context::new().with_timeout(Duration::from_millis(120));
        let error = drip(head, byte, Duration::from_secs(600), ctx);
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    }
}
