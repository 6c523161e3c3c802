//! Purses on a store that fails.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::base::{Mark, ProcessId, SystemClock, Usd};
use crate::queue::budget::ProcessBudget;
use crate::queue::host::JobQueue;
use crate::queue::info::ProcessInfo;
use crate::queue::job::Job;
use crate::queue::store::EnqueueStore;
use crate::queue::store::sqlite::{SqliteOptions, SqliteStore};

struct Fixture {
    store: Arc<SqliteStore>,
    process: ProcessId,
    purses: Purses,
    budget: JobBudget,
}

/// A budget of 6400 picodollars, so that a slice is 100.
fn fixture() -> Fixture {
    let store = Arc::new(SqliteStore::in_memory(SqliteOptions::default()).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let process = ProcessId::new();
    let info = ProcessInfo::new().budget(ProcessBudget::of(Usd::from_picos(6400)));
    let jobs = vec![Job::new("test", &1).unwrap()];
    store
        .insert_described(process, Some(&info), jobs, true, clock.wall())
        .unwrap();
    let mut purses = Purses::new(store.clone(), clock);
    purses.draw_again = Duration::ZERO;
    Fixture {
        store,
        process,
        purses,
        budget: JobBudget { no: 1 },
    }
}

impl Fixture {
    fn hold(&self, most: u64) -> Result<Option<Held<'_>>, Error> {
        self.purses.hold(self.budget, most, &Context::new())
    }

    fn used(&self) -> u64 {
        let state = self.store.process(self.process).unwrap().unwrap();
        state.budget.unwrap().used.picos()
    }

    fn fail(&self, error: impl FnMut() -> Option<Error> + Send + 'static) {
        *self.store.unwritable.lock() = Some(Box::new(error));
    }
}

fn broken(kind: ErrorKind) -> Error {
    Error::new(kind, "the disk is full").with_storage()
}

#[test]
fn a_call_that_waits_for_the_store_holds_up_no_other_one() {
    let mut fixture = fixture();
    fixture.purses.draw_again = Duration::from_secs(600);
    let running = fixture.hold(80).unwrap().unwrap();
    let (tell, told) = mpsc::channel();
    fixture.fail(move || {
        let _ = tell.send(());
        Some(broken(ErrorKind::Transient))
    });
    let ctx = Context::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| fixture.purses.hold(fixture.budget, 90, &ctx).map(drop));
        told.recv().unwrap();
        running.settle(30);
        let small = fixture.hold(60).unwrap().unwrap();
        assert!(!waiting.is_finished());
        small.settle(60);
        ctx.cancel();
        assert!(waiting.join().unwrap().is_err());
    });
}

/// Its rest would stay in the purse while the process waits for it, and a worker could end before it is returned.
#[test]
fn a_call_that_ends_during_a_refused_draw_returns_its_rest() {
    let fixture = fixture();
    let running = fixture.hold(80).unwrap().unwrap();
    let (tell, told) = mpsc::channel();
    let (settled, settles) = mpsc::channel::<()>();
    fixture.fail(move || {
        let _ = tell.send(());
        let _ = settles.recv();
        None
    });
    thread::scope(|scope| {
        let refused = scope.spawn(|| fixture.hold(6400).map(drop));
        told.recv().unwrap();
        running.settle(30);
        drop(settled);
        assert!(refused.join().unwrap().is_err());
    });
    assert_eq!(fixture.used(), 30);
}

/// A call that was claimed before the pause may draw what others have returned, although the process waits for more.
#[test]
fn what_a_later_call_leaves_is_returned_while_the_process_waits() {
    let fixture = fixture();
    let running = fixture.hold(80).unwrap().unwrap();
    assert!(fixture.hold(6400).is_err());
    running.settle(30);
    assert_eq!(fixture.used(), 30);
    let later = fixture.hold(80).unwrap().unwrap();
    assert!(fixture.used() > 80);
    later.settle(30);
    assert_eq!(fixture.used(), 60);
}

#[test]
fn a_failing_store_is_no_failure_of_the_call() {
    let fixture = fixture();
    for kind in [ErrorKind::Transient, ErrorKind::Invalid] {
        let mut failures = 3;
        fixture.fail(move || {
            failures -= 1;
            (failures >= 0).then(|| broken(kind))
        });
        fixture.hold(60).unwrap().unwrap().settle(60);
        fixture.fail(move || Some(broken(kind)));
        let error = fixture.hold(600).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
        assert!(error.is_marked(Mark::ProcessPaused));
    }
}

#[test]
fn what_could_not_be_written_is_written_later() {
    let fixture = fixture();
    let call = fixture.hold(100).unwrap().unwrap();
    // All of it was drawn, and the call cost more.
    let drawn = fixture.used();
    fixture.fail(|| Some(broken(ErrorKind::Transient)));
    call.settle(drawn + 5);
    fixture.purses.close();
    *fixture.store.unwritable.lock() = None;
    assert_eq!(fixture.used(), drawn);
    fixture.purses.close();
    assert_eq!(fixture.used(), drawn + 5);

    // A draw that certainly failed loses nothing.
    let call = fixture.hold(1).unwrap().unwrap();
    fixture.fail(|| Some(broken(ErrorKind::Transient)));
    assert!(fixture.hold(6000).is_err());
    *fixture.store.unwritable.lock() = None;
    call.settle(1);
    fixture.purses.close();
    assert_eq!(fixture.used(), drawn + 5 + 1);
}

#[test]
fn calls_that_end_after_their_worker_return_what_is_left() {
    let fixture = fixture();
    let call = fixture.hold(50).unwrap().unwrap();
    drop(ClosePurses(&fixture.purses));
    assert_eq!(fixture.used(), 50);
    call.settle(20);
    assert_eq!(fixture.used(), 20);
}

#[test]
fn near_the_limit_only_the_last_call_returns_what_is_left_at_once() {
    let fixture = fixture();
    let calls = [3200, 3200].map(|most| fixture.hold(most).unwrap().unwrap());
    assert!(fixture.hold(100).is_err());
    let [first, second] = calls;
    first.settle(200);
    assert_eq!(fixture.used(), 6400);
    second.settle(200);
    assert_eq!(fixture.used(), 400);
    let queue = JobQueue::on(fixture.store.clone());
    let state = queue.process(fixture.process).unwrap().unwrap();
    assert_eq!(state.budget.unwrap().pause, None);
}

#[test]
fn a_failed_call_for_several_jobs_counts_once() {
    let paid = Paid::new(None, Some(Usd::from_picos(10)));
    let error = Error::new(ErrorKind::Malformed, "two of three vectors").with_paid(paid);
    let reply = Reply::from(error);
    let need = Need {
        budget: Some(fixture().budget),
        most: 40,
    };
    let all: u64 = (0..3).map(|at| need.spent(at, 3, &reply)).sum();
    assert_eq!(all, 12);
    assert_eq!(need.spent(0, 1, &reply), 10);
}
