//! Tables as spreadsheets write them.

use std::process::Stdio;

use super::common::{Desk, Ended, Running, good, id, results};
use batchwright_simulate::Simulator;

fn fed(desk: &Desk, sim: &Simulator, words: &str, text: &[u8]) -> Ended {
    let mut running = Running::start(desk.against(sim, words).stdin(Stdio::piped()));
    let mut pipe = running.child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut pipe, text);
    drop(pipe);
    running.wait()
}

#[test]
fn empty_cells_are_not_paid_for() {
    let (desk, sim) = (Desk::new(), good());
    let rows = "id,stars,Text\nr-1,5,Good\nr-3,4,\nr-4,,  \n,,\n,,\n\"\",\"\",\"\"\n";
    desk.write("in.csv", rows);
    desk.write("in.jsonl", "{\"id\":\"a\",\"Text\":\" \"}\n");
    let run = |words: &str| {
        let template = ["--template", "About? {{Text}}"];
        Running::start(desk.against(&sim, words).args(template)).wait()
    };
    let ended = run("in.csv -o out.jsonl").expect(2);
    ended
        .says("in.csv:3: found the fields of the template all empty: \"Text\"")
        .says("in.csv:4: found ");
    run("in.jsonl -o out.jsonl")
        .expect(2)
        .says("in.jsonl:1: found the fields of the template all empty");
    assert_eq!(sim.stats().calls, 0);
    run("in.csv -o out.jsonl --bad-rows skip")
        .expect(3)
        .says("3 items: 2 bad rows that are not sent, 1 to send");
    assert_eq!(sim.stats().calls, 1);
    // One of several fields is enough.
    let template = ["--template", "{{stars}} {{Text}}"];
    let mut command = desk.against(&sim, "in.csv -o both.jsonl --bad-rows skip");
    Running::start(command.args(template))
        .wait()
        .expect(3)
        .says("3 items: 1 bad row");
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn other_separators_are_found_or_named() {
    let (desk, sim) = (Desk::new(), good());
    let text = |words: &str| {
        let ended = desk.run(&sim, words).expect(0);
        let lines = results(&ended.stdout);
        assert_eq!(id(&lines[0]), "1");
        lines[0]["text"].as_str().unwrap().to_owned()
    };
    for rows in [
        "\u{feff}id;Ergebnis;Text\r\n1;3,5;Gut, danke\r\n;;\r\n",
        "sep=;\r\nid;Ergebnis;Text\r\n1;3;Gut, danke\r\n",
        "id\tText\n1\tGut, danke\n",
        "id|Text\n1|Gut, danke\n",
    ] {
        desk.write("in.csv", rows);
        assert_eq!(text("in.csv --template {{Text}}"), "echo: Gut, danke");
    }
    desk.write("in.csv", "id;x,Text\n1;2,5\n");
    let ended = desk.run(&sim, "in.csv --template {{Text}}").expect(2);
    ended.says("--delimiter ',' or --delimiter ';'");
    desk.run(&sim, "in.csv --template {{Text}} --delimiter ,")
        .expect(0);
    desk.write("in.csv", "id^Text\n1^a,b\n");
    assert_eq!(
        text("in.csv --template {{Text}} --delimiter ^"),
        "echo: a,b"
    );
    desk.write("in.tsv", "id,Text\n1,a\tb\n");
    assert_eq!(
        text("in.tsv --template {{Text}} --delimiter ,"),
        "echo: a\tb"
    );
    desk.write("tabs.csv", "id\tText\n1\ta\n");
    assert_eq!(
        text("tabs.csv --template {{Text}} --delimiter tab"),
        "echo: a"
    );
    let rows = b"id;Text\n1;a\n";
    let ended = fed(&desk, &sim, "- --template {{Text}} --delimiter ;", rows).expect(0);
    assert_eq!(results(&ended.stdout)[0]["text"], "echo: a");
    desk.write("in.txt", "a\n");
    desk.run(&sim, "in.txt --delimiter ;")
        .expect(2)
        .says("found --delimiter; expected a table");
    desk.run(&sim, "in.csv --delimiter ;;")
        .expect(2)
        .says("one ASCII character");
}

#[test]
fn other_encodings_are_named_with_what_converts_them() {
    let (desk, sim) = (Desk::new(), good());
    let cases: [(&str, &[u8], &str); 5] = [
        (
            "in.csv",
            b"id,prompt\n1,Gr\xf6\xdfe\n",
            "iconv -f WINDOWS-1252 -t UTF-8 in.csv > out.csv",
        ),
        ("in.csv", b"\xff\xfei\0d\0", "found UTF-16 text"),
        ("in.jsonl", b"\xfe\xff\0{", "iconv -f UTF-16 -t UTF-8"),
        (
            "in.csv",
            b"PK\x03\x04\x14",
            "found a spreadsheet such as .xlsx",
        ),
        ("in.xlsx", b"PK\x03\x04\x14", "save it as CSV UTF-8"),
    ];
    for (name, content, said) in cases {
        desk.write(name, content);
        desk.run(&sim, name).expect(2).says(said);
    }
    fed(&desk, &sim, "-", b"\xff\xfei\0d\0\n\0")
        .expect(2)
        .says("found UTF-16 text");
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn repeated_ids_are_named_beside_other_faults() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.csv", "id,prompt\na,1\nb,\na,2\nc,\n");
    let ended = desk.run(&sim, "in.csv -o out.jsonl").expect(2);
    let faults: Vec<&str> = ended.stderr.lines().collect();
    for (line, said) in [
        "in.csv:3: found an empty prompt",
        "in.csv:4: found the id \"a\", which line 2 has already",
        "in.csv:5: found an empty prompt",
    ]
    .iter()
    .enumerate()
    {
        assert!(faults[line].contains(said), "{}", ended.stderr);
    }
    let ended = desk.run(&sim, "in.csv -o out.jsonl --bad-rows skip");
    ended.expect(2).says("in.csv:4: found the id \"a\"");
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn a_refused_standard_input_is_all_that_is_said() {
    let (desk, sim) = (Desk::new(), good());
    for (text, said) in [
        ("id,text\n1,a\n", "--format csv"),
        ("\n{oops\n", "(standard input):2: found invalid JSON"),
    ] {
        let ended = fed(&desk, &sim, "- -o out.jsonl", text.as_bytes()).expect(2);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(!desk.exists("out.jsonl"));
    }
}

#[test]
fn a_template_is_proposed_with_the_longest_text() {
    let (desk, sim) = (Desk::new(), good());
    let record = "{\"id\":\"r-1\",\"stars\":5,\"label\":\"x\",\"text\":\"Fits well\"}";
    desk.write("rec.json", format!("[{record}]"));
    let ended = desk.run(&sim, "rec.json").expect(2);
    let ended = ended.says("--template 'Summarize: {{text}}'");
    assert!(
        !ended.stderr.contains("--ignore-fields"),
        "{}",
        ended.stderr
    );
    desk.write(
        "in.csv",
        "id,label,text,stars\na-very-long-id-of-a-row,x,Fits well,5\n",
    );
    desk.run(&sim, "in.csv")
        .expect(2)
        .says("--template 'Summarize: {{text}}'");
}

#[test]
fn an_output_named_like_a_table_is_refused() {
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "a\n");
    for name in ["out.csv", "out.XLSX", "out.parquet"] {
        desk.run(&sim, &format!("in.txt -o {name}"))
            .expect(2)
            .says("results are JSON lines: name it .jsonl");
        assert!(!desk.exists(name));
    }
    assert_eq!(sim.stats().calls, 0);
}
