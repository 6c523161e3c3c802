//! Budgets in the memory of a worker.

use std::sync::mpsc;
use std::thread;

use crate::base::{Clock as _, SystemClock};
use crate::queue::info::{ProcessBudget, ProcessInfo};
use crate::queue::job::Job;
use crate::queue::store::Store;
use crate::queue::store::sqlite::SqliteOptions;

use super::*;

struct Fixture {
    store: Arc<Store>,
    budgets: Budgets,
    budget: JobBudget,
}

/// A process with a budget of 100 picodollars.
fn fixture() -> Fixture {
    let store = Arc::new(Store::in_memory(SqliteOptions::default()).unwrap());
    let process = ProcessId::new();
    let info = ProcessInfo::new().budget(ProcessBudget::of(Usd::from_picos(100)));
    let jobs = vec![Job::new("test", &1).unwrap()];
    store
        .insert_part(process, Some(&info), jobs, true, None, SystemClock.wall())
        .unwrap();
    Fixture {
        budgets: Budgets::new(store.clone()),
        store,
        budget: JobBudget {
            process,
            limit: 100,
            used: 0,
            held: 0,
            most: 0,
        },
    }
}

impl Fixture {
    fn hold(&self, most: u64) -> Result<Part, Error> {
        let account = self.budgets.hold(self.budget, most, &Context::new())?;
        Ok(Part {
            account,
            most,
            ended: None,
        })
    }

    fn state(&self) -> ProcessState {
        self.store.process(self.budget.process).unwrap().unwrap()
    }
}

fn cost(picos: u64) -> Cost {
    Cost {
        picos,
        is_known: true,
    }
}

/// The worst cases of calls in flight, and what others have cost whose ends are not recorded yet.
#[test]
fn own_calls_count_until_the_store_counts_them() {
    let fixture = fixture();
    let mut first = fixture.hold(60).unwrap();
    first.end(cost(30));
    let second = fixture.hold(70).unwrap();
    drop(second);
    let error = fixture.hold(71).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert!(error.is_marked(Mark::ProcessPaused));
    // The refusal closes the process once the cost is recorded.
    let needed = Some(Usd::from_picos(71));
    assert_eq!(fixture.state().budget.unwrap().needed, None);
    let process = fixture.budget.process;
    fixture.store.note_refused(process, 101).unwrap();
    let state = fixture.state();
    assert_ne!(state.budget.clone().unwrap().needed, needed);
    drop(first);
    // An older reading than another one does not count.
    let later = JobBudget {
        used: 90,
        ..fixture.budget
    };
    drop(fixture.budgets.account(later));
    fixture.budgets.note([state].iter());
    assert!(fixture.hold(11).is_err());
    drop(fixture.hold(10).unwrap());
}

#[test]
fn a_call_waits_for_the_calls_in_flight_before_it_is_refused() {
    let fixture = fixture();
    let mut first = fixture.hold(60).unwrap();
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        let fixture = &fixture;
        scope.spawn(move || tell.send(fixture.hold(50).map(drop)).unwrap());
        // Here, in the accounts, and in the call that waits.
        while Arc::strong_count(&first.account) < 3 {
            thread::yield_now();
        }
        assert!(told.try_recv().is_err());
        first.end(cost(50));
        assert!(told.recv().unwrap().is_ok());
    });
}

#[test]
fn the_store_knows_the_worst_case_before_the_call() {
    let fixture = fixture();
    let most = || {
        let worker = fixture.store.register_worker().unwrap();
        let wall = SystemClock.wall();
        let claimed = fixture.store.claim_any(worker, 1, wall).unwrap();
        fixture.store.unregister_worker(worker, wall).unwrap();
        claimed.jobs[0].budget.unwrap().most
    };
    assert_eq!(most(), 0);
    drop(fixture.hold(9).unwrap());
    assert_eq!(most(), 16);
    drop(fixture.hold(10).unwrap());
    assert_eq!(most(), 16);
}

/// Nothing is wrong with the job while the store cannot be written.
#[test]
fn a_store_that_cannot_be_written_fails_no_job() {
    let fixture = fixture();
    let full = || Some(Error::new(ErrorKind::Transient, "the disk is full").with_storage());
    *fixture.store.faults.unwritable.lock() = Some(Box::new(full));
    let error = fixture.hold(9).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BudgetExceeded);
    assert!(error.is_marked(Mark::ProcessPaused));
}
