//! How a run of `batchwright exec` ends: signals, full disks, deleted files and kills; and how it resumes.

use super::common::{Desk, Running, eventually, line_count};
use super::exec::logged;

/// Commands that sleep for this many seconds are killed.
const FOR_EVER: &str = "1000";

#[test]
fn ctrl_c_lets_running_commands_end_or_kills_them() {
    let desk = Desk::new();
    desk.write(
        "jobs.txt",
        "sh -c 'touch begun; until [ -e go ]; do :; done; echo done'\ntouch second\n",
    );
    let words = ["exec", "jobs.txt", "-j", "1", "--joblog", "log"];
    let running = Running::start(&mut desk.command(words));
    assert!(eventually(|| desk.exists("begun")));
    running.signal("INT");
    running.hears("running commands have up to 30 s to finish");
    desk.write("go", "");
    let ended = running.wait().expect(130);
    assert_eq!(ended.stdout, "done\n");
    assert!(!desk.exists("second"));
    ended.says("1 not run").says("to go on:");
    desk.plain("exec jobs.txt --joblog log").expect(0);
    assert!(desk.exists("second"));
    // Killed by the second signal.
    desk.write(
        "jobs.txt",
        format!("sh -c 'trap \"\" TERM; touch alive; sleep {FOR_EVER} & wait; sleep {FOR_EVER}'\n"),
    );
    {
        let _ = std::fs::remove_file(desk.path("alive"));
        let running = Running::start(&mut desk.command(["exec", "jobs.txt"]));
        assert!(eventually(|| desk.exists("alive")));
        running.signal("TERM");
        running.hears("stopping");
        running.signal("TERM");
        running.wait().expect(143);
        assert!(eventually(|| !is_asleep(&desk)));
    }
}

/// Whether a command of this desk still sleeps.
fn is_asleep(desk: &Desk) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.into_iter().any(|process| {
        let folder = std::fs::read_link(process.path().join("cwd"));
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        folder.is_ok_and(|folder| folder == desk.path(".").canonicalize().unwrap())
            && command.starts_with(b"sleep\0")
    })
}

#[cfg(unix)]
#[test]
fn a_reader_that_does_not_read_holds_no_stopped_run() {
    let desk = Desk::new();
    desk.write(
        "jobs.txt",
        "sh -c 'yes | head -c 100000; echo >> ran'\n".repeat(50),
    );
    let words = ["exec", "jobs.txt", "--joblog", "log", "-j", "2"];
    let mut running = Running::start(&mut desk.command(words));
    let unread = running.child.stdout.take();
    assert!(eventually(|| desk.exists("ran")));
    running.signal("INT");
    running.hears("stopping:");
    running.signal("INT");
    let ended = running.wait().expect(1);
    ended.tells("cannot write to standard output: its reader does not read");
    drop(unread);
    // What was not printed runs again.
    let whole = desk
        .plain("exec jobs.txt --joblog log -j 2 --resume")
        .expect(0);
    assert_eq!(whole.stdout.len(), 50 * 100_000);
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
    let (mut finished, mut lines) = (Vec::new(), 0);
    for round in 0..kills {
        let goal = (round + 1) * commands / (kills + 1);
        let running = Running::start(&mut desk.command(words.split_whitespace()));
        assert!(eventually(|| line_count(&desk.path("log")) > goal));
        running.signal("KILL");
        running.wait();
        let log = desk.read("log");
        let whole = &log[..log.rfind('\n').map_or(0, |at| at + 1)];
        let now = logged(whole);
        assert!(now.len() > lines, "something finished");
        (finished, lines) = (now, line_count(&desk.path("log")));
    }
    assert!(
        eventually(|| !is_running(&desk)),
        "a command outlived its run"
    );
    let at_the_kill = desk.read("ran").lines().count();
    desk.plain(words).expect(0);
    let ran = desk.read("ran");
    let mut runs = vec![0; commands];
    ran.lines()
        .for_each(|line| runs[line.parse::<usize>().unwrap()] += 1);
    assert!(runs.iter().all(|runs| *runs >= 1), "each ran");
    // At most the commands in flight at a kill ran twice.
    let twice: usize = runs.iter().map(|runs| runs - 1).sum();
    assert!(twice <= 5 * kills, "{twice} ran again");
    assert_eq!(ran.lines().count() - at_the_kill, commands - finished.len());
    assert_eq!(logged(&desk.read("log")).len(), commands);
}

/// Whether a shell of this desk still runs.
pub fn is_running(desk: &Desk) -> bool {
    let folder = desk.path(".").canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut folders = processes.map(|process| std::fs::read_link(process.path().join("cwd")));
    folders.any(|own| own.is_ok_and(|own| own == folder))
}
