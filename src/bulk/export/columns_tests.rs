use super::*;
use crate::bulk::export::row::with_row;

fn columns_of(
    properties: &[(String, ColumnType)],
    by_property: bool,
    lines: &[&str],
) -> Vec<Column> {
    let mut seen = ColumnsSeen::with_properties(properties);
    for line in lines {
        with_row(line, by_property, |row| seen.add(row)).unwrap();
    }
    seen.columns(&Selection::All).unwrap().0
}

fn names(columns: &[Column]) -> Vec<&str> {
    columns.iter().map(|column| column.name.as_str()).collect()
}

fn kind_of(columns: &[Column], name: &str) -> ColumnType {
    let column = columns.iter().find(|column| column.name == name);
    column.unwrap_or_else(|| panic!("no {name}")).kind
}

const ALWAYS: [&str; 21] = [
    "success",
    "error_kind",
    "error_status",
    "error_message",
    "refusal",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "model",
    "provider",
    "finish_reason",
    "attempts",
    "latency_ms",
    "service_tier",
    "warning",
    "degraded",
    "earlier",
    "answered_by",
    "superseded",
];

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
    let mut expected = vec!["id", "n", "more", "text", "tool_calls"];
    expected.extend(ALWAYS);
    expected.insert(14, "audio_tokens");
    expected.extend(["new", "reply"]);
    assert_eq!(names(&columns), expected);
    assert_eq!(kind_of(&columns, "n"), ColumnType::Float);
    assert_eq!(kind_of(&columns, "more"), ColumnType::Empty);
    assert_eq!(kind_of(&columns, "input_tokens"), ColumnType::Int);
    assert_eq!(kind_of(&columns, "cost_usd"), ColumnType::Float);
    assert_eq!(kind_of(&columns, "reply"), ColumnType::Json);
}

#[test]
fn a_column_of_the_rows_keeps_its_name_and_ours_gets_a_prefix() {
    let line = r#"{"id":"a","success":true,"text":"x","input":{"Text":"t","model":"m","result_model":1,"ID":"other"}}"#;
    let columns = columns_of(&[], false, &[line]);
    let found = names(&columns);
    assert_eq!(
        &found[..6],
        [
            "Text",
            "model",
            "result_model",
            "ID",
            "result_id",
            "result_text"
        ]
    );
    assert!(found.contains(&"result_model_2"), "{found:?}");
    // If a column of the rows contains the id, it replaces the column `id`.
    let same = r#"{"id":"7","success":true,"text":"x","input":{"Id":7}}"#;
    assert_eq!(names(&columns_of(&[], false, &[same]))[..2], ["Id", "text"]);
    assert_eq!(
        kind_of(&columns_of(&[], false, &[same]), "Id"),
        ColumnType::Int
    );
    for other in [
        r#"{"id":"8","success":true,"text":"x"}"#,
        r#"{"id":"8#2","success":true,"text":"x","input":{"Id":8}}"#,
        r#"{"id":"8","success":true,"text":"x","input":{"Id":""}}"#,
        r#"{"id":"8","success":true,"text":"x","input":{"Id":null}}"#,
    ] {
        let columns = columns_of(&[], false, &[same, other]);
        assert_eq!(names(&columns)[..2], ["Id", "text"], "{other}");
        assert_eq!(columns[0].source, CellSource::Id);
    }
    let foreign = r#"{"id":"8","success":true,"text":"x","input":{"Id":9}}"#;
    let columns = columns_of(&[], false, &[same, foreign]);
    assert_eq!(names(&columns)[..3], ["Id", "result_id", "text"]);
}

#[test]
fn outcomes_of_items_change_no_column() {
    let good = r#"{"id":"a","success":true,"text":"{\"n\":1}","provider":"p","model":"m","attempts":1,"cost_usd":null,"input":{"id":"a","n":1}}"#;
    let bad = r#"{"id":"b","success":false,"text":null,"refusal":"no","error":{"kind":"k","status":400,"message":"m"},"warning":"w","earlier":[{}],"cost_usd":0.5,"superseded":true,"answered_by":"a","service_tier":"flex","input":{"id":"b","n":2}}"#;
    let other = r#"{"id":"c","success":true,"text":"no JSON","input":{"id":"c","n":3}}"#;
    let properties = [("n".to_owned(), ColumnType::Int)];
    for by_property in [false, true] {
        let declared = if by_property { &properties[..] } else { &[] };
        let columns = |lines: &[&str]| columns_of(declared, by_property, lines);
        let all = columns(&[good, bad, other]);
        for some in [&[good][..], &[bad], &[other], &[bad, good]] {
            let some = columns(some);
            assert_eq!(names(&some), names(&all));
        }
    }
}

