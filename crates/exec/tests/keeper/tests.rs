use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use batchwright_exec::{
    CommandJob, CommandReport, CommandRunner, JobRecord, JobStatus, Sandbox, SandboxMode,
    confine_main,
};
use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

const ESCAPES: &str = include_str!("../escapes.py");
const REFUSE: &str = include_str!("../refuse.py");
/// The numbers of the system calls, and the error of a call that a filter refuses.
const UNSHARE: i64 = libc::SYS_unshare;
const LANDLOCK: i64 = libc::SYS_landlock_create_ruleset;
/// With this first argument, this program is a host that the tests kill: it runs the script that follows.
const HOST: &str = "__host";
/// Far longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(180);

mod commands;
mod confinement;
mod ends;

pub fn main() {
    confine_main();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, mode, folder, script @ ..] = &arguments[..]
        && first == HOST
    {
        return host(mode, folder.as_ref(), script);
    }
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    if has("--list") {
        return;
    }
    let tests = if has("--ignored") { LONG } else { TESTS };
    let wanted: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut failed = 0;
    for (name, test) in tests.iter().copied().flatten() {
        if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let passed = catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += i32::from(!passed);
    }
    std::process::exit(i32::from(failed > 0));
}

type Tests = &'static [(&'static str, fn())];

/// Functions with their names.
macro_rules! named {
    ($($test:ident),* $(,)?) => { &[$((stringify!($test), $test as fn())),*] };
}
use named;

/// Those that take seconds, and those that take minutes.
const TESTS: &[Tests] = &[confinement::TESTS, ends::TESTS, commands::TESTS];
const LONG: &[Tests] = &[ends::LONG];

fn sandbox() -> Sandbox {
    Sandbox::new(SandboxMode::On)
}

/// False if this kernel lacks a feature that the sandbox needs.
fn can_confine() -> bool {
    match sandbox().check() {
        Ok(_) => true,
        Err(error) if error.message().contains("cannot enforce") => {
            eprintln!("SKIPPED: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// The modes of a sandbox that this kernel can enforce.
fn modes() -> Vec<SandboxMode> {
    let modes = [SandboxMode::BestEffort, SandboxMode::Off, SandboxMode::On];
    modes[..if can_confine() { 3 } else { 2 }].to_vec()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A folder with these folders in it.
fn folders(names: &[&str]) -> TempDir {
    let desk = folder();
    for name in names {
        fs::create_dir(desk.path().join(name)).unwrap();
    }
    desk
}

fn runner(sandbox: Sandbox, folder: &Path) -> CommandRunner {
    CommandRunner::new()
        .sandbox(sandbox)
        .current_dir(folder)
        .concurrency(1)
}

fn all(runner: &CommandRunner, jobs: Vec<CommandJob>) -> (Vec<JobRecord>, CommandReport) {
    let mut records = Vec::new();
    let report = runner.run(jobs, |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
    records.sort_by_key(|record| record.job.seq);
    (records, report.unwrap())
}

fn one(runner: &CommandRunner, job: CommandJob) -> JobRecord {
    all(runner, vec![job]).0.remove(0)
}

fn sh(text: &str) -> CommandJob {
    CommandJob::shell(text)
}

fn py(code: &str) -> CommandJob {
    CommandJob::new(python()).args(["-c", code])
}

/// The system's Python: the first one in `PATH` may be a script that needs more permissions.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() {
        "/usr/bin/python3"
    } else {
        "python3"
    }
}

fn stdout(record: &JobRecord) -> String {
    record.result.as_ref().unwrap().stdout.text()
}

fn message(record: &JobRecord) -> &str {
    &record.error.as_ref().unwrap().message
}

fn off(folder: &Path) -> CommandRunner {
    runner(Sandbox::new(SandboxMode::Off), folder)
}

#[track_caller]
fn succeeded(record: &JobRecord) {
    let stderr = record.result.as_ref().map(|result| result.stderr.text());
    let ended = (record.status, &record.error);
    assert_eq!(ended, (JobStatus::Completed, &None), "{stderr:?}");
}

/// Waits until it holds.
#[track_caller]
fn eventually(mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it took too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The processes of this machine whose working folder is this one.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut found = Vec::new();
    for process in processes.map(|entry| entry.path()) {
        if fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder)) {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&words).replace('\0', " "));
        }
    }
    found
}

/// This program as a host that runs lines in a shell, 300 at a time.
fn start_host(mode: &str, folder: &Path, lines: &[&str]) -> Child {
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args([HOST, mode]).arg(folder).args(lines);
    host.stdin(Stdio::null()).spawn().unwrap()
}

/// As such a host, on a kernel that refuses a system call; and whether it succeeded.
fn refusing(call: i64, error: i32, mode: &str, folder: &Path, line: &str) -> (bool, String) {
    let mut command = Command::new(python());
    command.args(["-c", REFUSE, &call.to_string(), &error.to_string()]);
    command.arg(std::env::current_exe().unwrap());
    let output = command.args([HOST, mode]).arg(folder).arg(line).output();
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn host(mode: &str, folder: &Path, lines: &[String]) {
    let mode = match mode {
        "on" => SandboxMode::On,
        "best-effort" => SandboxMode::BestEffort,
        _ => SandboxMode::Off,
    };
    let runner = runner(Sandbox::new(mode), folder)
        .max_concurrency(300)
        .concurrency(300);
    let jobs = lines.iter().map(CommandJob::shell).collect();
    for record in all(&runner, jobs).0 {
        if record.result.is_some() {
            print!("{}", stdout(&record));
        }
        if let Some(error) = &record.error {
            println!("{}", error.message);
        }
    }
}
