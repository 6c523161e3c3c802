//! Processes of a command that hide from it: they are counted with it, and end with it. Each test runs twice, with a
//! cgroup for each command and as on a system without cgroups; it says if one of these cannot be had here.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::common::{Desk, Running, results};
use super::sandbox::{prepare, python, sandbox};

const HELPER: &str = env!("CARGO_BIN_EXE_batchwright");

/// Starts processes with another group, session, parent and environment, each with so many megabytes, and waits
/// until most of them were killed.
const HIDE: &str = r#"
import os, sys, time
processes, megabytes = int(sys.argv[1]), int(sys.argv[2])
code = f"import time\nx = b'x' * {megabytes}_000_000\nopen('full', 'w').close()\ntime.sleep(600)"
came, tell = os.pipe()
for _ in range(processes):
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.execve(sys.executable, [sys.executable, "-S", "-c", code], {})
        os.write(tell, b"%d\n" % pid)
        os._exit(0)
    os.wait()
hidden = [int(pid) for pid in os.read(came, 65536).split()]
def lives(pid):
    try:
        return ") Z " not in open(f"/proc/{pid}/stat").read()
    except OSError:
        return False
for _ in range(600):
    if sum(map(lives, hidden)) * 2 <= processes:
        sys.exit(0)
    time.sleep(0.05)
sys.exit(f"{sum(map(lives, hidden))} of {processes} live on")
"#;

#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    Cgroup,
    Tracking,
}

const BOTH: [By; 2] = [By::Cgroup, By::Tracking];

impl By {
    /// Says so if it cannot be had here.
    fn is_there(self) -> bool {
        let Some(prepared) = prepare(&sandbox()) else {
            return false;
        };
        let found = match self {
            Self::Cgroup => prepared.containment().to_string() == "cgroup",
            Self::Tracking => Command::new("unshare")
                .args(["--mount", "mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"])
                .output()
                .is_ok_and(|ran| ran.status.success()),
        };
        if !found {
            eprintln!("SKIPPED: {self:?}: there are no cgroups here, or they cannot be hidden");
        }
        found
    }

    /// batchwright as a system with or without cgroups has it.
    fn command(self, desk: &Desk, words: &str) -> Command {
        let words = words.split_whitespace();
        match self {
            Self::Cgroup => desk.command(words),
            Self::Tracking => {
                let hide = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"";
                let apart = ["--mount", "sh", "-c", hide, HELPER];
                desk.other("unshare", apart.into_iter().chain(words))
            }
        }
    }

    fn exec(self, desk: &Desk, words: &str, job: &str) -> Vec<Value> {
        desk.write("job.txt", job);
        let mut command = self.command(desk, &format!("exec job.txt -o - {words}"));
        let ended = Running::start(&mut command).wait();
        let records = results(&ended.stdout);
        assert!(!records.is_empty(), "{self:?}: {}", ended.stderr);
        records
    }
}

fn hide(desk: &Desk, processes: usize, megabytes: usize) -> String {
    desk.write("hide.py", HIDE);
    format!("{} hide.py {processes} {megabytes}\n", python())
}

#[test]
fn hidden_processes_count_with_their_command_or_are_killed() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let job = hide(&desk, 60, 0);
        let record = by.exec(&desk, "--max-procs 20", &job).swap_remove(0);
        match by {
            By::Cgroup => assert_eq!(record["error"]["kind"], "limit", "{record}"),
            By::Tracking => assert_eq!(record["status"], "completed", "{record}"),
        }
    }
}

#[test]
fn the_memory_of_hidden_processes_counts_with_their_command() {
    if By::Cgroup.is_there() {
        let desk = Desk::new();
        let job = hide(&desk, 4, 60);
        let record = By::Cgroup.exec(&desk, "--max-memory 100M", &job);
        let said = record[0]["error"]["message"].to_string();
        assert!(said.contains("bytes of memory"), "{said}");
    }
}

#[test]
fn a_hidden_process_ends_with_its_command_and_not_with_the_run() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let job = "setsid env -i sh -c 'echo $$ > a; exec sleep 1000' > /dev/null 2>&1 & \
                   while ! [ -s a ]; do :; done; exit\n\
                   n=0; while grep -qs ') [^Z]' /proc/$(cat a)/stat; do [ $((n+=1)) = 300 ] && exit 1; sleep 0.1; done\n";
        for record in by.exec(&desk, "--shell -j 1", job) {
            assert_eq!(record["status"], "completed", "{by:?}: {record}");
        }
    }
}

/// Memory is that of the process although its first thread, by which the kernel shows it, has none any more.
#[test]
fn a_process_whose_first_thread_has_ended_is_measured() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let code = "import ctypes, threading, time\n\
                    def rest():\n    \
                    while ') Z ' not in open('/proc/self/stat').read():\n        time.sleep(0.01)\n    \
                    x = b'x' * 200_000_000\n    time.sleep(20)\n\
                    threading.Thread(target=rest).start()\n\
                    ctypes.CDLL(None).pthread_exit(None)\n";
        desk.write("threads.py", code);
        let job = format!("{} threads.py\n", python());
        let record = by.exec(&desk, "--max-memory 100M", &job).swap_remove(0);
        assert_eq!(record["error"]["kind"], "limit", "{by:?}: {record}");
    }
}

#[test]
fn which_mechanism_holds_processes_together_is_said() {
    for (by, name) in [(By::Cgroup, "cgroup"), (By::Tracking, "process tracking")] {
        if by.is_there() {
            let desk = Desk::new();
            let mut command = by.command(&desk, "exec -v -- true ::: x");
            let ended = Running::start(&mut command).wait().expect(0);
            let said = format!("held together by: {name}\n");
            assert!(ended.stderr.contains(&said), "{}", ended.stderr);
            let ended = Running::start(&mut by.command(&desk, "doctor")).wait();
            assert!(ended.stdout.contains(&said), "{}", ended.stdout);
        }
    }
}

#[test]
fn no_cgroup_is_left_behind_however_batchwright_ends() {
    if !By::Cgroup.is_there() {
        return;
    }
    let desk = Desk::new();
    desk.write("job.txt", "cat /proc/self/cgroup > own; exec sleep 1000");
    let words = ["exec", "job.txt", "--shell"];
    let mut batchwright = Running::start(&mut desk.command(words));
    let path = || {
        let own = fs::read_to_string(desk.path("own")).unwrap_or_default();
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))?
            .to_owned();
        own.contains("batchwright-").then_some(own)
    };
    assert!(super::common::eventually(|| path().is_some()));
    let own = path().unwrap();
    let there = || {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        mounts
            .iter()
            .any(|mount| fs::exists(format!("{mount}/{own}")).unwrap())
    };
    assert!(there());
    batchwright.child.kill().unwrap();
    assert!(super::common::eventually(|| !there()));
    batchwright.child.wait().unwrap();
}
