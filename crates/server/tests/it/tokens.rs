//! Tokens and their file.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use batchwright_server::{Role, new_token};
use batchwright_simulate::SimConfig;
use ureq::http::Request;

use super::common::{Answer, Desk, PATIENCE};

/// Replaces the file in one step, as only the server's user may read it.
fn write(path: &Path, text: &str, mode: u32) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
    }
    let _ = mode;
    fs::rename(&new, path).unwrap();
}

/// A token and its line.
fn made(name: &str, role: Role) -> (String, String) {
    let (token, line) = new_token(name, role).unwrap();
    (token.expose().to_owned(), line + "\n")
}

#[track_caller]
fn until(done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_changed_file_applies_and_one_that_cannot_be_used_changes_nothing() {
    let [(a, first), (b, second)] = ["a", "b"].map(|name| made(name, Role::Read));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, &first, 0o600);
    let desk = Desk::with(SimConfig::default(), |server| server.token_file(&path));
    let status = |token: &str| {
        let request = Request::get(desk.url("/metrics"));
        let request = request.header("authorization", format!("Bearer {token}"));
        Answer::of(desk.agent().run(request.body(()).unwrap()).unwrap()).status
    };
    assert_eq!((status(&a), status(&b)), (200, 401));
    write(&path, &(first.clone() + &second), 0o600);
    until(|| status(&b) == 200);
    let damaged = [
        (second.replace("sha256:", ""), 0o600),
        (first.clone(), 0o644),
    ];
    for (text, mode) in damaged {
        if cfg!(not(unix)) && mode != 0o600 {
            continue;
        }
        write(&path, &text, mode);
        // It was read, and is not used.
        std::thread::sleep(std::time::Duration::from_millis(1_200));
        assert_eq!((status(&a), status(&b)), (200, 200));
        write(&path, &(first.clone() + &second), 0o600);
    }
    write(&path, &second, 0o600);
    until(|| status(&a) == 401);
    assert_eq!(status(&b), 200);
}

#[cfg(unix)]
#[test]
fn a_file_that_other_users_can_access_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let (_, line) = made("a", Role::Read);
    let queue = batchwright::JobQueue::open(&folder.path().join("llm_jobs.db")).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o602] {
        write(&path, &line, mode);
        let server =
            batchwright_server::Server::new(queue.clone(), batchwright::Worker::new(&queue));
        let error = server
            .address(([127, 0, 0, 1], 0).into())
            .token_file(&path)
            .start()
            .unwrap_err();
        let command = format!("chmod 600 '{}'", path.display());
        assert!(error.message().contains(&command), "{error}");
    }
}
