//! `batchwright exec`: commands from scripts and lists, their output, and the job log.

use serde_json::Value;

use super::common::{Desk, Ended, line_count, results};
use super::program::fed;

/// Runs `exec` with these words and this on standard input.
fn piped(desk: &Desk, words: &[&str], input: &[u8]) -> Ended {
    fed(&mut desk.command(["exec"].iter().chain(words)), input)
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Exit value and command of each line of a job log, sorted.
pub fn logged(log: &str) -> Vec<(String, String)> {
    let mut lines: Vec<_> = log
        .lines()
        .skip(1)
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            (columns[6].to_owned(), columns[8].to_owned())
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn an_invalid_line_prevents_all_commands() {
    let desk = Desk::new();
    desk.write("jobs.txt", "touch made\necho x > y\n");
    let ended = desk.plain("exec jobs.txt").expect(2);
    assert!(
        ended
            .error()
            .contains("jobs.txt, line 2: `>` is shell syntax"),
        "{}",
        ended.stderr
    );
    assert!(!desk.exists("made"));
    desk.plain("exec --shell jobs.txt").expect(0);
    assert_eq!(desk.read("y"), "x\n");
    let ended = desk.plain("exec nowhere.txt").expect(2);
    ended.errs("cannot read nowhere.txt");
    desk.write("empty.txt", "# nothing\n\n");
    assert!(
        desk.plain("exec empty.txt")
            .expect(2)
            .error()
            .contains("no commands")
    );
}

#[test]
fn lists_fill_placeholders_and_no_argument_is_code() {
    let desk = Desk::new();
    let words = [
        "-j1", "--", "printf", "%s|", "{}", "{.}", "{/}", "{//}", "{/.}", "{#}",
    ];
    let ended = piped(&desk, &words, b"d/a.b.txt\n$(touch made) 'x\n").expect(0);
    assert_eq!(
        ended.stdout,
        "d/a.b.txt|d/a.b|a.b.txt|d|a.b|1|$(touch made) 'x|$(touch made) 'x|$(touch made) 'x|.|$(touch made) 'x|2|"
    );
    let shell = ["-j1", "--shell", "--", "echo {} | tr a-z A-Z"];
    let ended = piped(&desk, &shell, b"a  b\n$(touch made); touch made\n").expect(0);
    assert_eq!(ended.stdout, "A  B\n$(TOUCH MADE); TOUCH MADE\n");
    assert!(!desk.exists("made"));
    let ended = piped(&desk, &["-0j1", "--", "printf", "<%s>"], b"a\nb\0c d\0").expect(0);
    assert_eq!(ended.stdout, "<a\nb><c d>");
    let ended = piped(&desk, &["-j1", "--", "echo", "x{}", ":::", "a b", "c"], b"").expect(0);
    assert_eq!(ended.stdout, "xa b\nxc\n");
}

#[test]
fn results_have_the_outputs() {
    let desk = Desk::new();
    desk.write(
        "jobs.txt",
        "sh -c 'echo out; echo err >&2; exit 3'\nhead -c 100000 /dev/zero\nno-such-program-here x\n",
    );
    let summary = desk
        .plain("exec jobs.txt -o out.jsonl --json")
        .expect(3)
        .json();
    assert_eq!(summary["summary"]["completed"], 1);
    assert_eq!(summary["summary"]["failed"], 2);
    assert_eq!(summary["exit_code"], 3);
    let mut records = results(&desk.read("out.jsonl"));
    records.sort_by_key(|record| record["seq"].as_u64());
    let [exit, long, missing] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(
        (&exit["id"], &exit["line"]),
        (&Value::from("1"), &Value::from(1))
    );
    assert_eq!(
        (&exit["file"], &exit["status"]),
        (&"jobs.txt".into(), &"failed".into())
    );
    assert_eq!(exit["command"][2], "echo out; echo err >&2; exit 3");
    let result = &exit["result"];
    assert_eq!(
        (&result["exit_code"], &result["signal"]),
        (&3.into(), &Value::Null)
    );
    assert_eq!(
        (&result["stdout"], &result["stderr"]),
        (&"out\n".into(), &"err\n".into())
    );
    assert!(result["start"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(result["duration_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&exit["error"]["kind"], &result["truncated"]),
        (&"exit".into(), &false.into())
    );
    let result = &long["result"];
    assert_eq!(
        (&result["stdout_bytes"], &result["truncated"]),
        (&100_000.into(), &false.into())
    );
    assert_eq!(result["stdout"].as_str().unwrap().len(), 100_000);
    assert_eq!(missing["error"]["kind"], "not_found");
    assert_eq!(missing["result"], Value::Null);
    // An existing file is not overwritten.
    let refused = desk.plain("exec jobs.txt -o out.jsonl").expect(2);
    refused.errs("3 records of an earlier run");
}

#[test]
fn outputs_are_complete() {
    let desk = Desk::new();
    // Two lines with a pause in between, and the first commands are the slowest.
    let line = |i: u32| {
        format!(
            "sh -c 'echo {i}; sleep 0.0{}; echo {i}; echo e{i} >&2'\n",
            9 - i % 9
        )
    };
    desk.write("jobs.txt", (0..30).map(line).collect::<String>());
    let ended = desk.plain("exec jobs.txt -j 10 -q").expect(0);
    assert_eq!(ended.stderr.lines().count(), 30);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(
        lines.chunks(2).all(|pair| pair[0] == pair[1]),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_run_resumes_from_its_log_after_changes_of_the_script() {
    let desk = Desk::new();
    desk.write("jobs.txt", "echo a\nfalse\necho 'b c'\n");
    desk.plain("exec jobs.txt --joblog log").expect(3);
    let entry = |exit: &str, command: &str| (exit.to_owned(), command.to_owned());
    let first = [
        entry("0", "echo 'b c'"),
        entry("0", "echo a"),
        entry("1", "false"),
    ];
    assert_eq!(logged(&desk.read("log")), first);
    // Results are only of commands that run now, which is said.
    let into = desk
        .plain("exec jobs.txt --joblog log -o out.jsonl")
        .expect(3);
    into.tells("out.jsonl has no results of 3 commands that are done");
    // The earlier failure still counts.
    let ended = desk.plain("exec jobs.txt --joblog log").expect(3);
    assert_eq!(ended.stdout, "");
    ended
        .says("3 of 3 are done (1 of them failed), 0 to run")
        .says("to start afresh, delete log or name another --joblog")
        .says("3 finished before (1 of them failed), 0 completed, 0 failed")
        .says("to run failed commands again, add --resume-failed");
    // Lines inserted, reordered and changed.
    desk.write("jobs.txt", "echo new\necho 'b c'\nfalse\necho A\n");
    let ended = desk.plain("exec jobs.txt --joblog log --resume").expect(3);
    assert_eq!(sorted(&ended.stdout), ["A", "new"]);
    ended.says(
        "2 of 4 are done (1 of them failed), 2 to run; 1 commands of the log are not in the input",
    );
    let ended = desk
        .plain("exec jobs.txt --joblog log --resume-failed")
        .expect(3);
    assert_eq!(ended.stdout, "");
    ended.says("0 completed, 1 failed");
    assert_eq!(line_count(&desk.path("log")), 1 + 3 + 2 + 1);
    // Standard input as well.
    let words = ["--joblog", "log", "--resume", "--", "echo"];
    assert_eq!(piped(&desk, &words, b"a\nx\n").expect(0).stdout, "x\n");
    // A log of GNU parallel is continued.
    let header = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
    desk.write(
        "theirs",
        format!("{header}1\t:\t1795291315.786\t     0.003\t0\t6\t0\t0\techo A\n"),
    );
    let ended = desk
        .plain("exec jobs.txt --joblog theirs --resume -j 1")
        .expect(3);
    assert_eq!(ended.stdout, "new\nb c\n");
}

#[test]
fn a_command_cannot_redirect_our_files_with_links() {
    let desk = Desk::new();
    desk.write("victim", "precious");
    // Links that a command of an earlier run left are not followed.
    for (flags, link) in [("-o b.jsonl", "b.jsonl"), ("--joblog log", "log")] {
        desk.write("links.txt", format!("ln -sfn victim {link}\n"));
        let _ = std::fs::remove_file(desk.path(link));
        let _ = std::fs::remove_dir(desk.path(link));
        std::os::unix::fs::symlink("victim", desk.path(link)).unwrap();
        desk.plain(&format!("exec links.txt --sandbox off {flags}"))
            .ends(2, "link");
        assert_eq!(desk.read("victim"), "precious");
    }
}
