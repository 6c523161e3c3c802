//! `batchwright exec`: commands from scripts and lists, their output, and the job log.

use parking_lot::Mutex;
use serde_json::json;

use super::common::{
    Desk, Ended, Has, RunToEnd, Running, SmallDisk, cases, eventually, line_count,
};
use super::program::fed;

/// Runs `exec` with these words and this on standard input.
fn piped(desk: &Desk, words: &[&str], input: &[u8]) -> Ended {
    fed(&mut desk.command(["exec"].iter().chain(words)), input)
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
    desk.write("empty.txt", "# nothing\n\n");
    for (words, says) in cases(
        "
        jobs.txt => jobs.txt, line 2: `>` is shell syntax
        nowhere.txt => cannot read nowhere.txt
        no\u{202e}txt.exe => cannot read no\\u{202e}txt.exe
        empty.txt => no commands
    ",
    ) {
        desk.plain(&format!("exec {words}")).expect(2).errs(says);
    }
    assert!(!desk.exists("made"));
    desk.plain("exec --shell jobs.txt").expect(0);
    assert_eq!(desk.read("y"), "x\n");
}

#[test]
fn no_name_controls_the_terminal_or_begins_a_message() {
    let desk = Desk::new();
    let name = "a\u{202e}b\u{7}\nbatchwright: error: forged";
    let flag = format!("--{name}");
    for words in [
        &["exec", name][..],
        &["run", name, "-o", "x"],
        &["run", "x", "--strategy", name],
        &[flag.as_str()],
        &[name],
        &["status", "--queue", name],
        &["exec", "--allow", name, "--", "true", ":::", "x"],
    ] {
        let ended = desk.command(words).ended().expect(2);
        let said = &ended.stderr;
        assert!(said.contains("a\\u{202e}b"), "{said}");
        assert!(!said.contains(['\u{202e}', '\u{7}']), "{said}");
        assert!(!said.contains("\nbatchwright: error: forged"), "{said}");
    }
}

#[test]
fn lists_fill_placeholders_and_no_argument_is_code() {
    let desk = Desk::new();
    let words = ["-j1", "--", "printf", "%s|", "{}", "{/.}", "{#}"];
    let ended = piped(&desk, &words, b"d/a.b.txt\n$(touch made) 'x\n").expect(0);
    let printed = "d/a.b.txt|a.b|1|$(touch made) 'x|$(touch made) 'x|2|";
    assert_eq!(ended.stdout, printed);
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
    let ended = desk
        .plain("exec jobs.txt -j 1 -o out.jsonl --json")
        .expect(3);
    let summary = ended.json();
    summary.has(json!({"/summary/completed": 1, "/summary/failed": 2, "exit_code": 3}));
    let records = desk.results("out.jsonl");
    records[0].has(
        json!({"id": "1", "line": 1, "file": "jobs.txt", "status": "failed",
        "/command/2": "echo out; echo err >&2; exit 3", "/error/kind": "exit",
        "/result/exit_code": 3, "/result/signal": null, "/result/stdout": "out\n",
        "/result/stderr": "err\n", "/result/truncated": false}),
    );
    let exit = &records[0]["result"];
    assert!(exit["start"].as_u64().unwrap() > 1_600_000_000_000);
    assert!(exit["duration_ms"].as_f64().unwrap() > 0.0);
    let zeros = "\0".repeat(100_000);
    records[1]["result"].has(json!({"stdout_bytes": 100_000, "stdout": zeros, "truncated": false}));
    records[2].has(json!({"/error/kind": "not_found", "result": null}));
    // An existing file is not overwritten.
    let refused = desk.plain("exec jobs.txt -o out.jsonl").expect(2);
    refused.errs("3 records of an earlier run");
}

#[test]
fn outputs_are_complete() {
    let desk = Desk::new();
    // Two lines with a pause in between, and the first commands are the slowest.
    let line = |i: u32| {
        let pause = 9 - i % 9;
        format!("sh -c 'echo {i}; sleep 0.0{pause}; echo {i}; echo e{i} >&2'\n")
    };
    desk.write("jobs.txt", (0..30).map(line).collect::<String>());
    let ended = desk.plain("exec jobs.txt -j 10 -q").expect(0);
    assert_eq!(ended.stderr.lines().count(), 30);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    let in_pairs = lines.chunks(2).all(|pair| pair[0] == pair[1]);
    assert!(in_pairs, "{}", ended.stdout);
}

