use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use batchwright_exec::{
    CommandJob, CommandReport, CommandRunner, FailureKind, JobRecord, JobStatus, Limits, Sandbox,
    SandboxMode, confine_main,
};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
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
    for (name, test) in tests {
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

const TESTS: Tests = &[
    ("every_way_out_is_closed", every_way_out_is_closed),
    (
        "every_way_out_is_closed_without_a_namespace",
        every_way_out_is_closed_without_a_namespace,
    ),
    (
        "allowed_permissions_are_granted",
        allowed_permissions_are_granted,
    ),
    ("each_process_is_limited", each_process_is_limited),
    (
        "no_process_outlives_its_command_or_run",
        no_process_outlives_its_command_or_run,
    ),
    (
        "nothing_is_left_when_the_host_is_killed",
        nothing_is_left_when_the_host_is_killed,
    ),
    (
        "two_hundred_commands_end_with_the_host",
        two_hundred_commands_end_with_the_host,
    ),
    (
        "the_run_stops_if_its_first_process_is_killed",
        the_run_stops_if_its_first_process_is_killed,
    ),
    (
        "a_command_reaches_no_other_command",
        a_command_reaches_no_other_command,
    ),
    (
        "a_replaced_path_is_not_written_to",
        a_replaced_path_is_not_written_to,
    ),
    (
        "a_command_that_cannot_start_is_distinguished_from_a_failed_one",
        a_command_that_cannot_start_is_distinguished_from_a_failed_one,
    ),
    (
        "many_commands_of_any_length_have_their_own_results",
        many_commands_of_any_length_have_their_own_results,
    ),
    (
        "nothing_passes_from_a_command_to_the_next",
        nothing_passes_from_a_command_to_the_next,
    ),
    (
        "orphans_are_reaped_while_their_command_runs",
        orphans_are_reaped_while_their_command_runs,
    ),
    (
        "a_command_held_by_its_tracer_ends",
        a_command_held_by_its_tracer_ends,
    ),
    (
        "a_last_output_of_a_background_process_is_read",
        a_last_output_of_a_background_process_is_read,
    ),
    (
        "missing_features_of_the_kernel_are_refused_or_reported",
        missing_features_of_the_kernel_are_refused_or_reported,
    ),
    (
        "a_program_that_is_not_a_helper_is_rejected",
        a_program_that_is_not_a_helper_is_rejected,
    ),
    ("temporary_files_are_removed", temporary_files_are_removed),
    (
        "a_program_without_an_interpreter_is_run_by_the_shell",
        a_program_without_an_interpreter_is_run_by_the_shell,
    ),
    (
        "missing_files_fail_only_their_command",
        missing_files_fail_only_their_command,
    ),
];

/// Those that take minutes.
const LONG: Tests = &[(
    "twenty_rounds_of_two_hundred_commands",
    twenty_rounds_of_two_hundred_commands,
)];

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

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn runner(sandbox: Sandbox, folder: &Path) -> CommandRunner {
    CommandRunner::new()
        .sandbox(sandbox)
        .current_dir(folder)
        .concurrency(1)
        .keep_order(true)
}

fn all(runner: &CommandRunner, jobs: Vec<CommandJob>) -> (Vec<JobRecord>, CommandReport) {
    let mut records = Vec::new();
    let report = runner.run(jobs, |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
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

#[track_caller]
fn succeeded(record: &JobRecord) {
    let stderr = record.result.as_ref().map(|result| result.stderr.text());
    assert_eq!(
        record.status,
        JobStatus::Completed,
        "{:?} {stderr:?}",
        record.error
    );
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

/// This program as a host that runs these lines in a shell, 300 at a time.
fn start_host(mode: &str, folder: &Path, lines: &[&str]) -> Child {
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args([HOST, mode]).arg(folder).args(lines);
    host.stdin(Stdio::null()).spawn().unwrap()
}

fn host(mode: &str, folder: &Path, lines: &[String]) {
    let mode = SandboxMode::parse(mode).unwrap();
    let runner = runner(Sandbox::new(mode), folder)
        .max_concurrency(300)
        .concurrency(300);
    if let [program, count, slots] = lines
        && program == "/bin/true"
    {
        return many(
            &runner.concurrency(slots.parse().unwrap()),
            count.parse().unwrap(),
        );
    }
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

/// Starts a program this many times, to compare the time with that of other programs.
fn many(runner: &CommandRunner, count: usize) {
    let jobs = (0..count).map(|_| CommandJob::new("/bin/true"));
    let report = runner.run(jobs, |_| ControlFlow::Continue(()));
    assert_eq!(report.unwrap().completed, count as u64);
}

/// A process outside of every sandbox, which waits for its input to end.
struct Victim(Child);

impl Victim {
    fn new() -> Self {
        let child = Command::new("cat")
            .env("SECRET", "of-another-process")
            .stdin(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success(), "it was left alone");
    }
}

fn every_way_out_is_closed() {
    if can_confine() {
        try_escapes(|words| {
            let job = CommandJob::new(&words[0]).arg(&words[1]).args(&words[3..]);
            let mut limits = Limits::default();
            limits.memory = Some(1_000_000_000);
            // Not the first command of its connection.
            let runner = runner(sandbox().limits(limits), words[2].as_ref());
            let records = all(&runner, vec![sh("true"), job]).0;
            records.iter().for_each(succeeded);
            records.iter().map(stdout).collect()
        });
    }
}

fn every_way_out_is_closed_without_a_namespace() {
    if can_confine() {
        try_escapes(|words| {
            let script = [&words[..2], &words[3..]].concat().join(" ");
            let mut command = Command::new(python());
            command.args(["-c", REFUSE, &UNSHARE.to_string(), "1"]);
            command.arg(std::env::current_exe().unwrap());
            command.args([HOST, "on", &words[2]]);
            let limited = format!("ulimit -d 1000000; exec {script}");
            let output = command.arg(limited).output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{stderr}");
            String::from_utf8(output.stdout).unwrap()
        });
    }
}

/// Runs the script of all attempts with its arguments; the third word is its folder.
fn try_escapes(run: impl FnOnce(&[String]) -> String) {
    let desk = folder();
    for folder in ["inside", "outside"] {
        fs::create_dir(desk.path().join(folder)).unwrap();
    }
    let (inside, outside) = (desk.path().join("inside"), desk.path().join("outside"));
    fs::write(outside.join("kept"), "kept").unwrap();
    fs::write(inside.join("escapes.py"), ESCAPES).unwrap();
    let victim = Victim::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp6 = TcpListener::bind("[::1]:0");
    let _local = UnixListener::bind(outside.join("socket")).unwrap();
    // Files that the program which starts batchwright left open are not passed to commands.
    let leaked = File::open(outside.join("kept")).unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();
    let port = |address: std::net::SocketAddr| address.port().to_string();
    let printed = run(&[
        python().to_owned(),
        "escapes.py".to_owned(),
        inside.display().to_string(),
        outside.display().to_string(),
        victim.0.id().to_string(),
        port(tcp.local_addr().unwrap()),
        port(udp.local_addr().unwrap()),
        // Not every machine has IPv6.
        tcp6.map_or("9".to_owned(), |tcp6| port(tcp6.local_addr().unwrap())),
    ]);
    let mut tried = 0;
    let mut done = 0;
    for line in printed.lines() {
        match line.split_once(' ') {
            Some(("opened" | "keys", got)) => assert_eq!(got, "[]", "{line}"),
            Some((_, got)) => {
                assert!(got.starts_with("refused"), "{line}");
                tried += 1;
            }
            None => {
                assert_eq!(line, "done");
                done += 1;
            }
        }
    }
    assert!(done > 0, "{printed}");
    assert_eq!(tried, done * ESCAPES.matches("\nattempt(").count());
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 2);
}

fn allowed_permissions_are_granted() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    for folder in ["inside", "outside"] {
        fs::create_dir(desk.path().join(folder)).unwrap();
    }
    let open = sandbox()
        .network(true)
        .local_sockets(true)
        .write_to(desk.path().join("outside"));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let _local = UnixListener::bind(desk.path().join("outside/socket")).unwrap();
    let script = format!(
        "import socket\n\
         socket.create_connection(('127.0.0.1', {}))\n\
         socket.socket(socket.AF_UNIX).connect('../outside/socket')\n\
         open('../outside/new', 'w')\n",
        tcp.local_addr().unwrap().port()
    );
    succeeded(&one(
        &runner(open, &desk.path().join("inside")),
        py(&script),
    ));
    assert!(desk.path().join("outside/new").exists());
}

fn each_process_is_limited() {
    let desk = folder();
    let mut limits = Limits::default();
    (limits.cpu_seconds, limits.file_size) = (Some(1), Some(1_000_000));
    limits.memory = Some(200_000_000);
    for mode in [SandboxMode::On, SandboxMode::Off] {
        if mode == SandboxMode::On && !can_confine() {
            continue;
        }
        let runner = runner(Sandbox::new(mode).limits(limits), desk.path());
        let spun = one(&runner, sh("while :; do :; done"));
        assert_eq!(spun.error.as_ref().unwrap().kind, FailureKind::Limit);
        assert!(
            message(&spun).contains("--cpu SECONDS allows more"),
            "{spun:?}"
        );
        let full = one(&runner, sh("exec cat /dev/zero > huge"));
        assert!(
            message(&full).contains("--max-file SIZE allows more"),
            "{full:?}"
        );
        let size = fs::metadata(desk.path().join("huge")).unwrap().len();
        assert_eq!(size, 1_000_000);
        let large = one(&runner, py("bytearray(500_000_000)"));
        let stderr = large.result.as_ref().unwrap().stderr.text();
        assert!(stderr.contains("MemoryError"), "{stderr}");
        // A limit of each process, not of all together.
        let several = "import os\nx = bytearray(120_000_000)\n\
                       if os.fork() == 0:\n y = bytearray(50_000_000)\n os._exit(0)\n\
                       exit(os.waitstatus_to_exitcode(os.wait()[1]))";
        succeeded(&one(&runner, py(several)));
    }
}

/// Processes that leave their parent, group, session and environment.
const LEAVE: &str = "setsid sh -c 'echo x >> a; exec sleep 1000' >/dev/null 2>&1 & \
                     (env -i setsid sh -c \"trap '' TERM HUP; echo x >> a; sleep 1000; :\" >/dev/null 2>&1 &); \
                     (sleep 1000 & echo x >> a); \
                     until [ $(wc -l < a) -ge 3 ]; do sleep 0.01; done";

fn no_process_outlives_its_command_or_run() {
    for mode in SandboxMode::ALL {
        if mode == SandboxMode::On && !can_confine() {
            continue;
        }
        let desk = folder();
        fs::write(desk.path().join("a"), "").unwrap();
        let runner = runner(Sandbox::new(mode), desk.path());
        succeeded(&one(&runner, sh(LEAVE)));
        // The end of the run is the end of all.
        assert_eq!(processes_in(desk.path()), [""; 0], "{mode}");
        // The group of a command ends with it.
        let records = all(
            &runner,
            vec![
                sh("sleep 1000 >/dev/null 2>&1 & echo $! > b"),
                sh(
                    "while kill -0 $(cat b) 2>/dev/null && grep -q ') [^Z]' /proc/$(cat b)/stat; do sleep 0.01; done",
                ),
            ],
        );
        records.0.iter().for_each(succeeded);
    }
}

fn nothing_is_left_when_the_host_is_killed() {
    for mode in ["on", "off"] {
        if mode == "on" && !can_confine() {
            continue;
        }
        for with_keeper in [false, true] {
            // Outside of a namespace, only the keeper finds those that have left.
            if with_keeper && mode == "off" {
                continue;
            }
            let desk = folder();
            fs::write(desk.path().join("a"), "").unwrap();
            let script = format!("{LEAVE}; touch ready; sleep 1000; :");
            let mut host = start_host(mode, desk.path(), &[&script]);
            eventually(|| desk.path().join("ready").exists());
            assert!(processes_in(desk.path()).len() > 3);
            if with_keeper {
                let children = format!("/proc/{0}/task/{0}/children", host.id());
                let keeper = fs::read_to_string(children).unwrap();
                let keeper = Pid::from_raw(keeper.trim().parse().unwrap()).unwrap();
                kill_process(keeper, Signal::KILL).unwrap();
            }
            host.kill().unwrap();
            eventually(|| processes_in(desk.path()).is_empty());
            host.wait().unwrap();
        }
    }
}

/// Kills the host in the middle of 200 commands, in every other round while they start.
fn rounds(rounds: usize, mode: &str) {
    let kinds = [
        (100, "echo x >> n; exec sleep 1000"),
        (
            40,
            "setsid sh -c 'echo x >> n; sleep 1000; :' & sleep 1000; :",
        ),
        (
            30,
            "(env -i setsid sh -c \"trap '' TERM HUP INT; echo x >> n; sleep 1000; :\" &); sleep 1000; :",
        ),
        (
            20,
            "( (setsid sleep 1000 &) & ); echo x >> n; sleep 1000; :",
        ),
        (
            10,
            "setsid sh -c 'while :; do setsid sleep 0.1 & sleep 0.05; done' & echo x >> n; sleep 1000; :",
        ),
    ];
    let lines: Vec<&str> = kinds.iter().flat_map(|(n, line)| vec![*line; *n]).collect();
    for round in 0..rounds {
        let desk = folder();
        let mut host = start_host(mode, desk.path(), &lines);
        let begun =
            || fs::read_to_string(desk.path().join("n")).map_or(0, |text| text.lines().count());
        let wanted = if round % 2 == 0 { 200 } else { 20 };
        eventually(|| begun() >= wanted);
        host.kill().unwrap();
        let began = Instant::now();
        eventually(|| processes_in(desk.path()).is_empty());
        println!("{mode}: gone after {:?}", began.elapsed());
        host.wait().unwrap();
    }
}

fn two_hundred_commands_end_with_the_host() {
    if can_confine() {
        rounds(2, "on");
    }
    rounds(2, "off");
}

fn twenty_rounds_of_two_hundred_commands() {
    if can_confine() {
        rounds(20, "on");
    }
    rounds(20, "off");
}

fn the_run_stops_if_its_first_process_is_killed() {
    let desk = folder();
    // Outside of a namespace, a command without a sandbox may kill the process that has started it.
    let off = runner(Sandbox::new(SandboxMode::Off), desk.path());
    let jobs = vec![sh("kill -9 $PPID; sleep 1000"), sh("touch second")];
    let (records, report) = all(&off, jobs);
    let why = "the process that keeps the commands of the run together was ended";
    assert!(report.stop.unwrap().to_string().contains(why));
    assert_eq!(
        (report.completed, report.failed, report.cancelled),
        (0, 0, 2)
    );
    assert!(message(&records[0]).contains(why), "{records:?}");
    assert!(!desk.path().join("second").exists());
    if can_confine() {
        let on = runner(sandbox(), desk.path());
        // In a namespace it cannot.
        succeeded(&one(
            &on,
            sh("kill -9 $PPID 2>/dev/null; kill -9 1 2>/dev/null; true"),
        ));
    }
}

fn a_command_reaches_no_other_command() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    let runner = runner(sandbox(), desk.path()).concurrency(2);
    let records = all(
        &runner,
        vec![
            sh("echo $$ > pid; until [ -e done ]; do sleep 0.01; done"),
            sh("until [ -s pid ]; do sleep 0.01; done
                kill -9 $(cat pid); kill -9 -1; cat /proc/$(cat pid)/environ; readlink /proc/$(cat pid)/fd/0
                touch done; true"),
        ],
    );
    records.0.iter().for_each(succeeded);
    assert_eq!(stdout(&records.0[1]), "");
}

fn a_replaced_path_is_not_written_to() {
    if !can_confine() {
        return;
    }
    for place in ["../more", "../work", "$TMPDIR"] {
        let desk = folder();
        for folder in ["base", "base/work", "base/more", "victim"] {
            fs::create_dir(desk.path().join(folder)).unwrap();
        }
        let wide = sandbox()
            .write_to(desk.path().join("base"))
            .write_to(desk.path().join("base/more"))
            .write_to(std::env::temp_dir());
        // The folder of this test is in that of temporary files.
        let victim = PathBuf::from("/var/tmp").join(desk.path().file_name().unwrap());
        fs::create_dir(&victim).unwrap();
        let swap = format!(
            "mv {place} {place}.old && ln -s {} {place}",
            victim.display()
        );
        let write = format!("echo x > {place}/x; echo x > {}/x; true", victim.display());
        let runner = runner(wide, &desk.path().join("base/work"));
        let records = all(&runner, vec![sh(&swap), sh(&write)]);
        records.0.iter().for_each(succeeded);
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{place}");
        fs::remove_dir(&victim).unwrap();
    }
}

fn a_command_that_cannot_start_is_distinguished_from_a_failed_one() {
    let desk = folder();
    let off = runner(Sandbox::new(SandboxMode::Off), desk.path());
    let failed = one(&off, sh("echo oh >&2; exit 125"));
    assert_eq!(message(&failed), "exit code 125");
    fs::write(desk.path().join("script"), "#!/no/such/interpreter\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(desk.path().join("script"), executable).unwrap();
    let missing = one(&off, CommandJob::new("./script"));
    assert!(message(&missing).contains("the interpreter that its first line names"));
    assert!(missing.result.is_none());
    let nowhere = runner(Sandbox::new(SandboxMode::Off), &desk.path().join("none"));
    let nowhere = nowhere.run([sh("true")], |_| ControlFlow::Continue(()));
    assert!(nowhere.unwrap_err().message().contains("cannot open"));
}

fn many_commands_of_any_length_have_their_own_results() {
    let desk = folder();
    let runner = runner(Sandbox::new(SandboxMode::BestEffort), desk.path()).concurrency(8);
    let long = "a".repeat(100_000);
    let jobs = (1..=600).map(|number| {
        let text = "readlink /proc/self/fd/0; echo $1; [ $1 != 500 ]";
        let job = CommandJob::new("sh")
            .args(["-c", text, "x"])
            .arg(number.to_string());
        if number % 100 == 0 {
            job.arg(&long)
        } else {
            job
        }
    });
    let (records, report) = all(&runner, jobs.collect());
    assert_eq!((report.completed, report.failed), (599, 1));
    for record in records {
        assert_eq!(
            stdout(&record),
            format!("/dev/null\n{}\n", record.job.seq())
        );
        assert_eq!(record.error.is_some(), record.job.seq() == 500);
    }
}

fn nothing_passes_from_a_command_to_the_next() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    let show = "pwd; umask; ulimit -a; env | sort; ls /proc/self/fd; grep flags /proc/$$/fdinfo/0";
    let change = "cd /; umask 0; ulimit -n 20; ulimit -f 1; export A=b; exec 5>x";
    let left = "setsid env -i sleep 1000 >x 2>&1 & exit 0";
    let input = "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)";
    let jobs = vec![
        sh(show),
        sh(change),
        sh(show),
        sh(left),
        sh(show),
        py(input),
        sh(show),
    ];
    let (records, _) = all(&runner(sandbox(), desk.path()), jobs);
    for at in [0, 2, 4, 6] {
        succeeded(&records[at]);
        assert_eq!(stdout(&records[at]), stdout(&records[0]));
    }
}

fn orphans_are_reaped_while_their_command_runs() {
    for mode in [SandboxMode::BestEffort, SandboxMode::Off] {
        let desk = folder();
        let code = "import os, sys, time\ncame, tell = os.pipe()\nif os.fork() == 0:\n    \
                    orphan = os.fork()\n    if orphan == 0: os._exit(0)\n    \
                    os.write(tell, b'%d' % orphan)\n    os._exit(0)\nos.wait()\n\
                    orphan = os.read(came, 20).decode()\n\
                    while os.path.exists('/proc/' + orphan): time.sleep(0.05)\n";
        succeeded(&one(&runner(Sandbox::new(mode), desk.path()), py(code)));
    }
}

/// The kernel reports the end of a traced process only to its tracer.
fn a_command_held_by_its_tracer_ends() {
    let desk = folder();
    let code = "import ctypes, os, time\ncommand = os.getpid()\nif os.fork() == 0:\n    \
                seized = ctypes.CDLL(None).ptrace(0x4206, command, 0, 0)\n    \
                open('seized', 'w').write(str(seized))\n    time.sleep(1000)\n\
                while not os.path.exists('seized'): time.sleep(0.01)\n";
    let record = one(
        &runner(Sandbox::new(SandboxMode::Off), desk.path()),
        py(code),
    );
    succeeded(&record);
}

fn a_last_output_of_a_background_process_is_read() {
    let desk = folder();
    for mode in [SandboxMode::BestEffort, SandboxMode::Off] {
        let runner = runner(Sandbox::new(mode), desk.path());
        let record = one(
            &runner,
            sh("mkfifo f; (read x < f; echo last) & echo > f; rm f"),
        );
        assert_eq!(stdout(&record), "last\n");
    }
}

/// What this program reports as a host, on a kernel that refuses a system call.
fn refused(call: i64, error: i32, mode: &str, folder: &Path) -> (bool, String) {
    let mut command = Command::new(python());
    command.args(["-c", REFUSE, &call.to_string(), &error.to_string()]);
    command.arg(std::env::current_exe().unwrap());
    let output = command
        .args([HOST, mode])
        .arg(folder)
        .arg("echo ran")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn missing_features_of_the_kernel_are_refused_or_reported() {
    let desk = folder();
    let (ran, said) = refused(LANDLOCK, libc::ENOSYS, "on", desk.path());
    assert!(!ran && said.contains("cannot enforce"), "{said}");
    assert!(said.contains("Landlock of Linux 5.13"), "{said}");
    for mode in ["best-effort", "off"] {
        let (ran, said) = refused(LANDLOCK, libc::ENOSYS, mode, desk.path());
        assert!(ran && said.contains("ran\n"), "{said}");
    }
    if can_confine() {
        let (ran, said) = refused(UNSHARE, libc::EPERM, "on", desk.path());
        assert!(ran && said.contains("ran\n"), "{said}");
        // Without a namespace, those that have left are killed at the end too.
        fs::write(desk.path().join("a"), "").unwrap();
        let mut command = Command::new(python());
        command.args(["-c", REFUSE, &UNSHARE.to_string(), "1"]);
        command.arg(std::env::current_exe().unwrap());
        command.args([HOST, "on"]).arg(desk.path()).arg(LEAVE);
        assert!(command.status().unwrap().success());
        assert_eq!(processes_in(desk.path()), [""; 0]);
    }
}

fn a_program_that_is_not_a_helper_is_rejected() {
    let other = Sandbox::new(SandboxMode::On).helper("/bin/true");
    let error = other.check().unwrap_err();
    assert!(error.message().contains("confine_main"), "{error}");
}

fn temporary_files_are_removed() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    let text = "echo $TMPDIR; mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c";
    let record = one(&runner(sandbox(), desk.path()), sh(text));
    succeeded(&record);
    let temporary = PathBuf::from(stdout(&record).trim());
    assert!(temporary.is_absolute() && !temporary.exists());
    // Also if the host is killed.
    let mut host = start_host(
        "on",
        desk.path(),
        &["echo $TMPDIR > b; mv b tmp; sleep 1000"],
    );
    eventually(|| desk.path().join("tmp").exists());
    let temporary = fs::read_to_string(desk.path().join("tmp")).unwrap();
    assert!(Path::new(temporary.trim()).exists());
    host.kill().unwrap();
    eventually(|| !Path::new(temporary.trim()).exists());
    host.wait().unwrap();
}

fn a_program_without_an_interpreter_is_run_by_the_shell() {
    use std::os::unix::fs::PermissionsExt;
    let desk = folder();
    let program = desk.path().join("program");
    fs::write(&program, "echo \"$1 $2 $A\"\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for mode in [SandboxMode::BestEffort, SandboxMode::Off] {
        let sandbox = Sandbox::new(mode).set_variable("A", "b");
        let job = CommandJob::new("./program").args(["a b", "c"]);
        assert_eq!(
            stdout(&one(&runner(sandbox, desk.path()), job)),
            "a b c b\n"
        );
    }
}

fn missing_files_fail_only_their_command() {
    let desk = folder();
    let few = format!(
        "ulimit -n 12; exec {} {HOST} off {} true true true",
        std::env::current_exe().unwrap().display(),
        desk.path().display()
    );
    let output = Command::new("sh").args(["-c", &few]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.is_empty() || said.contains("ulimit -n"), "{said}");
}
