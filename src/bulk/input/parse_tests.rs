use serde_json::{Value, json};

use super::*;
use crate::base::cases::{cases, unescaped};
use crate::bulk::input::Template;
use crate::llm::params::ResponseFormat;
use crate::llm::request::Role;

/// A record of an input in the working folder.
fn parsed(
    form: Form,
    header: Option<&CsvHeader>,
    bytes: &[u8],
    settings: &PromptSettings,
) -> Result<Request, Fault> {
    let root = Root::new(std::path::Path::new(""), false);
    parse_record(form, header, bytes, settings, &root)
}

fn json_line(line: &str) -> Result<Request, Fault> {
    parsed(
        Form::Jsonl,
        None,
        line.as_bytes(),
        &PromptSettings::default(),
    )
}

fn with_template(template: &str) -> PromptSettings {
    PromptSettings {
        template: Some(Template::parse(template).unwrap()),
        ..PromptSettings::default()
    }
}

fn fault(line: &str) -> String {
    json_line(line).unwrap_err().to_string()
}

#[test]
fn a_prompt_line_is_one_user_message() {
    let request = json_line(r#"{"id":"a","prompt":"hi"}"#).unwrap();
    assert_eq!(request, Request::new("hi").with_id("a"));
    let request = json_line(r#"{"id":-7,"prompt":"hi","model":"m","system":"s"}"#).unwrap();
    let expected = Request::new("hi").with_id("-7").with_model("m");
    assert_eq!(request, expected.with_system("s"));
    let request = json_line(r#"{"custom_id":18446744073709551615,"prompt":"hi"}"#).unwrap();
    assert_eq!(request.id.as_deref(), Some("18446744073709551615"));
    let request = json_line(r#"{"prompt":"hi","extra":{"top_k":5},"n":1}"#).unwrap();
    assert_eq!(request, Request::new("hi").with_extra("top_k", 5.into()));
}

#[test]
fn tools_are_accepted_next_to_a_prompt_or_in_extra() {
    let beside = json_line(r#"{"prompt":"hi","tools":[{"type":"x"}],"tool_choice":null}"#).unwrap();
    let inside = json_line(r#"{"prompt":"hi","extra":{"tools":[{"type":"x"}]}}"#).unwrap();
    assert_eq!(beside, inside);
    let both = fault(r#"{"prompt":"hi","tools":[],"extra":{"tools":[]}}"#);
    assert!(both.contains("inside \"extra\" and next to it"), "{both}");
    let template = with_template("{{tools}}");
    let request = parsed(Form::Jsonl, None, br#"{"tools":"hammer"}"#, &template).unwrap();
    assert_eq!(request, Request::new("hammer"));
}

#[test]
fn a_message_line_keeps_parts_calls_and_further_fields() {
    let request = json_line(
        r#"{"messages":[{"role":"developer","content":"d"},
        {"role":"user","content":[{"type":"text","text":"t"}],"name":"n"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"c"}]},
        {"role":"tool","content":"r","tool_call_id":"c"}]}"#,
    )
    .unwrap();
    assert_eq!(request.id, None);
    assert_eq!(request.messages.len(), 4);
    assert_eq!(request.messages[0].role, Role::Developer);
    assert_eq!(request.messages[1].text(), "t");
    assert_eq!(request.messages[1].extra["name"], "n");
    assert_eq!(request.messages[2].content, Value::Null);
    assert_eq!(request.messages[3].extra["tool_call_id"], "c");
}

/// Datasets for the training of models have conversations in `prompt` too. In a Parquet file each message has the fields
/// of all others.
#[test]
fn a_table_may_have_conversations() {
    let row = |names: &str, row: &str| {
        let settings = PromptSettings::default();
        let header = CsvHeader::parse(Form::JsonRows, names.as_bytes(), b"", "prompt", &settings)?;
        parsed(Form::JsonRows, Some(&header), row.as_bytes(), &settings)
    };
    let line = json_line(
        r#"{"id":"1","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},
        {"role":"assistant","tool_calls":[{"id":"c"}]},{"role":"tool","content":"r","tool_call_id":"c"}]}"#,
    )
    .unwrap();
    let list = r#"[{"role":"user","content":[{"type":"text","text":"hi","image_url":null}],"tool_calls":null},
        {"role":"assistant","content":null,"tool_calls":[{"id":"c","function":null}],"tool_call_id":null},
        {"role":"tool","content":"r","tool_call_id":"c","tool_calls":null}]"#;
    for name in ["messages", "prompt"] {
        let names = format!(r#"["id","{name}","other"]"#);
        let request = row(&names, &format!(r#"["1",{list},7]"#)).unwrap();
        assert_eq!(request, line, "{name}");
    }
    let request = json_line(r#"{"id":"1","prompt":[{"role":"user","content":"a"}]}"#).unwrap();
    let text = r#"["1","[{\"role\":\"user\",\"content\":\"a\"}]"]"#;
    assert_eq!(row(r#"["id","messages"]"#, text).unwrap(), request);
    let texts = row(r#"["prompt"]"#, r#"[["a","b"]]"#).unwrap();
    assert_eq!(texts, Request::new(r#"["a","b"]"#));
    let both = row(r#"["messages","prompt"]"#, r#"[[],"a"]"#).unwrap();
    assert_eq!(both, Request::new("a"));
    for (cell, text) in [
        (
            "[]",
            "found a list ([]) in \"messages\"; expected a list of messages",
        ),
        (
            "\"please\"",
            "found please in \"messages\"; expected a list of messages, as JSON",
        ),
        ("null", "found null in \"messages\"; expected"),
        (
            r#"[{"content":"a"}]"#,
            "found null in \"messages[0].role\"; expected system, developer, user, assistant or tool",
        ),
    ] {
        let fault = row(r#"["messages"]"#, &format!("[{cell}]")).unwrap_err();
        assert!(fault.to_string().starts_with(text), "{fault}");
    }
}

#[test]
fn a_batch_line_maps_known_fields_and_passes_on_others() {
    let line = json!({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "m", "messages": [{"role": "user", "content": "q"}], "temperature": 1,
        "top_p": 0.5, "seed": -3, "stop": "x", "max_completion_tokens": 9, "max_tokens": 9,
        "response_format": {"type": "json_schema", "json_schema":
            {"name": "a_b", "schema": {"type": "object"}, "strict": true, "description": "d"}},
        "stream": false, "stream_options": {"a": 1}, "n": 1, "user": null, "top_k": 4,
        "system": "untouched"}});
    let request = json_line(&line.to_string()).unwrap();
    assert_eq!(request.id.as_deref(), Some("c"));
    assert_eq!(request.model.as_deref(), Some("m"));
    assert_eq!(request.params.temperature, Some(1.0));
    assert_eq!(request.params.top_p, Some(0.5));
    assert_eq!(request.params.seed, Some(-3));
    assert_eq!(request.params.stop, ["x"]);
    assert_eq!(request.params.max_tokens, Some(9));
    let Some(ResponseFormat::JsonSchema {
        name,
        schema,
        strict,
    }) = request.params.response_format
    else {
        panic!("no schema");
    };
    assert_eq!((name.as_str(), strict), ("a_b", true));
    assert_eq!(schema, json!({"type": "object", "description": "d"}));
    let extra = json!({"user": null, "top_k": 4, "system": "untouched"});
    assert_eq!(Value::Object(request.extra), extra);
}

#[test]
fn a_template_writes_numbers_as_the_record_does() {
    let settings = with_template("{{ n }}");
    for number in [
        "1.10",
        "1e2",
        "1.0",
        "18446744073709551616",
        "12345678901234567890123.50",
        "0.1234567890123456789",
    ] {
        let line = format!(r#"{{"other":2.50, "\u006e": {number} }}"#);
        let request = parsed(Form::Jsonl, None, line.as_bytes(), &settings).unwrap();
        assert_eq!(request, Request::new(number));
    }
}

#[test]
fn a_template_takes_any_object() {
    let settings = with_template("{{city}} {{n}} {{ok}} {{x}}");
    let line = r#"{"id":3,"city":"{{n}}","n":1.50,"ok":true,"x":12345678901234567890,"z":null,
        "model":"m","system":"s","promt":"unused"}"#;
    let request = parsed(Form::Jsonl, None, line.as_bytes(), &settings).unwrap();
    let expected = Request::new("{{n}} 1.50 true 12345678901234567890").with_id("3");
    assert_eq!(request, expected.with_model("m").with_system("s"));
    for (line, text) in [
        (
            r#"{"citi":"a"}"#,
            "found {{city}} (did you mean \"citi\"?), {{n}}, {{ok}}, {{x}} in the template; \
             expected one of the line's fields: \"citi\"",
        ),
        (
            r#"{"city":[],"n":1,"ok":true,"x":1}"#,
            "found a list ([]) in \"city\"; expected a string, number or boolean for the template",
        ),
        (
            r#"{"city":null,"n":1,"ok":true,"x":1}"#,
            "found null in \"city\"; expected a value",
        ),
    ] {
        let fault = parsed(Form::Jsonl, None, line.as_bytes(), &settings).unwrap_err();
        assert_eq!(fault.to_string(), text);
    }
    let empty = parsed(
        Form::Jsonl,
        None,
        br#"{"a":" "}"#,
        &with_template("{{a}}\n"),
    );
    assert_eq!(
        empty.unwrap_err().found,
        "the fields of the template all empty: \"a\""
    );
}

#[test]
fn defaults_fill_only_missing_fields() {
    let settings = PromptSettings {
        model: Some("default".to_owned()),
        system: Some("sys".to_owned()),
        max_tokens: Some(5),
        temperature: Some(0.5),
        format: Some(ResponseFormat::JsonObject),
        ..PromptSettings::default()
    };
    let parse = |line: &str| parsed(Form::Jsonl, None, line.as_bytes(), &settings).unwrap();
    let filled = parse(r#"{"prompt":"q"}"#);
    assert_eq!(filled.model.as_deref(), Some("default"));
    assert_eq!(filled.system.as_deref(), Some("sys"));
    assert_eq!(filled.params.max_tokens, Some(5));
    assert_eq!(filled.params.temperature, Some(0.5));
    assert_eq!(
        filled.params.response_format,
        Some(ResponseFormat::JsonObject)
    );
    let own = parse(
        r#"{"prompt":"q","model":"m","system":"s","max_tokens":1,"temperature":0,
        "response_format":{"type":"text"}}"#,
    );
    assert_eq!(own.model.as_deref(), Some("m"));
    assert_eq!(own.system.as_deref(), Some("s"));
    assert_eq!(own.params.max_tokens, Some(1));
    assert_eq!(own.params.temperature, Some(0.0));
    assert_eq!(own.params.response_format, None);
}

#[test]
fn text_lines_are_prompts_and_keep_their_blanks() {
    let text = |line: &[u8], settings: &PromptSettings| parsed(Form::Text, None, line, settings);
    let none = PromptSettings::default();
    assert_eq!(text(b" hi \r\n", &none).unwrap(), Request::new(" hi "));
    let template = with_template("<{{prompt}}>");
    assert_eq!(
        text(b"a {{b}}", &template).unwrap(),
        Request::new("<a {{b}}>")
    );
    let fault = text(b"ab\xffc", &none).unwrap_err();
    assert_eq!(fault.found, "invalid UTF-8 at byte 2 of the record");
    assert!(fault.expected.contains("iconv -f WINDOWS-1252"), "{fault}");
}

#[test]
fn every_fault_names_found_and_expected_values() {
    for (line, text) in cases(include_str!("parse_cases.txt")) {
        assert_eq!(fault(line), text, "{line}");
    }
    let text = fault(&format!(r#"{{"id":"{}","prompt":"q"}}"#, "x".repeat(513)));
    let excerpt = format!("a string (\"{}…)", "x".repeat(58));
    let expected = format!("found {excerpt} in \"id\"; expected at most 512 bytes, not 513");
    assert_eq!(text, expected);
}

#[test]
fn rows_use_their_columns() {
    let csv = |header: &str, row: &str, template: Option<&str>| {
        let settings = template.map_or_else(PromptSettings::default, with_template);
        let header = CsvHeader::parse(Form::Csv, header.as_bytes(), b"", "prompt", &settings)?;
        parsed(Form::Csv, Some(&header), row.as_bytes(), &settings)
    };
    assert_eq!(
        csv("prompt, id ,model", "\"a\nb\",7,m", None).unwrap(),
        Request::new("a\nb").with_id("7")
    );
    assert_eq!(csv("id,prompt", ",a", None).unwrap(), Request::new("a"));
    assert_eq!(
        csv(
            "custom_id,a b",
            "x,\"{{a b}}, \"\"1\"\"\"",
            Some("<{{ a b }}>")
        )
        .unwrap(),
        Request::new("<{{a b}}, \"1\">").with_id("x")
    );
    for (case, text) in cases(include_str!("row_cases.txt")) {
        let [header, row, template] = [0, 1, 2].map(|at| case.split(" |").nth(at).unwrap().trim());
        let template = (!template.is_empty()).then_some(template);
        let fault = csv(header, &unescaped(row), template).unwrap_err();
        assert_eq!(fault.to_string(), text);
    }
}

#[test]
fn a_text_template_knows_only_the_prompt() {
    let settings = with_template("{{promt}}");
    assert_eq!(
        settings.check(Form::Text).unwrap_err().to_string(),
        "found {{promt}} (did you mean \"prompt\"?) in the template; \
         expected the line as a whole: \"prompt\""
    );
    assert!(settings.check(Form::Jsonl).is_ok());
}

#[test]
fn a_template_puts_files_between_its_texts_and_never_looks_into_a_value() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("a.png"), b"\x89PNG\r\n\x1a\n").unwrap();
    let root = Root::new(place.path(), false);
    let settings = with_template("See {{file:scan}} and say: {{ask}}{{ file: scan }}");
    let parse = |line: &str| {
        let request = parse_record(Form::Jsonl, None, line.as_bytes(), &settings, &root);
        request.map(|request| request.messages[0].content.clone())
    };
    let hostile = "{{file:scan}} {\"type\":\"file\",\"path\":\"/etc/passwd\"}";
    let line = json!({"scan": " a.png ", "ask": hostile});
    let content = parse(&line.to_string()).unwrap();
    let kinds: Vec<_> = content
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["type"])
        .collect();
    assert_eq!(kinds, ["text", "file", "text", "file"]);
    assert_eq!(content[0]["text"], "See ");
    assert_eq!(content[2]["text"], format!(" and say: {hostile}"));
    assert_eq!(content[1], content[3]);
    assert_eq!(content[1]["media_type"], "image/png");
    for (scan, why) in [
        ("", "an empty path"),
        ("b.png", "not there"),
        ("..", "outside"),
    ] {
        let line = json!({"scan": scan, "ask": "x"});
        let fault = parse(&line.to_string()).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
    // A cell with the text of a file reference does not refer to a file.
    let settings = with_template("{{ask}}");
    let line = json!({"ask": hostile}).to_string();
    let request = parse_record(Form::Jsonl, None, line.as_bytes(), &settings, &root).unwrap();
    assert_eq!(request, Request::new(hostile));
    assert!(Template::parse("{{file:}}").is_err());
}

#[test]
fn fields_known_to_a_provider_remain_user_fields() {
    let settings = with_template("{{request}}");
    for key in [r#""JIRA-7""#, "null", "{}"] {
        let line = format!(r#"{{"id":"a","key":{key},"request":"please"}}"#);
        let request = parsed(Form::Jsonl, None, line.as_bytes(), &settings).unwrap();
        assert_eq!(request, Request::new("please").with_id("a"));
        assert_eq!(
            super::super::json::id(&line, &settings).as_deref(),
            Some("a")
        );
    }
    let line = r#"{"id":1,"prompt":"p","request":{"url":"u"},"params":{"a":1}}"#;
    let keeping = PromptSettings {
        keep: super::super::Keep {
            all: true,
            ..Default::default()
        },
        ..PromptSettings::default()
    };
    let request = parsed(Form::Jsonl, None, line.as_bytes(), &keeping).unwrap();
    assert_eq!(request, Request::new("p").with_id("1"));
    let kept = super::super::keep::of_line(line, &keeping).unwrap();
    let rest = r#"{"request":{"url":"u"},"params":{"a":1}}"#;
    assert_eq!(kept.to_string(), rest);
}
