//! The permissions of a command in its sandbox, with the real program as the helper. Rules that this kernel cannot
//! enforce are not tested here; the test prints that.

use std::ffi::OsString;
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use batchwright::Error;
use batchwright_exec::{Confined, Limits, Prepared, Sandbox, SandboxMode};
use rustix::io::{FdFlags, fcntl_setfd};

use super::common::{Desk, Running, eventually, results};

pub const HELPER: &str = env!("CARGO_BIN_EXE_batchwright");
const ESCAPES: &str = include_str!("sandbox_escapes.py");

pub fn sandbox() -> Sandbox {
    Sandbox::new(SandboxMode::On).helper(HELPER)
}

/// `None` if this kernel lacks a feature that the sandbox needs.
pub fn prepare(sandbox: &Sandbox) -> Option<Prepared> {
    match sandbox.prepare() {
        Ok(prepared) => Some(prepared),
        Err(error) if error.message().contains("cannot enforce") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
    failure: Option<Error>,
}

impl Ran {
    fn failure(&self) -> &str {
        let failure = self.failure.as_ref();
        failure.map_or_else(
            || panic!("{:?} {}", self.status, self.stderr),
            Error::message,
        )
    }
}

pub fn confined(prepared: &Prepared, folder: &Path, words: &[&str]) -> Confined {
    let program = prepared.resolve(words[0].as_ref(), folder).unwrap();
    let arguments: Vec<OsString> = words[1..].iter().map(Into::into).collect();
    prepared.command(&program, &arguments, folder)
}

/// Runs a command in `folder` until it ends.
fn run(prepared: &Prepared, folder: &Path, words: &[&str]) -> Ran {
    let mut confined = confined(prepared, folder, words);
    let output = confined.output().unwrap();
    Ran {
        failure: confined.failure(output.status),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// True also for a process that was not reaped.
pub fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The child of a process that was started with this first argument.
pub fn child_of(parent: u32, argument: &str) -> Option<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let read = |pid: i32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).ok();
    pids.find(|&pid| {
        let words = read(pid, "cmdline").unwrap_or_default();
        let stat = read(pid, "stat").unwrap_or_default();
        let stat = String::from_utf8_lossy(&stat);
        let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
        words.split(|&byte| byte == 0).nth(1) == Some(argument.as_bytes())
            && fields.nth(1) == Some(&parent.to_string())
    })
}

/// The system's Python: the first one in `PATH` may be a script that needs more permissions.
pub fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() {
        "/usr/bin/python3"
    } else {
        "python3"
    }
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

#[test]
fn every_way_out_is_closed() {
    let desk = Desk::new();
    let Some(prepared) = prepare(&sandbox()) else {
        return;
    };
    for folder in ["inside", "second", "outside"] {
        std::fs::create_dir(desk.path(folder)).unwrap();
    }
    desk.write("outside/kept", "kept");
    desk.write("inside/escapes.py", ESCAPES);
    desk.write("second/escapes.py", ESCAPES);
    let outside = desk.path("outside");
    let victim = Victim::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp6 = TcpListener::bind("[::1]:0");
    let _local = UnixListener::bind(outside.join("socket")).unwrap();
    // Files that the program which starts batchwright left open are not passed to commands.
    let leaked = File::open(desk.path("outside/kept")).unwrap();
    fcntl_setfd(&leaked, FdFlags::empty()).unwrap();

    let port = |address: std::net::SocketAddr| address.port().to_string();
    let arguments = [
        outside.to_str().unwrap(),
        &victim.0.id().to_string(),
        &port(tcp.local_addr().unwrap()),
        &port(udp.local_addr().unwrap()),
        // Not every machine has IPv6.
        &tcp6.map_or("9".to_owned(), |tcp6| port(tcp6.local_addr().unwrap())),
    ];
    let words = [&[python(), "escapes.py"], &arguments[..]].concat();
    let ran = run(&prepared, &desk.path("inside"), &words);

    assert!(ran.status.success(), "{}{}", ran.stdout, ran.stderr);
    // In the group of its launcher, a command is still found and killed.
    all_refused(&ran.stdout, &["group_of_parent"]);

    // The second command of a launcher.
    desk.write("job.txt", format!("true\n{}\n", words.join(" ")));
    let words = "exec job.txt -o - -j 1 --workdir second".split(' ');
    let ended = Running::start(&mut desk.command(words)).wait().expect(0);
    let record = results(&ended.stdout).swap_remove(1);
    all_refused(
        record["result"]["stdout"].as_str().unwrap(),
        &["group_of_parent"],
    );
    assert_eq!(desk.read("outside/kept"), "kept");
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 2);
}

