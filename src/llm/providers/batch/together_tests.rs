//! Batches of Together against replies as its documentation shows them.

use std::sync::Arc;

use super::*;
use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind};
use crate::llm::batch::{BatchClient, BatchLineResult, BatchRefusal};
use crate::llm::providers::batch::scripted::Script;
use crate::llm::response::FinishReason;
use std::io::Read;

struct Lines(&'static [u8]);

impl BatchInput for Lines {
    fn open(&mut self) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(self.0))
    }
}

fn intent() -> BatchIntent {
    BatchIntent {
        label: "run-1".to_owned(),
        model: Some("m".to_owned()),
        endpoint: None,
        items: 1,
        bytes: 3,
        begun: Timestamp(1_795_150_800_000),
    }
}

fn job(fields: Value) -> Value {
    let mut job = json!({"id": "01234567-8901-2345-6789-012345678901", "user_id": "u-1",
        "input_file_id": "file-in", "file_size_bytes": 3, "status": "IN_PROGRESS",
        "job_deadline": "2026-11-21T05:00:00Z", "created_at": "2026-11-20T05:00:00Z",
        "endpoint": "/v1/chat/completions", "progress": 75.0, "model_id": "m"});
    for (name, value) in fields.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

#[test]
fn a_batch_is_uploaded_created_and_found_again() {
    let script = Arc::new(Script::default());
    let api = script.api("together");
    let ctx = Context::new();
    let line = api.line("r-1", &Request::new("U")).unwrap();
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["custom_id"], "r-1");
    assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
    script.on(
        "POST http://h/v1/files/upload",
        200,
        json!({"id": "file-in", "object": "file"}),
    );
    let mut input = Lines(b"{}\n");
    let stage = api
        .advance(&intent(), &BatchStage::Ready, &mut input, &ctx)
        .unwrap();
    let form = script.played().remove(0).body;
    for part in [
        "purpose\"\r\n\r\nbatch-api\r\n",
        "file_name\"\r\n\r\nrun-1.jsonl\r\n",
        "\r\n{}\n\r\n",
    ] {
        assert!(form.contains(part), "{part}: {form}");
    }
    script.on(
        "POST http://h/v1/batches",
        201,
        json!({"job": job(json!({})), "warning": "w"}),
    );
    let created = api.advance(&intent(), &stage, &mut input, &ctx).unwrap();
    let BatchStage::Created { id, .. } = &created else {
        panic!("{created:?}");
    };
    assert_eq!(id, "01234567-8901-2345-6789-012345678901");
    let sent = script.played().remove(0).json();
    let wanted = json!({"input_file_id": "file-in", "endpoint": "/v1/chat/completions",
        "completion_window": "24h"});
    assert_eq!(sent, wanted);
    let others = json!([
        job(json!({"id": "other", "input_file_id": "file-x"})),
        job(json!({}))
    ]);
    script.on("GET http://h/v1/batches", 200, others);
    let found = api.find(&intent(), &stage, &HashSet::new(), &ctx).unwrap();
    assert_eq!(found, ListedBatches::One(id.clone()));
}

#[test]
fn each_status_is_known() {
    let (script, ctx) = (Arc::new(Script::default()), Context::new());
    let api = script.api("together");
    let status = |fields: Value| {
        script.on("GET http://h/v1/batches/b", 200, job(fields));
        api.status("b", &ctx).unwrap()
    };
    let of = |word: &str| status(json!({"status": word})).state;
    assert!(matches!(of("VALIDATING"), BatchState::Validating));
    assert!(matches!(of("IN_PROGRESS"), BatchState::Running));
    assert!(matches!(of("COMPLETED"), BatchState::Completed));
    assert!(matches!(of("EXPIRED"), BatchState::Expired));
    assert!(matches!(of("CANCELLED"), BatchState::Cancelled));
    assert!(matches!(of("PAUSED"), BatchState::Unknown(word) if word == "PAUSED"));
    let files = json!({"status": "FAILED", "output_file_id": "file-out", "error_file_id": ""});
    let failed = status(files);
    assert!(matches!(failed.state, BatchState::Completed));
    assert_eq!(failed.results, ["file-out"]);
    // What it has worked on, though it names no file yet.
    for (word, progress, expected) in [
        ("COMPLETED", 100.0, None),
        ("EXPIRED", 75.0, Some(1)),
        ("CANCELLED", 75.0, Some(1)),
        ("CANCELLED", 0.0, None),
    ] {
        let nameless = json!({"status": word, "progress": progress, "output_file_id": ""});
        let nameless = status(nameless);
        assert_eq!((nameless.expected, nameless.results.len()), (expected, 0));
    }
    let cut = json!({"status": "CANCELLED", "output_file_id": "file-out"});
    assert_eq!(status(cut).expected, None);
    let refused = status(json!({"status": "FAILED", "error": "line 3: invalid model"}));
    let BatchState::Refused(BatchRefusal::SomeLine(error)) = refused.state else {
        panic!("{refused:?}");
    };
    assert!(error.message().contains("line 3: invalid model"), "{error}");
}

#[test]
fn results_and_errors_are_read_by_their_lines() {
    let api = Arc::new(Script::default()).api("together");
    let good = br#"{"custom_id":"r-1","response":{"status_code":200,"body":{"choices":[
        {"finish_reason":"eos","message":{"content":"x"}}]}}}"#;
    let read = api.read(good).unwrap();
    let BatchLineResult::Answered(answer) = read.result else {
        panic!("{read:?}");
    };
    let answer = answer.unwrap();
    assert_eq!((read.key.as_str(), answer.text.as_str()), ("r-1", "x"));
    assert_eq!(answer.finish_reason, FinishReason::Stop);
    let bad = br#"{"custom_id":"r-2","error":{"message":"too long","code":"invalid_request"}}"#;
    let BatchLineResult::Answered(answer) = api.read(bad).unwrap().result else {
        panic!("not answered");
    };
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Invalid);
}
