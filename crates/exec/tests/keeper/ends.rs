//! What ends with a command, with its run and with a host that is killed.

use super::*;

pub const TESTS: Tests = named![
    no_process_outlives_its_command_or_run,
    two_hundred_commands_end_with_the_host,
    the_run_stops_if_its_first_process_is_killed,
    orphans_are_reaped_while_their_command_runs,
    a_command_held_by_its_tracer_ends,
    a_command_that_asks_to_be_traced_goes_on,
    a_last_output_of_a_background_process_is_read,
    temporary_files_are_removed,
    a_command_may_be_ended_before_it_has_begun,
];

pub const LONG: Tests = named![twenty_rounds_of_two_hundred_commands,];

/// Processes that leave their parent, group, session and environment.
pub const LEAVE: &str = "setsid sh -c 'echo x >> a; exec sleep 1000' >/dev/null 2>&1 & \
                     (env -i setsid sh -c \"trap '' TERM HUP; echo x >> a; sleep 1000; :\" >/dev/null 2>&1 &); \
                     (sleep 1000 & echo x >> a); \
                     until [ $(wc -l < a) -ge 3 ]; do sleep 0.01; done";

fn no_process_outlives_its_command_or_run() {
    for mode in modes() {
        let desk = folder();
        fs::write(desk.path().join("a"), "").unwrap();
        let runner = runner(Sandbox::new(mode), desk.path());
        succeeded(&one(&runner, sh(LEAVE)));
        // The end of the run is the end of all.
        assert_eq!(processes_in(desk.path()), [""; 0], "{mode:?}");
        // The group of a command ends with it.
        let leave = "sleep 1000 >/dev/null 2>&1 & echo $! > b";
        let wait = "while kill -0 $(cat b) 2>/dev/null && grep -q ') [^Z]' /proc/$(cat b)/stat
            do sleep 0.01; done";
        let (records, _) = all(&runner, vec![sh(leave), sh(wait)]);
        records.iter().for_each(succeeded);
    }
}

/// Kills the host in the middle of 200 commands, in every other round while they start.
fn rounds(count: usize) {
    if can_confine() {
        rounds_of(count, "on");
    }
    rounds_of(count, "off");
}

