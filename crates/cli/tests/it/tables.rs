//! Tables as spreadsheet programs write them, and inputs that are compressed or have another encoding than UTF-8.

use std::io::Write;

use batchwright_simulate::Simulator;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

#[cfg(feature = "tables")]
use super::common::id;
use super::common::{Desk, Ended, Has, RunToEnd, good};
use super::program;

fn fed(desk: &Desk, sim: &Simulator, words: &str, text: &[u8]) -> Ended {
    program::fed(&mut desk.against(sim, words), text)
}

#[test]
fn a_template_is_proposed_with_the_longest_text() {
    let (desk, sim) = (Desk::new(), good());
    let record = "{\"id\":\"r-1\",\"stars\":5,\"label\":\"x\",\"text\":\"Fits well\"}";
    desk.write("rec.json", format!("[{record}]"));
    let row = "id,label,text,stars\na-very-long-id-of-a-row,x,Fits well,5\n";
    desk.write("in.csv", row);
    for name in ["rec.json", "in.csv"] {
        desk.run(&sim, name)
            .ends(2, "--template 'Summarize: {{text}}'");
    }
}

#[test]
fn an_output_named_like_a_table_is_refused() {
    let (desk, sim) = (Desk::with(1), good());
    for name in ["out.csv", "out.XLSX"] {
        desk.run(&sim, &format!("in.jsonl -o {name}"))
            .ends(2, "results are JSON lines")
            .says("run with -o out.jsonl")
            .tells(&format!("batchwright export out.jsonl -o {name}"));
        assert!(!desk.exists(name));
    }
    assert_eq!(sim.stats().calls, 0);
}

const KEPT: &str = concat!(
    r#"{"id":"1","success":true,"text":"t","input":{"id":1,"prompt":"one\r\ntwo","n":3,"x":0.5,"none":null}}"#,
    "\n",
    r#"{"id":"b","success":true,"text":"t","input":{"id":"b","prompt":"=cmd()","n":4,"x":null,"none":null}}"#,
    "\n",
);

#[cfg(feature = "tables")]
#[test]
fn binary_tables_are_inputs() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("kept.jsonl", KEPT);
    for name in ["in.parquet", "in.xlsx"] {
        desk.plain(&format!("export kept.jsonl -o {name}"))
            .expect(0);
        let words = format!("{name} -j 1 -o {name}.jsonl");
        desk.run(&sim, &words).expect(0);
        let lines = desk.results(&format!("{name}.jsonl"));
        assert_eq!(lines[0]["text"], "echo: one\r\ntwo", "{name}");
        assert_eq!(lines[1]["text"], "echo: =cmd()", "{name}");
        assert_eq!((id(&lines[0]), id(&lines[1])), ("1".into(), "b".into()));
        // Running the same again sends nothing: the input was read the same way.
        desk.run(&sim, &words).ends(0, "2 finished before");
    }
    // Submitted to the queue as well.
    desk.plain("submit in.parquet --model m").expect(0);
    desk.plain("submit in.xlsx --sheet none --model m")
        .ends(2, "expected one of \"results\"");
    desk.run(&sim, "in.parquet --sheet a")
        .ends(2, "found --sheet, which applies only to .xlsx files");
    let text = std::fs::read(desk.path("in.parquet")).unwrap();
    fed(&desk, &sim, "-", &text).ends(
        2,
        "found a Parquet file; expected UTF-8 text: name it as a file",
    );
}

#[test]
fn a_null_in_a_used_column_is_a_bad_row_of_any_format() {
    let (desk, sim) = (Desk::new(), good());
    let mut names = vec![("in.jsonl", "in.jsonl:2")];
    if cfg!(feature = "tables") {
        desk.write("kept.jsonl", KEPT);
        desk.plain("export kept.jsonl -o in.parquet").expect(0);
        desk.plain("export kept.jsonl -o in.xlsx").expect(0);
        names.extend([("in.parquet", "in.parquet:"), ("in.xlsx", "in.xlsx: row 3")]);
    }
    desk.input("{\"id\":1,\"n\":3,\"x\":0.50}\n{\"id\":\"b\",\"n\":4,\"x\":null}\n");
    let run = |words: &str| {
        let template = ["--template", "{{n}} and {{x}}"];
        desk.against(&sim, words).args(template).ended()
    };
    let why = "found null in \"x\"; expected a value";
    for (i, (name, place)) in names.iter().enumerate() {
        run(&format!("{name} -o {i}.jsonl"))
            .ends(2, why)
            .tells(place);
        run(&format!("{name} -j 1 -o {i}.jsonl --bad-rows skip"))
            .ends(3, "2 items: 1 bad row that is not sent, 1 to send");
        let lines = desk.results(&format!("{i}.jsonl"));
        let failed = lines.iter().find(|line| line["id"] == "b").unwrap();
        failed.has(json!({"/error/kind": "invalid", "attempts": 0}));
        let told = failed["error"]["message"].as_str().unwrap();
        assert!(
            told.starts_with(&format!("not sent: {place}")) && told.contains(why),
            "{told}"
        );
    }
    assert_eq!(sim.stats().calls, names.len() as u64);
    // Problems in unused columns do not matter.
    desk.run(&sim, "in.jsonl --template {{n}}").expect(0);
}

#[test]
fn other_encodings_are_read_when_they_are_named() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", b"id;prompt\r\n1;Gr\xf6\xdfe f\xfcr 5 \x80\r\n");
    let ended = desk.run(&sim, "in.csv --encoding windows-1252").expect(0);
    ended.shows("\"echo: Größe für 5 €\"");
}

#[test]
fn compressed_inputs_are_unpacked() {
    let gzip = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |text: &[u8]| compress_to_vec(text, CompressionLevel::Fastest);
    let rows = b"id,prompt\na,one\nb,\"two\nlines\"\nc,three\n";
    let lines = [
        r#"{"id":"a","prompt":"one"}"#,
        r#"{"id":"b","prompt":"two\nlines"}"#,
        r#"{"id":"c","prompt":"three"}"#,
    ];
    let lines = lines.join("\n");
    let (first, second) = lines.as_bytes().split_at(30);
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.jsonl.zst", [zstd(first), zstd(second)].concat());
    desk.write("one.csv", rows);
    // The second with a wrong extension.
    for name in ["in.csv.gz", "in.csv", "in.gz"] {
        desk.write(name, gzip(rows));
    }
    // All are the same items.
    desk.run(&sim, "one.csv -o out.jsonl").expect(0);
    for name in ["in.csv.gz", "in.jsonl.zst", "in.csv"] {
        desk.run(&sim, &format!("{name} -o out.jsonl"))
            .ends(0, "3 finished before, nothing to send");
    }
    fed(&desk, &sim, "- --format csv -o out.jsonl", &gzip(rows))
        .ends(0, "3 finished before, nothing to send");
    desk.run(&sim, "in.gz")
        .ends(2, "or its format: --format txt for a prompt per line");
    assert_eq!(sim.stats().calls, 3);
}
