//! The sandbox as users of `exec` see it: what it reports, and what is left when it is killed. The rules of the kernel are
//! tested by the crate of the commands.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::common::{Desk, HOME, Has, Running, eventually, results};

const HELPER: &str = env!("CARGO_BIN_EXE_batchwright");

/// False if this kernel lacks a feature that the sandbox needs.
fn can_confine(desk: &Desk) -> bool {
    let tried = desk.plain("exec --sandbox on -- true ::: x");
    let lacks = tried.stderr.contains("cannot enforce");
    if lacks {
        eprintln!("SKIPPED: {}", tried.stderr);
    }
    !lacks
}

/// The record of one command that the shell runs, with the expected exit code.
fn exec(desk: &Desk, words: &str, script: &str, code: i32) -> Value {
    desk.write("job.txt", script);
    let mut command = desk.command("exec job.txt -o - --shell".split(' '));
    command
        .args(words.split_whitespace())
        .env("OPENAI_API_KEY", "sk-not-for-commands");
    let ended = Running::start(&mut command).wait().expect(code);
    results(&ended.stdout).swap_remove(0)
}

#[test]
fn exec_reports_permissions_and_refused_operations() {
    let desk = Desk::new();
    if !can_confine(&desk) {
        return;
    }
    fs::create_dir(desk.path("work")).unwrap();
    let run = |words: &str, code| {
        let mut command = desk.command(words.split(' '));
        let running = Running::start(command.env("HOME", desk.path("work")));
        running.wait().expect(code)
    };
    let (wide, reminder) = ("may write to all of", "have no network (--net), write only");
    run("exec --sandbox on -- ls ::: missing", 3)
        .says(wide)
        .says("your home folder")
        .says(reminder)
        .tells("--write");
    let done = run("exec --sandbox on --workdir work/.. -- ls ::: .", 0);
    done.says(wide).hides(reminder);
    let off = run("exec --sandbox off -- ls ::: missing", 3);
    off.hides(wide);
    off.hides(reminder);
}

#[test]
fn exec_confines_commands_and_reports_refused_operations() {
    let desk = Desk::new();
    if !can_confine(&desk) {
        return;
    }
    fs::create_dir(desk.path("work")).unwrap();
    fs::create_dir(desk.path("more")).unwrap();
    let on = "--sandbox on --workdir work";
    let printed = exec(&desk, on, "echo in > here; env", 0)["result"]["stdout"].to_string();
    assert!(
        printed.contains("PATH=") && !printed.contains("sk-not"),
        "{printed}"
    );
    assert!(desk.exists("work/here"));
    let env = "--env OPENAI_API_KEY --env A=b";
    let named = exec(&desk, env, "echo $OPENAI_API_KEY$A", 0);
    named.has(json!({"/result/stdout": "sk-not-for-commandsb\n"}));

    let outside = exec(&desk, on, "echo out > ../out", 3);
    outside.has(json!({"/error/kind": "exit"}));
    let named = format!("{on} --write more");
    exec(&desk, &named, "echo out > ../more/out", 0);
    assert!(!desk.exists("out") && desk.exists("more/out"));

    let not_allowed = "exec -o - --allow cat --on-error stop-critical -- true ::: x";
    let refused = desk.plain(not_allowed).expect(4);
    results(&refused.stdout)[0].has(json!({"/error/kind": "not_allowed"}));
    desk.plain("exec --allow echo --shell -- true ::: x")
        .ends(2, "--allow does not name");
    exec(&desk, "--memory 100M", "ulimit -d | grep -v unlimited", 0);
}

/// Runs a program on a kernel that refuses a system call.
const REFUSE: &str = include_str!("../../../exec/tests/refuse.py");

/// `exec` with these words, where a namespace can be made or cannot.
fn exec_in(desk: &Desk, namespace: bool, words: &[&str]) -> Command {
    if namespace {
        return desk.command(["exec"].iter().chain(words));
    }
    let unshare = if cfg!(target_arch = "x86_64") {
        "272"
    } else {
        "97"
    };
    let refuse = ["-c", REFUSE, unshare, "1", HELPER, "exec"];
    desk.other("/usr/bin/python3", refuse.iter().chain(words))
}

#[test]
fn nothing_is_left_when_batchwright_or_its_helper_is_killed() {
    let desk = Desk::new();
    let can_confine = can_confine(&desk);
    let script = "setsid sh -c 'touch a; sleep 1000; :' & (sleep 1000 & touch b); \
                  setsid setsid sh -c 'while :; do setsid sleep 0.1 & sleep 0.05; done' & \
                  touch c; sleep 1000; :";
    let (by_kernel, by_us) = ("so the kernel has killed", "so all of them were killed");
    for (mode, namespace, helper) in [
        ("on", true, None),
        ("off", true, None),
        ("on", true, Some(by_kernel)),
        ("on", false, Some(by_us)),
        ("off", true, Some(by_us)),
    ] {
        if mode == "on" && !can_confine {
            continue;
        }
        let desk = Desk::new();
        desk.write("job.txt", script);
        let words = ["job.txt", "--shell", "--sandbox", mode];
        let mut command = exec_in(&desk, namespace, &words);
        let running = Running::start(&mut command);
        let begun = || ["a", "b", "c"].iter().all(|name| desk.exists(name));
        assert!(eventually(begun));
        let Some(says) = helper else {
            drop(running);
            assert!(eventually(|| !super::exec::is_running(&desk)), "{mode}");
            continue;
        };
        let children = format!("/proc/{0}/task/{0}/children", running.child.id());
        let helper = fs::read_to_string(children).unwrap();
        let killed = Command::new("kill").args(["-9", helper.trim()]).status();
        assert!(killed.unwrap().success());
        // None is left already when it ends.
        running.wait().expect(4).tells(says);
        let left = super::exec::is_running(&desk);
        assert!(!left || (says == by_kernel && eventually(|| !super::exec::is_running(&desk))));
    }
}

