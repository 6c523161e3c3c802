use std::collections::HashMap;
use std::fs;

use batchwright::queue::JobResult;
use batchwright::{Error, ErrorKind, JobId, ProcessId};
use serde_json::value::RawValue;
use tempfile::TempDir;

use super::*;
use crate::records::BatchState;

fn batch() -> BatchRecord {
    BatchRecord {
        id: "batch_1".to_owned(),
        state: BatchState::Finalizing,
        process: ProcessId::new(),
        endpoint: "/v1/chat/completions".to_owned(),
        input_file: String::new(),
        output_file: "out".to_owned(),
        error_file: "err".to_owned(),
        output_kept: None,
        metadata: None,
        request: None,
        model: None,
        faults: Vec::new(),
        total: 6,
        ended: None,
        totals: None,
        created_at: 0,
        expires_at: 0,
        times: HashMap::new(),
        has_output: false,
        has_errors: false,
    }
}

fn result(n: u8, status: JobStatus) -> JobResult {
    let id = JobId::from_bytes([n; 16]);
    let mut result = JobResult {
        job_id: id,
        process_id: ProcessId::new(),
        item_id: Some(format!("r-{n}")),
        request_hash: None,
        kind: "completion".to_owned(),
        status,
        result: None,
        error: None,
        attempts: 0,
    };
    let usage =
        r#"{"input_tokens":2,"cached_input_tokens":1,"output_tokens":3,"reasoning_tokens":1}"#;
    match status {
        JobStatus::Completed => {
            let line = format!(
                r#"{{"id":"x","success":true,"text":"hi","usage":{usage},"attempts":1,"latency_ms":1,"finish_reason":"stop","error":null}}"#
            );
            result.result = Some(RawValue::from_string(line).unwrap());
        }
        JobStatus::Failed => result.error = Some(Error::new(ErrorKind::Invalid, "no")),
        _ => {}
    }
    result
}

/// Results of r-1 and so on: completed, failed, cancelled.
fn results(first: u8, ends: &str) -> Vec<JobResult> {
    let result = |(n, end)| {
        let status = match end {
            'c' => JobStatus::Completed,
            'f' => JobStatus::Failed,
            _ => JobStatus::Cancelled,
        };
        result(n, status)
    };
    (first..).zip(ends.chars()).map(result).collect()
}

/// The ids in a file.
fn lines(folder: &TempDir, id: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.path().join(id)).unwrap_or_default();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["custom_id"].as_str().unwrap().to_owned()
    };
    text.lines().map(line).collect()
}

/// Whatever was written when the server died, and however far: each line is there once in the end.
#[test]
fn lines_are_neither_lost_nor_doubled_wherever_a_server_dies() {
    let (some, more) = (results(1, "cfxc"), results(5, "cf"));
    let batch = batch();
    let whole = {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(folder.path(), 1 << 20).unwrap();
        let mut files = ResultFiles::resume(&storage, &batch).unwrap();
        files.write(&some).unwrap();
        ["out", "err"].map(|id| fs::read(folder.path().join(id)).unwrap())
    };
    let [output, errors] = whole.each_ref().map(Vec::len);
    for (output, errors) in [
        (output, errors),
        (output, errors - 1),
        (output, 0),
        (output - 1, 0),
        (output / 2 + 3, 0),
        (10, 0),
        (0, 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("out"), &whole[0][..output]).unwrap();
        fs::write(folder.path().join("err"), &whole[1][..errors]).unwrap();
        let storage = Storage::open(folder.path(), 1 << 20).unwrap();
        let mut files = ResultFiles::resume(&storage, &batch).unwrap();
        // The queue was not told that these are saved, so they come again.
        files.write(&some).unwrap();
        files.write(&more).unwrap();
        files.end().unwrap();
        assert_eq!(lines(&folder, "out"), ["r-1", "r-4", "r-5"]);
        assert_eq!(lines(&folder, "err"), ["r-2", "r-3", "r-6"]);
        let expected = BatchTotals {
            completed: 3,
            failed: 2,
            usage: Usage {
                input_tokens: 6,
                cached_input_tokens: 3,
                output_tokens: 9,
                reasoning_tokens: 3,
                ..Usage::default()
            },
        };
        assert_eq!((files.totals, files.lines), (expected, 6));
        let on_disk = files.output.bytes + files.errors.bytes;
        assert!(storage.check((1 << 20) - on_disk).is_ok());
        assert!(storage.check((1 << 20) - on_disk + 1).is_err());
    }
}

#[test]
fn a_damaged_line_takes_no_line_behind_it_along() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path(), 1 << 20).unwrap();
    let mut files = ResultFiles::resume(&storage, &batch()).unwrap();
    files.write(&results(1, "ccc")).unwrap();
    let path = folder.path().join("out");
    let whole = fs::read_to_string(&path).unwrap();
    let length = whole.find('\n').unwrap() + 1;
    for spoil in [0, length - 1, length + 1] {
        let mut spoilt = whole.clone().into_bytes();
        spoilt[spoil] ^= 2;
        fs::write(&path, &spoilt).unwrap();
        let refused = ResultFiles::resume(&storage, &batch()).err().unwrap();
        let refused = Problem::from(refused);
        let said = refused.to_string();
        assert!(said.contains("is damaged between byte"), "{said}");
        assert!(fs::read(&path).unwrap() == spoilt);
    }
    // Nothing whole comes behind it: that was not saved, and comes again.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let files = ResultFiles::resume(&storage, &batch()).unwrap();
    assert_eq!((files.lines, lines(&folder, "out").len()), (2, 2));
}

/// The queue was not told that the failures are saved, so they could be retried.
#[test]
fn the_answer_to_a_retried_request_counts_instead_of_its_failure() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path(), 1 << 20).unwrap();
    let batch = batch();
    let resume = || ResultFiles::resume(&storage, &batch).unwrap();
    resume().write(&results(1, "cff")).unwrap();
    let again = results(1, "cfc");
    for _ in 0..2 {
        let mut files = resume();
        files.write(&again).unwrap();
        files.end().unwrap();
        assert_eq!(lines(&folder, "out"), ["r-1", "r-3"]);
        assert_eq!(lines(&folder, "err"), ["r-2", "r-3"]);
        let totals = files.totals;
        assert_eq!((totals.completed, totals.failed, files.lines), (2, 1, 3));
    }
}