/// Checks what the script of all attempts has printed.
fn all_refused(stdout: &str, allowed: &[&str]) {
    let mut tried = 0;
    for line in stdout.lines() {
        match line.split_once(' ') {
            Some(("opened" | "keys", got)) => assert_eq!(got, "[]", "{line}"),
            Some((name, got)) => {
                assert!(
                    got.starts_with("refused") || allowed.contains(&name),
                    "{line}"
                );
                tried += 1;
            }
            None => assert_eq!(line, "done"),
        }
    }
    assert_eq!(tried, ESCAPES.matches("\nattempt(").count());
}

#[test]
fn allowed_permissions_are_granted() {
    let desk = Desk::new();
    for folder in ["inside", "outside"] {
        std::fs::create_dir(desk.path(folder)).unwrap();
    }
    let open = sandbox()
        .network(true)
        .local_sockets(true)
        .write_to(desk.path("outside"));
    let Some(prepared) = prepare(&open) else {
        return;
    };
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let _local = UnixListener::bind(desk.path("outside/socket")).unwrap();
    let script = format!(
        "import socket\n\
         socket.create_connection(('127.0.0.1', {}))\n\
         socket.socket(socket.AF_UNIX).connect('../outside/socket')\n\
         open('../outside/new', 'w')\n",
        tcp.local_addr().unwrap().port()
    );
    let ran = run(&prepared, &desk.path("inside"), &[python(), "-c", &script]);
    assert!(ran.status.success(), "{}", ran.stderr);
    assert!(desk.exists("outside/new"));
}

#[test]
fn resources_of_a_command_are_limited() {
    let desk = Desk::new();
    let limits = |set: fn(&mut Limits)| {
        let mut limits = Limits::default();
        limits.memory = Some(200_000_000);
        limits.processes = Some(40);
        set(&mut limits);
        sandbox().limits(limits)
    };
    let Some(bounded) = prepare(&limits(|_| {})) else {
        return;
    };
    let python = |code: &str| run(&bounded, &desk.path(""), &[python(), "-c", code]);

    // At most 2,048 processes, if nothing stops them.
    let bomb = python("import os, time\nfor _ in range(11): os.fork()\ntime.sleep(60)");
    assert!(
        bomb.failure().contains("40 processes"),
        "{}",
        bomb.failure()
    );
    // Each leaves its session and its parent.
    let escaping = python(
        "import os, time\nfor _ in range(300):\n if os.fork() == 0:\n  os.setsid()\n  \
         if os.fork() == 0: time.sleep(60)\n  os._exit(0)\ntime.sleep(60)",
    );
    assert!(
        escaping.failure().contains("40 processes"),
        "{}",
        escaping.failure()
    );
    // Reserved memory is not used memory.
    let reserved = python("import mmap\nmmap.mmap(-1, 800_000_000, flags=mmap.MAP_PRIVATE)");
    assert!(reserved.status.success(), "{}", reserved.stderr);
    let private = python("bytearray(2_000_000_000)");
    assert!(private.stderr.contains("MemoryError"), "{}", private.stderr);
    // The kernel does not limit shared memory.
    let shared = python(
        "import mmap, time\nmaps = [mmap.mmap(-1, 50_000_000) for _ in range(8)]\n\
         for m in maps: m.write(b'x' * 50_000_000)\ntime.sleep(60)",
    );
    assert!(
        shared.failure().contains("bytes of memory"),
        "{}",
        shared.failure()
    );
    // This is within the limit: shared memory counts once, also while the processes end.
    let forked = python(
        "import os, time\nx = b'x' * 150_000_000\nfor _ in range(20):\n for _ in range(8):\n  \
         if os.fork() == 0:\n   time.sleep(0.01)\n   os._exit(0)\n for _ in range(8): os.wait()",
    );
    assert!(forked.status.success(), "{:?}", forked.failure);

    let Some(bounded) = prepare(&limits(|limits| {
        limits.cpu_seconds = Some(1);
        limits.file_size = Some(1_000_000);
    })) else {
        return;
    };
    let shell = |code: &str| run(&bounded, &desk.path(""), &["sh", "-c", code]);
    assert!(
        shell("while :; do :; done")
            .failure()
            .contains("processor time")
    );
    assert!(
        shell("exec cat /dev/zero > huge")
            .failure()
            .contains("1000000 bytes")
    );
    assert_eq!(
        std::fs::metadata(desk.path("huge")).unwrap().len(),
        1_000_000
    );
}

