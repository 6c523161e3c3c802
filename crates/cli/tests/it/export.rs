//! Tables of results.

#[cfg(all(target_os = "linux", feature = "tables"))]
use super::common::Running;
use super::common::{Desk, Has, good};
use serde_json::json;

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
    assert_eq!(
        desk.read("usual.csv"),
        "id,text,result_text,error_message\n1,one,echo: one,\n2,two,echo: two,\n"
    );
    desk.plain("export out.jsonl -o out.csv --columns all")
        .ends(0, "2 rows of 24 columns written to out.csv");
    let table = desk.read("out.csv");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with(
        "id,text,result_text,success,error_kind,error_status,error_message,refusal,input_tokens,"
    ));
    assert!(lines[1].starts_with("1,one,echo: one,true,,,"), "{table}");
    assert!(lines[2].starts_with("2,two,echo: two,true,,,"), "{table}");
    desk.plain("export out.jsonl -o out.csv")
        .expect(2)
        .says("out.csv: it already exists; to replace it, add --overwrite");
    desk.plain("export out.jsonl -o out.csv --columns all --overwrite --quiet")
        .expect(0);
    assert_eq!(desk.read("out.csv"), table);
    let ended = desk.plain("export out.jsonl -o - --columns all").expect(0);
    assert_eq!(ended.stdout, table);
    let ended = desk
        .plain("export out.jsonl -o - --columns all --output-format jsonl")
        .expect(0);
    assert!(ended.stdout.starts_with(
        "{\"id\":\"1\",\"text\":\"one\",\"result_text\":\"echo: one\",\"success\":true,"
    ));
}

#[test]
fn every_format_is_written_and_a_spreadsheet_gets_no_formula() {
    let desk = Desk::new();
    desk.write("r.jsonl", KEPT);
    let mut names = vec!["o.csv", "o.tsv", "o.jsonl"];
    if cfg!(feature = "tables") {
        names.extend(["o.xlsx", "o.parquet"]);
    }
    for name in names {
        desk.plain(&format!(
            "export r.jsonl -o {name} --json-schema object --columns all"
        ))
        .expect(0);
        assert!(desk.exists(name));
    }
    assert!(desk.read("o.csv").contains("\na,'=cmd(),'=1+1,,true,"));
    desk.plain("export r.jsonl -o raw.csv --json-schema object --columns all --raw --bom")
        .expect(0);
    let raw = desk.read("raw.csv");
    assert!(
        raw.starts_with("\u{feff}id,city,label,text,success,"),
        "{raw}"
    );
    assert!(raw.contains("\na,=cmd(),=1+1,,true,"));
    // No temporary files are left.
    let folder = std::fs::read_dir(desk.path("")).unwrap();
    let hidden = folder.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(hidden.count(), 0);
    desk.plain("export r.jsonl -o schema.csv --json-schema {\"properties\":{\"n\":{\"type\":\"integer\"},\"label\":{\"type\":\"string\"}}}")
        .expect(0);
    assert!(
        desk.read("schema.csv")
            .starts_with("id,city,n,label,text,error_message\n")
    );
    desk.plain("export r.jsonl -o none.csv --json-schema {\"type\":\"array\"}")
        .ends(2, "names no properties");
}

#[test]
fn the_report_of_a_table_is_available_as_json() {
    let desk = Desk::new();
    desk.write("r.jsonl", format!("{KEPT}{KEPT}{{\"id\":\"c\",\"succ"));
    let ended = desk
        .plain("export r.jsonl -o o.csv --json")
        .ends(0, "2 rows of ")
        .says("1 of them without success")
        .says("2 lines skipped, because later lines")
        .says("the answers are JSON objects: --json-schema object")
        .says("r.jsonl: skipped the incomplete last line");
    let told = ended.json();
    told.has(json!({"rows": 2, "replaced_lines": 2}));
    assert_eq!(told["torn_files"], serde_json::json!(["r.jsonl"]));
    assert_eq!(told["columns"][0], "id");
    desk.plain("export r.jsonl -o o.csv --json").expect(2);
    desk.write("rows.csv", "id,text\n1,a\n");
    let refused = desk
        .plain("export rows.csv -o t.csv --json")
        .ends(2, "rows.csv:1: not a result line");
    refused.shows("\"kind\":\"output\"");
    desk.plain("export r.jsonl -o t.doc")
        .ends(2, "found .doc; a table is .csv, .tsv");
    desk.plain("export r.jsonl -o - --output-format xlsx").ends(
        2,
        if cfg!(feature = "tables") {
            "name a file"
        } else {
            "build it with the feature `tables`"
        },
    );
    assert!(!desk.exists("t.csv"));
}

