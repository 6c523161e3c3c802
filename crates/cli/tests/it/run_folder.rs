//! Folders of source files as inputs.

use std::fs;

use serde_json::json;

use super::common::{Desk, Has, good, id};

const RUN: &str = "src --pattern **/*.py --split function -o out.jsonl --keep path,name";

fn desk() -> Desk {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("src/deep")).unwrap();
    desk.write(
        "src/a.py",
        "def one():\n    pass\n\n\ndef two():\n    pass\n",
    );
    desk.write(
        "src/deep/b.py",
        "class C:\n    @m\n    def three(self): return '{{'\n",
    );
    desk.write("src/deep/broken.py", "def (:\n");
    desk.write("src/notes.md", "# Notes\n");
    desk
}

#[test]
fn each_function_is_sent_once_and_again_after_a_change() {
    let (desk, sim) = (desk(), good());
    let words = format!("{RUN} --template Explain:{{{{content}}}}");
    let ended = desk.run(&sim, &words).expect(0);
    assert!(
        ended.stderr.contains("1 file is left out: 1 syntax error")
            && ended
                .stderr
                .contains("src/deep/broken.py: a syntax error on line 1"),
        "{}",
        ended.stderr
    );
    let ids = ["a.py::one", "a.py::two", "deep/b.py::C.three"];
    assert_eq!(desk.ids("out.jsonl"), ids);
    let lines = desk.results("out.jsonl");
    let three = lines.iter().find(|line| id(line) == ids[2]).unwrap();
    three.has(json!({"input": {"path": "deep/b.py", "name": "three"},
        "text": "echo: Explain:    @m\n    def three(self): return '{{'"}));

    // Moved functions are the same; changed ones are sent again; a renamed folder has the same ids.
    let text = "import os\n\n\ndef one():\n    pass\n\n\ndef two():\n    return 2\n";
    desk.write("src/a.py", text);
    desk.run(&sim, &words.replace("src ", "./src/../src/ "))
        .expect(0);
    assert_eq!(sim.stats().calls, 4);
    desk.run(&sim, &words).expect(0);
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn without_a_template_the_content_is_the_prompt() {
    let (desk, sim) = (desk(), good());
    desk.run(&sim, "src --pattern *.md -o out.jsonl").expect(0);
    let line = &desk.results("out.jsonl")[0];
    assert_eq!(
        (id(line), &line["text"]),
        ("notes.md".to_owned(), &json!("echo: # Notes\n"))
    );
    desk.run(&sim, "src --split lines:2 -o parts.jsonl --ordered")
        .expect(0);
    let first = ["a.py::lines.1", "a.py::lines.3", "deep/b.py::lines.1"];
    assert_eq!(desk.order("parts.jsonl")[..3], first);
}

#[test]
fn invalid_options_for_folders_are_rejected_with_a_reason() {
    let (desk, sim) = (desk(), good());
    desk.write("in.txt", "one\n");
    for (words, why) in [
        (
            "src --template {{text}}",
            "expected one of the columns: \"id\", \"path\", \"name\", \"language\", \"lines\", \"start_line\", \"content\"",
        ),
        (
            "src --pattern *.go",
            "src: found no files; expected some that fit the pattern",
        ),
        (
            "src --pattern *.md --split class",
            "src: found nothing to ask about in 1 files (1 no parser)",
        ),
        (
            "src --format csv",
            "src: found --format, which applies only to files",
        ),
        ("in.txt --split function", "no input is one"),
        (
            "src --split functions",
            "expected file, function, class, lines:N or tokens:N",
        ),
        ("gone", "gone"),
    ] {
        let ended = desk.run(&sim, words).expect(2);
        ended.tells(why);
    }
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_scan_prints_the_prompts_of_a_run() {
    let desk = desk();
    let ended = desk
        .plain("scan src --pattern *.py --split function")
        .expect(0);
    assert_eq!(ended.stdout.lines().count(), 3, "{}", ended.stdout);
    ended.tells("1 file is left out: 1 syntax error");
    let unit = desk.plain("scan src --split class").expect(0).json();
    assert_eq!(
        unit,
        json!({
            "id": "deep/b.py::C", "path": "deep/b.py", "name": "C", "qualified_name": "C",
            "kind": "class", "language": "python", "start_line": 1, "end_line": 3,
            "content": "class C:\n    @m\n    def three(self): return '{{'",
        })
    );
}

#[test]
fn results_in_the_folder_are_never_sent() {
    let (desk, sim) = (desk(), good());
    for _ in 0..3 {
        desk.run(&sim, "src -o ./src/deep/../out.jsonl").expect(0);
    }
    assert_eq!(sim.stats().calls, 4);
}