#[test]
fn no_process_of_a_command_outlives_it() {
    let desk = Desk::new();
    let left = "(setsid sh -c 'echo $$ > a; exec sleep 60' &); (sleep 60 & echo $! > b); \
                while ! [ -s a ]; do :; done";
    let modes = [SandboxMode::On, SandboxMode::BestEffort, SandboxMode::Off];
    for mode in modes {
        let sandbox = Sandbox::new(mode).helper(HELPER).limits(Limits::NONE);
        let Some(prepared) = prepare(&sandbox) else {
            continue;
        };
        let ran = run(&prepared, &desk.path(""), &["sh", "-c", left]);
        assert!(ran.status.success(), "{mode}: {}", ran.stderr);
        for name in ["a", "b"] {
            let pid = desk.read(name).trim().parse().unwrap();
            assert!(eventually(|| has_ended(pid)), "{mode}: {name}");
        }
        for name in ["a", "b"] {
            std::fs::remove_file(desk.path(name)).unwrap();
        }
    }
}

#[test]
fn a_replaced_writable_path_is_not_written_to() {
    for place in ["../more", "../work", "$TMPDIR"] {
        let desk = Desk::new();
        for folder in ["base", "base/work", "base/more", "base/tmp", "victim"] {
            std::fs::create_dir(desk.path(folder)).unwrap();
        }
        let wide = sandbox()
            .write_to(desk.path("base"))
            .write_to(desk.path("base/more"))
            .write_to(std::env::temp_dir());
        let Some(prepared) = prepare(&wide) else {
            return;
        };
        let folder = desk.path("base/work");
        let victim = desk.path("victim");
        let swap = format!(
            "mv {place} {place}.old && ln -s {} {place}",
            victim.display()
        );
        let swapped = run(&prepared, &folder, &["sh", "-c", &swap]);
        assert!(swapped.status.success(), "{}", swapped.stderr);
        let write = format!("echo x > {place}/x");
        let second = confined(&prepared, &folder, &["sh", "-c", &write]).output();
        let said = second.unwrap_err().message().to_owned();
        assert!(said.contains("was replaced during the run"), "{said}");
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    }
}

#[test]
fn a_command_that_joins_another_group_still_ends_at_its_time_limit() {
    let desk = Desk::new();
    let code = "import os, time; os.setpgid(0, os.getpgid(os.getppid())); time.sleep(1000)";
    desk.write("job.txt", format!("{} -c '{code}'\n", python()));
    let words = "exec job.txt -o - --timeout 200ms --sandbox off";
    let ended = desk.plain(words);
    let record = results(&ended.expect(3).stdout).swap_remove(0);
    assert_eq!(record["error"]["kind"], "timeout", "{record}");
}

