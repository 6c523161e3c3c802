//! The processes that confine commands: launchers, which start commands one after the other, and their program.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::common::{Desk, Running, eventually, results};
use super::contained::BOTH;
use super::sandbox::{child_of, has_ended, python};

fn exec(desk: &Desk, words: &str) -> Vec<Value> {
    let command = format!("exec job.txt -o - -j 1 {words}");
    let ended = desk.plain(&command);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    results(&ended.stdout)
}

#[test]
fn a_command_whose_launcher_was_killed_while_it_waited_runs_once() {
    let desk = Desk::new();
    let mut batchwright = desk.command("exec -o - -j 1".split(' '));
    let batchwright = batchwright.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut batchwright = batchwright.spawn().unwrap();
    let mut input = batchwright.stdin.take().unwrap();
    let mut output = BufReader::new(batchwright.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        writeln!(input, "sh -c 'echo ran >>ran.txt'").unwrap();
        assert!(output.next().unwrap().unwrap().contains("completed"));
        let launcher = child_of(batchwright.id(), "__serve").unwrap();
        kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
        assert!(eventually(|| has_ended(launcher.cast_unsigned())));
    }
    drop(input);
    assert!(batchwright.wait().unwrap().success());
    assert_eq!(desk.read("ran.txt"), "ran\nran\nran\n");
}

/// Without a sandbox, a command may kill its launcher.
#[test]
fn a_command_that_kills_its_launcher_is_killed_and_the_next_one_runs() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let job = "sh -c 'echo $$ >pid; kill -9 $PPID; sleep 1000'\necho next\n";
        let records = by.exec(&desk, "-j 1 --sandbox off --max-procs 100", job);
        assert_eq!(
            records[0]["error"]["kind"], "signal",
            "{by:?}: {}",
            records[0]
        );
        assert_eq!(records[1]["result"]["stdout"], "next\n", "{by:?}");
        let pid = desk.read("pid").trim().parse().unwrap();
        assert!(has_ended(pid), "{by:?}");
    }
}

#[test]
fn a_thousand_commands_share_launchers_and_each_has_its_own_result() {
    let desk = Desk::new();
    let words = [
        "exec",
        "-o",
        "-",
        "-j",
        "2",
        "--",
        "sh",
        "-c",
        "echo $PPID $1; [ $1 != 500 ]",
        "x",
    ];
    let mut command: Command = desk.command(words);
    let numbers: String = (1..=1000).map(|n| format!("{n}\n")).collect();
    desk.write("numbers", numbers);
    command.stdin(fs::File::open(desk.path("numbers")).unwrap());
    let ended = Running::start(&mut command).wait().expect(3);
    let records = results(&ended.stdout);
    assert_eq!(records.len(), 1000);
    let mut launchers = std::collections::BTreeSet::new();
    for record in records {
        let stdout = record["result"]["stdout"].as_str().unwrap();
        let (launcher, number) = stdout.trim().split_once(' ').unwrap();
        launchers.insert(launcher.to_owned());
        assert_eq!(record["seq"].to_string(), number);
        let code = i32::from(number == "500");
        assert_eq!(record["result"]["exit_code"], code, "{record}");
    }
    assert!(launchers.len() <= 2, "{launchers:?}");
}

