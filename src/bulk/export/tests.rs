//! Complete tables, read back.

use super::*;
use crate::base::Context;

struct Place(tempfile::TempDir);

impl Place {
    fn new(results: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("results.jsonl"), results).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn export(&self) -> Export {
        Export::new([self.path("results.jsonl")]).all_columns(true)
    }

    fn write(&self, export: Export, name: &str) -> Result<ExportReport, Error> {
        export.to_file(&self.path(name), &Context::new())
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Names of the entries in the folder.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

const TWO: &str = concat!(
    r#"{"id":"a","success":true,"text":"{\"label\":\"=1+1\",\"n\":[1]}","provider":"p","model":"m","finish_reason":"stop","usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":2,"reasoning_tokens":0},"attempts":1,"latency_ms":7,"cost_usd":0.5,"request_hash":"h","error":null,"input":{"id":"a","code":"007","x":-5}}"#,
    "\n",
    r#"{"id":"b","success":false,"text":null,"provider":"p","model":null,"finish_reason":null,"usage":null,"attempts":2,"latency_ms":9,"cost_usd":null,"request_hash":"h","error":{"kind":"blocked","class":"refused","status":400,"message":"say \"no\""},"input":{"id":"b","code":"","x":null}}"#,
    "\n",
);

#[test]
fn rows_and_answers_are_in_the_same_table() {
    let place = Place::new(TWO);
    let report = place.write(place.export(), "out.csv").unwrap();
    assert_eq!((report.rows, report.failed), (2, 1));
    let expected = "\
id,code,x,text,success,error_kind,error_status,error_message,refusal,input_tokens,cached_input_tokens,output_tokens,reasoning_tokens,cost_usd,model,provider,finish_reason,attempts,latency_ms,service_tier,warning,degraded,earlier,answered_by
a,007,-5,\"{\"\"label\"\":\"\"=1+1\"\",\"\"n\"\":[1]}\",true,,,,,3,0,2,0,0.5,m,p,stop,1,7,,,,,
b,\"\",,,false,blocked,400,\"say \"\"no\"\"\",,,,,,,,p,,2,9,,,,,
";
    assert_eq!(place.read("out.csv"), expected);
    let by_property = || place.export().by_property(true);
    let guarded = place.write(by_property(), "parts.csv").unwrap();
    assert_eq!((report.guarded_cells, guarded.guarded_cells), (0, 1));
    place.write(by_property(), "out.jsonl").unwrap();
    let first = place.read("out.jsonl");
    let first = first.lines().next().unwrap();
    let begins =
        r#"{"id":"a","code":"007","x":-5,"label":"=1+1","n":[1],"text":null,"success":true,"#;
    assert!(first.starts_with(begins), "{first}");
    assert_eq!(
        place.names(),
        ["out.csv", "out.jsonl", "parts.csv", "results.jsonl"]
    );
}

#[test]
fn empty_and_unwritable_tables_leave_no_file() {
    let place = Place::new("");
    let report = place.write(place.export(), "out.csv").unwrap();
    assert_eq!(report.rows, 0);
    assert!(place.read("out.csv").starts_with("id,text,success,"));
    let new = || place.export().overwrite(true);
    place.write(new(), "out.csv").unwrap();
    let of = |path| Export::new([path]);
    for (export, name, said) in [
        (place.export(), "out.csv", "--overwrite"),
        (place.export(), "out.pdf", "found .pdf; a table is .csv"),
        (
            new().format(ExportFormat::Csv),
            "results.jsonl",
            "it is also the input",
        ),
        (
            place.export().columns(["id", "none"]),
            "o.csv",
            "no column \"none\"",
        ),
        (place.export().bom(true), "o.jsonl", "are for .csv and .tsv"),
        (place.export().delimiter(b'"'), "o.csv", "not a quote"),
        (
            of(place.path("none.jsonl")),
            "o.csv",
            "none.jsonl: cannot be read",
        ),
        (of(place.path("")), "o.csv", "it is not a regular file"),
    ] {
        let error = place.write(export, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(said), "{error}");
    }
    assert_eq!(place.names(), ["out.csv", "results.jsonl"]);
    let mut out = Vec::new();
    let sheet = place.export().format(ExportFormat::Xlsx);
    let refused = sheet.to_writer(&mut out, &Context::new()).unwrap_err();
    let said = ["the feature `tables`", "name a file"][usize::from(cfg!(feature = "tables"))];
    assert!(refused.message().contains(said), "{refused}");
    let tabs = place.export().format(ExportFormat::Tsv).bom(true);
    tabs.to_writer(&mut out, &Context::new()).unwrap();
    assert!(out.starts_with(b"\xef\xbb\xbfid\ttext\t"));
}

#[test]
fn outdated_lines_add_no_columns() {
    let old = r#"{"id":"a","success":true,"text":"1","logprobs":[1],"input":{"gone":1}}"#;
    let new = r#"{"id":"a","success":true,"text":"2","input":{"there":1}}"#;
    let place = Place::new(&format!("{old}\n{new}\n{{\"id\":\"c\",\"succ"));
    let report = place.write(place.export(), "out.csv").unwrap();
    assert_eq!((report.rows, report.replaced, report.torn.len()), (1, 1, 1));
    let written = place.read("out.csv");
    assert!(written.starts_with("there,id,text,success,"), "{written}");
    assert!(!written.contains("logprobs"));
}

/// The rows of a table, with the names of its columns first.
#[cfg(feature = "tables")]
#[derive(Default)]
struct Rows(Vec<Value>);

#[cfg(feature = "tables")]
impl batchwright_tables::Rows for Rows {
    fn columns(&mut self, names: &[String], _: u64) -> Result<(), batchwright_tables::Error> {
        self.0.push(names.into());
        Ok(())
    }

    fn row(
        &mut self,
        values: &[batchwright_tables::Value],
    ) -> Result<(), batchwright_tables::Error> {
        self.0.push(serde_json::to_value(values).unwrap());
        Ok(())
    }
}

#[cfg(feature = "tables")]
#[test]
fn cells_of_a_worksheet_are_texts_or_numbers_and_cut_cells_have_a_note() {
    let long = "é".repeat(40_000);
    let line = format!(
        r#"{{"id":"1","success":true,"text":"{long}","input":{{"f":"=cmd()","n":1234567890123456789,"z":"007","c":"_x0041_\u0001","x":0.5,"u":"http://a.b"}}}}"#
    );
    let place = Place::new(&line);
    let report = place.write(place.export(), "out.xlsx").unwrap();
    assert_eq!(report.cut_cells, 1);
    let mut rows = Rows::default();
    batchwright_tables::read_sheet(&place.path("out.xlsx"), Some("results"), &mut rows).unwrap();
    let [names, row] = &rows.0[..] else {
        panic!("{:?}", rows.0);
    };
    assert_eq!(names[0], "f");
    // A formula would have a value of its own.
    let expected = serde_json::json!(["=cmd()", "1234567890123456789", "007"]);
    assert_eq!(
        row.as_array().unwrap()[..3],
        expected.as_array().unwrap()[..]
    );
    assert_eq!(row[4], 0.5);
    let text = row[7].as_str().unwrap();
    assert!(text.starts_with("ééé"));
    assert!(text.ends_with("… [cut here: 40000 characters, the whole is in results.jsonl]"));
    assert_eq!(row[8], true);
    assert_eq!(place.names(), ["out.xlsx", "results.jsonl"]);
}

#[cfg(feature = "tables")]
#[test]
fn columns_of_parquet_have_types() {
    let vectors = concat!(
        r#"{"id":"1","success":true,"text":null,"embedding":[0.5,-1.5],"input":{"b":true,"n":1,"x":1}}"#,
        "\n",
        r#"{"id":"2","success":true,"text":null,"embedding":[],"input":{"b":null,"n":null,"x":0.5}}"#,
        "\n",
        r#"{"id":"3","success":false,"text":null,"error":{"kind":"k","message":"m"},"input":{"b":false,"n":9223372036854775807,"x":null}}"#,
    );
    let place = Place::new(vectors);
    place.write(place.export(), "out.parquet").unwrap();
    let mut rows = Rows::default();
    batchwright_tables::read_parquet(&place.path("out.parquet"), &mut rows).unwrap();
    let shown = rows.0[1..].iter().map(|row| {
        let cells = row.as_array().unwrap().iter().take(7);
        serde_json::to_string(&cells.collect::<Vec<_>>()).unwrap()
    });
    let expected = [
        r#"[true,1,1.0,"1",[0.5,-1.5],true,null]"#,
        r#"[null,null,0.5,"2",[],true,null]"#,
        r#"[false,9223372036854775807,null,"3",null,false,"k"]"#,
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}
