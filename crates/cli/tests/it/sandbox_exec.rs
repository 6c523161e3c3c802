//! The sandbox as users of `exec` see it: what it reports, and what is left when it is killed. The rules of the kernel are
//! tested by the crate of the commands.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::common::{Desk, Has, Running, eventually, results};

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

#[test]
fn nothing_is_left_when_batchwright_is_killed() {
    for mode in ["on", "off"] {
        let desk = Desk::new();
        if mode == "on" && !can_confine(&desk) {
            continue;
        }
        let script = "setsid sh -c 'touch a; sleep 1000; :' & (sleep 1000 & touch b); \
                      touch c; sleep 1000; :";
        desk.write("job.txt", script);
        let words = ["exec", "job.txt", "--shell", "--sandbox", mode];
        let running = Running::start(&mut desk.command(words));
        let begun = || ["a", "b", "c"].iter().all(|name| desk.exists(name));
        assert!(eventually(begun));
        drop(running);
        assert!(eventually(|| !super::exec::is_running(&desk)), "{mode}");
    }
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