fn rounds_of(rounds: usize, mode: &str) {
    let kinds = "100 echo x >> n; exec sleep 1000
        40 setsid sh -c 'echo x >> n; sleep 1000; :' & sleep 1000; :
        30 (env -i setsid sh -c \"trap '' TERM HUP INT; echo x >> n; sleep 1000; :\" &); sleep 1000; :
        20 ( (setsid sleep 1000 &) & ); echo x >> n; sleep 1000; :
        10 setsid sh -c 'while :; do setsid sleep 0.1 & sleep 0.05; done' & echo x >> n; sleep 1000; :";
    let kinds = kinds.lines().flat_map(|kind| {
        let (count, line) = kind.trim().split_once(' ').unwrap();
        vec![line; count.parse().unwrap()]
    });
    let lines: Vec<&str> = kinds.collect();
    for round in 0..rounds {
        let desk = folder();
        let mut host = start_host(mode, desk.path(), &lines);
        let begun = || fs::read(desk.path().join("n")).map_or(0, |text| text.len() / 2);
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
    rounds(2);
}

fn twenty_rounds_of_two_hundred_commands() {
    rounds(20);
}

fn the_run_stops_if_its_first_process_is_killed() {
    let desk = folder();
    // Outside of a namespace, a command without a sandbox may kill the process that has started it.
    let off = off(desk.path());
    let jobs = vec![sh("kill -9 $PPID; sleep 1000"), sh("touch second")];
    let (records, report) = all(&off, jobs);
    let why = "the process that keeps the commands of the run together was ended";
    assert!(report.stop.unwrap().to_string().contains(why));
    let ends = (report.completed, report.failed, report.cancelled);
    assert_eq!(ends, (0, 0, 2));
    assert!(message(&records[0]).contains(why), "{records:?}");
    assert!(!desk.path().join("second").exists());
    if can_confine() {
        // In a namespace it cannot.
        let kill = sh("kill -9 $PPID 2>/dev/null; kill -9 1 2>/dev/null; true");
        succeeded(&one(&runner(sandbox(), desk.path()), kill));
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
    succeeded(&one(&off(desk.path()), py(code)));
}

/// Each signal, and each new program, would stop it until its tracer lets it go on.
fn a_command_that_asks_to_be_traced_goes_on() {
    let code = "import ctypes, os, signal\n\
                got = []\nsignal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n\
                assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0\n\
                os.kill(os.getpid(), signal.SIGUSR1)\nassert got\n\
                assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0\n\
                import threading\n\
                def ask():\n    assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0\n    \
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)\n\
                asks = threading.Thread(target=ask)\nasks.start()\nasks.join()\n\
                os.execvp('sh', ['sh', '-c', 'echo done'])";
    let desk = folder();
    for mode in modes() {
        let runner = runner(Sandbox::new(mode), desk.path());
        let record = one(&runner.timeout(Some(PATIENCE)), py(code));
        succeeded(&record);
        assert_eq!(stdout(&record), "done\n");
    }
}

fn a_last_output_of_a_background_process_is_read() {
    let desk = folder();
    for mode in [SandboxMode::BestEffort, SandboxMode::Off] {
        let job = sh("mkfifo f; (read x < f; echo last) & echo > f; rm f");
        let record = one(&runner(Sandbox::new(mode), desk.path()), job);
        assert_eq!(stdout(&record), "last\n");
    }
}

fn temporary_files_are_removed() {
    if !can_confine() {
        return;
    }
    let desk = folder();
    // Folders that nobody may enter, far deeper than a path may be long, and links that lead out.
    let text = "import os\nprint(os.environ['TMPDIR'])\nout = os.getcwd()\nos.chdir(os.environ['TMPDIR'])\n\
                for n in range(5000):\n    os.mkdir('a'); open('b', 'w'); os.symlink(out, 'out')\n    \
                if n % 50 == 1: os.chmod('.', 0o500)\n    \
                os.chdir('a')\n    if n % 50 == 0: os.chmod('../b', 0)\n\
                os.mkdir('c', 0)\nos.chdir(os.environ['TMPDIR'])\n\
                for n in range(1000): os.mkdir(str(n), 0)\n\
                for n in range(9): os.makedirs(f'batchwright-{n}/batchwright-0')\nos.chmod('.', 0)\n";
    fs::write(desk.path().join("kept"), "").unwrap();
    let record = one(&runner(sandbox(), desk.path()), py(text));
    succeeded(&record);
    let temporary = PathBuf::from(stdout(&record).trim());
    assert!(temporary.is_absolute() && !temporary.exists());
    assert!(desk.path().join("kept").exists());
    // Also if the host is killed.
    let line = "echo $TMPDIR > b; mv b tmp; sleep 1000";
    let mut host = start_host("on", desk.path(), &[line]);
    eventually(|| desk.path().join("tmp").exists());
    let temporary = fs::read_to_string(desk.path().join("tmp")).unwrap();
    assert!(Path::new(temporary.trim()).exists());
    host.kill().unwrap();
    eventually(|| !Path::new(temporary.trim()).exists());
    host.wait().unwrap();
}

/// It is not yet in a group of its own.
fn a_command_may_be_ended_before_it_has_begun() {
    let desk = folder();
    let runner = runner(sandbox(), desk.path()).concurrency(5);
    let runner = runner.timeout(Some(Duration::ZERO));
    let (records, report) = all(&runner, (0..50).map(|_| sh("sleep 600")).collect());
    assert!(report.stop.is_none(), "{:?}", report.stop);
    assert_eq!((records.len(), report.failed), (50, 50));
}
