//! Complete files, checked and read again, and helpers that the tests of files share.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::file::Item;
use super::*;
use crate::base::random::Random;
use crate::base::seeds::random_cases;
use crate::base::{Context, Error};
use crate::bulk::convert;
use crate::llm::hash::request_hash;
use crate::llm::request::Request;

/// A file that is deleted at the end of its test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(extension: &str, content: impl AsRef<[u8]>) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("batchwright-input-{}-{n}.{extension}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).unwrap();
        Self(path)
    }

    pub(super) fn open(&self, settings: PromptSettings) -> Result<InputFile, Error> {
        let folder = std::env::temp_dir();
        let file = convert::open(&self.0, &settings, &folder, &Context::new())?;
        InputFile::open_all([file], settings)
    }

    pub(super) fn check(&self) -> Result<(InputFile, FileIndex), String> {
        let input = self.open(PromptSettings::default());
        let input = input.map_err(|error| self.shown(&error.message()))?;
        let index = input.check(hooks());
        let index = index.map_err(|error| self.shown(&error.message()))?;
        Ok((input, index))
    }

    /// The text of an error, with a short name for the file.
    pub(super) fn shown(&self, errors: &impl ToString) -> String {
        let path = self.0.display().to_string();
        errors.to_string().replace(&path, "p")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(super) fn hooks() -> Hooks<'static> {
    Hooks {
        classify: &|request| request.messages.len() as u16,
        cancelled: &|| false,
        progress: &|_| {},
    }
}

pub(super) fn items(input: &InputFile, index: &FileIndex) -> Vec<Item> {
    (0..index.len())
        .map(|i| input.read(i, index).unwrap())
        .collect()
}

#[test]
fn the_extension_selects_the_format() {
    let names = ["a.jsonl", "a.NDJSON", "a.json", "a.Csv", "a.tsv", "a.b.txt"];
    let forms = names.map(|name| Form::of(Path::new(name)).unwrap());
    use Form::{Csv, Json, Jsonl, Text, Tsv};
    assert_eq!(forms, [Jsonl, Jsonl, Json, Csv, Tsv, Text]);
    let known = ".jsonl, .json, .csv, .tsv, .txt, .parquet or .xlsx";
    let refused = |name: &str| Form::of(Path::new(name)).unwrap_err().to_string();
    let sheet = format!(
        "a.ods: found a spreadsheet (.ods); expected {known}: save it as .xlsx or CSV UTF-8"
    );
    assert_eq!(refused("a.ods"), sheet);
    let format =
        "or its format: --format txt for a prompt per line, --format whole for one prompt per file";
    let plain = format!("a: found a file without an extension; expected {known}, {format}");
    assert_eq!(refused("a"), plain);
    let other = format!("a.md: found a .md file; expected {known}, {format}");
    assert_eq!(refused("a.md"), other);
    for (name, found, help) in [
        (
            "a.arrow",
            "an Arrow stream (.arrow)",
            "ipc.open_stream('a.arrow').read_all(), 'a.arrow.parquet')\"",
        ),
        (
            "a.feather",
            "a Feather file (.feather)",
            "read_feather('a.feather').to_json('a.feather.jsonl', orient='records', lines=True)\"",
        ),
        (
            "a.zip",
            "an archive (.zip)",
            ": unpack it and name the files in it",
        ),
        (
            "a.jsonl.bz2",
            "packed data (.bz2)",
            ": unpack it: bzip2 -dk a.jsonl.bz2",
        ),
        (
            "a.ipynb",
            "a notebook (.ipynb)",
            "add --format json:cells --template '{{source|join}}' --bad-rows skip",
        ),
        (
            "a b.yaml",
            "YAML (.yaml)",
            "json.dumps(yaml.safe_load(open('in.yaml'))))\" > in.yaml.json",
        ),
    ] {
        let text = refused(name);
        assert!(
            text.starts_with(&format!("{name}: found {found}; expected {known}: ")),
            "{text}"
        );
        assert!(text.ends_with(help), "{text}");
    }
    let folder =
        "/: found a folder; expected a file: this program was built without the feature `files`";
    assert_eq!(refused("/"), folder);
}

#[test]
fn mixed_lines_are_counted_and_read_again() {
    let content = [
        r#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":"one"}]}}"#,
        r#"{"prompt":"two"}"#,
        "",
        r#"{"id":5,"messages":[{"role":"user","content":"three"},{"role":"user","content":"x"}]}"#,
        r#"{"prompt":"two"}"#,
    ]
    .join("\r\n");
    let file = Scratch::new("jsonl", format!("\u{feff}{content}"));
    let (input, index) = file.check().unwrap();
    assert_eq!((index.len(), index.unnamed), (4, 3));
    let bytes = content.len() as u64 + 3;
    let index = index.finish();
    assert_eq!((index[0].offset(), index.end(3)), (0, bytes));
    assert_eq!([index[0].class(), index[2].class()], [1, 2]);
    let items = items(&input, &index);
    let hash = request_hash(&Request::new("two"));
    let ids = items.iter().map(|item| item.request.id.as_deref().unwrap());
    assert_eq!(
        Vec::from_iter(ids),
        ["a", &hash[..16], "5", &format!("{}-2", &hash[..16])]
    );
    assert_eq!(items[3].request_hash, hash);
    assert_eq!(Some(index[3].request), hash_prefix(&hash));
}

