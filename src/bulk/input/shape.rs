//! What helps with an input that cannot be read as it is: another kind of file, or an object where a list is expected.

use std::borrow::Cow;
use std::path::Path;

use serde_json::value::RawValue;

use super::cells::Field;
use super::fault::{Fault, listed, placeholder};
use crate::base::json_read::JsonObject;
use crate::base::names::quoted;
use crate::llm::params::RequestTask;

/// Kinds of files that are not read: their extensions, what they are, and what helps. `IN` is the file.
const OTHERS: [(&[&str], &str, &str); 8] = [
    (
        &["xls", "ods", "numbers"],
        "a spreadsheet",
        "save it as .xlsx or CSV UTF-8",
    ),
    (
        &["arrow"],
        "an Arrow stream",
        "convert it: python3 -c \"import pyarrow as a, pyarrow.parquet as p; \
         p.write_table(a.ipc.open_stream('IN').read_all(), 'IN.parquet')\"",
    ),
    (
        &["feather"],
        "a Feather file",
        "convert it: python3 -c \"import pandas; \
         pandas.read_feather('IN').to_json('IN.jsonl', orient='records', lines=True)\"",
    ),
    (
        &["zip", "7z", "rar", "tar", "tgz"],
        "an archive",
        "unpack it and name the files in it",
    ),
    (&["bz2"], "packed data", "unpack it: bzip2 -dk IN"),
    (
        &["ipynb"],
        "a notebook",
        "for a prompt per cell add --format json:cells --template '{{source|join}}' --bad-rows skip",
    ),
    (
        &["yaml", "yml"],
        "YAML",
        "convert it: python3 -c \"import json, yaml; print(json.dumps(yaml.safe_load(open('IN'))))\" > IN.json",
    ),
    (
        &["pdf", "docx", "doc", "odt", "epub"],
        "a document",
        "save it as text, and for one prompt per file add --format whole",
    ),
];

/// Fields of common sets of data that have an answer, not a part of the prompt.
const ANSWERS: &str = "answer answers best_answer canonical_solution chosen completion expected ideal label output reference \
    rejected response solution target test";

/// The template to propose for a record with these fields: with the one whose text is most likely a part of the prompt. It
/// has words, not only a name or an address, and is no answer; of several the longest one is taken.
pub(super) fn proposed<'f>(
    fields: impl Iterator<Item = (&'f str, Field<'f>)>,
    task: RequestTask,
) -> Option<String> {
    let texts = fields.flat_map(|(name, field)| match field {
        Field::Null => Vec::new(),
        Field::Text(text) => vec![(name.to_owned(), text)],
        Field::Json(json) => texts_in(name, &json),
    });
    let texts =
        texts.filter(|(name, _)| !name.trim().is_empty() && !name.contains(char::is_control));
    let rank = |(name, text): &(String, Cow<'_, str>)| {
        let is_answer = ANSWERS
            .split(' ')
            .any(|answer| name.eq_ignore_ascii_case(answer));
        let is_word = |word: &&str| word.contains(char::is_alphabetic);
        let has_words = text.split_whitespace().filter(is_word).nth(1).is_some();
        (!is_answer, has_words, text.chars().count())
    };
    let best = texts.reduce(|best, other| {
        if rank(&other) > rank(&best) {
            other
        } else {
            best
        }
    });
    let (name, _) = best?;
    let lead = match task {
        RequestTask::Complete | RequestTask::Speech => "Summarize: ",
        RequestTask::Embed => "",
    };
    let template = format!("{lead}{}", placeholder(&name, ""));
    Some(format!("--template {}", quoted(&template)))
}

/// The first of several texts, or those in an object.
fn texts_in(name: &str, json: &str) -> Vec<(String, Cow<'static, str>)> {
    if let Ok(texts) = serde_json::from_str::<Vec<String>>(json) {
        let first = texts.into_iter().next();
        return Vec::from_iter(first.map(|text| (format!("{name}[0]"), text.into())));
    }
    let object = JsonObject::parse(json).unwrap_or_default();
    let texts = object
        .fields()
        .filter_map(|(key, value)| match Field::of(value) {
            Field::Text(text) if !key.contains(['.', '[']) => {
                Some((format!("{name}.{key}"), text.into_owned().into()))
            }
            _ => None,
        });
    texts.collect()
}

/// What a file of another kind is, and what helps.
pub(super) fn of_other(path: &Path, extension: &str, accepted: &str) -> Fault {
    let known = OTHERS.iter().find(|(names, ..)| names.contains(&extension));
    let Some((_, what, help)) = known else {
        let found = match extension {
            "" => "a file without an extension".to_owned(),
            other => format!("a .{other} file"),
        };
        let expected = format!(
            "{accepted}, or its format: --format txt for a prompt per line, --format whole for one prompt per file"
        );
        return Fault::new(found, expected);
    };
    let file = file_or(&path.to_string_lossy(), extension);
    Fault::new(
        format!("{what} (.{extension})"),
        format!("{accepted}: {}", help.replace("IN", &file)),
    )
}

