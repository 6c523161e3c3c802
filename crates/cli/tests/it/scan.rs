//! `batchwright scan`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::common::{Desk, Has, RunToEnd, Running};

#[test]
fn a_scan_reports_used_files_and_why_others_are_skipped() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src/deep")).unwrap();
    desk.write("src/a.py", "x = 1\n");
    desk.write("src/deep/b.py", b"\0");
    desk.write("src/c.rs", "");
    fs::write(
        desk.path("src")
            .join(OsStr::from_bytes(b"\x1b[31m\xff\n.py")),
        "y",
    )
    .unwrap();

    let args = ["scan", "src", "--pattern", "**/*.py"];
    let ended = desk.command(args).ended().expect(0);
    assert_eq!(
        ended.stdout,
        "path                   size  left out because\n\
         src/ [31m\\xff .py       1 B\n\
         src/a.py                6 B\n\
         src/deep/b.py           1 B  binary: it holds a NUL byte\n\
         2 files, 7 B; 1 left out: 1 binary\n"
    );

    let ended = Running::start(&mut desk.command(args.into_iter().chain(["--json"])));
    let lines = ended.wait().expect(0).stdout;
    let found: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    found[0].has(json!({"path": "src/\u{1b}[31m\\xff\n.py", "is_valid": true}));
    assert!(found[0]["path_base64"].is_string());
    found[2].has(json!({"skip_reason": "binary"}));

    let ended = desk.command(["scan", "gone"]).ended().expect(2);
    ended.tells("gone: the folder does not exist");
}

#[test]
fn an_unreadable_folder_affects_no_other() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src/locked")).unwrap();
    desk.write("src/a.py", "x = 1\n");
    let locked = desk.path("src/locked");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&locked).is_ok() {
        return; // Root may read everything.
    }
    let args = ["scan", "src", "--pattern", "*.py"];
    let ended = desk.command(args).ended().expect(0);
    let itself = ["scan", "src/locked"];
    let refused = desk.command(itself).ended().expect(2);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    refused.tells("cannot be read");
    ended.shows("src/locked");
    assert!(
        ended
            .stdout
            .ends_with("1 file, 6 B; 1 left out: 1 unreadable\n"),
        "{}",
        ended.stdout
    );
}

#[test]
fn units_are_listed_with_skipped_files_and_cannot_control_the_terminal() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src")).unwrap();
    let text = "x = '\u{9b}31m\u{7f}\u{202e}'\n";
    desk.write("src/a.py", text);
    desk.write("src/b.py", b"\0");
    let args = ["scan", "src", "--split", "file"];
    let ended = desk.command(args).ended().expect(0);
    assert!(
        ended
            .stdout
            .trim_end()
            .bytes()
            .all(|byte| (b' '..0x7f).contains(&byte)),
        "{}",
        ended.stdout
    );
    let unit = ended.json();
    assert_eq!(unit["content"], text);
    ended.tells("1 file is left out: 1 binary");
    ended.tells("src/b.py: binary");

    let none = ["scan", "src", "--pattern", "*.go"];
    let ended = desk.command(none).ended().expect(0);
    ended.tells("no file matches");
}
