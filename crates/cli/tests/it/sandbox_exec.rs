//! The sandbox as users of `exec` see it: what it reports, and what is left when it is killed.

use super::common::{Desk, Running, eventually, results};
use super::sandbox::{HELPER, child_of, has_ended, prepare, python, sandbox};

/// The record of one command that the shell runs, with the expected exit code.
fn exec(desk: &Desk, words: &str, script: &str, code: i32) -> serde_json::Value {
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
    if prepare(&sandbox()).is_none() {
        return;
    }
    std::fs::create_dir(desk.path("work")).unwrap();
    let run = |words: &str, code| {
        let mut command = desk.command(words.split(' '));
        Running::start(command.env("HOME", desk.path("work")))
            .wait()
            .expect(code)
            .stderr
    };
    let (wide, reminder) = (
        "may write to all of",
        "had no network (--net), could write only below",
    );
    let failed = run("exec --sandbox on -- ls ::: missing", 3);
    assert!(
        failed.contains(wide) && failed.contains("your home folder"),
        "{failed}"
    );
    assert!(
        failed.contains(reminder) && failed.contains("--write"),
        "{failed}"
    );
    let ended = run("exec --sandbox on --workdir work/.. -- ls ::: .", 0);
    assert!(ended.contains(wide) && !ended.contains(reminder), "{ended}");
    let off = run("exec --sandbox off -- ls ::: missing", 3);
    assert!(!off.contains(wide) && !off.contains(reminder), "{off}");
}

#[test]
fn exec_confines_commands_and_reports_refused_operations() {
    let desk = Desk::new();
    if prepare(&sandbox()).is_none() {
        return;
    }
    std::fs::create_dir(desk.path("work")).unwrap();
    std::fs::create_dir(desk.path("more")).unwrap();
    let on = "--sandbox on --workdir work";
    let printed = exec(&desk, on, "echo in > here; env", 0)["result"]["stdout"].to_string();
    assert!(
        printed.contains("PATH=") && !printed.contains("sk-not"),
        "{printed}"
    );
    assert!(desk.exists("work/here"));
    let named = exec(
        &desk,
        "--env OPENAI_API_KEY --env A=b",
        "echo $OPENAI_API_KEY$A",
        0,
    );
    assert!(
        named["result"]["stdout"]
            .to_string()
            .contains("sk-not-for-commandsb"),
        "{named}"
    );

    let outside = exec(&desk, on, "echo out > ../out", 3);
    assert_eq!(outside["error"]["kind"], "exit", "{outside}");
    let named = format!("{on} --write more");
    exec(&desk, &named, "echo out > ../more/out", 0);
    assert!(!desk.exists("out") && desk.exists("more/out"));

    let run = |words: &str| desk.plain(words);
    let refused = run("exec -o - --allow cat --on-error stop-critical -- true ::: x").expect(4);
    let record = results(&refused.stdout).swap_remove(0);
    assert_eq!(record["error"]["kind"], "not_allowed", "{record}");
    let said = run("exec --allow echo --shell -- true ::: x").expect(2);
    said.errs("--allow does not name");
    let spun = exec(&desk, "--cpu 1", "while :; do :; done", 3);
    assert_eq!(spun["error"]["kind"], "limit", "{spun}");
    let names = |record: &serde_json::Value, flag: &str| {
        let message = record["error"]["message"].as_str().unwrap();
        assert!(message.contains(flag), "{message}");
    };
    names(&spun, "--cpu SECONDS allows more");
    // The last command of the pipe does not read, so the previous one keeps its memory.
    let full = "head -c 100000000 /dev/zero | tail | sleep 600";
    let full = exec(&desk, "--sandbox off --max-memory 20M", full, 3);
    names(&full, "--max-memory SIZE allows more");
    let off = exec(
        &desk,
        "--sandbox off --max-file 1K",
        "exec cat /dev/zero > big",
        3,
    );
    assert_eq!(off["error"]["kind"], "limit", "{off}");
    names(&off, "--max-file SIZE allows more");
}

#[test]
fn missing_kernel_features_are_reported_and_tolerated_only_with_best_effort() {
    let desk = Desk::new();
    let kernel = ["-c", include_str!("older_kernel.py"), HELPER];
    let words = |mode| ["exec", "--sandbox", mode, "--", "echo", ":::", "a", "b"];
    let run = |mode| {
        let arguments = kernel.into_iter().chain(words(mode));
        Running::start(&mut desk.other(python(), arguments)).wait()
    };
    let refused = run("on").expect(2);
    for said in ["cannot enforce", "Landlock of Linux 5.13", "best-effort"] {
        refused.errs(said);
    }
    assert_eq!(refused.stdout, "");
    let ended = run("best-effort").expect(0);
    assert_eq!(ended.stdout.lines().count(), 2);
    let warned = ended.stderr.matches("Landlock of Linux 5.13");
    assert_eq!(warned.count(), 1, "{}", ended.stderr);
    let off = run("off").expect(0);
    off.hides("Landlock");
}

#[test]
fn nothing_is_left_when_batchwright_is_killed() {
    for (mode, with_watchdog) in [("on", false), ("off", false), ("on", true)] {
        let desk = Desk::new();
        if mode == "on" && prepare(&sandbox()).is_none() {
            continue;
        }
        let script = "setsid sh -c 'echo $$ > a; sleep 1000; :' & (sleep 1000 & echo $! > b); \
                      echo $$ > c; sleep 1000; :";
        desk.write("job.txt", script);
        let words = ["exec", "job.txt", "--shell", "--sandbox", mode];
        // Without the watchdog, the folder of the run stays.
        let mut command = desk.command(words);
        let mut batchwright = Running::start(command.env("TMPDIR", desk.path("")));
        let pid = |name: &str| {
            let text = std::fs::read_to_string(desk.path(name)).unwrap_or_default();
            text.trim().parse::<u32>().ok()
        };
        assert!(eventually(|| ["a", "b", "c"]
            .iter()
            .all(|name| pid(name).is_some())));
        if with_watchdog {
            let watchdog = child_of(batchwright.child.id(), "__watch").unwrap();
            let watchdog = rustix::process::Pid::from_raw(watchdog).unwrap();
            rustix::process::kill_process(watchdog, rustix::process::Signal::KILL).unwrap();
        }
        batchwright.child.kill().unwrap();
        for name in ["a", "b", "c"] {
            let pid = pid(name).unwrap();
            assert!(eventually(|| has_ended(pid)), "{mode}: {name}");
        }
        batchwright.child.wait().unwrap();
    }
}
