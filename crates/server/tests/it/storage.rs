//! A disk that cannot be used: clients are told to come again, and nothing of where things lie.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::common::{Answer, Desk, ended, shout};

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

/// The queue is another file: jobs go on.
#[test]
fn a_server_db_that_cannot_be_used_stops_only_what_needs_it() {
    let spoils: [fn(&Path); 6] = [
        |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[..100].fill(b'x');
            fs::write(path, bytes).unwrap();
        },
        |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(5_000).unwrap();
        },
        |path| {
            let database = rusqlite::Connection::open(path).unwrap();
            database.pragma_update(None, "user_version", 99).unwrap();
        },
        |path| {
            // As builds before the first version left it.
            let database = rusqlite::Connection::open(path).unwrap();
            database.pragma_update(None, "user_version", 0).unwrap();
        },
        |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        |path| fs::create_dir(path.with_extension("db-wal")).unwrap(),
    ];
    for spoil in spoils {
        let mut desk = Desk::new();
        let waits = desk.made("/api/v1/jobs", &shout("before"));
        ended(&desk, waits["job_id"].as_str().unwrap());
        assert_eq!(desk.read("/readyz")["problems"], json!([]));
        desk.stop();
        let path = desk.folder.path().join("server.db");
        spoil(&path);

        desk.start(|server| server);
        let ready = desk.read("/readyz");
        assert_eq!(ready["problems"][0]["code"], "server_data");
        let job = desk.made("/api/v1/jobs", &shout("after"));
        let job = ended(&desk, job["job_id"].as_str().unwrap());
        assert_eq!(job["result"], "AFTER");
        let process = job["process_id"].as_str().unwrap();
        let results = format!("/api/v1/processes/{process}/results");
        assert_eq!(desk.get(&results).is(200).text.lines().count(), 1);
        is_refused(&desk, desk.get("/v1/batches"));
        desk.stop();
        fs::rename(&path, path.with_extension("old")).unwrap();
        let _ = fs::remove_dir(path.with_extension("db-wal"));
        desk.start(|server| server);
        desk.get("/v1/batches").is(200);
    }
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
