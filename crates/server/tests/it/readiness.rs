//! `/readyz`: each cause that keeps the server from working, as data.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, PATIENCE};

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
fn a_queue_that_cannot_be_read_is_a_cause() {
    let desk = Desk::new();
    until_causes(&desk, &json!([]));
    fs::remove_file(desk.folder.path().join("llm_jobs.db")).unwrap();
    until_causes(&desk, &json!(["queue"]));
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

/// The server stays alive and keeps its queue, on another disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_cause_until_there_is_room() {
    use std::io::Write;
    use std::process::Command;

    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4096k", "tmpfs"])
        .arg(folder.path())
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user cannot mount a small disk");
        return;
    }
    let desk = Desk::with(SimConfig::default(), |server| {
        server.data_dir(folder.path())
    });
    until_causes(&desk, &json!([]));
    let filler = folder.path().join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[b'x'; 4096]).is_ok() {}
    until_causes(&desk, &json!(["disk_full"]));
    drop(file);
    fs::remove_file(filler).unwrap();
    until_causes(&desk, &json!([]));
    drop(desk);
    let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
}
