//! Files that are rejected, and ids that must be distinguished.

use std::fs;

use super::tests::{Scratch, hooks, items};
use super::*;
use crate::base::cases::{cases, unescaped};
use crate::base::{Context, Error, ErrorKind};
use crate::bulk::convert;
use crate::llm::hash::request_hash;
use crate::llm::request::Request;

#[test]
fn repeated_ids_name_both_lines() {
    let made = &request_hash(&Request::new("q"))[..16];
    let plain = "{\"prompt\":\"q\"}\n";
    let named = |id: &str| format!("{{\"prompt\":\"x\",\"id\":\"{id}\"}}\n");
    let second = format!("{made}-2");
    for (content, line, id) in [
        (plain.to_owned() + &named(made), 2, made),
        (named(&second) + plain + plain, 3, &second),
    ] {
        let text = format!(
            "p:{line}: found the id \"{id}\", which line 1 has already; expected a different id for every item; 1 row repeats an id"
        );
        let found = Scratch::new("jsonl", content).check().unwrap_err();
        assert!(found.starts_with(&text), "{found}");
    }
    let fine = plain.to_owned() + &named(&second);
    assert!(Scratch::new("jsonl", fine).check().is_ok());
    let text = Scratch::new("jsonl", named("a").repeat(1000))
        .check()
        .unwrap_err();
    assert_eq!(text.lines().count(), 1);
    assert!(
        text.starts_with("p:2: ") && text.contains("; 999 rows repeat ids: "),
        "{text}"
    );
}

/// A case is a format and a content; the end of a long message is left out.
#[test]
fn unusable_files_are_refused_with_a_sentence() {
    for (file, text) in cases(include_str!("refused_cases.txt")) {
        let (extension, content) = file.split_once(' ').unwrap_or((file, ""));
        let found = Scratch::new(extension, unescaped(content))
            .check()
            .unwrap_err();
        let found = found.replace('\n', "\\n");
        match text.strip_suffix('…') {
            Some(beginning) => assert!(found.starts_with(beginning), "{file}: {found}"),
            None => assert_eq!(found, text, "{file}"),
        }
    }
}

#[test]
fn faults_are_collected_by_line_up_to_twenty() {
    let content = "{\"prompt\":\"x\"}\n{\"promt\":1}\n".repeat(25);
    let text = Scratch::new("jsonl", content).check().unwrap_err();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 21);
    assert!(lines[0].starts_with("p:2: found an unknown field \"promt\""));
    assert!(lines[19].starts_with("p:40: "));
    assert_eq!(lines[20], "and 5 more");
}

#[test]
fn faults_of_lines_come_before_a_field_that_no_line_has() {
    let file = Scratch::new("jsonl", "no JSON\n");
    let settings = || PromptSettings::new().keep_fields(["team"]);
    let check = |settings| file.open(settings).unwrap().check(hooks());
    let error = check(settings()).unwrap_err();
    assert!(error.message().contains(":1: found "), "{error}");
    assert!(check(settings().skip_bad_rows(true)).is_ok());
    fs::write(&file.0, "{\"prompt\":\"a\"}\n").unwrap();
    let error = check(settings()).unwrap_err();
    assert!(error.message().contains("no line with it"), "{error}");
}

#[test]
fn no_files_have_no_items() {
    let input = InputFile::open_all([], PromptSettings::default()).unwrap();
    assert_eq!(input.check(hooks()).unwrap().len(), 0);
}

#[test]
fn a_list_and_lines_of_the_same_objects_are_the_same_items() {
    let objects = [
        r#"{"id":"a","prompt":"]},{\"\n\\"}"#,
        r#"{"prompt":"b"}"#,
        r#"{"id":3,"messages":[{"role":"user","content":[{"type":"text","text":"[[["}]}]}"#,
        r#"{"prompt":"b"}"#,
    ];
    let lines = Scratch::new("jsonl", objects.join("\n"));
    let (input, index) = lines.check().unwrap();
    let expected = items(&input, &index.finish());
    for list in [
        format!("[{}]", objects.join(",")),
        format!("\u{feff}  [\r\n\t{}\r\n]\n", objects.join(" ,\r\n ")),
    ] {
        let list = Scratch::new("json", list);
        let (input, index) = list.check().unwrap();
        assert_eq!(items(&input, &index.finish()), expected);
    }
}

#[cfg(unix)]
#[test]
fn files_that_cannot_be_read_are_refused() {
    let refused = |path: &str| {
        let settings = PromptSettings {
            form: Some(Form::Text),
            ..PromptSettings::default()
        };
        let folder = std::env::temp_dir();
        let file = convert::open(Path::new(path), &settings, &folder, &Context::new());
        file.err().unwrap().message().to_owned()
    };
    let device = "/dev/null: cannot be read: it is not a regular file; pipe it in and name \"-\" as the input instead";
    assert_eq!(refused("/dev/null"), device);
    assert!(refused("/nonexistent.txt").starts_with("/nonexistent.txt: cannot be read: "));
}

#[test]
fn a_check_can_be_cancelled() {
    let file = Scratch::new("txt", "a\n");
    let input = file.open(PromptSettings::default()).unwrap();
    let hooks = Hooks {
        cancelled: &|| true,
        ..hooks()
    };
    let stopped = input.check(hooks).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
}

#[test]
fn a_file_that_changed_is_not_read_on() {
    let content = "{\"id\":\"a\",\"prompt\":\"one\"}\n{\"id\":\"b\",\"prompt\":\"two\"}\n";
    for changed in [
        content.replace("two", "six"),
        content.replace("\"b\"", "\"c\""),
        content.replace("one", "seventeen"),
        content[..30].to_owned(),
    ] {
        let file = Scratch::new("jsonl", content);
        let (input, index) = file.check().unwrap();
        let index = index.finish();
        fs::write(&file.0, &changed).unwrap();
        let unread = Error::from(input.read(1, &index).unwrap_err());
        let text = file.shown(&unread.message());
        assert!(
            text.starts_with("p: changed during the run (item 2 at byte 26"),
            "{text}"
        );
        assert!(
            text.ends_with("); sending stopped; run the command again"),
            "{text}"
        );
    }
    let file = Scratch::new("jsonl", content);
    let (input, index) = file.check().unwrap();
    let index = index.finish();
    assert_eq!(input.parts()[0].change(), None);
    fs::write(&file.0, content.repeat(2)).unwrap();
    assert_eq!(
        input.parts()[0].change().unwrap(),
        "it had 52 bytes and now has 104"
    );
    assert!(input.read(1, &index).is_ok());
}

#[test]
fn rows_that_quoting_would_merge_are_told_by_the_flag() {
    let table = |extension: &str, text: &str| Scratch::new(extension, text).check();
    // What a spreadsheet writes, and what cannot be two rows.
    table("csv", "id,prompt\n1,\"a\n2,b\"\n").unwrap();
    table("tsv", "id\tprompt\n1\t\"a\nb\"\n").unwrap();
    let prompts = |quotes: bool| {
        let file = Scratch::new("tsv", "id\tprompt\n1\t\"a\n2\tb\"\n");
        let input = file.open(PromptSettings::new().quotes(quotes)).unwrap();
        let index = input.check(hooks()).unwrap().finish();
        let texts = items(&input, &index).into_iter();
        let texts = texts.map(|item| item.request.messages[0].content.to_string());
        texts.collect::<Vec<_>>()
    };
    assert_eq!(prompts(false), [r#""\"a""#, r#""b\"""#]);
    assert_eq!(prompts(true), [r#""a\n2\tb""#]);
}
