//! Results of commands, and commands that cannot start.

use super::*;

pub const TESTS: Tests = named![
    a_command_that_cannot_start_is_distinguished_from_a_failed_one,
    many_commands_of_any_length_have_their_own_results,
    a_program_without_an_interpreter_is_run_by_the_shell,
    missing_files_fail_only_their_command,
];

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