#[test]
fn columns_are_selected_by_their_names_or_as_answers() {
    let line = r#"{"id":"a","success":true,"text":"{\"label\":1}","input":{"id":"a","label":"x"}}"#;
    let mut seen = ColumnsSeen::default();
    with_row(line, true, |row| seen.add(row)).unwrap();
    let select = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        seen.columns(&Selection::Named(names.collect()))
            .map(|(columns, _)| columns)
    };
    let some = select(&["model", "answer_label", "id"]).unwrap();
    assert_eq!(names(&some), ["model", "answer_label", "id"]);
    let error = select(&["id", "answer_labl"]).unwrap_err();
    assert!(
        error.message().starts_with(
            "the table has no column \"answer_labl\" (did you mean \"answer_label\"?); its columns are id, label, "
        ),
        "{error}"
    );
    let answers = seen.columns(&Selection::Answers).unwrap().0;
    assert_eq!(names(&answers), ["id", "label", "text"]);
    let vector = r#"{"id":"a","success":true,"text":null,"embedding":[0.5],"input":{"nr":1}}"#;
    let mut seen = ColumnsSeen::default();
    with_row(vector, false, |row| seen.add(row)).unwrap();
    let answers = seen.columns(&Selection::Answers).unwrap().0;
    assert_eq!(names(&answers), ["id", "embedding"]);
}

#[test]
fn usual_columns_are_ids_rows_answers_and_errors_and_at_most_twelve() {
    let usual = |line: &str, by_property| {
        let mut seen = ColumnsSeen::default();
        with_row(line, by_property, |row| seen.add(row)).unwrap();
        seen.columns(&Selection::Usual).unwrap()
    };
    let line = r#"{"id":"a","success":true,"text":"{\"label\":1}","cost_usd":1,"input":{"id":"a","label":"x"}}"#;
    let (columns, left_out) = usual(line, true);
    let expected = ["id", "label", "answer_label", "text", "error_message"];
    assert_eq!((names(&columns), left_out), (expected.to_vec(), 0));
    let cells: Vec<String> = (0..20).map(|i| format!("\"n{i}\":1")).collect();
    let wide = format!(
        r#"{{"id":"a","success":true,"text":"x","input":{{{}}}}}"#,
        cells.join(",")
    );
    let (columns, left_out) = usual(&wide, false);
    assert_eq!((columns.len(), left_out), (12, 11));
    let expected = ["n7", "n8", "id", "text", "error_message"];
    assert_eq!(names(&columns)[7..], expected);
    let deep = wide.replace("\"x\",\"input\":", "null,\"result\":");
    let (columns, left_out) = usual(&deep, false);
    assert_eq!((columns.len(), left_out), (12, 11));
    assert_eq!(names(&columns)[..2], ["id", "n0"]);
    assert_eq!(names(&columns)[11], "error_message");
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
    let mut expected = vec!["label", "id", "answer_label", "score", "answer_success"];
    expected.extend(["reasoning", "tags", "extra", "text", "result_reasoning"]);
    expected.extend(ALWAYS);
    assert_eq!(names(&columns), expected);
    assert_eq!(kind_of(&columns, "score"), ColumnType::Float);
    assert_eq!(kind_of(&columns, "tags"), ColumnType::Json);
    assert_eq!(kind_of(&columns, "extra"), ColumnType::Int);
    // An answer that is not an object is kept as text.
    let other = r#"{"id":"c","success":true,"text":"no JSON","input":{"label":"y"}}"#;
    let columns = columns_of(&properties, true, &[lines[0], other]);
    assert_eq!(names(&columns)[8], "text");
    assert!(super::properties(&serde_json::json!({"type": "array"})).is_err());
}

#[test]
fn data_in_place_of_names_is_rejected() {
    let names: Vec<String> = (0..=MOST_COLUMNS).map(|i| format!("\"n{i}\":1")).collect();
    let line = format!(
        "{{\"id\":\"a\",\"success\":true,\"input\":{{{}}}}}",
        names.join(",")
    );
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
    assert_eq!(
        names(&columns_of(&[], false, &[failed]))[..2],
        ["id", "text"]
    );
    assert_eq!(names(&columns_of(&[], false, &[]))[..2], ["id", "text"]);
    let vector = r#"{"id":"a","success":true,"text":null,"embedding":[0.5]}"#;
    let columns = columns_of(&[], false, &[vector, failed]);
    assert_eq!(names(&columns)[..3], ["id", "embedding", "success"]);
    assert_eq!(columns[1].kind, ColumnType::Vector);
}