#[test]
fn random_files_are_read_again_exactly() {
    let mut random = Random(3);
    for round in 0..random_cases(12, 60) {
        let mut content = if round % 2 == 0 { "\u{feff}" } else { "" }.to_owned();
        let mut expected = Vec::new();
        for i in 0..random.index(300) + 1 {
            let text = "äb\" \\".repeat(random.index(200) + 1);
            let line = serde_json::json!({"id": i, "prompt": text}).to_string();
            expected.push(Request::new(text).with_id(i.to_string()));
            content += &line;
            content += ["\n", "\r\n", "\n\n", "\n \r\n"][random.index(4)];
        }
        if round % 3 == 0 {
            content.truncate(content.trim_end().len());
        }
        let file = Scratch::new("jsonl", &content);
        let (input, index) = file.check().unwrap();
        let index = index.finish();
        let read = items(&input, &index).into_iter().map(|item| item.request);
        assert!(read.eq(expected));
    }
}

#[test]
fn files_of_many_chunks_are_cut_between_records() {
    let mut random = Random(5);
    let mut content = String::from("id,prompt\r\n");
    let mut expected = Vec::new();
    for i in 0..200 {
        let text = "line \"one\",\nline two\r\n".repeat(random.index(2000) + 1);
        content += &format!("{i},\"{}\"\r\n", text.replace('"', "\"\""));
        expected.push(Request::new(text).with_id(i.to_string()));
    }
    // Longer than a chunk.
    let text = "y\n".repeat(3 << 19);
    content += &format!("last,\"{text}\"");
    expected.push(Request::new(text).with_id("last"));
    let file = Scratch::new("csv", &content);
    let seen = AtomicU64::new(0);
    let input = file.open(PromptSettings::default()).unwrap();
    let hooks = Hooks {
        progress: &|bytes| seen.store(bytes, Ordering::Relaxed),
        ..hooks()
    };
    let index = input.check(hooks).unwrap().finish();
    assert_eq!(seen.into_inner(), index.end(200));
    let read = items(&input, &index).into_iter().map(|item| item.request);
    assert!(read.eq(expected));
}

fn read(extension: &str, content: &str, settings: PromptSettings) -> Vec<Request> {
    let file = Scratch::new(extension, content);
    let input = file.open(settings).unwrap();
    let index = input.check(hooks()).unwrap().finish();
    let read = items(&input, &index).into_iter();
    read.map(|item| item.request).collect()
}

#[test]
fn a_list_in_a_field_of_an_object_is_the_list() {
    let list = r#"[{"id":"a","prompt":"]}"},{"id":"b","prompt":"q"}]"#;
    let expected = read("json", list, PromptSettings::new());
    let settings = || PromptSettings::new().input_format(Form::Json).list("rows");
    for text in [
        format!("{{\"rows\":{list}}}"),
        format!(
            "\u{feff} {{\"more\":[{{\"prompt\":\"x\"}}],\r\n\"rows\" : {list}\n, \"n\":{{}}}}\n"
        ),
    ] {
        assert_eq!(read("json", &text, settings()), expected);
    }
    for (text, why) in [
        (
            "[]",
            "found a list; expected an object with the list \"rows\"",
        ),
        (
            "{\"row\":[]}",
            "found no field \"rows\"; expected a list of objects: --format json:FIELD",
        ),
        (
            "{\"rows\":[],\"rows\":[]}",
            "found the field \"rows\" twice",
        ),
        ("{\"rows\":{}}", "expected a list;"),
        ("{\"rows\":[]", "EOF while parsing an object"),
    ] {
        let error = Scratch::new("json", text).open(settings()).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn a_table_without_a_header_has_numbered_columns() {
    let settings = PromptSettings::new().without_header(true);
    let settings = settings.template("{{column 2}}|{{column 1}}").unwrap();
    let prompts = read("csv", "a;\"x\ny\"\n\nb;z\n", settings);
    let texts = prompts.iter().map(|request| &request.messages[0].content);
    assert_eq!(Vec::from_iter(texts), ["x\ny|a", "z|b"]);
}

#[test]
fn a_whole_file_is_one_prompt_under_its_name() {
    let settings = || PromptSettings::new().input_format(Form::Whole);
    let text = "\u{feff}# Title\r\n\r\n\"a\",b\n";
    let file = Scratch::new("md", text);
    let id = file.0.display().to_string();
    let input = file.open(settings()).unwrap();
    let index = input.check(hooks()).unwrap().finish();
    let expected = Request::new(&text[3..]).with_id(id);
    assert_eq!(items(&input, &index)[0].request, expected);
    let template = settings().template("{{path}}:{{content}}").unwrap();
    assert_eq!(read("log", "x\n", template).len(), 1);
    for (content, why) in [(&b"a\xff"[..], "invalid UTF-8"), (b" \n", "empty prompt")] {
        let file = Scratch::new("md", content);
        let error = file.open(settings()).and_then(|input| input.check(hooks()));
        let error = error.err().unwrap();
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn a_line_with_its_input_is_embedded() {
    let settings = PromptSettings::new().task(crate::llm::params::RequestTask::Embed);
    let lines = "{\"model\":\"m\",\"input\":\"a\"}\n{\"prompt\":\"b\"}\n{\"input\":[1,2]}\n";
    let prompts = read("jsonl", lines, settings);
    let texts = prompts.iter().map(|request| &request.messages[0].content);
    let expected = [
        serde_json::json!("a"),
        "b".into(),
        serde_json::json!([1, 2]),
    ];
    assert!(texts.eq(&expected));
    assert_eq!(prompts[0].model.as_deref(), Some("m"));
}