#[test]
fn flags_choose_the_columns_and_the_lines_give_the_order() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("rows.csv", "id,city\nx1,Oslo\nx2,Rome\n");
    desk.run(
        &sim,
        "rows.csv --template {{city}} --keep all -j 1 -o out.jsonl",
    )
    .expect(0);
    let lines = desk.read("out.jsonl");
    let reversed: Vec<&str> = lines.lines().rev().collect();
    desk.write("out.jsonl", reversed.join("\n") + "\n");
    let table = |flags: &str| {
        let ended = desk.plain(&format!("export out.jsonl -o - {flags}"));
        ended.expect(0).stdout
    };
    let columns = "--columns text,id,city";
    let reversed = "text,id,city\necho: Rome,x2,Rome\necho: Oslo,x1,Oslo\n";
    assert_eq!(table(columns), reversed);
    assert_eq!(
        table("--only-answers"),
        "id,text\nx2,echo: Rome\nx1,echo: Oslo\n"
    );
    desk.plain("export out.jsonl -o no.csv --columns id,citty")
        .expect(2)
        .says(
            "no column \"citty\" (did you mean \"city\"?); its columns are id, city, text, success",
        );
    assert!(!desk.exists("no.csv"));
    desk.plain("export out.jsonl -o no.csv --columns id --only-answers")
        .expect(2);
}

#[test]
fn errors_of_export_name_the_obstacle() {
    let desk = Desk::new();
    desk.write("r.jsonl", KEPT);
    desk.plain("export - -o out.csv")
        .ends(2, "read more than once")
        .says("save them to a file first");
    desk.plain("export r.jsonl -o none/out.csv")
        .ends(1, "none/out.csv: cannot be written");
    desk.plain("export r.jsonl -o out.jsonl --output-delimiter ;")
        .ends(2, "--output-delimiter");
}

#[cfg(unix)]
#[test]
fn a_table_that_is_replaced_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    desk.write("r.jsonl", KEPT);
    let mut names = vec!["out.csv"];
    if cfg!(feature = "tables") {
        names.extend(["out.xlsx", "out.parquet"]);
    }
    for name in names {
        desk.write(name, "private");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(desk.path(name), private).unwrap();
        desk.plain(&format!("export r.jsonl -o {name} --overwrite"))
            .expect(0);
        let mode = desk.path(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert_ne!(std::fs::read(desk.path(name)).unwrap(), b"private");
    }
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

#[cfg(feature = "tables")]
#[test]
fn numbers_keep_their_types_and_dates_are_texts_on_the_way_through_a_run() {
    let (desk, sim) = (Desk::new(), good());
    let row =
        r#"{"id":"a","success":true,"text":"t","input":{"id":"a","day":"2024-05-01","price":1.5}}"#;
    desk.write("kept.jsonl", row);
    for name in ["in.parquet", "in.xlsx"] {
        desk.plain(&format!(
            "export kept.jsonl --columns id,day,price -o {name}"
        ))
        .expect(0);
        let asked = "--template {{day}},{{price}} --model sim-1";
        desk.run(&sim, &format!("{name} {asked} -o {name}.jsonl"))
            .expect(0);
        let line = &desk.results(&format!("{name}.jsonl"))[0];
        assert_eq!(line["text"], "echo: 2024-05-01,1.5");
        let kept = json!({"id": "a", "day": "2024-05-01", "price": 1.5});
        assert_eq!(line["input"], kept, "{name}");
    }
}
