//! The output file is the checkpoint.

use batchwright_simulate::{SimConfig, Trouble};

use super::common::{
    Desk, RunToEnd, all_ids, good, id, ids_in_order, prompt_line, prompt_lines, simulator,
};

const RUN: &str = "in.jsonl -o out.jsonl -j 4";

fn inode(desk: &Desk) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(desk.path("out.jsonl")).unwrap().ino()
}

#[test]
fn only_changed_items_run_again() {
    let (desk, sim) = (Desk::with(6), good());
    desk.run(&sim, RUN).expect(0);
    let unchanged = |says: &str| {
        let before = (desk.read("out.jsonl"), inode(&desk));
        desk.run(&sim, RUN).ends(0, says);
        assert_eq!((desk.read("out.jsonl"), inode(&desk)), before);
    };
    unchanged("6 finished before, nothing to send");
    // Edited rows.
    let mut lines: Vec<String> = (0..6).map(prompt_line).collect();
    lines[2] = lines[2].replace("prompt 2", "another");
    desk.input(lines.concat());
    desk.run(&sim, RUN).ends(0, "1 changed, 1 to send");
    // Inserted rows, and all in another order.
    lines.insert(0, prompt_line(77));
    lines.reverse();
    desk.input(lines.concat());
    desk.run(&sim, RUN).ends(0, "6 finished before, 1 to send");
    // A removed row: its result is kept.
    lines.retain(|line| !line.contains("i-4"));
    desk.input(lines.concat());
    unchanged("1 result of other items stays in the output");
    assert_eq!(sim.stats().calls, 8);
    let results = desk.results("out.jsonl");
    assert_eq!(results.len(), 7, "superseded lines are gone");
    let edited = results.iter().find(|line| id(line) == "i-2").unwrap();
    assert_eq!(edited["text"], "echo: another");
}

#[test]
fn failed_items_run_again_unless_kept() {
    let once = SimConfig::default()
        .trouble(Trouble::ContentFilter, 0.5)
        .trouble_times(Trouble::ContentFilter, Some(2));
    let (desk, sim) = (Desk::with(20), simulator(once));
    let words = format!("{RUN} --max-retries 0");
    desk.run(&sim, &words).expect(3);
    let failed = desk.results("out.jsonl");
    let failed = failed.iter().filter(|l| l["success"] == false).count() as u64;
    assert!(failed > 3 && failed < 17);
    let before = desk.read("out.jsonl");
    desk.run(&sim, &format!("{words} --resend none")).expect(3);
    assert_eq!((desk.read("out.jsonl"), sim.stats().calls), (before, 20));
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
        "notes\n",
        "precious notes without a line end",
        &prompt_lines(2),
        "{\"id\":\"a\"}\n",
        "{\"id\":7,\"important\":\"data\"}",
        "\0\0\0\0",
        "{\"id\":\"a\",\"prompt\":\"my only co",
    ] {
        desk.write("out.jsonl", content);
        let ended = desk.run(&sim, RUN).expect(2);
        ended.errs("out.jsonl:1: not a result line");
        assert!(content != "notes\n" || ended.error().ends_with("name another output"));
        assert_eq!(desk.read("out.jsonl"), content);
    }
    assert_eq!(sim.stats().calls, 0);
    desk.write("out.jsonl", "");
    desk.run(&sim, RUN).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(2));
}

/// A power failure leaves them, and later results stand behind them. Then they are removed.
#[test]
fn zeros_before_a_result_cost_no_answer() {
    let (desk, sim) = (Desk::with(20), good());
    desk.run(&sim, RUN).expect(0);
    let damaged = |(i, line): (usize, &str)| {
        let zeros = "\0".repeat(i % 7);
        let more = if i == 3 { "\0\0\n" } else { "" };
        format!("{zeros}{line}\n{more}")
    };
    let text = desk.read("out.jsonl");
    let damaged: String = text.lines().enumerate().map(damaged).collect();
    desk.write("out.jsonl", damaged);
    desk.run(&sim, RUN).ends(0, "20 finished before");
    assert_eq!(desk.read("out.jsonl"), text);
    desk.plain("export out.jsonl -o out.csv").expect(0);
    assert_eq!(desk.read("out.csv").lines().count(), 21);
    desk.run(&sim, &format!("{RUN} --ordered")).expect(0);
    assert_eq!(sim.stats().calls, 20);
    assert_eq!(desk.order("out.jsonl"), ids_in_order(20));
}

#[test]
fn a_named_model_is_part_of_the_request_and_a_default_is_not() {
    let (desk, sim) = (Desk::with(5), good());
    desk.run(&sim, &format!("{RUN} --model one")).expect(0);
    desk.run(&sim, &format!("{RUN} --model two"))
        .ends(0, "5 changed, 5 to send");
    assert_eq!(sim.stats().calls, 10);

    let words = "run in.jsonl -o new.jsonl --provider local --base-url";
    let with_default = |model: &str| {
        let mut command = desk.command(words.split(' ').chain([&*sim.base_url()]));
        command.env("BATCHWRIGHT_MODEL", model).ended()
    };
    with_default("one").expect(0);
    let before = desk.read("new.jsonl");
    assert_eq!(desk.results("new.jsonl")[0]["model"], "one");
    with_default("two").ends(0, "nothing to send");
    assert_eq!((desk.read("new.jsonl"), sim.stats().calls), (before, 15));
}

#[test]
fn settings_of_the_answer_are_part_of_the_request_and_those_of_transport_are_not() {
    let (desk, sim) = (Desk::with(3), simulator(SimConfig::default().answer("{}")));
    desk.run(&sim, RUN).expect(0);
    let carried = "--rpm 6000 --tpm 1000000 --max-retries 1 --timeout 9s \
                   --on-error stop --fallback extract --progress never";
    desk.run(&sim, &format!("{RUN} {carried}"))
        .ends(0, "nothing to send");
    assert_eq!(sim.stats().calls, 3);
    for shaped in [
        "--system short",
        "--max-tokens 5",
        "--temperature 0.5",
        "--json-schema object",
    ] {
        desk.run(&sim, &format!("{RUN} {shaped}"))
            .ends(0, "3 changed, 3 to send");
    }
    assert_eq!(sim.stats().calls, 15);
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
fn answers_of_a_model_replace_placeholder_answers() {
    let (desk, sim) = (Desk::with(10), good());
    let run = "run in.jsonl -o out.jsonl";
    let extract = format!("{run} --provider extract");
    desk.plain(&extract).expect(0);
    desk.plain(&extract).ends(0, "nothing to send");
    desk.run(&sim, RUN).expect(0);
    assert_eq!(sim.stats().calls, 10);
    assert_eq!(desk.ids("out.jsonl"), all_ids(10));
    let lines = desk.results("out.jsonl");
    assert!(lines.iter().all(|line| line["provider"] == "local"));

    // In the opposite case, a missing provider discards no billed answer.
    let before = desk.read("out.jsonl");
    desk.plain(run).ends(2, "no provider can be used");
    assert_eq!(desk.read("out.jsonl"), before);
}
