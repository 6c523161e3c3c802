//! `batchwright exec` with many commands.

use parking_lot::Mutex;

use super::common::{Desk, Running, line_count};
use super::exec_ends::killed;

/// Each of these tests keeps all processors busy, and one measures time.
static ALONE: Mutex<()> = Mutex::new(());

/// Start and end of each command in a job log, in seconds, in the order of their starts.
fn times(log: &str) -> Vec<(f64, f64)> {
    let mut times: Vec<(f64, f64)> = log
        .lines()
        .skip(1)
        .map(|line| {
            let mut columns = line.split('\t').skip(2);
            let mut number = || columns.next().unwrap().trim().parse::<f64>().unwrap();
            let (start, took) = (number(), number());
            (start, start + took)
        })
        .collect();
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    times
}

#[test]
#[ignore = "takes ten seconds"]
fn two_hundred_commands_start_no_faster_than_the_configured_rate() {
    let _alone = ALONE.lock();
    let desk = Desk::new();
    desk.write("jobs.txt", "true\n".repeat(200));
    desk.plain("exec jobs.txt -q --rate 20/s --joblog log")
        .expect(0);
    let times = times(&desk.read("log"));
    // A busy machine may start them late, but never early. Another test checks with a virtual clock that the whole
    // rate is used: `a_given_rate_is_used_whole_and_never_exceeded`.
    let rate = 199.0 / (times[199].0 - times[0].0);
    assert!(rate <= 21.0, "{rate}");
    // No bursts: no second has more than one start above the rate.
    for (at, (start, _)) in times.iter().enumerate() {
        let within = times[at..]
            .iter()
            .take_while(|other| other.0 < start + 1.0)
            .count();
        assert!(within <= 22, "{within} in the second from {start}");
    }
}

#[test]
#[ignore = "takes seconds"]
fn never_more_than_five_run_at_once() {
    let _alone = ALONE.lock();
    let desk = Desk::new();
    // Each command counts itself in and out, and prints the number; the lock is a folder.
    let job = "sh -c 'mkdir in.$$; ls -d in.* | wc -l; sleep 0.01; rmdir in.$$'\n";
    desk.write("jobs.txt", job.repeat(500));
    let ended = desk.plain("exec jobs.txt -q -j 5").expect(0);
    let most = ended
        .stdout
        .lines()
        .map(|line| line.trim().parse::<u32>().unwrap());
    assert_eq!(most.max(), Some(5));
}

#[test]
#[ignore = "ten thousand commands"]
fn ten_thousand_commands_survive_kills_in_the_middle() {
    let _alone = ALONE.lock();
    // Often enough that no interval between two kills is long.
    killed(10_000, 9);
}

#[test]
#[ignore = "a hundred thousand commands"]
fn a_hundred_thousand_commands_take_no_more_memory_than_a_thousand() {
    let _alone = ALONE.lock();
    let desk = Desk::new();
    let peak = |commands: usize| {
        desk.write(
            "jobs.txt",
            "true with words, as commands have them\n".repeat(commands),
        );
        let words = format!("exec jobs.txt -q -j 10 --sandbox off --joblog log{commands}");
        let running = Running::start(&mut desk.command(words.split_whitespace()));
        let (ended, peak) = running.wait_with_peak();
        ended.expect(0);
        assert_eq!(
            line_count(&desk.path(&format!("log{commands}"))),
            commands + 1
        );
        peak
    };
    let (few, many): (u64, u64) = (peak(1000), peak(100_000));
    assert!(few > 0 && many < few + 4096, "{few} KiB, then {many} KiB");
}
