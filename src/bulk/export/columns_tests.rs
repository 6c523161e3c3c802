use super::*;
use crate::bulk::export::cell::with_row;

fn seen(properties: &[String], by_property: bool, lines: &[&str]) -> ColumnsSeen {
    let mut seen = ColumnsSeen::with_properties(properties);
    for line in lines {
        with_row(line, by_property, |row| seen.add(row)).unwrap();
    }
    seen
}

fn columns_of(properties: &[String], by_property: bool, lines: &[&str]) -> Vec<Column> {
    let seen = seen(properties, by_property, lines);
    seen.columns(&Selection::All).unwrap().0
}

/// The names of the columns, with `|` between them.
fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    names.join("|")
}

/// Checks the names of the first columns for these lines.
#[track_caller]
fn begin(lines: &[&str], expected: &str) -> Vec<Column> {
    let columns = columns_of(&[], false, lines);
    let names = names(&columns) + "|";
    assert!(names.starts_with(&format!("{expected}|")), "{names}");
    columns
}

#[track_caller]
fn kinds(columns: &[Column], expected: &[(&str, ColumnType)]) {
    for (name, kind) in expected {
        let column = columns.iter().find(|column| column.name == *name);
        assert_eq!(column.map(|column| column.kind), Some(*kind), "{name}");
    }
}

const ALWAYS: &str = "success|error_kind|error_status|error_message|refusal|input_tokens|cached_input_tokens|output_tokens|\
    reasoning_tokens|cost_usd|model|provider|finish_reason|attempts|latency_ms|service_tier|warning|degraded|earlier|\
    answered_by";

#[test]
fn rows_come_first_and_every_field_of_a_line_is_a_column() {
    let columns = columns_of(
        &[],
        false,
        &[
            r#"{"id":"a","success":true,"text":"x","input":{"id":"a","n":1}}"#,
            r#"{"id":"b","success":true,"text":null,"tool_calls":[1],"attempts":1,"warning":"w","input":{"id":"b","n":1.5,"more":null}}"#,
            r#"{"id":"c","success":false,"text":null,"usage":{"input_tokens":3,"audio_tokens":2},"error":{"kind":"k","status":400,"message":"m"},"reply":{},"new":true,"input":{"id":"c","n":null}}"#,
        ],
    );
    let always = ALWAYS.replace("reasoning_tokens|", "reasoning_tokens|audio_tokens|");
    let expected = format!("id|n|more|text|tool_calls|{always}|new|reply");
    assert_eq!(names(&columns), expected);
    let expected = [
        ("n", ColumnType::Float),
        ("more", ColumnType::Empty),
        ("input_tokens", ColumnType::Int),
        ("cost_usd", ColumnType::Float),
        ("reply", ColumnType::Json),
    ];
    kinds(&columns, &expected);
}

#[test]
fn a_column_of_the_rows_keeps_its_name_and_ours_gets_a_prefix() {
    let line = r#"{"id":"a","success":true,"text":"x","input":{"Text":"t","model":"m","result_model":1,"ID":"other"}}"#;
    let columns = begin(&[line], "Text|model|result_model|ID|result_id|result_text");
    assert!(names(&columns).contains("|result_model_2|"));
    // If a column of the rows contains the id, it replaces the column `id`.
    let same = r#"{"id":"7","success":true,"text":"x","input":{"Id":7}}"#;
    let without = r#"{"id":"8","success":true,"text":"x"}"#;
    let columns = begin(&[same, without], "Id|text");
    assert_eq!(columns[0].source, CellSource::Id);
    for other in [
        r#"{"id":"8","success":true,"text":"x","input":{"Id":""}}"#,
        r#"{"id":"8","success":true,"text":"x","input":{"Id":9}}"#,
        r#"{"id":"8","success":true,"text":"x","input":{"Id":8,"ID":8}}"#,
    ] {
        let columns = columns_of(&[], false, &[same, other]);
        assert!(names(&columns).contains("|result_id|text|"), "{other}");
    }
}

#[test]
fn outcomes_of_items_change_no_column() {
    let good = r#"{"id":"a","success":true,"text":"{\"n\":1}","provider":"p","model":"m","attempts":1,"cost_usd":null,"input":{"id":"a","n":1}}"#;
    let bad = r#"{"id":"b","success":false,"text":null,"refusal":"no","error":{"kind":"k","status":400,"message":"m"},"warning":"w","earlier":[{}],"cost_usd":0.5,"answered_by":"a","service_tier":"flex","input":{"id":"b","n":2}}"#;
    let other = r#"{"id":"c","success":true,"text":"no JSON","input":{"id":"c","n":3}}"#;
    let properties = ["n".to_owned()];
    for (by_property, declared) in [(false, &[][..]), (true, &properties)] {
        let columns = |lines: &[&str]| names(&columns_of(declared, by_property, lines));
        let all = columns(&[good, bad, other]);
        for some in [&[good][..], &[bad], &[other], &[bad, good]] {
            assert_eq!(columns(some), all);
        }
    }
}

