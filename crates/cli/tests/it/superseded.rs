//! Answers to requests that changed afterwards.

use serde_json::Value;

use super::batch_runs::{WORDS, clean, command, left_alone};
use super::common::{Desk, RunToEnd, all_ids, good, prompt_lines};

const RUN: &str = "in.jsonl -o out.jsonl -j 1 --template";

fn is_marked(line: &Value) -> bool {
    line["superseded"] == true
}

/// The texts that a reader of the lines takes for current answers.
fn current(lines: &[Value]) -> Vec<String> {
    let lines = lines.iter().filter(|line| !is_marked(line));
    lines
        .map(|line| line["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn outdated_answers_are_marked_before_the_first_call_and_restored_if_requested_again() {
    let (desk, sim) = (Desk::with(6), good());
    let old = format!("{RUN} A:{{{{prompt}}}}");
    let new = format!("{RUN} B:{{{{prompt}}}}");
    desk.run(&sim, &old).expect(0);
    let before = desk.read("out.jsonl");

    let running = desk.held(&sim, &new, 1);
    running.hears("6 changed, 6 to send; 6 earlier answers are superseded");
    let lines = desk.results("out.jsonl");
    assert!(lines.len() == 6 && lines.iter().all(is_marked));
    let plain = desk.read("out.jsonl").replace(",\"superseded\":true}", "}");
    assert_eq!(plain, before);
    running.signal("INT");
    running.hears("stopping:");
    sim.release();
    running.wait().expect(130);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 7);
    assert_eq!(current(&lines), ["echo: B:prompt 0"]);
    assert_eq!(sim.stats().calls, 7);

    // A dry run changes nothing.
    let stopped = desk.read("out.jsonl");
    desk.run(&sim, &format!("{new} --dry-run"))
        .ends(0, "5 changed, 5 to send");
    assert_eq!(desk.read("out.jsonl"), stopped);

    // With the old requests again, nothing is billed twice.
    desk.run(&sim, &old)
        .expect(0)
        .says("6 finished before, nothing to send; 1 earlier answer is superseded");
    assert_eq!(desk.read("out.jsonl"), before);
    assert_eq!(sim.stats().calls, 7);

    // And now until a clean end.
    desk.write("out.jsonl", &stopped);
    desk.run(&sim, &new)
        .ends(0, "1 finished before, 5 changed, 5 to send");
    let lines = desk.results("out.jsonl");
    assert_eq!(sim.stats().calls, 12);
    assert!(lines.len() == 6 && !lines.iter().any(is_marked));
    assert_eq!(desk.ids("out.jsonl"), all_ids(6));
    assert!(
        current(&lines)
            .iter()
            .all(|text| text.starts_with("echo: B:"))
    );
}

/// The archived lines: id, text and reason of each.
fn archived(desk: &Desk) -> Vec<[String; 3]> {
    let lines = desk.results("out.jsonl.superseded.jsonl");
    let field = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    lines
        .iter()
        .map(|line| {
            assert!(!is_marked(line));
            assert!(field(line, "superseded_at").ends_with('Z'));
            ["id", "text", "superseded_reason"].map(|name| field(line, name))
        })
        .collect()
}

#[test]
fn replaced_answers_are_archived_with_time_and_reason_and_can_be_restored() {
    let (desk, sim) = (Desk::with(3), good());
    desk.run(&sim, &format!("{RUN} A:{{{{prompt}}}}")).expect(0);
    let before = desk.read("out.jsonl");
    let new = format!("{RUN} B:{{{{prompt}}}}");
    desk.run(&sim, &new)
        .expect(0)
        .says("3 of 3 requests differ from those answered before;")
        .says("their earlier answers move to out.jsonl.superseded.jsonl when the run ends");
    let mut kept = archived(&desk);
    kept.sort();
    let of_a = |i: usize, reason: &str| {
        [
            format!("i-{i}"),
            format!("echo: A:prompt {i}"),
            reason.to_owned(),
        ]
    };
    assert_eq!(kept, [0, 1, 2].map(|i| of_a(i, "request changed")));

    // A changed row is reported too.
    desk.write("in.jsonl", prompt_lines(3).replace("prompt 1", "another"));
    desk.run(&sim, &new)
        .ends(0, "1 of 3 requests differ from those answered before;");
    let reasons: Vec<String> = archived(&desk)
        .into_iter()
        .map(|line| line[2].clone())
        .collect();
    assert_eq!(reasons[3], "request changed");

    // With the first requests again, the answers come from the archive: nothing is billed, however often the requests
    // alternate.
    desk.prompts("in.jsonl", 3);
    let calls = sim.stats().calls;
    let old = format!("{RUN} A:{{{{prompt}}}}");
    for _ in 0..3 {
        desk.run(&sim, &old)
            .expect(0)
            .says("3 finished before, nothing to send; 3 answers are taken back");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&desk.read("out.jsonl")), sorted(&before));
        desk.run(&sim, &new).ends(0, "3 answers are taken back");
        assert_eq!(sim.stats().calls, calls);
    }
    assert_eq!(archived(&desk).len(), 7, "each is kept once");
}