#[test]
fn a_run_resumes_from_its_log_after_changes_of_the_script() {
    let desk = Desk::new();
    desk.write("jobs.txt", "echo a\nfalse\necho 'b c'\n");
    let run = |words: &str| {
        desk.plain(&format!("exec jobs.txt -j 1 --joblog {words}"))
            .expect(3)
    };
    run("log");
    let entry = |exit: &str, command: &str| (exit.to_owned(), command.to_owned());
    let first = [("0", "echo 'b c'"), ("0", "echo a"), ("1", "false")];
    let first = first.map(|(exit, command)| entry(exit, command));
    assert_eq!(logged(&desk.read("log")), first);
    run("log -o out.jsonl").tells("out.jsonl lacks 3 of their results");
    // The earlier failure still counts.
    let ended = run("log")
        .says("3 of 3 are done (1 of them failed), 0 to run")
        .says("to start afresh, delete log or name another --joblog")
        .says("3 finished before (1 of them failed), 0 completed, 0 failed")
        .says("to run failed commands again, add --resume-failed");
    assert_eq!(ended.stdout, "");
    // Lines inserted, reordered and changed.
    desk.write("jobs.txt", "echo new\necho 'b c'\nfalse\necho A\n");
    let ended = run("log --resume").says(
        "2 of 4 are done (1 of them failed), 2 to run; 1 command of the log is not in the input",
    );
    assert_eq!(ended.stdout, "new\nA\n");
    let ended = run("log --resume-failed").says("0 completed, 1 failed");
    assert_eq!(ended.stdout, "");
    assert_eq!(line_count(&desk.path("log")), 1 + 3 + 2 + 1);
    // Standard input as well, also when the output was lost.
    let words = ["--joblog", "log", "--resume", "--", "echo"];
    assert_eq!(piped(&desk, &words, b"a\nx\n").expect(0).stdout, "x\n");
    let words = ["--joblog", "log", "-o", "lost.jsonl", "--", "echo"];
    piped(&desk, &words, b"a\nx\ny\n").ends(0, "lost.jsonl lacks 2 of the results");
    // A log of GNU parallel is continued.
    let header = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n";
    let theirs = "1\t:\t1795291315.786\t     0.003\t0\t6\t0\t0\techo A\n";
    desk.write("theirs", format!("{header}{theirs}"));
    assert_eq!(run("theirs --resume").stdout, "new\nb c\n");
}

/// What runs on when a result cannot be written has none, and runs again.
#[test]
fn commands_count_when_their_ends_are_written() {
    let Some(disk) = SmallDisk::new("disk", 256) else {
        return;
    };
    let words = "exec -j 10 --sandbox off -o disk/out.jsonl --json -- head -c 50000 /dev/zero ::: ";
    let ended = disk
        .desk
        .plain(&format!("{words}{}", "x ".repeat(20).trim_end()))
        .expect(1);
    let written = disk.desk.read("disk/out.jsonl").lines().count();
    let summary = ended.json();
    summary.has(json!({"/summary/completed": written, "/summary/pending": 20 - written}));
    ended.tells(&format!(
        "{written} completed, 0 failed, {} not run or not written",
        20 - written
    ));
}

#[test]
fn a_command_cannot_redirect_our_files_with_links() {
    let desk = Desk::new();
    desk.write("victim", "precious");
    desk.write("jobs.txt", "true\n");
    // Links that a command of an earlier run left are not followed.
    for (flag, link) in [("-o", "b.jsonl"), ("--joblog", "log")] {
        std::os::unix::fs::symlink("victim", desk.path(link)).unwrap();
        desk.plain(&format!("exec jobs.txt --sandbox off {flag} {link}"))
            .ends(2, "link");
        assert_eq!(desk.read("victim"), "precious");
    }
}

#[test]
fn ctrl_c_lets_running_commands_end_or_kills_them() {
    let desk = Desk::new();
    let begun = "sh -c 'touch begun; until [ -e go ]; do :; done; echo done'\ntouch second\n";
    desk.write("jobs.txt", begun);
    let words = ["exec", "jobs.txt", "-j", "1", "--joblog", "log"];
    let running = Running::start(&mut desk.command(words));
    assert!(eventually(|| desk.exists("begun")));
    running.signal("INT");
    running.hears("running commands have up to 30 s to finish");
    desk.write("go", "");
    let ended = running.wait().ends(130, "1 not run").says("to go on:");
    assert_eq!(ended.stdout, "done\n");
    assert!(!desk.exists("second"));
    desk.plain("exec jobs.txt --joblog log").expect(0);
    assert!(desk.exists("second"));
    // Killed by the second signal.
    desk.write(
        "jobs.txt",
        "sh -c 'trap \"\" TERM; touch alive; sleep 1000 & wait; sleep 1000'\n",
    );
    let running = Running::start(&mut desk.command(["exec", "jobs.txt"]));
    assert!(eventually(|| desk.exists("alive")));
    running.signal("TERM");
    running.hears("stopping");
    running.signal("TERM");
    running.wait().expect(143);
    assert!(eventually(|| !is_running(&desk)));
}

