//! Answers to requests that changed afterwards.

use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::Value;

use super::batch_runs::{WORDS, clean, command, left_alone};
use super::common::{Desk, RunToEnd, all_ids, good, prompt_lines};

const ARCHIVE: &str = "out.jsonl.superseded.jsonl";

/// A run, and one whose requests differ from it.
fn by_templates() -> [String; 2] {
    ["A", "B"].map(|by| format!("in.jsonl -o out.jsonl -j 1 --template {by}:{{{{prompt}}}}"))
}

#[test]
fn outdated_answers_stay_until_the_run_ends_and_count_again_if_requested_again() {
    let (desk, sim) = (Desk::with(6), good());
    let [old, new] = by_templates();
    desk.run(&sim, &old).expect(0);
    let before = desk.read("out.jsonl");

    let running = desk.held(&sim, &new, 1);
    running.hears("6 changed, 6 to send");
    assert_eq!(desk.read("out.jsonl"), before);
    running.signal("INT");
    running.hears("stopping:");
    sim.release();
    running.wait().expect(130);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[6]["text"], "echo: B:prompt 0");

    // A dry run changes nothing.
    let stopped = desk.read("out.jsonl");
    desk.run(&sim, &format!("{new} --dry-run"))
        .ends(0, "5 changed, 5 to send");
    assert_eq!(desk.read("out.jsonl"), stopped);
    // With the old requests again, nothing is billed twice.
    desk.run(&sim, &old)
        .ends(0, "6 finished before, nothing to send");
    assert_eq!((desk.read("out.jsonl"), sim.stats().calls), (before, 7));
    // And now until a clean end.
    desk.write("out.jsonl", &stopped);
    desk.run(&sim, &new)
        .ends(0, "1 finished before, 5 changed, 5 to send");
    assert_eq!(desk.results("out.jsonl").len(), 6);
    assert_eq!(sim.stats().calls, 12);
}

/// The archived lines: id and text of each.
fn archived(desk: &Desk, archive: &str) -> Vec<[String; 2]> {
    let field = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let fields = |line: &Value| ["id", "text"].map(|name| field(line, name));
    desk.results(archive).iter().map(fields).collect()
}

#[test]
fn replaced_answers_are_archived_and_can_be_restored() {
    let (desk, sim) = (Desk::new(), good());
    // The output is private, and a link leads to it.
    std::fs::create_dir(desk.path("real")).unwrap();
    desk.write("real/out.jsonl", "");
    let private = PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(desk.path("real/out.jsonl"), private).unwrap();
    symlink("real/out.jsonl", desk.path("out.jsonl")).unwrap();
    desk.prompts("in.jsonl", 3);
    let [old, new] = by_templates();
    desk.run(&sim, &old).expect(0);
    let before = desk.read("out.jsonl");
    desk.run(&sim, &new)
        .ends(0, "3 of 3 requests differ from those answered before;")
        .tells("their earlier answers move to out.jsonl.superseded.jsonl when the run ends");
    let archive = "real/out.jsonl.superseded.jsonl";
    let mode = desk.path(archive).metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut kept = archived(&desk, archive);
    kept.sort();
    let of_a = |i| [format!("i-{i}"), format!("echo: A:prompt {i}")];
    assert_eq!(kept, [0, 1, 2].map(of_a));

    // A changed row is reported too.
    desk.input(prompt_lines(3).replace("prompt 1", "another"));
    desk.run(&sim, &new)
        .ends(0, "1 of 3 requests differs from those answered before;");
    assert_eq!(archived(&desk, archive)[3][0], "i-1");

    // With the first requests again, the answers come from the archive: nothing is billed, however often the requests
    // alternate.
    desk.prompts("in.jsonl", 3);
    let calls = sim.stats().calls;
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for _ in 0..3 {
        desk.run(&sim, &old.replace("out.jsonl", "real/out.jsonl"))
            .ends(
                0,
                "3 finished before, nothing to send; 3 answers are taken back",
            );
        assert_eq!(sorted(&desk.read("out.jsonl")), sorted(&before));
        desk.run(&sim, &new).ends(0, "3 answers are taken back");
    }
    assert_eq!(sim.stats().calls, calls);
    assert_eq!(archived(&desk, archive).len(), 7, "each is kept once");
}

#[test]
fn an_archive_that_cannot_be_written_deletes_nothing() {
    let (desk, sim) = (Desk::with(2), good());
    let [old, new] = by_templates();
    desk.run(&sim, &old).expect(0);
    desk.write(ARCHIVE, "notes\nof mine\n");
    desk.run(&sim, &new)
        .ends(1, "cannot be moved to their own file, so they stay there");
    assert_eq!(desk.read(ARCHIVE), "notes\nof mine\n");
    assert_eq!(desk.results("out.jsonl").len(), 4);
    // The next run of the same command archives them. The truncated line is what a kill leaves.
    let text = desk.read("out.jsonl");
    let mut lines = text.lines();
    let line = lines.find(|line| line.contains("echo: A:prompt 0"));
    let whole = format!("{}\n", line.unwrap());
    desk.write(ARCHIVE, format!("{whole}{}", &whole[..60]));
    desk.run(&sim, &new).expect(0);
    let archived = archived(&desk, ARCHIVE).into_iter();
    let mut ids: Vec<String> = archived.map(|[id, ..]| id).collect();
    ids.sort();
    assert_eq!(
        ids,
        all_ids(2),
        "each once, although a killed run had written one"
    );
    assert_eq!(desk.results("out.jsonl").len(), 2);
}

#[test]
fn the_answer_of_a_batch_to_an_edited_row_is_kept_also_if_the_run_continues_with_calls() {
    let (desk, sim) = left_alone(3);
    desk.input(prompt_lines(3).replace("prompt 1", "another"));
    command(&desk, &sim, WORDS).ended().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    let kept = ["i-1", "echo: prompt 1"].map(str::to_owned);
    assert_eq!(archived(&desk, ARCHIVE), [kept]);
    let accepted = sim.batch_stats().items_accepted;
    assert_eq!((sim.stats().calls, accepted), (1, 3));
    clean(&desk);
}
