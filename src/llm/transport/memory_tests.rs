use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::base::ErrorKind;
use crate::base::random::Random;

/// A separate account for a test.
pub(in crate::llm::transport) fn apart(most: u64) -> &'static MemoryManager {
    within(most, &MemoryManager::new(u64::MAX))
}

fn within(most: u64, process: &MemoryManager) -> &'static MemoryManager {
    Box::leak(Box::new(MemoryManager::counting(most, process.clone())))
}

/// Takes memory that is there only after `event`.
fn take_after(share: &ReplyShare, event: impl FnOnce()) {
    assert!(!share.take_now(10));
    thread::scope(|scope| {
        let waits = scope.spawn(|| share.take(10, &Context::new()));
        share.account.until_waiting(1);
        event();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn replies_above_the_process_limit_wait_or_pass_alone() {
    let process = MemoryManager::new(1);
    let account = within(1 << 40, &process);
    let (first, second) = (ReplyShare::of(account), ReplyShare::of(account));
    assert!(first.take_now(10), "somebody always goes on");
    take_after(&second, || process.set_ceiling(1 << 40));
    assert_eq!(account.held(), 20);
}

#[test]
fn a_reply_above_the_process_limit_waits_for_results_but_not_for_long() {
    let process = MemoryManager::new(1);
    let account = within(1 << 40, &process);
    let unwritten = process.holds_result(1 << 20);
    assert!(process.holds_result(1 << 10).is_none(), "small");
    let share = ReplyShare::of(account);
    take_after(&share, || drop(unwritten));
    drop(share);
    let _never_written = process.holds_result(1 << 20);
    let began = Instant::now();
    let share = ReplyShare::of(account);
    share.take(10, &Context::new()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(MemoryManager::new(u64::MAX).holds_result(1 << 20).is_none());
}

#[test]
fn every_waiting_call_gets_memory_whatever_the_sizes() {
    for seed in 0..8 {
        // In every other round, a few are larger than the whole limit.
        let (most, largest) = (100, if seed % 2 == 0 { 100 } else { 130 });
        let account = apart(most);
        let served = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..24 {
                let served = &served;
                scope.spawn(move || {
                    let mut numbers = Random(seed * 1_000 + thread);
                    for _ in 0..200 {
                        let share = ReplyShare::of(account);
                        let bytes = 1 + numbers.below(largest);
                        let ctx = Context::new();
                        match numbers.below(8) {
                            0 => drop(share.take_now(bytes)),
                            1 => {
                                ctx.abort();
                                drop(share.take(bytes, &ctx));
                            }
                            2 => drop(share.take(bytes, &ctx.with_timeout(Duration::ZERO))),
                            _ => share.take(bytes, &ctx).unwrap(),
                        }
                        // Only a request that exceeds the whole limit by itself goes beyond it.
                        let held = account.held();
                        assert!(held <= largest, "{held}");
                        if numbers.below(2) == 0 {
                            share.keep(bytes / 2);
                        }
                        if numbers.below(4) == 0 {
                            thread::yield_now();
                        }
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(served.into_inner(), 24 * 200);
        assert_eq!(account.held(), 0, "all is given back");
        account.until_waiting(0);
    }
}

#[test]
fn one_reply_always_passes_and_others_follow_in_order() {
    let account = apart(1);
    let (first, ctx) = (ReplyShare::of(account), Context::new());
    assert!(first.take_now(1_000));
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for nth in 0..5 {
            let (order, ctx) = (&order, &ctx);
            scope.spawn(move || {
                let share = ReplyShare::of(account);
                share.take(1_000 - nth, ctx).unwrap();
                order.lock().push(nth);
            });
            account.until_waiting(nth as usize + 1);
        }
        // Waiting calls cannot be overtaken.
        assert!(!ReplyShare::of(account).take_now(0));
        drop(first);
    });
    assert_eq!(order.into_inner(), [0, 1, 2, 3, 4]);
}

#[test]
fn an_abort_or_a_deadline_ends_the_wait_of_its_call_alone() {
    let account = apart(10);
    let holder = ReplyShare::of(account);
    assert!(holder.take_now(10));
    thread::scope(|scope| {
        let aborted = Context::new();
        let wait = |ctx: Context| scope.spawn(move || ReplyShare::of(account).take(1, &ctx));
        let (first, second) = (wait(aborted.clone()), wait(Context::new()));
        account.until_waiting(2);
        let soon = Context::new().with_timeout(Duration::from_millis(20));
        let late = wait(soon).join().unwrap().unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        // Cancelling a run only stops new calls; it must not discard a billed reply.
        aborted.cancel();
        account.until_waiting(2);
        aborted.abort();
        let ended = first.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Cancelled);
        account.until_waiting(1);
        drop(holder);
        second.join().unwrap().unwrap();
    });
    assert_eq!(account.held(), 0);
}
