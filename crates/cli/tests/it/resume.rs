//! The output file is the checkpoint.

use std::io::Write;

use batchwright::Request;
use batchwright::client::request_hash;
use batchwright_simulate::{SimConfig, Trouble};
use serde_json::json;

use super::common::{
    Desk, Has, RunToEnd, all_ids, good, id, ids_in_order, prompt_line, prompt_lines, simulator,
};

const RUN: &str = "in.jsonl -o out.jsonl -j 4";

#[test]
fn a_second_run_sends_nothing_and_changes_nothing() {
    let (desk, sim) = (Desk::with(30), good());
    desk.run(&sim, RUN).expect(0);
    let before = (desk.read("out.jsonl"), inode(&desk));
    desk.run(&sim, RUN)
        .ends(0, "30 finished before, nothing to send");
    assert_eq!((desk.read("out.jsonl"), inode(&desk)), before);
    assert_eq!(sim.stats().calls, 30);
}

#[cfg(unix)]
fn inode(desk: &Desk) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(desk.path("out.jsonl")).unwrap().ino()
}

#[cfg(not(unix))]
fn inode(_: &Desk) -> u64 {
    0
}

#[test]
fn result_lines_have_stable_keys_and_the_fingerprint_of_their_request() {
    let desk = Desk::with(10);
    let sim = simulator(SimConfig::default().trouble(Trouble::BadRequest, 0.5));
    desk.run(&sim, RUN).expect(3);
    for (text, line) in desk
        .read("out.jsonl")
        .lines()
        .zip(desk.results("out.jsonl"))
    {
        let mut at = 0;
        let keys = "id success text provider model finish_reason usage attempts latency_ms cost_usd request_hash error";
        for key in keys.split(' ') {
            let place = text[at..].find(&format!("\"{key}\":"));
            at += place.unwrap_or_else(|| panic!("no {key} in its place: {text}"));
        }
        assert_eq!(line.as_object().unwrap().len(), 12, "{text}");
        let request = Request::new(id(&line).replace("i-", "prompt ")).with_model("sim-1");
        assert_eq!(line["request_hash"], request_hash(&request));
        line.has(json!({"provider": "local", "attempts": 1}));
        if line["success"] == true {
            let usage = line["usage"].as_object().unwrap();
            assert_eq!(usage.len(), 4, "{text}");
            assert!(line["error"].is_null() && line["finish_reason"] == "stop");
        } else {
            let error = line["error"].as_object().unwrap();
            let names: Vec<&str> = error.keys().map(String::as_str).collect();
            for key in ["kind", "class", "status", "message"] {
                assert!(names.contains(&key), "{text}");
            }
            // If the provider reports an id of the call, the line contains it.
            assert!(
                names.len() == 4 || error.contains_key("request_id"),
                "{text}"
            );
            assert!(line["text"].is_null() && line["usage"].is_null());
        }
    }
}

#[test]
fn only_changed_items_run_again() {
    let (desk, sim) = (Desk::with(6), good());
    desk.run(&sim, RUN).expect(0);
    let calls = |expected: u64| assert_eq!(sim.stats().calls, expected);
    // Edited rows.
    let mut lines: Vec<String> = (0..6).map(prompt_line).collect();
    lines[2] = lines[2].replace("prompt 2", "another");
    desk.write("in.jsonl", lines.concat());
    desk.run(&sim, RUN).ends(0, "1 changed, 1 to send");
    calls(7);
    // Inserted rows, and all in another order.
    lines.insert(0, prompt_line(77));
    lines.reverse();
    desk.write("in.jsonl", lines.concat());
    desk.run(&sim, RUN).ends(0, "6 finished before, 1 to send");
    calls(8);
    // A removed row: its result is kept.
    lines.retain(|line| !line.contains("i-4"));
    desk.write("in.jsonl", lines.concat());
    let before = desk.read("out.jsonl");
    desk.run(&sim, RUN).ends(
        0,
        "the output also has 1 result of another item, which stays",
    );
    assert_eq!(desk.read("out.jsonl"), before);
    calls(8);
    assert_eq!(
        desk.results("out.jsonl").len(),
        7,
        "superseded lines are gone"
    );
    let edited = desk.results("out.jsonl");
    let edited = edited.iter().find(|line| id(line) == "i-2").unwrap();
    assert_eq!(edited["text"], "echo: another");
}

