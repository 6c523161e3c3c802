//! What Anthropic's batches look like on the wire.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::Context;
use crate::llm::batch::{BatchClient, BatchStage};
use crate::llm::providers::batch::scripted::{Script, intent};
use crate::llm::providers::dialect::testing::vendor;

fn anthropic() -> &'static Vendor {
    vendor("anthropic")
}

fn lined(request: &Request) -> Result<Value, Error> {
    let line = Anthropic.line(anthropic(), "r7-000001", request, "claude-x")?;
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    assert_eq!(line.last(), Some(&b'\n'));
    Ok(serde_json::from_slice(&line).unwrap())
}

#[test]
fn fields_that_batches_reject_are_rejected() {
    for field in ["speed", "previous_thread_event_id", "cache_hint"] {
        let request = Request::new("U").with_extra(field, "x".into());
        let error = lined(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(field), "{error}");
    }
    let error = lined(&Request::new("U").with_max_tokens(0)).unwrap_err();
    assert!(error.message().contains("max_tokens"), "{error}");
    let request = Request::new("U").with_extra("stream", true.into());
    assert!(lined(&request).unwrap()["params"].get("stream").is_none());
}

fn batch(status: &str, counts: [u64; 5]) -> Value {
    let [processing, succeeded, errored, canceled, expired] = counts;
    json!({"id": "msgbatch_1", "type": "message_batch", "processing_status": status,
        "request_counts": {"processing": processing, "succeeded": succeeded, "errored": errored,
            "canceled": canceled, "expired": expired},
        "created_at": "2026-11-20T05:00:00Z", "results_url": null})
}

const LIST: &str = "http://h/v1/messages/batches?limit=1000";
const CLOCK: &str = "GET http://h/v1/messages/batches?limit=1";

fn find(script: &Arc<Script>, known: &[&str]) -> ListedBatches {
    let known = known.iter().map(|id| (*id).to_owned()).collect();
    let found =
        script
            .api("anthropic")
            .find(&intent(), &BatchStage::Ready, &known, &Context::new());
    script.played();
    found.unwrap()
}

/// As the list shows it: two requests, all of them still to be done unless it has ended.
fn listed(id: &str, created: &str, ended: bool) -> Value {
    let counts = if !ended {
        [2, 0, 0, 0, 0]
    } else {
        [0, 1, 1, 0, 0]
    };
    let mut batch = batch(if ended { "ended" } else { "in_progress" }, counts);
    batch["id"] = id.into();
    batch["created_at"] = created.into();
    if ended {
        let url = format!("http://h/v1/messages/batches/{id}/results");
        batch["results_url"] = url.into();
    }
    batch
}

fn page(batches: &[Value]) -> Value {
    json!({"data": batches, "has_more": false, "last_id": batches.last().map(|b| b["id"].clone())})
}

#[test]
fn results_whose_first_line_is_too_long_to_hold_tell_nothing() {
    let script = Arc::<Script>::default();
    script.on(CLOCK, 200, page(&[]));
    let ended = listed("a", "2026-11-20T05:00:30Z", true);
    script.on(&format!("GET {LIST}"), 200, page(&[ended]));
    let long = format!("{}\n", "x".repeat(FirstLine::MOST_LINE_BYTES));
    script.on("GET http://h/v1/messages/batches/a/results", 200, long);
    assert_eq!(find(&script, &[]), ListedBatches::One("a".to_owned()));
}

#[test]
fn times_are_compared_by_the_clock_of_the_provider() {
    let three_hours = Duration::from_secs(3 * 3600);
    let behind = httpdate::fmt_http_date(SystemTime::now() - three_hours);
    let ahead = httpdate::fmt_http_date(SystemTime::now() + three_hours);
    let list = page(&[listed("ours", "2026-11-20T02:00:30Z", false)]);
    let found = |headers: &[(&str, &str)]| {
        let script = Arc::<Script>::default();
        script.on_with(CLOCK, 200, headers, page(&[]));
        script.on(&format!("GET {LIST}"), 200, &list);
        find(&script, &[])
    };
    assert_eq!(
        found(&[("date", &behind)]),
        ListedBatches::One("ours".to_owned())
    );
    assert_eq!(found(&[]), ListedBatches::None);
    // A clock that is wrong by hours may have been set since.
    assert_eq!(
        found(&[("date", &ahead)]),
        ListedBatches::One("ours".to_owned())
    );
}

#[test]
fn results_come_from_the_reported_address_if_it_has_the_same_host() {
    let download = |batch: Value, from: Option<(&str, u16, &str)>| {
        let script = Arc::<Script>::default();
        script.on("GET http://h/v1/messages/batches/b", 200, batch);
        if let Some((from, status, body)) = from {
            script.on(&format!("GET {from}"), status, body);
        }
        let mut sink = Vec::new();
        let api = script.api("anthropic");
        let done = api.download("b", "results", &mut sink, &Context::new());
        script.played();
        done.map(|()| String::from_utf8(sink).unwrap())
    };
    let with_url = |url: Value| {
        let mut batch = listed("b", "2026-11-20T05:00:00Z", true);
        batch["results_url"] = url;
        batch
    };
    let own = "http://h/v1/messages/batches/b/results";
    let text = "one\ntwo, which is longer\n";
    for (url, from) in [
        (own, own),
        ("http://h/v1/elsewhere?x=1", "http://h/v1/elsewhere?x=1"),
        ("http://evil/v1/messages/batches/b/results", own),
        ("http://h/v1.evil/results", own),
    ] {
        let done = download(with_url(url.into()), Some((from, 200, text)));
        assert_eq!(done.unwrap(), text);
    }
    for status in [404, 410, 503] {
        let done = download(with_url(own.into()), Some((own, status, "{}")));
        assert_eq!(done.unwrap_err().status(), Some(status));
    }
    // What is not there yet is not gone.
    let early = download(listed("b", "2026-11-20T05:00:00Z", false), None).unwrap_err();
    assert_eq!((early.kind(), early.status()), (ErrorKind::Transient, None));
    let mut archived = with_url(own.into());
    archived["archived_at"] = "2026-12-19T05:00:00Z".into();
    for batch in [archived, with_url(Value::Null)] {
        let gone = download(batch, None).unwrap_err();
        assert_eq!(gone.status(), Some(410));
        assert!(gone.message().contains("29 days"), "{gone}");
    }
}

#[test]
fn a_line_without_an_end_is_not_kept() {
    let mut first = FirstLine::default();
    assert!(first.write_all(b"no end").is_ok());
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..200 {
        if first.write_all(&piece).is_err() {
            assert_eq!(first.line.len(), FirstLine::MOST_LINE_BYTES);
            return;
        }
    }
    panic!("{} bytes of one line are held", first.line.len());
}
