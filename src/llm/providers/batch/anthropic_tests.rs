//! What Anthropic's batches look like on the wire.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::Context;
use crate::llm::batch::{BatchClient, BatchStage, is_unknown};
use crate::llm::providers::batch::scripted::{KEY, Lines, Script, intent};
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
fn a_line_is_the_key_and_the_body_of_the_call() {
    let request = Request::new("a\nb").with_system("S").with_max_tokens(9);
    assert_eq!(
        lined(&request).unwrap(),
        json!({"custom_id": "r7-000001", "params": {
            "model": "claude-x", "max_tokens": 9, "system": "S",
            "messages": [{"role": "user", "content": "a\nb"}]}})
    );
}

#[test]
fn one_call_creates_a_batch_from_its_lines() {
    let script = Arc::<Script>::default();
    let api = script.api("anthropic");
    let advance = || {
        let intent = intent();
        api.advance(&intent, &BatchStage::Ready, &mut Lines, &Context::new())
    };
    assert!(!api.uploads());
    script.on(
        "POST http://h/v1/messages/batches",
        200,
        json!({"id": "msgbatch_7"}),
    );
    let created = BatchStage::Created {
        id: "msgbatch_7".to_owned(),
        file: None,
    };
    assert_eq!(advance().unwrap(), created);
    let seen = &script.played()[0];
    assert_eq!(seen.json(), json!({"requests": [{"a": 1}, {"b": 2}]}));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("x-api-key"), Some(KEY));
    assert_eq!(seen.header("anthropic-version"), Some("2023-06-01"));
    // What may have been created all the same is not certain.
    for (status, body, unknown) in [
        (200, "{}", true),
        (200, "<html>", true),
        (529, "{}", true),
        (409, "{}", true),
        (400, "{}", false),
        (413, "<html>", false),
        (429, "{}", false),
    ] {
        script.on("POST http://h/v1/messages/batches", status, body);
        assert_eq!(is_unknown(&advance().unwrap_err()), unknown, "{status}");
    }
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

fn with_list(batches: &[Value]) -> Arc<Script> {
    let script = Arc::<Script>::default();
    script.on(CLOCK, 200, page(&[]));
    script.on(&format!("GET {LIST}"), 200, page(batches));
    script
}

fn first_line(key: &str) -> String {
    let line = |key| json!({"custom_id": key, "result": {"type": "expired"}}).to_string();
    format!("{}\n{}\n", line(key), line("another"))
}

#[test]
fn a_batch_is_found_by_its_time_and_its_number_of_requests() {
    let before = "2026-11-20T04:49:58Z";
    let then = "2026-11-20T05:00:30Z";
    let mut larger = listed("larger", then, false);
    larger["request_counts"]["processing"] = 3.into();
    let others = [
        larger,
        listed("known", then, false),
        listed("early", before, false),
    ];
    assert_eq!(find(&with_list(&others), &["known"]), ListedBatches::None);
    assert_eq!(find(&with_list(&[]), &[]), ListedBatches::None);
    let mut with_ours = others.to_vec();
    with_ours.insert(2, listed("ours", "2026-11-20T04:50:00.5Z", false));
    let found = find(&with_list(&with_ours), &["known"]);
    assert_eq!(found, ListedBatches::One("ours".to_owned()));
    match find(&with_list(&with_ours), &[]) {
        ListedBatches::Undecidable(why) => {
            assert!(why.contains("ours") && why.contains("known"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_list_is_read_back_only_to_the_time_of_the_intent() {
    let script = Arc::<Script>::default();
    script.on(CLOCK, 200, page(&[]));
    let mut first = page(&[listed("new 1", "2026-11-20T06:00:00Z", false)]);
    first["has_more"] = true.into();
    script.on(&format!("GET {LIST}"), 200, first);
    let mut second = page(&[listed("ours", "2026-11-20T05:00:01Z", false)]);
    second["has_more"] = true.into();
    second["last_id"] = Value::Null;
    script.on(&format!("GET {LIST}&after_id=new%201"), 200, second);
    let mut third = page(&[listed("old", "2026-11-20T04:00:00Z", false)]);
    third["has_more"] = true.into();
    script.on(&format!("GET {LIST}&after_id=ours"), 200, third);
    assert_eq!(
        find(&script, &["new 1"]),
        ListedBatches::One("ours".to_owned())
    );
}

#[test]
fn the_results_of_ended_batches_are_compared() {
    let then = "2026-11-20T05:00:30Z";
    let ended = |id| listed(id, then, true);
    let results = |id: &str| format!("GET http://h/v1/messages/batches/{id}/results");
    // A stranger's is none.
    let script = with_list(&[ended("a")]);
    script.on(&results("a"), 200, first_line("their-1"));
    assert_eq!(find(&script, &[]), ListedBatches::None);
    // Ours is it, whatever else is still open.
    let script = with_list(&[listed("open", then, false), ended("b"), ended("a")]);
    script.on(&results("b"), 200, first_line("run-1-000001"));
    script.on(&results("a"), 200, first_line("r7-p4-000001"));
    assert_eq!(find(&script, &[]), ListedBatches::One("b".to_owned()));
    // Two of ours, the oldest first.
    let script = with_list(&[ended("b"), ended("a")]);
    script.on(&results("b"), 200, first_line("run-1-000001"));
    script.on(&results("a"), 200, first_line("run-1-000002"));
    let both = vec!["a".to_owned(), "b".to_owned()];
    assert_eq!(find(&script, &[]), ListedBatches::Many(both));
    // Results that are gone tell nothing.
    let mut gone = ended("b");
    gone["results_url"] = Value::Null;
    let script = with_list(&[gone, ended("a")]);
    script.on(&results("a"), 404, "{}");
    assert!(matches!(find(&script, &[]), ListedBatches::Undecidable(_)));
    // Nor does a line that is too long to hold.
    let script = with_list(&[ended("a")]);
    let long = format!("{}\n", "x".repeat(FirstLine::MOST_LINE_BYTES));
    script.on(&results("a"), 200, long);
    assert_eq!(find(&script, &[]), ListedBatches::One("a".to_owned()));
    // One that cannot be read is not ours, today and ever after.
    for strange in ["<html>\n", "{}\n", "{\"custom_id\":7}"] {
        let script = with_list(&[ended("a")]);
        script.on(&results("a"), 200, strange);
        assert_eq!(find(&script, &[]), ListedBatches::None, "{strange}");
    }
    // Results that cannot be had now leave it open whether there is one.
    let script = with_list(&[ended("a")]);
    script.on(&results("a"), 503, "{}");
    let found = script.api("anthropic").find(
        &intent(),
        &BatchStage::Ready,
        &HashSet::new(),
        &Context::new(),
    );
    assert_eq!(found.unwrap_err().status(), Some(503));
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

#[test]
fn a_batch_is_found_after_the_submitter_was_suspended() {
    // Committed, then suspended for an hour, then sent; the reply was lost.
    let late = listed("ours", "2026-11-20T06:00:00Z", false);
    assert_eq!(
        find(&with_list(&[late]), &[]),
        ListedBatches::One("ours".to_owned())
    );
}
