//! Real processes, each of a kind that is difficult to end.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

use super::*;
use crate::record::{FailureKind, JobStatus};

/// Far longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(180);
/// A process that sleeps this long must be killed.
const FOR_EVER: &str = "1000";

fn all(runner: &CommandRunner, jobs: Vec<CommandJob>) -> (Vec<JobRecord>, CommandReport) {
    let mut records = Vec::new();
    let report = runner.run(jobs, |record| {
        records.push(record);
        ControlFlow::Continue(())
    });
    (records, report.unwrap())
}

fn one(runner: &CommandRunner, job: CommandJob) -> JobRecord {
    let began = Instant::now();
    let record = all(runner, vec![job]).0.remove(0);
    assert!(began.elapsed() < PATIENCE);
    record
}

fn stdout(record: &JobRecord) -> String {
    record.result.as_ref().unwrap().stdout.text()
}

fn failure(record: &JobRecord) -> (FailureKind, &str) {
    let error = record.error.as_ref().unwrap();
    (error.kind, &error.message)
}

/// Waits until this holds.
#[track_caller]
fn eventually(holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it took too long");
        std::thread::yield_now();
    }
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_with_its_group() {
    let runner = CommandRunner::new()
        .timeout(Some(Duration::from_millis(50)))
        .kill_grace(Duration::from_millis(50));
    let stubborn = format!("trap '' TERM; sleep {FOR_EVER} & echo $!; wait; sleep {FOR_EVER}");
    let record = one(&runner, CommandJob::shell(stubborn));
    let killed = (FailureKind::Timeout, "killed after 50ms");
    assert_eq!(failure(&record), killed);
    assert_eq!(record.result.as_ref().unwrap().signal, Some(9));
    let pid = Pid::from_raw(stdout(&record).trim().parse().unwrap()).unwrap();
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let is_zombie = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "));
    eventually(|| test_kill_process(pid).is_err() || is_zombie());
    let stopped = CommandJob::shell("kill -STOP $$");
    assert_eq!(failure(&one(&runner, stopped)).0, FailureKind::Timeout);
}

#[test]
fn an_output_may_be_closed_early_or_be_endless() {
    let runner = CommandRunner::new().max_output(1000);
    let closed = one(&runner, CommandJob::shell("exec >&- 2>&-; exit 3"));
    assert_eq!(failure(&closed), (FailureKind::Exit, "exit code 3"));
    let flood = CommandJob::new("head").args(["-c", "300000000", "/dev/zero"]);
    let flood = one(&runner, flood);
    let output = &flood.result.as_ref().unwrap().stdout;
    assert_eq!((output.total(), output.text().len()), (300_000_000, 1000));
    let endless = runner.clone().timeout(Some(Duration::from_millis(100)));
    let yes = one(&endless, CommandJob::new("yes"));
    assert_eq!(failure(&yes).0, FailureKind::Timeout);
    let both = one(&runner, CommandJob::shell("echo out; echo err >&2; cat"));
    let result = both.result.unwrap();
    assert_eq!(result.stdout.text() + &result.stderr.text(), "out\nerr\n");
}

#[test]
fn a_signal_a_missing_program_and_an_invalid_one_are_distinguished() {
    let runner = CommandRunner::new();
    let killed = one(&runner, CommandJob::shell("kill -9 $$"));
    let signal = (FailureKind::Signal, "killed by signal 9");
    assert_eq!(failure(&killed), signal);
    for (program, why) in [
        (
            "no-such-program-here",
            "no program no-such-program-here in PATH",
        ),
        ("/", ""),
    ] {
        let missing = one(&runner, CommandJob::new(program));
        let (kind, message) = failure(&missing);
        assert_eq!(kind, FailureKind::NotFound);
        assert!(message.contains(why), "{message}");
        assert_eq!((missing.attempts, missing.result.is_none()), (1, true));
    }
}

#[test]
fn a_failed_command_is_tried_again_and_keeps_its_last_try() {
    let folder = tempfile::tempdir().unwrap();
    let runner = CommandRunner::new()
        .retries(5)
        .retry_delay(Duration::ZERO)
        .on_error(ErrorPolicy::StopOnCriticalError)
        .current_dir(folder.path());
    // The first two attempts are killed by a signal, which is critical only after the last attempt.
    let third = "echo x >> tries; test $(wc -l < tries) -ge 3 || kill -9 $$; cat tries";
    let record = one(&runner, CommandJob::shell(third));
    assert_eq!((record.status, record.attempts), (JobStatus::Completed, 3));
    assert_eq!(stdout(&record), "x\nx\nx\n");
}

