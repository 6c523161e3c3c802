//! Processes of a command that hide from it: they count as part of it and end with it. Each test runs twice, with
//! cgroups and as on a system without cgroups; if one of these is unavailable, the test prints that.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::common::{Desk, Running, results};
use super::sandbox::{has_ended, prepare, python, sandbox};

const HELPER: &str = env!("CARGO_BIN_EXE_batchwright");

/// Starts processes with another group, session, parent and environment, each using the given megabytes, and waits
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
pub enum By {
    Cgroup,
    Tracking,
}

pub const BOTH: [By; 2] = [By::Cgroup, By::Tracking];

impl By {
    /// Whether it is available here; if not, prints that.
    pub fn is_there(self) -> bool {
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

    /// batchwright as on a system with or without cgroups.
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

    pub fn exec(self, desk: &Desk, words: &str, job: &str) -> Vec<Value> {
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
fn hidden_processes_count_with_their_command() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let job = hide(&desk, 60, 0);
        let record = by.exec(&desk, "--max-procs 20", &job).swap_remove(0);
        assert_eq!(record["error"]["kind"], "limit", "{by:?}: {record}");
    }
}

#[test]
fn the_memory_of_hidden_processes_counts_with_their_command() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let job = hide(&desk, 4, 60);
        let record = by.exec(&desk, "--max-memory 100M", &job);
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

/// The memory of the process is measured although its first thread, which the kernel reports it for, has ended.
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

/// Starts a hidden process that traces a process of the command and never reaps it.
const TRACE: &str = r#"
import os, signal, sys, time
code = """if 1:
    import ctypes, os, sys, time
    traced = ctypes.CDLL(None, use_errno=True).ptrace(0x4206, int(sys.argv[1]), 0, 0) == 0
    os.write(int(sys.argv[2]), b"yes" if traced else b"no")
    for opened in (int(sys.argv[2]), 1, 2): os.close(opened)
    time.sleep(600)
"""
traced = os.getpid()
if sys.argv[1] == "stray":
    traced = os.fork()
    if traced == 0:
        os.setsid()
        for opened in (1, 2): os.close(opened)
        time.sleep(600)
def trace():
    came, tell = os.pipe()
    os.set_inheritable(tell, True)
    middle = os.fork()
    if middle == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.execve(sys.executable, [sys.executable, "-S", "-c", code, str(traced), str(tell)], {})
        os._exit(0)
    os.close(tell)
    os.waitpid(middle, 0)
    return os.read(came, 3)
# The watchdog may find the hidden process before it has traced the other.
while (answer := trace()) == b"":
    pass
if answer != b"yes":
    sys.exit("it cannot be traced")
if sys.argv[1] == "first":
    os.kill(os.getpid(), signal.SIGUSR1)
"#;

/// The kernel reports the end of a traced process only to its tracer.
#[test]
fn a_traced_process_is_not_waited_for_without_end() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        desk.write("trace.py", TRACE);
        let job = format!("{0} trace.py stray\n{0} trace.py first\n", python());
        let records = by.exec(&desk, "-j 1 --timeout 3s", &job);
        assert_eq!(records[0]["status"], "completed", "{by:?}: {}", records[0]);
        // Its tracer holds its signal back until the time limit, unless the watchdog has found the tracer before.
        assert_eq!(records[1]["status"], "failed", "{by:?}: {}", records[1]);
    }
}