/// The program adopts nothing if it could not tell its own from others, and then says what it does not know.
#[test]
fn processes_that_were_there_before_are_left_alone() {
    let desk = Desk::new();
    let script = format!(
        "sleep 1000 >/dev/null 2>&1 & echo $! > before; exec {HELPER} exec --sandbox off --shell -- 'kill -9 $PPID; sleep {{}}' ::: 1"
    );
    let ended = Running::start(&mut desk.other("sh", ["-c", &script])).wait();
    ended.expect(4).tells("may go on");
    let before = desk.read("before");
    let killed = Command::new("kill").arg(before.trim()).status();
    assert!(killed.unwrap().success(), "it was left alone");
}

#[test]
fn commands_do_not_read_the_data_folder() {
    let desk = Desk::new();
    if !can_confine(&desk) {
        return;
    }
    for folder in ["work", HOME] {
        fs::create_dir(desk.path(folder)).unwrap();
    }
    desk.write("home/secret", "of the data folder\n");
    desk.write("beside", "beside\n");
    let script = "cat ../beside; cat ../home/secret; ls ../home; cat $1/home/secret; true";
    desk.write("job.txt", script);
    let words = ["job.txt", "--shell", "--sandbox", "on", "--workdir"];
    let shown = |folder: &str, namespace: bool| {
        let words = words.iter().chain([&folder]).copied().collect::<Vec<_>>();
        let mut command = exec_in(&desk, namespace, &words);
        Running::start(&mut command).wait().expect(0).stdout
    };
    // Where no namespace can be made, the names of its files are seen.
    assert_eq!(shown("work", true), "beside\n");
    assert_eq!(shown("work", false), "beside\nsecret\n");
    // A command that may write there may read, too.
    assert!(shown(HOME, true).contains("of the data folder"));
}

#[test]
fn two_runs_do_not_share_a_job_log() {
    let desk = Desk::new();
    desk.write(
        "job.txt",
        "touch begun; until [ -e go ]; do sleep 0.01; done\n",
    );
    let words = "exec job.txt --shell --joblog log";
    let running = Running::start(&mut desk.command(words.split(' ')));
    assert!(eventually(|| desk.exists("begun")));
    let second = desk.plain(&format!("{words} --resume")).expect(2);
    second.errs("log is being written by another run");
    desk.write("go", "");
    running.wait().expect(0);
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
    // What the doctor says of the sandbox.
    let not_found = || {
        let mut doctor = desk.other(&program, ["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&doctor.output().unwrap().stdout).unwrap();
        let mut findings = report["findings"].as_array().unwrap().iter();
        let found = findings.find(|finding| {
            let seen = finding["seen"].as_str().unwrap();
            seen.starts_with("lacks: batchwright-sandbox of this version")
        });
        let advice = found.map(|finding| finding["advice"].as_str().unwrap());
        advice.is_some_and(|advice| {
            advice.contains("starts them more slowly; reinstall batchwright, ")
        })
    };
    copy(HELPER, &program);
    desk.write("job.txt", "echo done\n");
    for helper in [None, Some("/bin/echo"), Some("/bin/false")] {
        if let Some(helper) = helper {
            copy(helper, &desk.path("batchwright-sandbox"));
        }
        let words = "exec job.txt -o -".split_whitespace();
        let ended = Running::start(&mut desk.other(&program, words)).wait();
        let records = results(&ended.expect(0).stdout);
        records[0].has(json!({"/result/stdout": "done\n"}));
        assert!(not_found());
    }
    let own = env!("CARGO_BIN_EXE_batchwright-sandbox");
    copy(own, &desk.path("batchwright-sandbox"));
    assert!(!not_found());
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
    desk.plain("exec job.txt -j 1").expect(0);
}

/// A command that may write to `/dev` can replace the device to which every command may write.
#[test]
fn a_file_in_place_of_a_device_is_not_written_to() {
    let desk = Desk::new();
    fs::create_dir(desk.path("work")).unwrap();
    desk.write("victim", "");
    let victim = desk.path("victim");
    let victim = victim.display();
    desk.write(
        "job.txt",
        format!("ln -sf {victim} /dev/full\nsh -c 'echo x >{victim}; echo x >/dev/full'\n"),
    );
    let dev = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/full c 1 7 && exec \"$0\" \"$@\"";
    let words = "exec job.txt -o - -j 1 --workdir work --write /dev".split(' ');
    let apart = ["--mount", "sh", "-c", dev, HELPER].into_iter();
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