#[test]
fn the_archive_has_the_permissions_of_the_output_and_is_found_through_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (desk, sim) = (Desk::with(2), good());
    std::fs::create_dir(desk.path("real")).unwrap();
    desk.write("real/out.jsonl", "");
    let private = PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(desk.path("real/out.jsonl"), private).unwrap();
    symlink("real/out.jsonl", desk.path("out.jsonl")).unwrap();
    desk.run(&sim, &format!("{RUN} A:{{{{prompt}}}}")).expect(0);
    desk.run(&sim, &format!("{RUN} B:{{{{prompt}}}}")).expect(0);
    let archive = desk.path("real/out.jsonl.superseded.jsonl");
    let mode = archive.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let real = RUN.replace("out.jsonl", "real/out.jsonl");
    desk.run(&sim, &format!("{real} A:{{{{prompt}}}}"))
        .ends(0, "2 answers are taken back");
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn an_archive_that_cannot_be_written_deletes_nothing() {
    let (desk, sim) = (Desk::with(2), good());
    desk.run(&sim, &format!("{RUN} A:{{{{prompt}}}}")).expect(0);
    desk.write("out.jsonl.superseded.jsonl", "notes\nof mine\n");
    let new = format!("{RUN} B:{{{{prompt}}}}");
    desk.run(&sim, &new)
        .ends(1, "cannot be moved to their own file, so they stay there");
    assert_eq!(desk.read("out.jsonl.superseded.jsonl"), "notes\nof mine\n");
    assert_eq!(desk.results("out.jsonl").len(), 4);
    // The next run of the same command archives them. The truncated line is what a kill leaves.
    let of_item = |line: &str| line.contains("echo: A:prompt 0");
    let text = desk.read("out.jsonl");
    let line = text.lines().find(|line| of_item(line)).unwrap();
    let line = line.replace(
        ",\"superseded\":true}",
        ",\"superseded_at\":\"2026-01-01T00:00:00Z\",",
    );
    let whole = format!("{line}\"superseded_reason\":\"template\"}}\n");
    desk.write(
        "out.jsonl.superseded.jsonl",
        format!("{whole}{}", &whole[..60]),
    );
    desk.run(&sim, &new).expect(0);
    let mut ids: Vec<String> = archived(&desk).into_iter().map(|[id, ..]| id).collect();
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
    desk.write("in.jsonl", prompt_lines(3).replace("prompt 1", "another"));
    command(&desk, &sim, WORDS).ended().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    let kept = ["i-1", "echo: prompt 1", "request changed"].map(str::to_owned);
    assert_eq!(archived(&desk), [kept]);
    assert_eq!(
        (sim.stats().calls, sim.batch_stats().items_accepted),
        (1, 3)
    );
    clean(&desk);
}