/// A process that is traced from outside, for example by a debugger, cannot be ended; the run continues without it.
#[test]
#[ignore = "twenty seconds"]
fn a_process_that_never_ends_is_abandoned_and_reported() {
    let Some(_) = prepare(&sandbox()) else { return };
    let desk = Desk::new();
    desk.write(
        "job.txt",
        "echo $$ > pid; while ! [ -e traced ]; do sleep 0.01; done\necho next\n",
    );
    let words = "exec job.txt --shell -j 1 --timeout 3s".split(' ');
    let batchwright = Running::start(&mut desk.command(words));
    let pid = || {
        fs::read_to_string(desk.path("pid"))
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    assert!(super::common::eventually(|| pid().is_some()));
    let pid = pid().unwrap();
    let code = "import ctypes, sys\n\
                if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0): sys.exit('refused')\n\
                open('traced', 'w').close()\nsys.stdin.read()";
    let mut debugger = Command::new(python())
        .args(["-c", code, &pid.to_string()])
        .current_dir(desk.path(""))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let traced = super::common::eventually(|| {
        desk.exists("traced") || debugger.try_wait().unwrap().is_some()
    });
    if traced && !desk.exists("traced") {
        eprintln!("SKIPPED: no process can be traced here");
        desk.write("traced", "");
        batchwright.wait().expect(0);
        return;
    }
    let ended = batchwright.wait().expect(3);
    drop(debugger.stdin.take());
    debugger.wait().unwrap();
    assert_eq!(ended.stdout, "next\n");
    let named = format!("does not report the end of process {pid}");
    assert_eq!(ended.stderr.matches(&named).count(), 1, "{}", ended.stderr);
}

#[test]
fn temporary_files_of_commands_are_removed_at_any_depth() {
    let Some(_) = prepare(&sandbox()) else { return };
    let desk = Desk::new();
    let code = "import os\nprint(os.environ['TMPDIR'])\nos.chdir(os.environ['TMPDIR'])\n\
                for _ in range(5000):\n    os.mkdir('deep')\n    os.chdir('deep')\n\
                open('odd\\n name', 'w').close()\nos.chmod('.', 0)\n";
    desk.write("deep.py", code);
    desk.write("job.txt", format!("{} deep.py\n", python()));
    let few = "ulimit -n 100 && exec \"$0\" exec job.txt";
    let mut command = desk.other("sh", ["-c", few, HELPER]);
    let ended = Running::start(&mut command).wait().expect(0);
    let folder = std::path::Path::new(ended.stdout.trim());
    assert!(
        folder.is_absolute() && !folder.parent().unwrap().exists(),
        "{folder:?}"
    );
    ended.hides("left something");
}

#[test]
fn files_that_cannot_be_removed_are_reported_with_their_path() {
    let Some(_) = prepare(&sandbox()) else { return };
    let desk = Desk::new();
    let job = "touch $TMPDIR/kept && echo $TMPDIR > tmp; while ! [ -e go ]; do sleep 0.01; done";
    desk.write("job.txt", job);
    let words = "exec job.txt --shell".split(' ');
    let batchwright = Running::start(&mut desk.command(words));
    let folder = || fs::read_to_string(desk.path("tmp")).unwrap_or_default();
    assert!(super::common::eventually(|| folder().ends_with('\n')));
    let kept = format!("{}/kept", folder().trim());
    let fix = |how: &str| Command::new("chattr").args([how, &kept]).status();
    let fixed = fix("+i").is_ok_and(|status| status.success());
    desk.write("go", "");
    let ended = batchwright.wait().expect(0);
    if !fixed {
        eprintln!("SKIPPED: no file can be made immutable here");
        return;
    }
    fix("-i").unwrap();
    let warning = format!("cannot remove {kept:?}");
    let warnings = ended.stderr.matches(&warning).count();
    assert_eq!(warnings, 1, "{}", ended.stderr);
    let run = std::path::Path::new(&kept).ancestors().nth(2).unwrap();
    fs::remove_dir_all(run).unwrap();
}

/// Each of them occupies a process number of the machine.
#[test]
fn unreaped_processes_count_towards_the_limit() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let code = "import os, time\nfor _ in range(60):\n    if os.fork() == 0: os._exit(0)\ntime.sleep(20)\n";
        desk.write("zombies.py", code);
        let job = format!("{} zombies.py\n", python());
        let record = by.exec(&desk, "--max-procs 20", &job).swap_remove(0);
        assert_eq!(record["error"]["kind"], "limit", "{by:?}: {record}");
    }
}

/// The launcher adopts them while their command runs.
#[test]
fn orphans_are_reaped_while_their_command_runs() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let code = "import os, sys, time\ncame, tell = os.pipe()\nif os.fork() == 0:\n    \
                    orphan = os.fork()\n    if orphan == 0: os._exit(0)\n    \
                    os.write(tell, b'%d' % orphan)\n    os._exit(0)\nos.wait()\n\
                    orphan = os.read(came, 20).decode()\nfor _ in range(600):\n    \
                    if not os.path.exists('/proc/' + orphan): sys.exit(0)\n    time.sleep(0.05)\nsys.exit(1)\n";
        desk.write("orphan.py", code);
        let job = format!("{} orphan.py\n", python());
        let record = by.exec(&desk, "", &job).swap_remove(0);
        assert_eq!(record["status"], "completed", "{by:?}: {record}");
    }
}

#[test]
fn a_stopped_watchdog_does_not_delay_the_end() {
    let desk = Desk::new();
    // The parent is the launcher, which is a child of batchwright.
    let code = "import os, signal\nof = lambda pid: open(f'/proc/{pid}/stat').read().rsplit(')')[-1].split()[1]\n\
                batchwright = of(os.getppid())\nfor pid in filter(str.isdigit, os.listdir('/proc')):\n    \
                try:\n        words = open(f'/proc/{pid}/cmdline').read()\n        \
                parent = of(pid)\n    \
                except OSError: continue\n    \
                if '__watch' in words and parent == batchwright: os.kill(int(pid), signal.SIGSTOP)\n";
    desk.write("stop.py", code);
    desk.write("job.txt", format!("{} stop.py\n", python()));
    let words = "exec job.txt --sandbox off --max-procs 20".split(' ');
    Running::start(&mut desk.command(words)).wait().expect(0);
}

#[test]
fn the_containment_mechanism_is_reported() {
    for (by, name) in [(By::Cgroup, "cgroup"), (By::Tracking, "process tracking")] {
        if by.is_there() {
            let desk = Desk::new();
            let mut command = by.command(&desk, "exec -v -- true ::: x");
            let ended = Running::start(&mut command).wait().expect(0);
            let said = format!("held together by: {name}\n");
            ended.tells(&said);
            let ended = Running::start(&mut by.command(&desk, "doctor")).wait();
            ended.shows(&said);
        }
    }
}

#[test]
fn no_cgroup_is_left_behind_however_batchwright_ends() {
    if !By::Cgroup.is_there() {
        return;
    }
    let desk = Desk::new();
    let job = "setsid env -i sh -c 'echo $$ > hidden; exec sleep 1000' > /dev/null 2>&1 & \
               while ! [ -s hidden ]; do :; done; cat /proc/self/cgroup > own; exec sleep 1000";
    desk.write("job.txt", job);
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
    let hidden = desk.read("hidden").trim().parse().unwrap();
    assert!(super::common::eventually(|| has_ended(hidden)));
    batchwright.child.wait().unwrap();
}
