use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use super::*;
use crate::base::ErrorKind;
use crate::base::random::Random;

impl ReplyMemory {
    pub(in crate::llm::transport) fn held(&self) -> u64 {
        self.state.lock().held
    }

    /// A separate account for a test.
    pub(in crate::llm::transport) fn apart() -> &'static Self {
        Box::leak(Box::new(Self::new()))
    }

    pub(in crate::llm::transport) fn peak(&self) -> u64 {
        self.state.lock().peak
    }

    /// Returns once this number of calls wait.
    pub(in crate::llm::transport) fn until_waiting(&self, calls: usize) {
        while self.state.lock().line.len() != calls {
            thread::yield_now();
        }
    }
}

/// An account, and the limit of a process that has reached it.
fn limited() -> (&'static ReplyMemory, MemoryManager) {
    let (memory, process) = (ReplyMemory::apart(), MemoryManager::new(1));
    assert!(memory.process.set(process.clone()).is_ok());
    (memory, process)
}

/// Takes memory that is there only after `event`.
fn take_after(share: &ReplyShare, event: impl FnOnce()) {
    assert!(!share.take_now(10));
    thread::scope(|scope| {
        let waits = scope.spawn(|| share.take(10, &Context::new()));
        share.memory.until_waiting(1);
        event();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn replies_above_the_process_limit_wait_or_pass_alone() {
    let (memory, process) = limited();
    let (first, second) = (memory.share(1 << 40), memory.share(1 << 40));
    assert!(first.take_now(10), "somebody always goes on");
    take_after(&second, || process.set_ceiling(1 << 40));
    assert_eq!(memory.held(), 20);
}

#[test]
fn a_reply_above_the_process_limit_waits_for_results_but_not_for_long() {
    let (memory, process) = limited();
    let unwritten = process.holds_result(1 << 20);
    assert!(process.holds_result(1 << 10).is_none(), "small");
    let share = memory.share(1 << 40);
    take_after(&share, || drop(unwritten));
    share.keep(0);
    let _never_written = process.holds_result(1 << 20);
    let began = Instant::now();
    share.take(10, &Context::new()).unwrap();
    assert!(began.elapsed() >= WRITE_TIME);
    assert!(MemoryManager::new(u64::MAX).holds_result(1 << 20).is_none());
}

#[test]
fn every_waiting_call_gets_memory_whatever_the_sizes() {
    for seed in 0..8 {
        let memory = ReplyMemory::apart();
        // In every other round, a few are larger than the whole limit.
        let (most, largest) = (100, if seed % 2 == 0 { 100 } else { 130 });
        let served = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..24 {
                let served = &served;
                scope.spawn(move || {
                    let mut numbers = Random(seed * 1_000 + thread);
                    for _ in 0..200 {
                        let share = memory.share(most);
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
        assert_eq!(memory.held(), 0, "all is given back");
        assert!(memory.state.lock().line.is_empty());
        // Only a request that exceeds the whole limit by itself goes beyond it.
        assert!(memory.peak() <= largest, "{}", memory.peak());
    }
}

#[test]
fn one_reply_always_passes_and_others_follow_in_order() {
    let memory = ReplyMemory::apart();
    let (first, ctx) = (memory.share(1), Context::new());
    assert!(first.take_now(1_000));
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for nth in 0..5 {
            let (order, ctx) = (&order, &ctx);
            scope.spawn(move || {
                let share = memory.share(1);
                share.take(1_000 - nth, ctx).unwrap();
                order.lock().push(nth);
            });
            memory.until_waiting(nth as usize + 1);
        }
        // Waiting calls cannot be overtaken.
        assert!(!memory.share(u64::MAX).take_now(1));
        drop(first);
    });
    assert_eq!(order.into_inner(), [0, 1, 2, 3, 4]);
}

#[test]
fn an_abort_or_a_deadline_ends_the_wait_of_its_call_alone() {
    let memory = ReplyMemory::apart();
    let holder = memory.share(10);
    assert!(holder.take_now(10));
    thread::scope(|scope| {
        let aborted = Context::new();
        let wait = |ctx: Context| scope.spawn(move || memory.share(10).take(1, &ctx));
        let (first, second) = (wait(aborted.clone()), wait(Context::new()));
        memory.until_waiting(2);
        let soon = Context::new().with_timeout(Duration::from_millis(20));
        let late = wait(soon).join().unwrap().unwrap_err();
        assert_eq!(late.kind(), ErrorKind::DeadlineExceeded);
        // Cancelling a run only stops new calls; it must not discard a billed reply.
        aborted.cancel();
        memory.until_waiting(2);
        aborted.abort();
        let ended = first.join().unwrap().unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::Cancelled);
        memory.until_waiting(1);
        drop(holder);
        second.join().unwrap().unwrap();
    });
    assert_eq!(memory.held(), 0);
}
