//! A disk that cannot be used: clients are told to come again, and nothing of where things lie.

use std::fs;

use serde_json::json;

use super::common::{Answer, Desk};

/// What a client sees when the server cannot keep anything.
#[track_caller]
fn is_refused(desk: &Desk, answer: Answer) {
    let answer = answer.is(503);
    assert!(answer.text.contains("storage_unavailable"), "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let place = desk.folder.path().file_name().unwrap().to_str().unwrap();
    assert!(!answer.text.contains(place), "{answer:?}");
    assert!(!answer.text.contains(".db"), "{answer:?}");
}

#[test]
fn a_queue_that_is_gone_is_no_fault_of_the_client() {
    let desk = Desk::new();
    fs::remove_file(desk.folder.path().join("llm_jobs.db")).unwrap();
    let job = json!({"type": "shout", "payload": "hi"});
    is_refused(&desk, desk.post("/api/v1/jobs", &job));
    let chat = json!({"model": "sim-1", "messages": [{"role": "user", "content": "hi"}]});
    is_refused(&desk, desk.post("/v1/chat/completions", &chat));
    let lines = desk.agent().post(desk.url("/api/v1/processes?type=shout"));
    is_refused(&desk, Answer::of(lines.send("\"hi\"\n").unwrap()));
}

#[test]
fn settings_and_files_that_cannot_be_written_are_no_fault_of_the_client() {
    let desk = Desk::new();
    fs::create_dir(desk.folder.path().join("config.db")).unwrap();
    let value = json!({"value": "sim-2"});
    is_refused(&desk, desk.put("/api/v1/config/llm.model", &value));
    fs::remove_dir_all(desk.folder.path().join("files")).unwrap();
    let form = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
                --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nhi\r\n--b--";
    let upload = |form: &str| {
        let request = desk.agent().post(desk.url("/v1/files"));
        let request = request.header("content-type", "multipart/form-data; boundary=b");
        Answer::of(request.send(form).unwrap())
    };
    is_refused(&desk, upload(form));
    let odd = upload(&form.replace("\"a\"", "\"a\u{7}\"")).is(400);
    assert!(odd.text.contains("control character"), "{odd:?}");
}

#[test]
fn a_value_that_nobody_could_have_meant_is_not_stored() {
    let desk = Desk::new();
    for value in ["a\0b", "a\u{1b}[31mb", &"m".repeat(257)] {
        let answer = desk.put("/api/v1/config/llm.model", &json!({"value": value}));
        let answer = answer.is(400);
        assert!(answer.text.contains("at most 256 characters"), "{answer:?}");
    }
    let stored = desk.get("/api/v1/config/llm.model").json();
    assert!(stored["stored"].is_null(), "{stored}");
}
