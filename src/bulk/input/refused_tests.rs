//! Files that are rejected, and ids that must be distinguished.

use std::fs;

use super::tests::{Scratch, hooks, items};
use super::*;
use crate::base::Error;
use crate::base::cases::{cases, unescaped};
use crate::llm::hash::request_hash;
use crate::llm::request::Request;

#[test]
fn repeated_ids_name_both_lines() {
    let automatic = &request_hash(&Request::new("q"))[..16];
    for (content, text) in [
        (
            format!("{{\"prompt\":\"q\"}}\n{{\"prompt\":\"x\",\"id\":\"{automatic}\"}}"),
            format!(
                "p:2: found the id \"{automatic}\", which line 1 has already; expected a different id for every item"
            ),
        ),
        (
            format!(
                "{{\"prompt\":\"x\",\"id\":\"{automatic}-2\"}}\n{{\"prompt\":\"q\"}}\n{{\"prompt\":\"q\"}}"
            ),
            format!(
                "p:3: found the id \"{automatic}-2\", which line 1 has already; expected a different id for every item"
            ),
        ),
    ] {
        let file = Scratch::new("jsonl", content);
        assert_eq!(file.check().unwrap_err(), text);
    }
    let fine = format!("{{\"prompt\":\"q\"}}\n{{\"prompt\":\"x\",\"id\":\"{automatic}-2\"}}");
    assert!(Scratch::new("jsonl", fine).check().is_ok());
    let many = "{\"id\":\"a\",\"prompt\":\"1\"}\n".repeat(1000);
    let text = Scratch::new("jsonl", many).check().unwrap_err();
    assert_eq!(text.lines().count(), 21);
    assert!(
        text.starts_with("p:2: ") && text.ends_with("there may be more"),
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
    let content: String = (1..=50)
        .map(|i| {
            if i % 2 == 0 {
                "{\"promt\":1}\n"
            } else {
                "{\"prompt\":\"x\"}\n"
            }
        })
        .collect();
    let text = Scratch::new("jsonl", content).check().unwrap_err();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 21);
    assert!(lines[0].starts_with("p:2: found an unknown field \"promt\""));
    assert!(lines[19].starts_with("p:40: "));
    assert_eq!(lines[20], "and 5 more");
}

#[test]
fn faults_of_a_list_name_the_item_and_those_of_its_form_the_line() {
    let list = b"\xef\xbb\xbf\r\n[{\"prompt\":\"a\\u0000\", \"id\": 1},\r\n{},\r\n[{}], {\"id\":1,\"prompt\":\"b\"} ]\r\n";
    let text = Scratch::new("json", list).check().unwrap_err();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("p: item 2: found only the fields"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("p: item 3: found a list ([{}]); "),
        "{text}"
    );
    let twice = "p: item 4: found the id \"1\", which item 1 has already; expected a different id for every item";
    assert_eq!(lines[2..], [twice]);
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

#[test]
fn files_that_cannot_be_read_are_refused() {
    #[cfg(unix)]
    {
        let device = InputFile::open(
            Path::new("/dev/null"),
            Form::Text,
            PromptSettings::default(),
        );
        assert_eq!(
            device.unwrap_err().to_string(),
            "/dev/null: cannot be read: it is not a regular file; \
             pipe it in and name \"-\" as the input instead"
        );
    }
    let missing = InputFile::open(
        Path::new("/nonexistent.txt"),
        Form::Text,
        PromptSettings::default(),
    );
    let text = missing.unwrap_err().to_string();
    assert!(
        text.starts_with("/nonexistent.txt: cannot be read: "),
        "{text}"
    );
}

#[test]
fn a_check_can_be_cancelled() {
    let file = Scratch::new("txt", "a\n");
    let input = file.open(PromptSettings::default()).unwrap();
    let hooks = Hooks {
        cancelled: &|| true,
        ..hooks()
    };
    assert!(input.check(hooks).unwrap_err().is_cancelled());
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
    assert_eq!(input.change(), None);
    fs::write(&file.0, content.repeat(2)).unwrap();
    assert_eq!(input.change().unwrap(), "it had 52 bytes and now has 104");
    assert!(input.read(1, &index).is_ok());
}

#[test]
fn a_template_is_checked_against_the_columns_before_any_row() {
    let file = Scratch::new("csv", "name,city\nA,B\nC,D\n");
    let settings = |template: &str| PromptSettings {
        template: Some(Template::parse(template).unwrap()),
        ..PromptSettings::default()
    };
    let error = file.open(settings("{{nam}}")).unwrap_err();
    assert_eq!(
        file.shown(&error),
        "p:1: found {{nam}} (did you mean \"name\"?) in the template; \
         expected one of the columns: \"name\", \"city\""
    );
    let input = file.open(settings("{{city}}/{{name}}")).unwrap();
    let index = input.check(hooks()).unwrap().finish();
    assert_eq!(
        input.read(1, &index).unwrap().request.messages[0].text(),
        "D/C"
    );
}

#[test]
fn rows_that_quoting_would_merge_or_alter_are_refused() {
    let table = |extension: &str, text: &str| Scratch::new(extension, text).check();
    let misquoted = [
        ("csv", "id,prompt\n1,\"Size 12\\\" pipe\"\n", "p:2: "),
        ("csv", "prompt\nx\n\"a\"b\n", "p:3: "),
        ("tsv", "id\tprompt\n1\t\"a\n2\tb\n3\t\"c\n", "p:2: "),
        ("csv", "\"id\"x,prompt\n1,a\n", "p:1: "),
    ];
    for (extension, text, place) in misquoted {
        let fault = table(extension, text).unwrap_err();
        assert!(fault.starts_with(place), "{fault}");
        let told = fault.contains("found text after the closing quotation mark of field ")
            && fault.contains("--quotes off");
        assert!(told, "{fault}");
    }
    let merged = "id\tprompt\n1\t\"a\n2\tb\"\n";
    assert_eq!(
        table("tsv", merged).unwrap_err(),
        "p:2: found a quoted field of several lines, each of which could be a row; expected --quotes off if quotation \
         marks are text in this file, or --quotes on if they enclose fields"
    );
    // What a spreadsheet writes, and what cannot be two rows.
    table("csv", "id,prompt\n1,\"a\n2,b\"\n").unwrap();
    table("tsv", "id\tprompt\n1\t\"a\nb\"\n").unwrap();
    let prompts = |quotes: bool| {
        let file = Scratch::new("tsv", merged);
        let input = file.open(PromptSettings::new().quotes(quotes)).unwrap();
        let index = input.check(hooks()).unwrap().finish();
        let texts = items(&input, &index).into_iter();
        let texts = texts.map(|item| item.request.messages[0].content.to_string());
        texts.collect::<Vec<_>>()
    };
    assert_eq!(prompts(false), [r#""\"a""#, r#""b\"""#]);
    assert_eq!(prompts(true), [r#""a\n2\tb""#]);
}