#[test]
fn columns_are_selected_by_their_names_or_as_answers() {
    let line = r#"{"id":"a","success":true,"text":"{\"label\":1}","input":{"id":"a","label":"x"}}"#;
    let seen_here = seen(&[], true, &[line]);
    let select = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        let columns = seen_here.columns(&Selection::Named(names.collect()));
        columns.map(|(columns, _)| columns)
    };
    let some = select(&["model", "answer_label", "id"]).unwrap();
    assert_eq!(names(&some), "model|answer_label|id");
    let error = select(&["id", "answer_labl"]).unwrap_err();
    let said = "the table has no column \"answer_labl\" (did you mean \"answer_label\"?); its columns are id, label, ";
    assert!(error.message().starts_with(said), "{error}");
    let vector = r#"{"id":"a","success":true,"text":null,"embedding":[0.5],"input":{"nr":1}}"#;
    for (seen, expected) in [
        (seen_here, "id|label|text"),
        (seen(&[], false, &[vector]), "id|embedding"),
    ] {
        let answers = seen.columns(&Selection::Answers).unwrap().0;
        assert_eq!(names(&answers), expected);
    }
}

#[test]
fn usual_columns_are_ids_rows_answers_and_errors_and_at_most_twelve() {
    let usual = |line: &str, by_property| {
        let columns = seen(&[], by_property, &[line]).columns(&Selection::Usual);
        let (columns, left_out) = columns.unwrap();
        (names(&columns), left_out)
    };
    let line = r#"{"id":"a","success":true,"text":"{\"label\":1}","cost_usd":1,"input":{"id":"a","label":"x"}}"#;
    let expected = "id|label|answer_label|text|error_message";
    assert_eq!(usual(line, true), (expected.to_owned(), 0));
    let cells: Vec<String> = (0..20).map(|i| format!("\"n{i}\":1")).collect();
    let cells = cells.join(",");
    let wide = format!(r#"{{"id":"a","success":true,"text":"x","input":{{{cells}}}}}"#);
    let first: String = (0..9).map(|i| format!("n{i}|")).collect();
    assert_eq!(
        usual(&wide, false),
        (format!("{first}id|text|error_message"), 11)
    );
    let deep = wide.replace("\"x\",\"input\":", "null,\"result\":");
    let first: String = (0..10).map(|i| format!("n{i}|")).collect();
    assert_eq!(
        usual(&deep, false),
        (format!("id|{first}error_message"), 11)
    );
}

#[test]
fn properties_of_answers_are_columns() {
    let schema = serde_json::json!({"type": "object", "properties": {
        "label": {"type": "string"}, "score": {"type": ["number", "null"]},
        "success": {"type": "boolean"}, "reasoning": {}, "tags": {"type": "array"}}});
    let properties = properties(&schema).unwrap();
    let lines = [
        r#"{"id":"a","success":true,"text":"{\"score\": 1, \"label\": \"x\", \"extra\": 7}","input":{"label":"y"}}"#,
        r#"{"id":"b","success":true,"reasoning":"r","text":"```json\n{\"reasoning\": \"z\"}\n```","input":{"label":"y"}}"#,
    ];
    let columns = columns_of(&properties, true, &lines);
    let own = "label|id|answer_label|score|answer_success|reasoning|tags|extra|text";
    assert_eq!(names(&columns), format!("{own}|result_reasoning|{ALWAYS}"));
    let expected = [
        ("score", ColumnType::Int),
        ("tags", ColumnType::Empty),
        ("extra", ColumnType::Int),
    ];
    kinds(&columns, &expected);
    // An answer that is not an object is kept as text.
    let other = r#"{"id":"c","success":true,"text":"no JSON","input":{"label":"y"}}"#;
    let columns = columns_of(&properties, true, &[lines[0], other]);
    assert_eq!(columns[8].name, "text");
    assert!(super::properties(&serde_json::json!({"type": "array"})).is_err());
}

#[test]
fn data_in_place_of_names_is_rejected() {
    let names: Vec<String> = (0..=MOST_COLUMNS).map(|i| format!("\"n{i}\":1")).collect();
    let names = names.join(",");
    let line = format!("{{\"id\":\"a\",\"success\":true,\"input\":{{{names}}}}}");
    let mut seen = ColumnsSeen::default();
    let error = with_row(&line, false, |row| seen.add(row)).unwrap_err();
    assert!(
        error.message().contains("more than 10000 columns"),
        "{error}"
    );
}

#[test]
fn a_text_column_exists_without_answers_and_not_with_embeddings() {
    let failed = r#"{"id":"a","success":false,"text":null,"error":{"kind":"k","message":"m"}}"#;
    begin(&[failed], "id|text");
    begin(&[], "id|text");
    let vector = r#"{"id":"a","success":true,"text":null,"embedding":[0.5]}"#;
    let columns = begin(&[vector, failed], "id|embedding|success");
    assert_eq!(columns[1].kind, ColumnType::Vector);
}
