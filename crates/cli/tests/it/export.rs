//! Tables of results.

#[cfg(all(target_os = "linux", feature = "tables"))]
use super::common::Running;
use super::common::{Desk, RunToEnd, good};

const KEPT: &str = concat!(
    r#"{"id":"a","success":true,"text":"{\"label\":\"=1+1\"}","provider":"p","model":"m","finish_reason":"stop","usage":{"input_tokens":3,"cached_input_tokens":0,"output_tokens":2,"reasoning_tokens":0},"attempts":1,"latency_ms":7,"cost_usd":null,"request_hash":"h","error":null,"input":{"id":"a","city":"=cmd()"}}"#,
    "\n",
    r#"{"id":"b","success":false,"text":null,"provider":"p","model":null,"finish_reason":null,"usage":null,"attempts":2,"latency_ms":9,"cost_usd":null,"request_hash":"h","error":{"kind":"blocked","class":"refused","message":"no"},"input":{"id":"b","city":"\u001b[2J"}}"#,
    "\n",
);

#[test]
fn results_of_a_run_become_a_table() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,text\n1,one\n2,two\n");
    desk.run(&sim, "in.csv --template {{text}} -j 1 -o out.jsonl")
        .expect(0);
    desk.plain("export out.jsonl -o usual.csv")
        .ends(0, "2 rows of 4 columns written to usual.csv");
    let usual = "id,text,result_text,error_message\n1,one,echo: one,\n2,two,echo: two,\n";
    assert_eq!(desk.read("usual.csv"), usual);
    let all = "export out.jsonl --columns all";
    desk.plain(&format!("{all} -o out.csv"))
        .ends(0, "2 rows of 23 columns written to out.csv");
    let table = desk.read("out.csv");
    assert!(table.starts_with(
        "id,text,result_text,success,error_kind,error_status,error_message,refusal,input_tokens,"
    ));
    assert!(table.contains("\n2,two,echo: two,true,,,"), "{table}");
    desk.plain(&format!("{all} -o out.csv")).ends(
        2,
        "out.csv: it already exists; to replace it, add --overwrite",
    );
    desk.plain("export out.jsonl -o out.csv --overwrite --quiet")
        .expect(0);
    assert_eq!(desk.read("out.csv"), usual);
    let shown = desk.plain(&format!("{all} -o -")).expect(0);
    assert_eq!(shown.stdout, table);
    let json = desk.plain(&format!("{all} -o - --output-format jsonl"));
    json.expect(0)
        .shows("{\"id\":\"1\",\"text\":\"one\",\"result_text\":\"echo: one\",\"success\":true,");
}

#[test]
fn every_format_is_written_and_a_spreadsheet_gets_no_formula() {
    let desk = Desk::new();
    desk.write("r.jsonl", KEPT);
    let export = |words: &str| {
        let words = format!("export r.jsonl --columns all -o {words} --json-schema");
        desk.command(words.split(' ').chain(["object"]))
            .ended()
            .expect(0)
    };
    let mut names = vec!["o.csv", "o.tsv", "o.jsonl"];
    if cfg!(feature = "tables") {
        names.extend(["o.xlsx", "o.parquet"]);
    }
    for name in names {
        export(name);
        assert!(desk.exists(name));
    }
    assert!(desk.read("o.csv").contains("\na,'=cmd(),'=1+1,,true,"));
    export("raw.csv --raw --bom");
    let raw = desk.read("raw.csv");
    assert!(
        raw.starts_with("\u{feff}id,city,label,text,success,"),
        "{raw}"
    );
    assert!(raw.contains("\na,=cmd(),=1+1,,true,"));
    desk.plain("export r.jsonl -o none.csv --json-schema {\"type\":\"array\"}")
        .ends(2, "names no properties");
}

/// A million results with their rows; only the position of each line is kept in memory.
#[cfg(all(target_os = "linux", feature = "tables"))]
#[test]
#[ignore = "takes a minute"]
fn memory_does_not_grow_with_the_number_of_results() {
    use std::io::Write;
    const RESULTS: usize = 1_000_000;
    let desk = Desk::new();
    let file = std::fs::File::create(desk.path("r.jsonl")).unwrap();
    let mut lines = std::io::BufWriter::new(file);
    for i in 0..RESULTS {
        let text = format!(r#"{{\"label\":\"of {i}\",\"score\":{i}.5}}"#);
        let input =
            format!(r#"{{"id":"r-{i}","text":"what is said of {i}","n":{i},"empty":null}}"#);
        writeln!(lines, r#"{{"id":"r-{i}","success":true,"text":"{text}","provider":"p","model":"m","finish_reason":"stop","usage":{{"input_tokens":3,"cached_input_tokens":0,"output_tokens":2,"reasoning_tokens":0}},"attempts":1,"latency_ms":7,"cost_usd":0.5,"request_hash":"h","error":null,"input":{input}}}"#).unwrap();
    }
    lines.flush().unwrap();
    for name in ["o.csv", "o.parquet", "o.xlsx"] {
        let words = format!("export r.jsonl -o {name} --json-schema object");
        let running = Running::start(&mut desk.command(words.split_whitespace()));
        let (ended, most) = running.wait_with_peak();
        println!("{name}: {most} kB");
        ended.ends(0, "1,000,000 rows");
        assert!(most < 128_000, "{name}: {most} kB");
    }
}
