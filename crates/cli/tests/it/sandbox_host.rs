//! Confined commands that a program starts with the library.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;

use batchwright_exec::{Limits, Sandbox, SandboxMode};
use rustix::process::{Pid, Signal, kill_process};

use super::common::{Desk, eventually};
use super::sandbox::{HELPER, confined, has_ended, prepare};

/// As a host of the library starts commands: confined, and directly.
#[test]
fn a_spawned_command_has_its_input_and_can_be_killed() {
    let desk = Desk::new();
    for mode in [SandboxMode::On, SandboxMode::Off] {
        let limits = match mode {
            SandboxMode::On => Limits::default(),
            _ => Limits::NONE,
        };
        let Some(prepared) = prepare(&Sandbox::new(mode).helper(HELPER).limits(limits)) else {
            continue;
        };
        let folder = desk.path("");
        desk.write("input", "some text");
        let cat = "cat; echo $$ >&2; exec sleep 1000";
        let mut command = confined(&prepared, &folder, &["sh", "-c", cat]);
        let input = File::open(desk.path("input")).unwrap();
        let mut process = command.spawn(Some(input)).unwrap();
        let mut stderr = BufReader::new(process.stderr.take().unwrap());
        let mut pid = String::new();
        stderr.read_line(&mut pid).unwrap();
        let mut pipe = process.stdout.take().unwrap();
        process.kill();
        let status = process.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{mode}");
        assert!(has_ended(pid.trim().parse().unwrap()), "{mode}");
        let mut stdout = String::new();
        pipe.read_to_string(&mut stdout).unwrap();
        assert_eq!(stdout, "some text", "{mode}");
        assert!(command.failure(status).is_none(), "{mode}");

        // Dropping it while it runs ends it.
        let show = ["sh", "-c", "echo $$ >pid; read line; exec sleep 1000"];
        let mut command = confined(&prepared, &folder, &show);
        let process = command.spawn(None).unwrap();
        let pid = || {
            std::fs::read_to_string(desk.path("pid"))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        assert!(eventually(|| pid().is_some()), "{mode}");
        let pid: u32 = pid().unwrap();
        drop(process);
        assert!(eventually(|| has_ended(pid)), "{mode}");
        std::fs::remove_file(desk.path("pid")).unwrap();
    }
}

/// As a host of the library runs commands.
#[test]
fn outputs_are_complete_and_are_not_awaited_for_ever() {
    let desk = Desk::new();
    let folder = desk.path("");
    let off = Sandbox::new(SandboxMode::Off).helper(HELPER);
    let direct = prepare(&off.clone().limits(Limits::NONE)).unwrap();
    // What has left the group of a command is not known without a sandbox.
    let hidden = "(setsid env -i setsid sh -c 'echo $$ >pid; exec sleep 1000' &)
        until [ -s pid ]; do sleep 0.01; done; echo x; exit 3";
    let output = confined(&direct, &folder, &["sh", "-c", hidden]).output();
    let output = output.unwrap();
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(3), &b"x\n"[..])
    );
    let pid = std::fs::read_to_string(desk.path("pid")).unwrap();
    let pid: i32 = pid.trim().parse().unwrap();
    assert!(!has_ended(pid.cast_unsigned()), "it held the outputs open");
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let large = [
        "sh",
        "-c",
        "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2",
    ];
    for sandbox in [
        off.clone().limits(Limits::NONE),
        off.limits(Limits::default()),
    ] {
        let prepared = prepare(&sandbox).unwrap();
        let output = confined(&prepared, &folder, &large).output().unwrap();
        assert!(output.status.success());
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (300_000, 300_000)
        );
        // Nobody reads these outputs.
        let mut command = confined(&prepared, &folder, &large);
        let status = command.spawn(None).unwrap().wait().unwrap();
        assert!(!status.success(), "{status}");
    }
}

/// They are children of the host after the launcher has ended.
#[test]
fn processes_that_commands_left_behind_are_reaped_for_the_host() {
    let desk = Desk::new();
    let Some(prepared) = prepare(&Sandbox::new(SandboxMode::On).helper(HELPER)) else {
        return;
    };
    let name = "left-behind";
    std::os::unix::fs::symlink("/bin/sleep", desk.path(name)).unwrap();
    let leave = format!("setsid ./{name} 1000 >/dev/null 2>&1 & sleep 0.05");
    for _ in 0..3 {
        let output = confined(&prepared, &desk.path(""), &["sh", "-c", &leave]).output();
        assert!(output.unwrap().status.success());
    }
    drop(prepared);
    let own = format!(" {} ", std::process::id());
    let is_ours = |entry: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let of_host = stat.contains(&format!("({name})")) && stat.contains(&own);
        of_host.then_some(stat)
    };
    let children: Vec<_> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(is_ours)
        .collect();
    assert!(children.is_empty(), "{children:?}");
}

/// Without rules, a command can write to a file descriptor of its launcher.
#[test]
fn a_launcher_believes_only_a_child_that_failed_to_start() {
    let desk = Desk::new();
    let sandbox = Sandbox::new(SandboxMode::Off).helper(HELPER);
    let Some(prepared) = prepare(&sandbox.limits(Limits::default())) else {
        return;
    };
    let folder = desk.path("");
    // The pipe that the launcher reads and writes itself. Others may be those of other tests, without a reader.
    let lie = "trap '' PIPE; pipes=$(readlink /proc/$PPID/fd/* | grep pipe: | sort | uniq -d)
        for pipe in /proc/$PPID/fd/*; do
            echo \"$pipes\" | grep -qxF \"$(readlink $pipe)\" && printf lie >$pipe
        done; exit $1";
    for code in ["0", "7", "125", "0"] {
        let words = ["sh", "-c", lie, "sh", code];
        let output = confined(&prepared, &folder, &words).output();
        // Exit code 125 is that of a child that was not started.
        if code != "125" {
            let status = output.unwrap().status;
            assert_eq!(status.code(), code.parse().ok(), "{code}: {status}");
        }
    }
}
