//! Tables as spreadsheet programs write them.

use super::common::{Desk, Ended, Has, RunToEnd, good, results};
use super::program;
use batchwright_simulate::Simulator;
use serde_json::json;

fn fed(desk: &Desk, sim: &Simulator, words: &str, text: &[u8]) -> Ended {
    program::fed(&mut desk.against(sim, words), text)
}

#[test]
fn empty_cells_are_not_sent() {
    let (desk, sim) = (Desk::new(), good());
    let rows = "id,stars,Text\nr-1,5,Good\nr-3,4,\nr-4,,  \n,,\n,,\n\"\",\"\",\"\"\n";
    desk.write("in.csv", rows);
    desk.write("in.jsonl", "{\"id\":\"a\",\"Text\":\" \"}\n");
    let run = |words: &str| {
        let template = ["--template", "About? {{Text}}"];
        desk.against(&sim, words).args(template).ended()
    };
    run("in.csv -o out.jsonl")
        .expect(2)
        .says("in.csv:3: found the fields of the template all empty: \"Text\"")
        .says("in.csv:4: found ");
    run("in.jsonl -o out.jsonl").ends(2, "in.jsonl:1: found the fields of the template all empty");
    assert_eq!(sim.stats().calls, 0);
    run("in.csv -o out.jsonl --bad-rows skip")
        .ends(3, "3 items: 2 bad rows that are not sent, 1 to send");
    assert_eq!(sim.stats().calls, 1);
    // One of several fields is enough.
    let template = ["--template", "{{stars}} {{Text}}"];
    let mut command = desk.against(&sim, "in.csv -o both.jsonl --bad-rows skip");
    command.args(template).ended().ends(3, "3 items: 1 bad row");
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn a_template_is_proposed_with_the_longest_text() {
    let (desk, sim) = (Desk::new(), good());
    let record = "{\"id\":\"r-1\",\"stars\":5,\"label\":\"x\",\"text\":\"Fits well\"}";
    desk.write("rec.json", format!("[{record}]"));
    desk.run(&sim, "rec.json")
        .ends(2, "--template 'Summarize: {{text}}'");
    desk.write(
        "in.csv",
        "id,label,text,stars\na-very-long-id-of-a-row,x,Fits well,5\n",
    );
    desk.run(&sim, "in.csv")
        .ends(2, "--template 'Summarize: {{text}}'");
}

#[test]
fn an_output_named_like_a_table_is_refused() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "a\n");
    for name in ["out.csv", "out.XLSX"] {
        desk.run(&sim, &format!("in.txt -j 2 -o {name}"))
            .ends(2, "results are JSON lines")
            .says("run with -o out.jsonl")
            .says(&format!("batchwright export out.jsonl -o {name}"));
        assert!(!desk.exists(name));
    }
    #[cfg(unix)]
    {
        let pipe = desk.path("pipe.csv");
        let made = std::process::Command::new("mkfifo").arg(pipe).status();
        assert!(made.unwrap().success());
        desk.run(&sim, "in.txt -o pipe.csv")
            .ends(2, "results are JSON lines");
    }
    desk.write("in.csv", "prompt\na\n");
    desk.run(&sim, "in.csv in.jsonl --output=out.csv")
        .ends(2, "batchwright export out.jsonl -o out.csv");
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
    use super::common::id;

    let (desk, sim) = (Desk::new(), good());
    desk.write("kept.jsonl", KEPT);
    let names = ["in.parquet", "in.xlsx"];
    for name in names {
        desk.plain(&format!("export kept.jsonl -o {name}"))
            .expect(0);
    }
    for name in names {
        let out = name.replace("in.", "out-") + ".jsonl";
        let mut command = desk.against(&sim, &format!("{name} -j 1 -o {out}"));
        command.ended().expect(0);
        let lines = desk.results(&out);
        assert_eq!(lines[0]["text"], "echo: one\r\ntwo", "{name}");
        assert_eq!(lines[1]["text"], "echo: =cmd()", "{name}");
        assert_eq!((id(&lines[0]), id(&lines[1])), ("1".into(), "b".into()));
        // Running the same again sends nothing: the input was read the same way.
        command.ended().ends(0, "2 finished before");
    }
    assert_eq!(sim.stats().calls, 4);
    // A template can use their columns; numbers are written as in the table.
    let template = ["--template", "{{n}} and {{x}}"];
    let mut command = desk.against(&sim, "in.xlsx -j 1 --bad-rows skip");
    let ended = command.args(template).ended().expect(3);
    let texts: Vec<_> = results(&ended.stdout)
        .iter()
        .map(|l| l["text"].clone())
        .collect();
    assert!(texts.contains(&"echo: 3 and 0.5".into()), "{texts:?}");
    // Submitted to the queue as well.
    desk.plain("submit in.parquet --model m").expect(0);
    desk.plain("submit in.xlsx --sheet none --model m")
        .ends(2, "expected one of \"results\"");
    desk.run(&sim, "in.parquet --sheet a")
        .ends(2, "found --sheet, which applies only to .xlsx files");
    // A bad row is named by its number.
    let mut command = desk.against(&sim, "in.xlsx");
    command
        .args(["--template", "{{x}}"])
        .ended()
        .ends(2, "in.xlsx: row 3: found null in \"x\"; expected a value");
    let text = std::fs::read(desk.path("in.parquet")).unwrap();
    fed(&desk, &sim, "-", &text)
        .expect(2)
        .says("found a Parquet file; expected UTF-8 text: name it as a file");
}