#[test]
fn failed_items_run_again_unless_kept() {
    let desk = Desk::new();
    let once = SimConfig::default()
        .trouble(Trouble::ContentFilter, 0.5)
        .trouble_times(Trouble::ContentFilter, Some(2));
    let sim = simulator(once);
    desk.prompts("in.jsonl", 20);
    let words = format!("{RUN} --max-retries 0");
    desk.run(&sim, &words).expect(3);
    let failed = desk.results("out.jsonl");
    let failed = failed.iter().filter(|l| l["success"] == false).count() as u64;
    assert!(failed > 3 && failed < 17);
    let before = desk.read("out.jsonl");
    desk.run(&sim, &format!("{words} --resend none")).expect(3);
    assert_eq!(desk.read("out.jsonl"), before);
    assert_eq!(sim.stats().calls, 20);
    desk.run(&sim, &words).ends(3, "failed before");
    assert_eq!(sim.stats().calls, 20 + failed);
    desk.run(&sim, &words).expect(0);
    assert_eq!(sim.stats().calls, 20 + 2 * failed);
    assert_eq!(desk.ids("out.jsonl"), all_ids(20));
}

#[test]
fn a_file_of_anything_else_is_refused_and_untouched() {
    let (desk, sim) = (Desk::with(2), good());
    for content in [
        "notes\n".to_owned(),
        "precious notes without a line end".to_owned(),
        prompt_lines(2),
        "{\"id\":\"a\"}\n".to_owned(),
        "{\"id\":7,\"success\":true,\"request_hash\":\"\"}\n".to_owned(),
        "{\"id\":\"a\",\"succ\n{\"id\":\"b\",\"success\":true,\"request_hash\":\"\"}\n".to_owned(),
        "[]".to_owned(),
        "{\"id\":\"a\",\"prompt\":\"my only copy\"}".to_owned(),
        "{\"id\":7,\"important\":\"data\"}".to_owned(),
        "\0\0\0\0".to_owned(),
        "{\"id\":\"a\",\"prompt\":\"my only co".to_owned(),
        "{\"id\":7,\"impor".to_owned(),
        "[1,2".to_owned(),
        "\"id\":\"a\",\"succ".to_owned(),
    ] {
        desk.write("out.jsonl", &content);
        let ended = desk.run(&sim, RUN).expect(2);
        ended.errs("out.jsonl:1: not a result line");
        assert_eq!(desk.read("out.jsonl"), content);
    }
    // The input itself as the output, by mistake.
    desk.run(&sim, "in.jsonl -o in.jsonl")
        .ends(2, "it is also the input; name another output");
    assert_eq!(desk.read("in.jsonl"), prompt_lines(2));
    assert_eq!(sim.stats().calls, 0);
    desk.write("out.jsonl", "");
    desk.run(&sim, RUN).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

/// A power failure leaves them at the end of the file, and later results stand behind them.
#[test]
fn zeros_before_a_result_cost_no_answer() {
    let (desk, sim) = (Desk::with(20), good());
    desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    let text = desk.read("out.jsonl");
    let zeros = |n: usize| "\0".repeat(n);
    let damaged: String = text
        .lines()
        .enumerate()
        .map(|(i, line)| zeros(i % 7) + line + "\n" + if i == 3 { "\0\0\n" } else { "" })
        .collect();
    desk.write("out.jsonl", damaged);
    desk.run(&sim, "in.jsonl -o out.jsonl")
        .ends(0, "20 finished before");
    desk.plain("export out.jsonl -o out.csv").expect(0);
    assert_eq!(desk.read("out.csv").lines().count(), 21);
    desk.run(&sim, "in.jsonl -o out.jsonl --ordered").expect(0);
    assert_eq!(sim.stats().calls, 20);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(20));
}

/// As some editors write at the beginning of a file.
#[test]
fn an_output_with_a_byte_order_mark_is_read() {
    let (desk, sim) = (Desk::with(5), good());
    desk.run(&sim, RUN).expect(0);
    let marked = format!("\u{feff}{}", desk.read("out.jsonl"));
    let first = id(&desk.results("out.jsonl")[0]).to_owned();
    desk.write("out.jsonl", &marked);
    desk.run(&sim, RUN)
        .ends(0, "5 finished before, nothing to send");
    assert_eq!(desk.read("out.jsonl"), marked);
    let table = desk.plain("export out.jsonl -o - --columns id");
    let table = table.expect(0).stdout;
    assert_eq!(table.lines().count(), 6, "{table}");

    // The first line is changed and moved like any other.
    desk.run(&sim, &format!("{RUN} --system other --ordered"))
        .says("5 changed, 5 to send");
    assert_eq!(sim.stats().calls, 10);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(5));
    let archived = desk.results("out.jsonl.superseded.jsonl");
    assert!(archived.iter().any(|line| id(line) == first));
}

