//! Folders of source files: \`scan\`, and as the input of a run.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::json;

use batchwright::sources::{FileScanner, Split};

use super::common::{Desk, Has, good, id, results};
use steps::{allocated, assert_linear};

#[path = "../../../../src/base/steps.rs"]
mod steps;

#[test]
fn a_scan_reports_used_files_and_why_others_are_skipped() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src/deep")).unwrap();
    desk.write("src/a.py", "x = 1\n");
    desk.write("src/deep/b.py", b"\0");
    desk.write("src/c.rs", "");
    let odd = OsStr::from_bytes(b"\x1b[31m\xff\n.py");
    fs::write(desk.path("src").join(odd), "y").unwrap();
    let scan = "scan src --pattern **/*.py";
    assert_eq!(
        desk.plain(scan).expect(0).stdout,
        "path                         size  left out because\n\
         src/\\u{1b}[31m\\xff\\n.py       1 B\n\
         src/a.py                      6 B\n\
         src/deep/b.py                 1 B  binary: it holds a NUL byte\n\
         2 files, 7 B; 1 left out: 1 binary\n"
    );
    let found = results(&desk.plain(&format!("{scan} --json")).expect(0).stdout);
    found[0].has(json!({"path": "src/\u{1b}[31m\\xff\n.py", "is_valid": true}));
    assert!(found[0]["path_base64"].is_string());
    found[2].has(json!({"skip_reason": "binary"}));
    desk.plain("scan gone")
        .ends(2, "gone: the folder does not exist");
}

fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src/deep")).unwrap();
    for (name, text) in [
        ("a.py", "def one():\n    pass\n\n\ndef two():\n    pass\n"),
        (
            "deep/b.py",
            "class C:\n    @m\n    def three(self): return '{{'\n",
        ),
        ("deep/broken.py", "def (:\n"),
        ("notes.md", "# Notes\n"),
    ] {
        desk.write(&format!("src/{name}"), text);
    }
    desk
}

#[test]
fn each_function_is_sent_once_and_again_after_a_change() {
    let (desk, sim) = (desk(), good());
    let words = "src --pattern **/*.py --split function -o out.jsonl --keep path,name \
                 --template Explain:{{content}}";
    desk.run(&sim, words)
        .ends(0, "1 file is left out: 1 syntax error")
        .tells("src/deep/broken.py: a syntax error on line 1");
    let ids = ["a.py::one", "a.py::two", "deep/b.py::C.three"];
    assert_eq!(desk.ids("out.jsonl"), ids);
    let lines = desk.results("out.jsonl");
    let three = lines.iter().find(|line| id(line) == ids[2]).unwrap();
    three.has(json!({"input": {"path": "deep/b.py", "name": "three"},
        "text": "echo: Explain:    @m\n    def three(self): return '{{'"}));

    // Moved functions are the same; changed ones are sent again; a renamed folder has the same ids.
    let text = "import os\n\n\ndef one():\n    pass\n\n\ndef two():\n    return 2\n";
    desk.write("src/a.py", text);
    for folder in ["./src/../src ", "src "] {
        desk.run(&sim, &words.replace("src ", folder)).expect(0);
        assert_eq!(sim.stats().calls, 4);
    }
}

#[test]
fn results_in_the_folder_are_never_sent() {
    let (desk, sim) = (desk(), good());
    for _ in 0..3 {
        desk.run(&sim, "src -o ./src/deep/../out.jsonl").expect(0);
    }
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn no_file_or_pattern_takes_steps_with_the_square_of_its_length() {
    let files: [(&str, &str); 6] = [
        ("a.txt", "a "),
        ("a.txt", "a\r\n"),
        ("a.py", "def f(): pass\n"),
        ("a.py", "'a' "),
        ("a.py", "class A:\n  def f(): pass\n"),
        ("a.js", "("),
    ];
    for (name, piece) in files {
        for split in ["file", "function", "lines:3", "tokens:7"] {
            let split: Split = split.parse().unwrap();
            assert_linear(&format!("{split} of {piece:?}"), |n| {
                let text = piece.repeat(n);
                allocated(|| drop(split.units(name, &text)))
            });
        }
    }
    let desk = desk();
    for (begin, piece) in [("", "a"), ("", "*a"), ("!", "a/"), ("/", "[a]")] {
        assert_linear(piece, |n| {
            let scanner = FileScanner::new().pattern(format!("{begin}{}", piece.repeat(n / 4)));
            allocated(|| drop(scanner.scan_directory(desk.path("src"), &Default::default())))
        });
    }
}
