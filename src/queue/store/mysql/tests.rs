//! The store on a server against the rules of stores, and what only a server can get wrong. `scripts/with-servers` brings
//! one; without it these tests say that they were skipped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::base::{ErrorKind, ProcessId, Timestamp};
use crate::queue::job::Job;
use crate::queue::store::tests::{self as rules, TestDatabase};
use crate::queue::store::{ClaimOutcome, ClaimedJob, Settlement, Store, WorkerId};

use super::*;

#[cfg(feature = "redis")]
#[path = "news_tests.rs"]
mod news_tests;
#[path = "trouble_tests.rs"]
mod trouble_tests;

const T: Timestamp = Timestamp(1_763_000_000_000);

/// Where the server is; `None`, and a line that says so, without one.
fn address() -> Option<String> {
    let address = std::env::var("BATCHWRIGHT_TEST_MYSQL").ok();
    if address.is_none() {
        eprintln!("skipped: BATCHWRIGHT_TEST_MYSQL names no server; see scripts/with-servers");
    }
    address
}

/// Tables that nobody else has, which go when this is dropped.
struct Tables {
    address: String,
    name: String,
}

impl Tables {
    fn new(address: String) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}", std::process::id());
        Self { address, name }
    }

    fn options(&self) -> MysqlOptions {
        MysqlOptions::new(format!("{}?tables={}", self.address, self.name))
    }

    fn open(&self) -> Store {
        Store::on_server(self.options()).unwrap()
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        let store = self.open();
        let _ = store.read(|tx| {
            let find = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables
                 WHERE table_schema = DATABASE() AND (table_name = ? OR table_name LIKE ?)";
            let like = format!("{}\\_%", self.name);
            for table in tx.many::<String>(find, by![self.name.clone(), like])? {
                tx.run(&format!("DROP TABLE `{table}`"), by![])?;
            }
            Ok(())
        });
    }
}

fn database(address: String) -> TestDatabase {
    let tables = Tables::new(address);
    TestDatabase::new(move || {
        Store::on_server(tables.options().lease(Duration::from_secs(1))).unwrap()
    })
}

#[test]
fn it_keeps_the_rules_of_stores() {
    let Some(address) = address() else { return };
    // Four at a time: each check makes tables of its own.
    let names: Vec<&str> = rules::names().collect();
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for part in names.chunks(names.len().div_ceil(4)) {
            let (address, wrong) = (&address, &wrong);
            scope.spawn(move || {
                for name in part {
                    let check = || rules::check(name, || database(address.clone()));
                    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
                    if done.is_err() {
                        wrong.lock().push(*name);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn it_behaves_like_its_model() {
    let Some(address) = address() else { return };
    rules::random_operations(2, 600, || database(address.clone()));
}

/// The schedules of lives and deaths that the queue in SQLite is put to.
#[test]
fn seeded_lives_and_deaths_keep_every_promise() {
    let Some(address) = address() else { return };
    crate::queue::simulation::run_seeds(2_500, || {
        let tables = Tables::new(address.clone());
        Box::new(move || Arc::new(tables.open()))
    });
}

fn jobs(count: usize) -> Vec<Job> {
    let payload = serde_json::value::RawValue::from_string("[1]".to_owned()).unwrap();
    vec![Job::raw("k", payload); count]
}

fn claim(store: &Store, worker: WorkerId, most: usize) -> Vec<ClaimedJob> {
    store.claim_any(worker, most, T).unwrap().jobs
}

fn completed(job: &ClaimedJob) -> Settlement {
    let result = serde_json::value::RawValue::from_string("1".to_owned()).unwrap();
    let outcome = ClaimOutcome::Completed {
        result,
        spent: None,
    };
    Settlement::new(job.receipt, 1, outcome)
}

fn snoozed(job: &ClaimedJob) -> Settlement {
    Settlement {
        outcome: ClaimOutcome::Snooze { due_at: None },
        ..completed(job)
    }
}

/// Waits for an event that another thread, or the server, brings about.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn tables_are_made_once_by_whoever_comes_first_and_newer_ones_are_refused() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let open = || tables.open().id().to_owned();
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
        let ids = threads.into_iter().map(|thread| thread.join().unwrap());
        ids.collect()
    });
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    let store = tables.open();
    let set = |version: i64| {
        let sql = "UPDATE #schema SET value = ? WHERE name = 'version'";
        store.read(|tx| tx.run(sql, by![version])).unwrap();
    };
    set(99);
    let error = Store::on_server(tables.options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("newer version"), "{error}");
    set(MYSQL.newest());
}

#[test]
fn each_server_has_a_number_of_its_own() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let store = tables.open();
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| store.server_place(&folder.path().join(name).join("server.db"));
    let step = |id: &str, step: i64| crate::queue::store::ServerStep {
        id: id.to_owned(),
        step,
        place: place(id),
    };
    for (id, number) in [("a", 1), ("b", 1), ("a", 2)] {
        store.note_step(&step(id, number), "r", true).unwrap();
    }
    assert!(store.note_step(&step("a", 3), "s", false).is_err());
    assert_eq!(store.servers().unwrap(), [step("a", 2), step("b", 1)]);
    let gone = folder.path().join("a/server.db");
    assert!(store.check_server(&gone).is_err());
    store.forget_servers(&gone).unwrap();
    store.check_server(&gone).unwrap();
    assert_eq!(store.servers().unwrap(), [step("b", 1)]);
}

/// A worker of an earlier version does not look at the mark. One of this version ends when it sees it.
#[test]
fn tables_change_when_no_worker_is_left_and_not_before() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let old = tables.open();
    let set = |sql: &str| old.read(|tx| tx.run(sql, by![])).unwrap();
    let version = || -> i64 {
        let find = "SELECT value FROM #schema WHERE name = 'version'";
        old.read(|tx| tx.one(find, by![])).unwrap().unwrap()
    };
    set("DELETE FROM #schema WHERE name = 'version 17'");
    set("UPDATE #schema SET value = 16 WHERE name = 'version'");
    let worker = old.register_worker().unwrap();
    let mut options = tables.options();
    options.patience = Duration::ZERO;
    let error = Store::on_server(options).unwrap_err();
    let pid = format!("process {}", std::process::id());
    assert!(error.message().contains(&pid), "{error}");
    assert_eq!(version(), 16, "the mark is taken back");
    // Nobody waits for them whose program is to end.
    let ctx = crate::Context::new();
    ctx.cancel();
    assert!(Store::on_server(tables.options().context(&ctx)).is_err());
    let looks = Store::on_server(tables.options().as_it_is(true)).unwrap();
    assert_eq!(looks.open_processes().unwrap().len(), 0);
    std::thread::scope(|scope| {
        let new = scope.spawn(|| tables.open());
        let also = scope.spawn(|| tables.open());
        wait_for("the mark", || version() == 16 + super::open::MARK);
        assert!(!new.is_finished() && !also.is_finished());
        old.unregister_worker(worker, T).unwrap();
        assert_eq!(new.join().unwrap().id(), old.id());
        also.join().unwrap();
    });
    assert_eq!(version(), 17);
    // After a crash between a statement and its record, the step is taken again.
    set("UPDATE #schema SET value = 1000016 WHERE name = 'version'");
    drop(tables.open());
    assert_eq!(version(), 17);
    // A newer program waits for this worker.
    let worker = old.register_worker().unwrap();
    assert!(old.workers().is_ok());
    set("UPDATE #schema SET value = 1000017 WHERE name = 'version'");
    assert!(old.workers().is_err() && old.newer().is_some());
    let refused = Store::on_server(tables.options()).unwrap_err();
    assert!(
        refused
            .message()
            .contains("is being brought to a newer version"),
        "{refused}"
    );
    set("UPDATE #schema SET value = 17 WHERE name = 'version'");
    old.unregister_worker(worker, T).unwrap();
}

#[test]
fn a_wrong_password_is_refused_without_being_shown() {
    let Some(address) = address() else { return };
    let (login, place) = address.split_once('@').unwrap();
    let user = login.split(['/', ':']).nth(3).unwrap();
    let wrong = MysqlOptions::new(format!("mysql://{user}:wr0ng@{place}"));
    let error = Store::on_server(wrong).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.message().contains("password"), "{error}");
    assert!(!format!("{error:?} {error}").contains("wr0ng"));
}