#[test]
fn a_reader_that_does_not_read_holds_no_stopped_run() {
    let desk = Desk::new();
    let line = "sh -c 'yes | head -c 100000; echo >> ran'\n";
    desk.write("jobs.txt", line.repeat(50));
    let words = ["exec", "jobs.txt", "--joblog", "log", "-j", "2"];
    let mut running = Running::start(&mut desk.command(words));
    let unread = running.child.stdout.take();
    assert!(eventually(|| desk.exists("ran")));
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let said = "cannot write to standard output: its reader does not read";
    running.wait().ends(1, said);
    drop(unread);
    // What was not printed runs again.
    let whole = desk.plain("exec jobs.txt --joblog log -j 2 --resume");
    assert_eq!(whole.expect(0).stdout.len(), 50 * 100_000);
}

#[test]
fn a_killed_run_resumes_without_repeating_finished_commands() {
    killed(300, 3);
}

/// Kills the run repeatedly, and resumes it from its log.
pub fn killed(commands: usize, kills: usize) {
    let desk = Desk::new();
    // Each command appends a line atomically, so lines are never truncated.
    let line = |i: usize| format!("sh -c 'echo {i} >> ran'\n");
    desk.write("jobs.txt", (0..commands).map(line).collect::<String>());
    let words = "exec jobs.txt -j 5 -q --joblog log";
    let mut finished = 0;
    for round in 0..kills {
        let goal = (round + 1) * commands / (kills + 1);
        let running = Running::start(&mut desk.command(words.split_whitespace()));
        assert!(eventually(|| line_count(&desk.path("log")) > goal));
        running.signal("KILL");
        running.wait();
        let log = desk.read("log");
        let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
        let now = logged(whole).len();
        assert!(now > finished, "something finished");
        finished = now;
    }
    let all_ended = eventually(|| !is_running(&desk));
    assert!(all_ended, "a command outlived its run");
    let at_the_kill = desk.read("ran").lines().count();
    desk.plain(words).expect(0);
    let ran = desk.read("ran");
    let mut runs = vec![0; commands];
    for line in ran.lines() {
        runs[line.parse::<usize>().unwrap()] += 1;
    }
    assert!(runs.iter().all(|runs| *runs >= 1), "each ran");
    // At most the commands in flight at a kill ran twice.
    let twice: usize = runs.iter().map(|runs| runs - 1).sum();
    assert!(twice <= 5 * kills, "{twice} ran again");
    assert_eq!(ran.lines().count() - at_the_kill, commands - finished);
    assert_eq!(logged(&desk.read("log")).len(), commands);
}

/// Whether a shell of this desk still runs.
pub fn is_running(desk: &Desk) -> bool {
    let folder = desk.path(".").canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut folders = processes.map(|process| std::fs::read_link(process.path().join("cwd")));
    folders.any(|own| own.is_ok_and(|own| own == folder))
}

/// Each of these tests keeps all processors busy, and one measures time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "ten thousand commands"]
fn ten_thousand_commands_survive_kills_in_the_middle() {
    let _alone = ALONE.lock();
    // Often enough that no interval between two kills is long.
    killed(10_000, 9);
}

#[test]
#[ignore = "a hundred thousand commands"]
fn a_hundred_thousand_commands_take_no_more_memory_than_a_thousand() {
    let _alone = ALONE.lock();
    let desk = Desk::new();
    let peak = |commands: usize| {
        desk.write(
            "jobs.txt",
            "true with words, as commands have them\n".repeat(commands),
        );
        let words = format!("exec jobs.txt -q -j 10 --sandbox off --joblog log{commands}");
        let running = Running::start(&mut desk.command(words.split_whitespace()));
        let (ended, peak) = running.wait_with_peak();
        ended.expect(0);
        assert_eq!(
            line_count(&desk.path(&format!("log{commands}"))),
            commands + 1
        );
        peak
    };
    let (few, many): (u64, u64) = (peak(1000), peak(100_000));
    assert!(few > 0 && many < few + 4096, "{few} KiB, then {many} KiB");
}

/// As Python's `DEVNULL` and systemd's `null`: also for reading, as Rust opens it in place of a closed one.
#[test]
fn outputs_are_discarded_if_that_was_asked_for() {
    let desk = Desk::new();
    desk.write("jobs.txt", "touch made\n");
    let exec = desk.command(["exec", "jobs.txt"]);
    let null = ["-c", "exec \"$0\" \"$@\" 1<>/dev/null"].map(AsRef::as_ref);
    let words = null.into_iter().chain([exec.get_program()]);
    desk.other("sh", words.chain(exec.get_args()))
        .ended()
        .expect(0);
    assert!(desk.exists("made"));
}