/// A file in a command, unless a shell would need quotes for its name.
fn file_or(name: &str, extension: &str) -> String {
    match quoted(name) {
        plain if plain == name => plain,
        _ => format!("in.{extension}"),
    }
}

/// The fault of a text that begins with an object where one list is expected; `name` is its file.
pub(crate) fn of_object(name: &str, text: &str) -> Fault {
    let text = text.trim();
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    let is_line = JsonObject::parse(line).is_some();
    let object = JsonObject::parse(text).unwrap_or_default();
    let fault = |found: &str, help: String| {
        Fault::new(found, "one list of objects: [{…}, {…}]").with_flags(help)
    };
    let begins = |value: &RawValue, with: &str| {
        let mut text = value.get();
        with.chars().all(|c| {
            let rest = text.trim_start().strip_prefix(c);
            rest.map(|rest| text = rest).is_some()
        })
    };
    let all = || object.fields().filter(|(name, _)| *name != "messages");
    let mut lists: Vec<&str> = all()
        .filter(|(_, value)| begins(value, "[{"))
        .map(|(name, _)| name)
        .collect();
    // A list of prompts is longer than all else; other lists of texts are tags.
    let longest = all().max_by_key(|(_, value)| value.get().len());
    let texts = longest.filter(|(_, value)| lists.is_empty() && begins(value, "[\""));
    lists.extend(texts.map(|(name, _)| name));
    if let Some(first) = lists.first() {
        let found = format!("an object with lists in {}", listed(lists.iter().copied()));
        let format = quoted(&format!("json:{first}"));
        return fault(&found, format!("for a row per element: --format {format}"));
    }
    let file = file_or(name, "json");
    let pandas = |orient: &str| {
        let read = format!("pandas.read_json('{file}', orient='{orient}')");
        let write = format!("to_json('{file}l', orient='records', lines=True)");
        let help = format!("convert it: python3 -c \"import pandas; {read}.{write}\"");
        fault("the columns of a table, as pandas writes them", help)
    };
    let values: Vec<&RawValue> = object.fields().map(|(_, value)| value).collect();
    let is_column = |value| JsonObject::parse(value).is_some_and(|rows| rows.get("0", 0).is_some());
    if object.get("data", 2).is_some_and(|rows| begins(rows, "[[")) {
        return pandas("split");
    }
    if !object.0.is_empty() && values.iter().all(|value| is_column(value.get())) {
        return pandas("columns");
    }
    if is_line {
        let found = if rest.is_empty() {
            "an object"
        } else {
            "an object per line"
        };
        return fault(found, "name it .jsonl, or add --format jsonl".to_owned());
    }
    if !object.0.is_empty() && values.iter().all(|value| begins(value, "{")) {
        let filter = "'to_entries[] | {id: .key} + .value'";
        return fault(
            "an object of objects",
            format!("jq -c {filter} {file} > in.jsonl"),
        );
    }
    fault(
        "an object",
        format!("for lines of objects: jq -c . {file} > in.jsonl"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_with_words_that_is_no_answer_is_proposed() {
        let of = |line: &str| {
            let object = JsonObject::parse(line).unwrap();
            let fields = object
                .fields()
                .map(|(name, value)| (name, Field::of(value)));
            proposed(fields, RequestTask::Complete).unwrap_or_default()
        };
        for (line, name) in [
            (
                r#"{"recordId":"https://example.com/a-long-one","title":"Two words"}"#,
                "{{title}}",
            ),
            (
                r#"{"input":"Which one is it?","target":"(B), because it is the longest one"}"#,
                "{{input}}",
            ),
            (
                r#"{"answer":"It is a long one.","question":"Why?"}"#,
                "{{question}}",
            ),
            (
                r#"{"question_id":81,"category":"writing","turns":["Write a text.","More"]}"#,
                "{{turns[0]}}",
            ),
            (r#"{"a":"one two","b":"two one"}"#, "{{a}}"),
            (
                r#"{"type":"Feature","properties":{"height":8,"name":"High peak"},"geometry":{"type":"Point"}}"#,
                "{{properties.name}}",
            ),
            (
                r#"{"code":"x","n":5,"none":null,"":"no name","line\n":"of a name"}"#,
                "{{code}}",
            ),
            (r#"{"a|b":"some text"}"#, "{{row[\"a|b\"]}}"),
            (r#"{"it's":"some text"}"#, "{{it'\\''s}}"),
        ] {
            assert_eq!(
                of(line),
                format!("--template 'Summarize: {name}'"),
                "{line}"
            );
        }
        assert_eq!(of(r#"{"n":5}"#), "");
    }
}