#[test]
fn a_critical_failure_stops_the_run_and_other_records_have_the_reason() {
    let runner = CommandRunner::new()
        .concurrency(1)
        .on_error(ErrorPolicy::StopOnCriticalError);
    let job = |i: usize| match i {
        1 => CommandJob::shell("exit 7"),
        3 => CommandJob::shell("kill -9 $$"),
        _ => CommandJob::new("true"),
    };
    let jobs = || (0..6).map(job).collect::<Vec<_>>();
    let (records, report) = all(&runner, jobs());
    assert_eq!((report.completed, report.failed), (2, 2));
    assert!(matches!(report.stop, Some(StopReason::Critical(_))));
    let cancelled = |record: &&JobRecord| record.status == JobStatus::Cancelled;
    let cancelled = records.iter().filter(cancelled);
    assert_eq!(cancelled.clone().count() as u64, report.cancelled);
    for record in cancelled {
        let (kind, why) = failure(record);
        assert_eq!((kind, record.attempts), (FailureKind::Cancelled, 0));
        assert!(why.contains("signal 9"), "{why}");
    }
    // The receiver gets all records, however many jobs had been read by then.
    let submitted = runner.submit_jobs(jobs()).unwrap();
    let mut records: Vec<_> = submitted.collect();
    records.sort_by_key(|record| record.job.seq);
    let ends = records.iter().map(|record| record.status);
    use JobStatus::{Cancelled as X, Completed as C, Failed as F};
    assert_eq!(ends.collect::<Vec<_>>(), [C, F, C, F, X, X]);
}

#[test]
fn an_abort_and_a_dropped_receiver_kill_running_commands() {
    let ctx = Context::new();
    let runner = CommandRunner::new().context(&ctx);
    let jobs = vec![CommandJob::new("sleep").arg(FOR_EVER); 3];
    let monitor = runner.monitor();
    let submitted = runner.submit_jobs(jobs.clone()).unwrap();
    eventually(|| monitor.counts().running == 3);
    assert_eq!(monitor.records().len(), 3);
    ctx.abort();
    let report = submitted.finish().unwrap();
    assert_eq!((report.cancelled, report.completed), (3, 0));
    let runner = CommandRunner::new();
    let monitor = runner.monitor();
    let submitted = runner.submit_jobs(jobs).unwrap();
    eventually(|| monitor.counts().running == 3);
    drop(submitted);
    let counts = monitor.counts();
    assert_eq!((counts.cancelled, counts.running), (3, 0));
}

#[test]
fn concurrency_is_limited_and_the_monitor_stays_small() {
    let runner = CommandRunner::new().concurrency(3);
    let (monitor, most) = (runner.monitor(), AtomicU64::new(0));
    let mut shown = 0;
    let jobs = (0..300).map(|i: u64| CommandJob::new("echo").arg(i.to_string()));
    let report = runner.run(jobs, |_| {
        most.fetch_max(monitor.counts().running, Ordering::SeqCst);
        shown = shown.max(monitor.records().len());
        ControlFlow::Continue(())
    });
    assert_eq!(report.unwrap().completed, 300);
    assert!((1..=3).contains(&most.into_inner()) && (50..150).contains(&shown));
    for (runner, why) in [
        (CommandRunner::new().concurrency(11), "from 1 to 10, not 11"),
        (CommandRunner::new().concurrency(0), "from 1 to 10, not 0"),
        (CommandRunner::new().rate(Some(0.0)), "above 0"),
    ] {
        let refused = runner.run([CommandJob::new("true")], |_| ControlFlow::Continue(()));
        assert!(refused.unwrap_err().message().contains(why));
    }
    let wide = CommandRunner::new().max_concurrency(20).concurrency(20);
    let (_, report) = all(&wide, vec![CommandJob::new("true"); 40]);
    assert_eq!(report.completed, 40);
}

#[test]
fn no_command_starts_after_a_failure_that_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let ctx = Context::new();
    let task = |line: &str| Task {
        index: 0,
        job: Arc::new(CommandJob::shell(line)),
        last: Mutex::default(),
    };
    let runner = CommandRunner::new()
        .current_dir(folder.path())
        .retries(1)
        .on_error(ErrorPolicy::StopOnError);
    let run = Run::new(&runner).unwrap();
    let fails = task("exit 1");
    // Neither attempt was reported to the engine, which still starts commands.
    run.call(&fails, 1, &ctx).unwrap_err();
    run.call(&task("touch between"), 1, &ctx).unwrap();
    assert!(folder.path().join("between").exists());
    run.call(&fails, 2, &ctx).unwrap_err();
    let late = run.call(&task("touch late"), 1, &ctx).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
    assert!(!folder.path().join("late").exists());
}

#[test]
fn a_receiver_that_is_dropped_waits_for_no_records_of_jobs_that_will_not_run() {
    let jobs = (0..1_u64 << 40).map(|_| CommandJob::new("true"));
    let mut records = CommandRunner::new().submit_jobs(jobs).unwrap();
    assert!(records.next().is_some());
}
