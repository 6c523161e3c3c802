//! `batchwright exec` with many commands.

use parking_lot::Mutex;

use super::common::{Desk, Running, line_count};
use super::exec_ends::killed;

/// Each of these tests keeps all processors busy, and one measures time.
static ALONE: Mutex<()> = Mutex::new(());

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