#[test]
fn ordered_puts_results_into_the_order_of_the_input() {
    let desk = Desk::new();
    let jitter = std::time::Duration::from_millis(10);
    let sim = simulator(SimConfig::default().jitter(jitter));
    desk.prompts("in.jsonl", 40);
    let words = "in.jsonl -o out.jsonl -j 8 --ordered";
    desk.run(&sim, words).expect(0);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(40));
    let lines: String = (0..40).rev().map(prompt_line).collect();
    desk.write("in.jsonl", lines);
    desk.run(&sim, words).expect(0);
    let mut reversed = ids_in_order(40);
    reversed.reverse();
    assert_eq!(desk.order("out.jsonl"), reversed);
    assert_eq!(sim.stats().calls, 40);
    let hidden = std::fs::read_dir(desk.path("")).unwrap();
    assert_eq!(hidden.count(), 2, "nothing is left beside the two files");
}

#[test]
fn a_file_can_be_processed_in_pieces() {
    let (desk, sim) = (Desk::with(10), good());
    for (run, done) in [4, 8, 10, 10].into_iter().enumerate() {
        let words = format!("{RUN} --max-items 4 --fsync");
        desk.run(&sim, &words).expect(0);
        assert_eq!(desk.results("out.jsonl").len(), done, "run {run}");
        assert_eq!(sim.stats().calls, done as u64);
    }
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    assert_eq!(sim.stats().paid_twice, 0);
}

#[test]
fn a_named_model_is_part_of_the_request_and_a_default_is_not() {
    let (desk, sim) = (Desk::with(5), good());
    desk.run(&sim, &format!("{RUN} --model one")).expect(0);
    desk.run(&sim, &format!("{RUN} --model two"))
        .ends(0, "5 changed, 5 to send");
    assert_eq!(sim.stats().calls, 10);

    let url = sim.base_url();
    let words = ["run", "in.jsonl", "-o", "new.jsonl", "--provider", "local"];
    let with_default = |model: &str| {
        let mut command = desk.command(words.iter().chain(&["--base-url", &*url]));
        command.env("BATCHWRIGHT_MODEL", model).ended()
    };
    with_default("one").expect(0);
    assert_eq!(sim.stats().calls, 15);
    let before = desk.read("new.jsonl");
    assert_eq!(desk.results("new.jsonl")[0]["model"], "one");
    let ended = with_default("two").ends(0, "nothing to send");
    ended.says("5 finished results came from one and are kept");
    assert_eq!(desk.read("new.jsonl"), before);
    // If something is left to send, the changed default is mentioned.
    let input = std::fs::OpenOptions::new()
        .append(true)
        .open(desk.path("in.jsonl"));
    write!(input.unwrap(), "{}", prompt_line(5)).unwrap();
    let ended = with_default("two").ends(0, "5 finished results came from one and are kept");
    ended.says("the default model is two now");
    assert_eq!(sim.stats().calls, 16);
}

#[test]
fn settings_of_the_answer_are_part_of_the_request_and_those_of_transport_are_not() {
    let (desk, sim) = (Desk::with(3), simulator(SimConfig::default().answer("{}")));
    desk.run(&sim, RUN).expect(0);
    let carried = "-j 1 --rpm 6000 --tpm 1000000 --max-retries 1 --timeout 9s \
                   --on-error stop --fallback extract --progress never";
    let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl {carried}"));
    ended.ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, 3);
    let mut calls = 3;
    for shaped in [
        "--system short",
        "--max-tokens 5",
        "--temperature 0.5",
        "--json-schema object",
    ] {
        desk.run(&sim, &format!("{RUN} {shaped}"))
            .ends(0, "3 changed, 3 to send");
        calls += 3;
        assert_eq!(sim.stats().calls, calls);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let (desk, sim) = (Desk::with(3), good());
    let torn = "{\"id\":\"i-0\",\"succ";
    desk.write("out.jsonl", torn);
    for flags in ["--dry-run", "--dry-run --ordered"] {
        desk.run(&sim, &format!("{RUN} {flags}")).expect(0);
        assert_eq!(desk.read("out.jsonl"), torn);
        let new = format!("in.jsonl -o new.jsonl {flags}");
        desk.run(&sim, &new).ends(0, "would send 3 items");
        assert!(!desk.exists("new.jsonl"));
    }
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn outdated_results_of_items_without_ids_are_reported_after_a_changed_setting() {
    const WHY: &str = "(rows without ids become new items if a setting changes: add ids to replace \
                       their results, or name a new output)";
    let (desk, sim) = (Desk::new(), good());
    desk.write("in.txt", "a\nb\nc\n");
    let words = "in.txt -o out.jsonl";
    let first = desk.run(&sim, words).expect(0);
    first.hides(WHY);
    desk.run(&sim, &format!("{words} --system short"))
        .expect(0)
        .says(&format!(
            "3 to send; the output also has 3 results of other items, which stay {WHY}"
        ));
    // With ids, old lines are replaced, and kept lines belong to other items.
    desk.prompts("in.jsonl", 2);
    let other = desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
    other.hides(WHY);
    other.tells("2 to send; the output also has 6 results of other items, which stay");
}
