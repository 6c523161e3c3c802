use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::base::error::ErrorKind;

/// A process whose memory the test sets.
#[derive(Clone, Default)]
struct Resident(Arc<AtomicU64>);

impl Resident {
    fn manager(&self, ceiling: u64) -> MemoryManager {
        let own = self.clone();
        MemoryManager::measuring(ceiling, Box::new(move || Some(own.now())), None)
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn grow(&self, bytes: u64) -> u64 {
        self.0.fetch_add(bytes, Ordering::SeqCst) + bytes
    }

    fn shrink(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl MemoryManager {
    pub(crate) fn held(&self) -> u64 {
        self.0.state.lock().held
    }

    /// Returns once this number of callers wait.
    pub(crate) fn until_waiting(&self, callers: usize) {
        until(|| waiting(self) == callers);
    }
}

fn waiting(memory: &MemoryManager) -> usize {
    memory.0.state.lock().line.len()
}

/// Waits until another thread has reached this state; never for a fixed time.
fn until(reached: impl Fn() -> bool) {
    while !reached() {
        thread::yield_now();
    }
}

#[test]
fn many_concurrent_readers_stay_below_the_limit_and_all_finish() {
    let resident = Resident::default();
    resident.grow(100);
    let memory = resident.manager(1000);
    let peak = AtomicU64::new(0);
    thread::scope(|scope| {
        for reader in 0..8_u64 {
            let (memory, resident, peak) = (&memory, &resident, &peak);
            scope.spawn(move || {
                for item in 0..200 {
                    let bytes = (reader * 131 + item * 37) % 900;
                    let mut room = memory.wait_for_memory(bytes, &Context::new()).unwrap();
                    peak.fetch_max(resident.grow(bytes), Ordering::SeqCst);
                    room.filled();
                    thread::yield_now();
                    resident.shrink(bytes);
                }
            });
        }
    });
    let peak = peak.into_inner();
    assert!((901..=1000).contains(&peak), "{peak}");
    let state = memory.0.state.lock();
    assert_eq!((state.promised, state.held, state.holders), (0, 0, 0));
}

#[test]
fn an_item_larger_than_the_limit_is_read_alone() {
    let memory = Resident::default().manager(1000);
    let small = memory.wait_for_memory(10, &Context::new()).unwrap();
    thread::scope(|scope| {
        let large = scope.spawn(|| memory.wait_for_memory(5000, &Context::new()).unwrap());
        until(|| waiting(&memory) == 1);
        // Smaller requests do not overtake it.
        let next = scope.spawn(|| drop(memory.wait_for_memory(10, &Context::new()).unwrap()));
        until(|| waiting(&memory) == 2);
        drop(small);
        let large = large.join().unwrap();
        assert_eq!(waiting(&memory), 1);
        assert!(memory.0.state.lock().warned);
        drop(large);
        next.join().unwrap();
    });
}

#[test]
fn a_program_above_the_limit_reads_one_item_at_a_time() {
    let resident = Resident::default();
    resident.grow(2000);
    let memory = resident.manager(1000);
    let first = memory.wait_for_memory(1, &Context::new()).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| memory.wait_for_memory(1, &Context::new()).map(drop));
        until(|| waiting(&memory) == 1);
        drop(first);
        second.join().unwrap().unwrap();
    });
}

#[test]
fn freed_memory_is_detected_without_a_notification() {
    let resident = Resident::default();
    let memory = resident.manager(1000);
    let mut held = memory.wait_for_memory(900, &Context::new()).unwrap();
    resident.grow(900);
    held.filled();
    thread::scope(|scope| {
        let waits = scope.spawn(|| memory.wait_for_memory(500, &Context::new()).map(drop));
        until(|| waiting(&memory) == 1);
        resident.shrink(600);
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn cancelled_and_late_callers_stop_waiting() {
    let resident = Resident::default();
    let memory = resident.manager(1000);
    let held = memory.wait_for_memory(1000, &Context::new()).unwrap();
    let ctx = Context::new();
    thread::scope(|scope| {
        let waits = scope.spawn(|| memory.wait_for_memory(1, &ctx).map(drop));
        until(|| waiting(&memory) == 1);
        ctx.cancel();
        let error = waits.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    });
    let late = Context::new().with_timeout(Duration::from_millis(1));
    let error = memory.wait_for_memory(1, &late).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert_eq!(waiting(&memory), 0);
    drop(held);
    drop(memory.wait_for_memory(1, &Context::new()).unwrap());
}

#[test]
fn batches_shrink_with_the_free_memory() {
    let resident = Resident::default();
    let memory = resident.manager(1000);
    assert_eq!(memory.get_optimal_batch_size(50, 10), 50);
    resident.grow(600);
    assert_eq!(memory.get_optimal_batch_size(50, 10), 20);
    resident.grow(600);
    assert_eq!(memory.get_optimal_batch_size(50, 10), 1);
    assert_eq!(memory.check_memory().room(), 0);
}

#[test]
fn without_measurements_requested_memory_counts() {
    let memory = MemoryManager::measuring(1000, Box::new(|| None), None);
    let mut held = memory.wait_for_memory(700, &Context::new()).unwrap();
    held.filled();
    assert_eq!(memory.check_memory().used, 700);
    drop(held);
    assert_eq!(memory.check_memory().used, 0);
}

#[test]
fn the_memory_of_this_process_is_measured() {
    let memory = MemoryManager::default();
    let before = memory.check_memory().used;
    let block = std::hint::black_box(vec![1_u8; 64 << 20]);
    let grown = memory.check_memory().used - before;
    assert!(before > 0 && grown > 32 << 20, "{before} {grown}");
    drop(block);
}