#[test]
fn nothing_passes_from_a_command_to_the_next_one_of_its_launcher() {
    for by in BOTH.into_iter().filter(|by| by.is_there()) {
        let desk = Desk::new();
        let show = "sh -c 'pwd; umask; ulimit -a; env | sort; ls /proc/self/fd; ps -o ni= -p $$; grep flags /proc/$$/fdinfo/0'";
        let input = format!(
            "{} -c 'import fcntl, os; fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)'",
            python()
        );
        let change = "sh -c 'cd /; umask 0; ulimit -n 20; ulimit -f 1; export A=b; renice -n 5 -p $$; exec 5>x'";
        let much = format!(
            "{} -c \"x = b'x' * 300_000_000; import time; time.sleep(60)\"",
            python()
        );
        let left = "sh -c 'setsid env -i sleep 1000 >x 2>&1 & exit 0'";
        let job = [show, change, show, &much, show, left, show, &input, show].join("\n");
        let records = by.exec(&desk, "-j 1 --max-memory 100M", &job);
        assert_eq!(
            records[3]["error"]["kind"], "limit",
            "{by:?}: {}",
            records[3]
        );
        let shown = |at: usize| {
            let stdout = records[at]["result"]["stdout"].as_str().unwrap();
            // Only the number of the launcher differs after it was replaced.
            let lines = stdout.lines();
            let lines = lines.filter(|line| !line.starts_with("BATCHWRIGHT_COMMAND="));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        for at in [2, 4, 6, 8] {
            assert_eq!(
                records[at]["status"], "completed",
                "{by:?}: {}",
                records[at]
            );
            assert_eq!(shown(at), shown(0), "{by:?}");
        }
    }
}

#[test]
fn commands_of_any_length_run_the_same() {
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
    // In a process of its own: a program that another thread starts meanwhile would have the copy open for writing, which
    // cannot be executed then.
    let copy = |from: &str, to: &Path| {
        let copied = Command::new("cp").arg(from).arg(to).status();
        assert!(copied.unwrap().success());
    };
    copy(env!("CARGO_BIN_EXE_batchwright"), &program);
    desk.write("job.txt", "echo done\n");
    for helper in [None, Some("/bin/echo"), Some("/bin/false")] {
        if let Some(helper) = helper {
            copy(helper, &desk.path("batchwright-sandbox"));
        }
        let words = "exec job.txt -o -".split_whitespace();
        let ended = Running::start(&mut desk.other(&program, words)).wait();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
        assert_eq!(results(&ended.stdout)[0]["result"]["stdout"], "done\n");
        assert!(
            sandbox_finding(&desk, &program)
                .contains("batchwright-sandbox of this version was not found")
        );
    }
    copy(
        env!("CARGO_BIN_EXE_batchwright-sandbox"),
        &desk.path("batchwright-sandbox"),
    );
    assert!(!sandbox_finding(&desk, &program).contains("was not found"));
}

/// What the doctor says of the sandbox.
fn sandbox_finding(desk: &Desk, program: &Path) -> String {
    let mut doctor = desk.other(program, ["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&doctor.output().unwrap().stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let of_sandbox = findings.iter().find(|finding| finding["what"] == "sandbox");
    of_sandbox.unwrap()["seen"].as_str().unwrap().to_owned()
}

/// The kernel binds this signal to the thread that started the command.
#[test]
fn a_command_that_ends_with_its_parent_is_not_killed() {
    if Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no setpriv here");
        return;
    }
    let desk = Desk::new();
    desk.write(
        "job.txt",
        "setpriv --pdeathsig KILL sleep 0.01\n".repeat(100),
    );
    assert_eq!(exec(&desk, "").len(), 100);
}

#[test]
fn a_program_without_an_interpreter_is_run_by_the_shell() {
    let desk = Desk::new();
    desk.write("program", "echo \"$0 $1 $2 $A\"\n");
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(desk.path("program"), executable).unwrap();
    desk.write("job.txt", "./program 'a b' c\n");
    for options in ["", "--sandbox off", "--sandbox off --max-procs 100"] {
        let record = exec(&desk, &format!("{options} --env A=b")).swap_remove(0);
        let stdout = record["result"]["stdout"].as_str().unwrap();
        assert!(
            stdout.ends_with("/program a b c b\n"),
            "{options}: {record}"
        );
    }
}

#[test]
fn no_command_starts_after_the_watchdog_was_killed() {
    let desk = Desk::new();
    let wait = "sh -c 'touch runs; while ! [ -e go ]; do sleep 0.01; done'\n";
    desk.write("job.txt", format!("{wait}touch second\n"));
    let words = "exec job.txt -o - -j 1".split(' ');
    let batchwright = Running::start(&mut desk.command(words));
    assert!(eventually(|| desk.exists("runs")));
    let Some(watchdog) = child_of(batchwright.child.id(), "__watch") else {
        panic!("there is no watchdog");
    };
    kill_process(Pid::from_raw(watchdog).unwrap(), Signal::KILL).unwrap();
    assert!(eventually(|| has_ended(watchdog.cast_unsigned())));
    desk.write("go", "");
    let records = results(&batchwright.wait().stdout);
    assert_eq!(records[0]["status"], "completed", "{}", records[0]);
    let message = records[1]["error"]["message"].to_string();
    assert!(message.contains("nobody watches"), "{}", records[1]);
    assert!(!desk.exists("second"));
}

/// Its parent is its tracer, which the kernel informs of each stop.
#[test]
fn a_stopped_command_has_not_ended() {
    let desk = Desk::new();
    let code = "import ctypes, os, signal\n\
                if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0: os.kill(os.getpid(), signal.SIGSTOP)\n";
    desk.write("stop.py", code);
    desk.write("job.txt", format!("{} stop.py\n", python()));
    let ended = desk.plain("exec job.txt -o - --timeout 2s --grace 100ms");
    let record = results(&ended.stdout).swap_remove(0);
    if record["status"] == "completed" && record["result"]["exit_code"] == 0 {
        eprintln!("SKIPPED: no process can be traced here");
        return;
    }
    assert_eq!(record["error"]["kind"], "timeout", "{record}");
}

/// The processor time that a launcher uses does not end its command.
#[test]
fn a_launcher_of_long_commands_does_not_use_up_their_time() {
    let desk = Desk::new();
    let long = "a".repeat(100_000);
    desk.write("job.txt", format!("true {long}\n").repeat(80));
    assert_eq!(exec(&desk, "--cpu 1").len(), 80);
}

/// The rules of the kernel, which a launcher makes once, belong to the folder that was there before.
#[test]
fn no_command_runs_after_a_folder_was_made_again() {
    let again = "rmdir ../more && mkdir ../more";
    let moved = "mv ../more ../old && mkdir ../more";
    let linked = "rmdir ../more && ln -s ../victim ../more";
    let own = "mv ../own ../old && mkdir ../own";
    for change in [again, moved, linked, own] {
        let desk = Desk::new();
        for folder in ["base", "base/own", "base/more", "victim"] {
            fs::create_dir(desk.path(folder)).unwrap();
        }
        let write = "sh -c 'cd ..; echo x >more/x; echo x >own/x; echo x >old/x'";
        let job = format!("sh -c 'echo x >../more/x && rm ../more/x'\nsh -c '{change}'\n{write}\n");
        desk.write("job.txt", job);
        let words = "exec job.txt -o - -j 1 --workdir base/own --write base --write base/more";
        let records = results(&desk.plain(words).stdout);
        for record in &records[..2] {
            assert_eq!(record["status"], "completed", "{change}: {record}");
        }
        let message = records[2]["error"]["message"].to_string();
        assert!(message.contains("was replaced"), "{change}: {}", records[2]);
        for file in ["base/more/x", "base/own/x", "base/old/x", "victim/x"] {
            assert!(!desk.exists(file), "{change}: {file}");
        }
    }
}

/// A command that may write to `/dev` can replace the device to which every command may write.
#[test]
fn a_file_in_place_of_a_device_is_not_written_to() {
    let desk = Desk::new();
    fs::create_dir(desk.path("work")).unwrap();
    desk.write("victim", "");
    let victim = desk.path("victim");
    let victim = victim.display();
    // The process that stays makes the next command start in another launcher.
    let swap = format!("ln -sf {victim} /dev/full; setsid sleep 1000 </dev/null >/dev/null 2>&1 &");
    desk.write(
        "job.txt",
        format!("sh -c '{swap}'\nsh -c 'echo x >{victim}'\n"),
    );
    let dev = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/full c 1 7 && exec \"$0\" \"$@\"";
    let helper = env!("CARGO_BIN_EXE_batchwright");
    let words = "exec job.txt -o - -j 1 --workdir work --write /dev".split(' ');
    let apart = ["--mount", "sh", "-c", dev, helper].into_iter();
    let ended = Running::start(&mut desk.other("unshare", apart.chain(words))).wait();
    let records = results(&ended.stdout);
    if records.is_empty() {
        eprintln!("SKIPPED: no devices can be made here: {}", ended.stderr);
        return;
    }
    assert_eq!(records[0]["status"], "completed", "{}", records[0]);
    assert_eq!(records[1]["error"]["kind"], "exit", "{}", records[1]);
    assert_eq!(desk.read("victim"), "");
}
