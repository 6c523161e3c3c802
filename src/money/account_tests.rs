use super::*;
use crate::base::ErrorKind;
use crate::testing::ManualClock;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn account(folder: &tempfile::TempDir, clock: &Arc<ManualClock>) -> Account {
    let file = folder.path().join("monthly_budget.json");
    Account::new("the monthly budget", file, Period::Month, clock.clone())
}

#[test]
fn a_file_of_an_earlier_version_is_read() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let account = account(&folder, &clock);
    let text = format!("{:<128}", "{\"since\":\"2020-01-01\",\"spent\":70}");
    fs::write(&account.path, text).unwrap();
    assert_eq!(account.look().unwrap().total(), 70);
}

#[test]
fn what_the_ledger_has_counts_in_its_own_period_only() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let account = account(&folder, &clock);
    let january = account.since();
    account.at_least(january, Usd::from_picos(70)).unwrap();
    account.at_least(january, Usd::from_picos(60)).unwrap();
    assert_eq!(account.look().unwrap().spent, 70);
    // The ledger was read before midnight.
    clock.advance(31 * DAY);
    account.at_least(january, Usd::from_picos(90)).unwrap();
    assert_eq!(account.look().unwrap().total(), 0);
}

#[test]
fn the_file_of_a_clock_that_was_ahead_counts_now() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let account = account(&folder, &clock);
    let spent = "{\"since\":\"2030-01-01\",\"spent\":70}";
    fs::write(&account.path, spent).unwrap();
    account.change(|counted| counted.spent += 1).unwrap();
    let counted = account.look().unwrap();
    assert_eq!((counted.since, counted.spent), (account.since(), 71));
}

#[test]
fn a_program_that_is_stopped_with_the_lock_ends_the_wait() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
    let account = account(&folder, &clock);
    let held = account.lock().unwrap();
    assert_eq!(account.look().unwrap().total(), 0);
    let error = account.change(|counted| counted.spent += 1).unwrap_err();
    assert!(error.message().contains("another program"), "{error}");
    assert_eq!(
        (error.is_storage(), error.kind()),
        (true, ErrorKind::Transient)
    );
    held.unlock().unwrap();
    account.change(|counted| counted.spent += 1).unwrap();
    assert_eq!(account.look().unwrap().spent, 1);
}

#[cfg(feature = "queue")]
#[test]
fn the_reservation_of_a_batch_is_replaced_and_ends_with_it() {
    let mut counted = Counted {
        spent: 10,
        ..Counted::default()
    };
    assert_eq!(counted.reserve_batch("one", 80, 100), None);
    assert_eq!(counted.reserve_batch("two", 11, 100), Some(10));
    // Its input is written again.
    assert_eq!(counted.reserve_batch("one", 85, 100), None);
    assert_eq!(counted.total(), 95);
    counted.spend_batch("one", 5);
    assert_eq!((counted.spent, counted.total()), (15, 95));
    counted.spend_batch("unknown", 2);
    counted.spend_batch("one", 90);
    assert_eq!((counted.spent, counted.total()), (107, 107));
    assert_eq!(counted.reserve_batch("one", 0, 100), None);
    assert_eq!(counted.batches.len(), 0);
}
