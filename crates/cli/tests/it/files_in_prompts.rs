//! Local files in prompts: read when they are sent, and identified by their contents.

use serde_json::{Value, json};

use super::batch_runs::{SHORT, taking};
use super::common::{Desk, Ended, RunToEnd, Running, good};
use super::job_types::working;
use super::program::fed;
use super::queue::{plain, submit};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\nrest";

/// A desk with a file of each kind.
fn desk() -> Desk {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("scans")).unwrap();
    desk.write("scans/a.png", PNG);
    desk.write("scans/b.pdf", b"%PDF-1.7 rest");
    desk
}

/// A line that refers to files.
fn about(id: &str, files: &[&str]) -> String {
    let text = json!({"type": "text", "text": format!("about {id}")});
    let files = files
        .iter()
        .map(|path| json!({"type": "file", "path": path}));
    let content: Value = [text].into_iter().chain(files).collect();
    let line = json!({"id": id, "messages": [{"role": "user", "content": content}]});
    format!("{line}\n")
}

#[test]
fn a_table_names_files_by_a_column_and_paths_stay_below_the_root() {
    let (desk, sim) = (desk(), good());
    std::fs::create_dir(desk.path("in")).unwrap();
    let run = |words: &str| -> Ended {
        let template = ["--template", "{{file:scan}} {{ask}}"];
        desk.against(&sim, words).args(template).ended()
    };
    let rows = "id,scan,ask\n1,../scans/a.png,what?\n2,/etc/passwd,who?\n3,{{file:scan}},x\n";
    desk.write("in/rows.csv", rows);
    run("in/rows.csv -o out.jsonl")
        .ends(
            2,
            "in/rows.csv:2: found the file \"../scans/a.png\", which is outside of in",
        )
        .says("in/rows.csv:3: found the file \"/etc/passwd\", which is outside of in")
        .tells("in/rows.csv:4: found the file \"{{file:scan}}\", which is not there");
    assert_eq!(sim.stats().calls, 0);
    let rows = "id,scan,ask\n1,scans/a.png,{{file:scan}} what?\n2,scans/b.pdf,why?\n";
    desk.write("in/rows.csv", rows);
    run("in/rows.csv -o out.jsonl --root . --ordered").expect(0);
    // A cell is sent to the model as text, and cannot refer to a file.
    let lines = desk.results("out.jsonl");
    assert_eq!(lines[0]["text"], "echo:  {{file:scan}} what?");
    // From standard input paths are relative to the working folder.
    let about = about("a", &["scans/a.png"]);
    fed(&mut desk.against(&sim, "- -o stdin.jsonl"), about).expect(0);
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn a_file_is_identified_by_its_contents() {
    let (desk, sim) = (desk(), good());
    desk.input(about("1", &["scans/a.png"]) + &about("2", &["scans/b.pdf"]));
    let run = || desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    run();
    run().says("nothing to send");
    std::fs::rename(desk.path("scans/a.png"), desk.path("scans/z.png")).unwrap();
    desk.input(about("1", &["scans/z.png"]) + &about("2", &["scans/b.pdf"]));
    run().says("nothing to send");
    assert_eq!(sim.stats().calls, 2);
    desk.write("scans/b.pdf", b"%PDF-1.7 other");
    run().says("1 to send");
    assert_eq!(sim.stats().calls, 3);
    std::fs::remove_file(desk.path("scans/b.pdf")).unwrap();
    desk.run(&sim, "in.jsonl -o out.jsonl")
        .expect(2)
        .says("in.jsonl:2: found the file \"scans/b.pdf\", which is not there");
    // As with other bad rows, the run can continue without them.
    desk.run(&sim, "in.jsonl -o out.jsonl --bad-rows skip")
        .ends(3, "1 bad row");
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn a_worker_reads_files_when_they_are_sent_and_a_job_can_be_retried() {
    let (desk, sim) = (desk(), good());
    desk.input(about("1", &["scans/a.png"]) + &about("2", &["scans/b.pdf"]));
    let id = submit(&desk, "in.jsonl");
    // The input is no longer needed, but the files are.
    std::fs::remove_file(desk.path("in.jsonl")).unwrap();
    std::fs::rename(desk.path("scans/b.pdf"), desk.path("b.pdf")).unwrap();
    working(&desk, &sim, "--until-empty").wait().expect(3);
    assert_eq!(sim.stats().calls, 1);
    plain(&desk, &format!("results {id} --keep -o out.jsonl")).expect(3);
    let lines = desk.results("out.jsonl");
    let failed = lines.iter().find(|line| line["success"] == false).unwrap();
    let error = &failed["error"];
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("b.pdf cannot be read"), "{message}");
    assert_eq!(error["kind"], "invalid");
    std::fs::rename(desk.path("b.pdf"), desk.path("scans/b.pdf")).unwrap();
    plain(&desk, &format!("retry {id}")).expect(0);
    working(&desk, &sim, "--until-empty").wait().expect(0);
    assert_eq!(sim.stats().calls, 2);
}

/// 200 MB of files, of which only a few are in memory at a time.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "takes a minute"]
fn memory_does_not_grow_with_the_files() {
    const FILE: usize = 2_000_000;
    let (desk, sim) = (Desk::new(), taking(SHORT));
    let mut lines = String::new();
    for i in 0..100_usize {
        let name = format!("{i}.png");
        let noise: Vec<u8> = (0..FILE).map(|at| (at * (2 * i + 1) % 255) as u8).collect();
        desk.write(&name, [PNG, &noise].concat());
        lines += &about(&i.to_string(), &[&name]);
    }
    desk.write("in.jsonl", lines);
    // With `auto`, the memory would depend on how many calls at once the machine gains by.
    for (strategy, calls) in [("sync", "-j 8"), ("batch", "")] {
        let words = format!("in.jsonl -o {strategy}.jsonl --strategy {strategy} {calls}");
        let mut command = super::batch_runs::command(&desk, &sim, &words);
        let (ended, most) = Running::start(&mut command).wait_with_peak();
        ended.expect(0);
        assert_eq!(desk.results(&format!("{strategy}.jsonl")).len(), 100);
        println!("{strategy}: {most} kB");
        assert!(most < 180_000, "{strategy}: {most} kB");
    }
}
