//! `batchwright scan`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

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