#[test]
fn a_null_in_a_used_column_is_a_bad_row_of_any_format() {
    let (desk, sim) = (Desk::new(), good());
    let mut names = vec!["in.jsonl"];
    if cfg!(feature = "tables") {
        desk.write("kept.jsonl", KEPT);
        desk.plain("export kept.jsonl -o in.parquet").expect(0);
        desk.plain("export kept.jsonl -o in.xlsx").expect(0);
        names.extend(["in.parquet", "in.xlsx"]);
    }
    desk.input("{\"id\":1,\"n\":3,\"x\":0.50}\n{\"id\":\"b\",\"n\":4,\"x\":null}\n");
    let run = |words: &str| {
        let template = ["--template", "{{n}} and {{x}}"];
        desk.against(&sim, words).args(template).ended()
    };
    for (i, name) in names.iter().enumerate() {
        let before = sim.stats().calls;
        run(&format!("{name} -o {i}.jsonl")).ends(2, "found null in \"x\"; expected a value");
        assert_eq!(sim.stats().calls, before);
        run(&format!("{name} -j 1 -o {i}.jsonl --bad-rows skip"))
            .ends(3, "2 items: 1 bad row that is not sent, 1 to send");
        let lines = desk.results(&format!("{i}.jsonl"));
        let failed = lines.iter().find(|line| line["id"] == "b").unwrap();
        failed.has(json!({"/error/kind": "invalid", "attempts": 0}));
        let why = failed["error"]["message"].as_str().unwrap();
        assert!(why.starts_with(&format!("not sent: {name}:")), "{why}");
        assert!(
            why.ends_with("found null in \"x\"; expected a value"),
            "{why}"
        );
        assert_eq!(sim.stats().calls - before, 1);
    }
    // Problems in unused columns do not matter.
    desk.run(&sim, "in.jsonl --template {{n}}").expect(0);
    // The failed row is sent after it is filled in, and the other one is not billed again.
    desk.input("{\"id\":1,\"n\":3,\"x\":0.50}\n{\"id\":\"b\",\"n\":4,\"x\":1}\n");
    let before = sim.stats().calls;
    run("in.jsonl -j 1 -o 0.jsonl").expect(0);
    assert_eq!(sim.stats().calls - before, 1);
    let lines = desk.results("0.jsonl");
    let filled = lines.iter().find(|line| line["id"] == "b").unwrap();
    assert_eq!(filled["text"], "echo: 4 and 1");
    let rows = "{\"n\":1}\n{\"id\":\"b\",\"n\":null}\n{\"n\":2}\n";
    for task in ["", " --task embed --model e"] {
        let words = format!("- --template {{{{n}}}} -j 1{task}");
        fed(&desk, &sim, &words, rows.as_bytes()).says(":2: found null in \"n\"");
        let ended = fed(&desk, &sim, &(words + " --bad-rows skip"), rows.as_bytes()).expect(3);
        let lines = results(&ended.stdout);
        let failed: Vec<_> = lines
            .iter()
            .filter(|line| line["success"] == false)
            .collect();
        assert_eq!((lines.len(), failed.len()), (3, 1));
        failed[0].has(json!({"id": "b", "attempts": 0}));
    }
}
