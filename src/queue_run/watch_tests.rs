use parking_lot::Mutex;

use super::*;
use crate::base::{Clock, SystemClock};
use crate::engine::counters::Counters;
use crate::observe::tally::Tally;

#[derive(Default)]
struct Seen(Mutex<Vec<Progress>>);

impl ProgressNotifier for Seen {
    fn on_progress(&self, progress: &Progress) {
        self.0.lock().push(progress.clone());
    }
}

#[test]
fn items_that_wait_for_a_pilot_are_not_completed() {
    let (seen, process) = (Arc::new(Seen::default()), ProcessId::new());
    let watch = Watch {
        process,
        goal: 2_000,
        unsubmitted: Arc::new(AtomicU64::new(1_999)),
        failed: 0,
        notifier: Some(seen.clone()),
        wake: crossbeam_channel::bounded(1).0,
    };
    let now = SystemClock.now();
    let mut tally = Tally::new(Some(1), now);
    let mut progress = tally.progress(&Counters::default(), now, Phase::Running, None, None);
    (progress.process_id, progress.total) = (Some(process), Some(1));
    watch.on_progress(&progress);
    progress.completed = 1;
    watch.on_progress(&progress);
    let seen = seen.0.lock();
    let completed: Vec<_> = seen.iter().map(|progress| progress.completed).collect();
    assert_eq!(completed, [0, 1]);
}
