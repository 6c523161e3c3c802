//! What commands must not reach, and what a kernel cannot enforce.

use super::*;

pub const TESTS: Tests = named![
    every_way_out_is_closed,
    every_way_out_is_closed_without_a_namespace,
    allowed_permissions_are_granted,
    each_process_is_limited,
    a_command_reaches_no_other_command,
    a_replaced_path_is_not_written_to,
    nothing_passes_from_a_command_to_the_next,
    missing_features_of_the_kernel_are_refused_or_reported,
    a_program_that_is_not_a_helper_is_rejected,
];

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
            // Not the first command of its connection.
            let runner = runner(sandbox().memory(1_000_000_000), words[2].as_ref());
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
            let limited = format!("ulimit -d 1000000; exec {script}");
            let (ran, said) = refusing(UNSHARE, libc::EPERM, "on", words[2].as_ref(), &limited);
            assert!(ran, "{said}");
            said
        });
    }
}

/// Runs the script of all attempts with its arguments; the third word is its folder.
fn try_escapes(run: impl FnOnce(&[String]) -> String) {
    let desk = folders(&["inside", "outside"]);
    let [inside, outside] = ["inside", "outside"].map(|name| desk.path().join(name));
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
    let twice = ESCAPES.matches("\n    attempt(").count() * 2;
    assert_eq!(
        tried,
        done * (ESCAPES.matches("\nattempt(").count() + twice)
    );
    assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 2);
}

fn allowed_permissions_are_granted() {
    if !can_confine() {
        return;
    }
    let desk = folders(&["inside", "outside"]);
    let open = sandbox()
        .network(true)
        .write_to(desk.path().join("outside"));
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let script = format!(
        "import socket\nsocket.create_connection(('127.0.0.1', {port}))\nopen('../outside/new', 'w')"
    );
    let runner = runner(open, &desk.path().join("inside"));
    succeeded(&one(&runner, py(&script)));
    assert!(desk.path().join("outside/new").exists());
}

fn each_process_is_limited() {
    let desk = folder();
    for mode in modes() {
        let runner = runner(Sandbox::new(mode).memory(200_000_000), desk.path());
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

fn a_command_reaches_no_other_command() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    let runner = runner(sandbox(), desk.path()).concurrency(2);
    let victim = "echo $$ > pid; until [ -e done ]; do sleep 0.01; done";
    let attacker = "until [ -s pid ]; do sleep 0.01; done
        kill -9 $(cat pid); kill -9 -1; cat /proc/$(cat pid)/environ; readlink /proc/$(cat pid)/fd/0
        touch done; true";
    let (records, _) = all(&runner, vec![sh(victim), sh(attacker)]);
    records.iter().for_each(succeeded);
    assert_eq!(stdout(&records[1]), "");
}

fn a_replaced_path_is_not_written_to() {
    if !can_confine() {
        return;
    }
    for place in ["../more", "../work", "$TMPDIR"] {
        let desk = folders(&["base", "base/work", "base/more", "victim"]);
        let wide = sandbox()
            .write_to(desk.path().join("base"))
            .write_to(desk.path().join("base/more"))
            .write_to(std::env::temp_dir());
        // The folder of this test is in that of temporary files.
        let victim = PathBuf::from("/var/tmp").join(desk.path().file_name().unwrap());
        fs::create_dir(&victim).unwrap();
        let to = victim.display();
        let swap = format!("mv {place} {place}.old && ln -s {to} {place}");
        let write = format!("echo x > {place}/x; echo x > {to}/x; true");
        let runner = runner(wide, &desk.path().join("base/work"));
        let (records, _) = all(&runner, vec![sh(&swap), sh(&write)]);
        records.iter().for_each(succeeded);
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{place}");
        fs::remove_dir(&victim).unwrap();
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
    let mut jobs = vec![sh(show)];
    for job in [sh(change), sh(left), py(input)] {
        jobs.extend([job, sh(show)]);
    }
    let (records, _) = all(&runner(sandbox(), desk.path()), jobs);
    for shown in records.iter().step_by(2) {
        succeeded(shown);
        assert_eq!(stdout(shown), stdout(&records[0]));
    }
}

fn missing_features_of_the_kernel_are_refused_or_reported() {
    let desk = folder();
    let on = |call, error, mode| refusing(call, error, mode, desk.path(), "echo ran");
    let (ran, said) = on(LANDLOCK, libc::ENOSYS, "on");
    assert!(!ran && said.contains("cannot enforce"), "{said}");
    assert!(said.contains("Landlock of Linux 5.13"), "{said}");
    for mode in ["best-effort", "off"] {
        let (ran, said) = on(LANDLOCK, libc::ENOSYS, mode);
        assert!(ran && said.contains("ran\n"), "{said}");
    }
    if can_confine() {
        let (ran, said) = on(UNSHARE, libc::EPERM, "on");
        assert!(ran && said.contains("ran\n"), "{said}");
        // Without a namespace, those that have left are killed at the end too.
        fs::write(desk.path().join("a"), "").unwrap();
        let (ran, said) = refusing(UNSHARE, libc::EPERM, "on", desk.path(), ends::LEAVE);
        assert!(ran, "{said}");
        assert_eq!(processes_in(desk.path()), [""; 0]);
    }
}

fn a_program_that_is_not_a_helper_is_rejected() {
    let other = Sandbox::new(SandboxMode::On).helper("/bin/true");
    let error = other.check().unwrap_err();
    assert!(error.message().contains("confine_main"), "{error}");
}