/// Session and process group of batchwright belong to a process that it cannot see, as in a container whose first
/// process was started from outside.
#[test]
fn commands_leave_the_terminal_where_the_group_of_batchwright_is_out_of_sight() {
    let desk = Desk::new();
    // The launcher, which is the parent, has a session without a terminal.
    let code = "import os; print(os.getsid(0) == os.getppid())";
    desk.write(
        "job.txt",
        format!("{0} -c '{code}'\n{0} -c '{code}'\n", python()),
    );
    let apart = ["--pid", "--fork", "--mount-proc"];
    let may = Command::new("unshare").args(apart).arg("true").output();
    if !may.is_ok_and(|ran| ran.status.success()) {
        eprintln!("SKIPPED: no namespace of processes can be made here");
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare
        .args(apart)
        .arg(HELPER)
        .current_dir(desk.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in desk.command(["exec"]).get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    unshare.args("exec job.txt --quiet --sandbox best-effort".split(' '));
    let ended = Running::start(&mut unshare).wait();
    assert_eq!(ended.expect(0).stdout, "True\nTrue\n");
}

#[test]
fn a_command_that_cannot_be_started_is_distinguished_from_a_failed_one() {
    let desk = Desk::new();
    let Some(prepared) = prepare(&sandbox()) else {
        return;
    };
    let folder = desk.path("");
    let ran = run(&prepared, &folder, &["sh", "-c", "echo oh >&2; exit 125"]);
    assert!(ran.failure.is_none() && ran.status.code() == Some(125));

    desk.write("script", "#!/no/such/interpreter\n");
    let command = |program: &Path, folder: &Path| {
        let error = prepared.command(program, &[], folder).output().unwrap_err();
        assert!(error.is_critical());
        error.message().to_owned()
    };
    let missing = command(&desk.path("vanished"), &folder);
    assert!(missing.contains("cannot start"), "{missing}");
    let nowhere = command("/bin/true".as_ref(), &desk.path("no folder"));
    assert!(nowhere.contains("cannot work in"), "{nowhere}");
}

/// A launcher keeps the rules of the last folder.
#[test]
fn a_command_cannot_write_to_the_folder_of_the_command_before() {
    let desk = Desk::new();
    let Some(prepared) = prepare(&sandbox()) else {
        return;
    };
    let folders = ["one", "two"].map(|name| desk.path(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
    }
    let mut launchers = std::collections::BTreeSet::new();
    for round in 0..6 {
        let folder = &folders[round % 2];
        let other = folders[(round + 1) % 2].join("x");
        let code = format!("echo $PPID; pwd; echo x >own; echo x >{}", other.display());
        let ran = run(&prepared, folder, &["sh", "-c", &code]);
        assert!(ran.stderr.contains("Permission denied"), "{}", ran.stderr);
        let (launcher, place) = ran.stdout.trim().split_once('\n').unwrap();
        assert_eq!(Path::new(place), folder.canonicalize().unwrap());
        launchers.insert(launcher.to_owned());
        assert!(folder.join("own").exists() && !other.exists());
    }
    assert_eq!(launchers.len(), 1, "{launchers:?}");
}

#[test]
fn a_program_that_is_not_a_helper_is_rejected() {
    let other = Sandbox::new(SandboxMode::On).helper("/bin/true");
    let error = other.prepare().unwrap_err();
    assert!(error.message().contains("confine_main"), "{error}");
    // The test program is not a valid helper.
    let error = Sandbox::new(SandboxMode::On).prepare().unwrap_err();
    assert!(error.message().contains("Sandbox::helper"), "{error}");
    let off = Sandbox::new(SandboxMode::Off).limits(Limits::NONE);
    assert!(off.prepare().is_ok(), "it needs none");
}