/// Also if another program has set the mode of the session.
#[test]
fn a_text_arrives_as_it_is_whatever_a_backslash_means() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let store = tables.open();
    let texts = [
        "' OR 1 = 1; -- ",
        r"\' OR \\'' \",
        "\"\0\n\r\t\u{1a}%_`",
        "\u{65e5}\u{672c} \u{1f600}'",
        "? :list",
    ];
    for mode in ["STRICT_ALL_TABLES", "NO_BACKSLASH_ESCAPES"] {
        let read: Vec<Option<String>> = store
            .read(|tx| {
                tx.run(&format!("SET SESSION sql_mode = '{mode}'"), by![])?;
                let read = |text: &&str| tx.one("SELECT ?", by![(*text).to_owned()]);
                texts.iter().map(read).collect()
            })
            .unwrap();
        assert_eq!(read, texts.map(|text| Some(text.to_owned())), "{mode}");
    }
}

/// Idle workers would wake each other for ever.
#[test]
fn whoever_finds_nothing_to_claim_has_written_nothing() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let (one, other) = (tables.open(), tables.open());
    let worker = one.register_worker().unwrap();
    let before = other.version().unwrap();
    assert!(claim(&one, worker, 5).is_empty());
    one.reclaim(T).unwrap();
    one.maintain(T).unwrap();
    assert_eq!(other.version().unwrap(), before);
    one.insert(ProcessId::new(), jobs(1), true, T).unwrap();
    let written = other.version().unwrap();
    assert_ne!(written, before);
    assert_eq!(claim(&one, worker, 5).len(), 1);
    assert_ne!(other.version().unwrap(), written);
    one.unregister_worker(worker, T).unwrap();
}

/// What time it is, the server says: at once, and again with each renewal of leases.
#[test]
fn jobs_come_due_by_the_clock_of_the_server() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let queue = crate::JobQueue::on(Arc::new(tables.open()));
    let store = tables.open();
    let clock = store.clock().unwrap();
    let server = |store: &Store| -> i64 {
        let read = store.read(|tx| tx.one(&format!("SELECT {CLOCK}"), by![]));
        read.unwrap().unwrap()
    };
    let apart = || clock.wall().0.abs_diff(server(&store));
    assert!(apart() < 5_000, "{} ms", apart());
    let process = ProcessId::new();
    queue.enqueue(process, jobs(1)).unwrap();
    let created = queue.process(process).unwrap().unwrap().created_at;
    assert!(created.0.abs_diff(server(&store)) < 60_000);
    // It was read a while ago, and differs since.
    let offset = &store.mysql().database.offset;
    offset.fetch_add(86_400_000, Ordering::Relaxed);
    assert!(apart() > 80_000_000);
    let worker = store.register_worker().unwrap();
    wait_for("the clock is read again", || apart() <= 5_000);
    store.unregister_worker(worker, clock.wall()).unwrap();
}
