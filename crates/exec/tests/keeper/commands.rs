//! Results of commands, and commands that cannot start.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;

use super::*;

pub const TESTS: Tests = named![
    a_command_that_cannot_start_is_distinguished_from_a_failed_one,
    many_commands_of_any_length_have_their_own_results,
    a_program_without_an_interpreter_is_run_by_the_shell,
    missing_files_fail_only_their_command,
];

/// A file that may be executed.
fn program(path: PathBuf, text: &str) {
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn a_command_that_cannot_start_is_distinguished_from_a_failed_one() {
    let desk = folder();
    let runner = off(desk.path());
    let failed = one(&runner, sh("echo oh >&2; exit 125"));
    assert_eq!(message(&failed), "exit code 125");
    program(desk.path().join("script"), "#!/no/such/interpreter\n");
    let missing = one(&runner, CommandJob::new("./script"));
    assert!(message(&missing).contains("the interpreter that its first line names"));
    assert!(missing.result.is_none());
    let nowhere = off(&desk.path().join("none"));
    let nowhere = nowhere.run([sh("true")], |_| ControlFlow::Continue(()));
    assert!(nowhere.unwrap_err().message().contains("cannot open"));
}

fn many_commands_of_any_length_have_their_own_results() {
    let desk = folder();
    let runner = runner(Sandbox::new(SandboxMode::BestEffort), desk.path()).concurrency(8);
    // More than a socket holds at once, of any bytes.
    let long = OsString::from_vec([&b"a b\n:\xff"[..], &[b'a'; 100_000]].concat());
    let jobs = (1..=600).map(|number| {
        let text = "readlink /proc/self/fd/0; echo $1; [ -z \"$2\" ] || printf %s \"$2\" | wc -c; [ $1 != 500 ]";
        let job = CommandJob::new("sh").args(["-c", text, "x", &number.to_string()]);
        job.arg(if number % 100 == 0 { &*long } else { "".as_ref() })
    });
    let (records, report) = all(&runner, jobs.collect());
    assert_eq!((report.completed, report.failed), (599, 1));
    for record in records {
        let number = record.job.seq;
        let length = if number % 100 == 0 { "100006\n" } else { "" };
        let printed = format!("/dev/null\n{number}\n{length}");
        assert_eq!(stdout(&record), printed);
        assert_eq!(record.error.is_some(), number == 500);
    }
}

fn a_program_without_an_interpreter_is_run_by_the_shell() {
    let desk = folder();
    program(desk.path().join("program"), "echo \"$1 $2 $A\"\n");
    for mode in [SandboxMode::BestEffort, SandboxMode::Off] {
        let sandbox = Sandbox::new(mode).set_variable("A", "b");
        let job = CommandJob::new("./program").args(["a b", "c"]);
        let record = one(&runner(sandbox, desk.path()), job);
        assert_eq!(stdout(&record), "a b c b\n");
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
    assert!(output.status.success(), "{output:?}");
    assert!(said.is_empty() || said.contains("ulimit -n"), "{said}");
}
