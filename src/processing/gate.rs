//! Limits the number of files in progress: the reader of the list waits until one of them was passed on.

use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::base::MemoryManager;

/// Admits as many files as memory allows, at most a chunk.
pub(super) struct Gate {
    /// This number is always admitted.
    least: usize,
    most: usize,
    memory: MemoryManager,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    open: bool,
    inside: usize,
    limit: usize,
    /// Number of further files that are admitted before memory is checked again.
    until_look: usize,
    bytes: u64,
    files: u64,
}

impl Gate {
    pub(super) fn new(least: usize, most: usize, memory: MemoryManager) -> Self {
        let most = most.max(least);
        Self {
            least,
            most,
            memory,
            state: Mutex::new(State {
                open: false,
                inside: 0,
                limit: most,
                until_look: most,
                bytes: 0,
                files: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until another file may be in progress.
    pub(super) fn enter(&self) {
        let mut state = self.state.lock();
        while !state.open && state.inside >= state.limit {
            self.changed.wait(&mut state);
        }
        state.inside += 1;
    }

    /// A file was passed on; `bytes` bytes of it had been read.
    pub(super) fn leave(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.bytes += bytes;
        state.files += 1;
        state.until_look -= 1;
        if state.until_look == 0 {
            let mean = state.bytes / state.files;
            let fitting = self.memory.get_optimal_batch_size(self.most, mean);
            state.limit = fitting.max(self.least);
            state.until_look = state.limit;
        }
        state.inside -= 1;
        // Waking the reader for every single file would take longer than many files do.
        let enough = state.limit - (state.limit - self.least) / 2;
        if state.inside < enough {
            self.changed.notify_one();
        }
    }

    /// Admits everything from now on.
    pub(super) fn open(&self) {
        self.state.lock().open = true;
        self.changed.notify_all();
    }
}

/// Opens a gate when the thread that admits files panics, because then nothing else does.
pub(super) struct Opens<'g>(pub &'g Gate);

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.open();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_wait_for_one_to_leave_until_the_gate_is_open() {
        let gate = Gate::new(1, 2, MemoryManager::default());
        gate.enter();
        gate.enter();
        thread::scope(|scope| {
            let third = scope.spawn(|| gate.enter());
            gate.leave(0);
            third.join().unwrap();
            let fourth = scope.spawn(|| gate.enter());
            gate.open();
            fourth.join().unwrap();
        });
    }

    #[test]
    fn fewer_files_are_admitted_when_memory_runs_short_but_one_per_worker() {
        let gate = Gate::new(3, 8, MemoryManager::new(1));
        for _ in 0..8 {
            gate.enter();
        }
        (0..8).for_each(|_| gate.leave(1000));
        assert_eq!(gate.state.lock().limit, 3);
    }
}
