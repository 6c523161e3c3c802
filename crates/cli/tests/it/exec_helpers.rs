//! The processes that confine commands: helpers that are started in advance, and their program.

use std::fs;

use serde_json::Value;

use super::common::{Desk, Running, results};
use super::contained::By;
use super::sandbox::python;

/// Kills the waiting helper of the next command as soon as it exists.
const KILL: &str = r#"
import os, signal, sys, time
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            parent = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"__wait" in words and parent == os.getppid():
            os.kill(int(pid), signal.SIGKILL)
            sys.exit(0)
    time.sleep(0.01)
"#;

fn exec(desk: &Desk, words: &str) -> Vec<Value> {
    let command = format!("exec job.txt -o - -j 1 {words}");
    let ended = desk.plain(&command);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    results(&ended.stdout)
}

#[test]
fn a_command_whose_waiting_helper_was_killed_still_runs_once() {
    if !By::Cgroup.is_there() {
        return;
    }
    let desk = Desk::new();
    desk.write("kill.py", KILL);
    let job = format!("{} kill.py\nsh -c 'echo ran >>ran.txt'\n", python());
    desk.write("job.txt", &job);
    exec(&desk, "--sandbox off --max-procs 100");
    assert_eq!(desk.read("ran.txt"), "ran\n");
}

#[test]
fn a_command_runs_the_same_with_and_without_a_waiting_helper() {
    let desk = Desk::new();
    let long = "a".repeat(100_000);
    let show = "sh -c 'readlink /proc/self/fd/0; ls /proc/self/fd | wc -l; echo $A $BATCHWRIGHT_CONFINE $#' x";
    let job = format!("{show} 1 2\n{show} 1 2\n{show} {long} 2\n{show} 1 2\n");
    desk.write("job.txt", &job);
    let records = exec(&desk, "--env A=b");
    assert_eq!(records.len(), 4);
    for record in &records {
        assert_eq!(
            record["result"]["stdout"], records[0]["result"]["stdout"],
            "{record}"
        );
    }
    let shown = records[0]["result"]["stdout"].as_str().unwrap();
    assert!(shown.starts_with("/dev/null\n"), "{shown}");
    assert!(shown.ends_with("\nb 2\n"), "{shown}");
}

#[test]
fn a_helper_of_another_version_is_not_used() {
    let desk = Desk::new();
    let program = desk.path("batchwright");
    fs::copy(env!("CARGO_BIN_EXE_batchwright"), &program).unwrap();
    desk.write("job.txt", "echo done\n");
    for helper in [None, Some("/bin/echo"), Some("/bin/false")] {
        if let Some(helper) = helper {
            fs::copy(helper, desk.path("batchwright-sandbox")).unwrap();
        }
        let words = "exec job.txt -o -".split_whitespace();
        let ended = Running::start(&mut desk.other(&program, words)).wait();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!(results(&ended.stdout)[0]["result"]["stdout"], "done\n");
    }
}
