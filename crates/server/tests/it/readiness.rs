//! A disk that cannot be used: `/readyz` names each cause as data, and clients are told to come again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Answer, Desk, Has, PATIENCE, ended, lines, shout, text};
use super::openai::{question, upload, uploaded};

/// The causes, as soon as they are these; a check of the folder is reused for a second.
#[track_caller]
fn until_causes(desk: &Desk, wanted: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = desk.get("/readyz");
        let body = answer.json();
        let found = match answer.status {
            200 => json!([]),
            _ => body["causes"].clone(),
        };
        if found == *wanted {
            if answer.status != 200 {
                assert_eq!(answer.status, 503);
                assert_eq!(body["type"], "urn:batchwright:problem:not_ready");
                let place = desk.folder.path().to_str().unwrap();
                assert!(!answer.text.contains(place), "{body}");
            }
            return;
        }
        assert!(Instant::now() < deadline, "{body}, not {wanted}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_missing_data_folder_is_a_cause() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let desk = Desk::with(SimConfig::default(), |server| server.data_dir(&data));
    until_causes(&desk, &json!([]));
    fs::rename(&data, folder.path().join("moved")).unwrap();
    until_causes(&desk, &json!(["data_folder"]));
    fs::rename(folder.path().join("moved"), &data).unwrap();
    until_causes(&desk, &json!([]));
}

/// Mounts a small disk there; false if this user cannot.
#[cfg(target_os = "linux")]
fn mounted(place: &Path) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4096k", "tmpfs"]);
    let is_mounted = mount
        .arg(place)
        .status()
        .is_ok_and(|status| status.success());
    if !is_mounted {
        println!("skipped: this user cannot mount a small disk");
    }
    is_mounted
}

/// Fills the disk with a file, which is returned.
#[cfg(target_os = "linux")]
fn filled(place: &Path) -> PathBuf {
    let filler = place.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[b'x'; 512]).is_ok() {}
    filler
}

/// The server stays alive and keeps its queue, on another disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_cause_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    if !mounted(folder.path()) {
        return;
    }
    let desk = Desk::with(SimConfig::default(), |server| {
        server.data_dir(folder.path())
    });
    until_causes(&desk, &json!([]));
    let filler = filled(folder.path());
    until_causes(&desk, &json!(["data_folder"]));
    fs::remove_file(filler).unwrap();
    until_causes(&desk, &json!([]));
    drop(desk);
    let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_death_on_a_full_disk_a_server_starts_so_that_files_can_be_deleted() {
    let mut desk = Desk::new();
    let copied = |from: &Path, to: &Path| {
        let from = from.join(".");
        let copied = Command::new("cp").arg("-a").args([&from, to]).status();
        assert!(copied.unwrap().success());
    };
    let file = uploaded(&desk, &"x".repeat(20_000));
    let left = tempfile::tempdir().unwrap();
    // As a server leaves it that is killed.
    copied(desk.folder.path(), left.path());
    desk.stop();
    let place = desk.folder.path().to_owned();
    if !mounted(&place) {
        return;
    }
    copied(left.path(), &place);
    let filler = filled(&place);
    desk.start(|server| server);
    assert_eq!(desk.get("/readyz").status, 503);
    desk.delete(&format!("/v1/files/{file}")).is(200);
    fs::remove_file(filler).unwrap();
    let job = desk.made("/api/v1/jobs", &shout("hi"));
    ended(&desk, &text(&job, "job_id")).has(json!({"status": "completed"}));
    drop(desk);
    let _ = Command::new("umount").arg("-l").arg(place).status();
}

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
    until_causes(&desk, &json!([]));
    fs::remove_file(desk.folder.path().join("llm_jobs.db")).unwrap();
    until_causes(&desk, &json!(["queue"]));
    let job = json!({"type": "shout", "payload": "hi"});
    is_refused(&desk, desk.post("/api/v1/jobs", &job));
    is_refused(&desk, desk.post("/v1/chat/completions", &question("hi")));
    is_refused(&desk, lines(&desk, "?type=shout", "\"hi\"\n"));
}

#[test]
fn settings_and_files_that_cannot_be_written_are_no_fault_of_the_client() {
    let desk = Desk::new();
    fs::create_dir(desk.folder.path().join("settings.json")).unwrap();
    let value = json!({"value": "sim-2"});
    is_refused(&desk, desk.put("/api/v1/config/llm.model", &value));
    fs::remove_dir_all(desk.folder.path().join("files")).unwrap();
    let upload = |name: &str| upload(&desk, &[], name, &b"hi"[..]);
    is_refused(&desk, upload("a"));
    let odd = upload("a\u{7}").is(400);
    assert!(odd.text.contains("control character"), "{odd:?}");
}
