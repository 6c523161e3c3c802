//! Workers that are cut off, connections that are lost, deadlocks, and a server that forgets or stands still.

use mysql::prelude::Queryable as _;

use super::*;
use crate::base::Charge;
use crate::queue::job::{JobCounts, Spent};
use crate::queue::store::mysql::wire::{Gets, Wire};

const LEASE: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(15);

/// A worker with jobs of a process, and another machine.
struct Scene {
    store: Store,
    other: Store,
    tables: Tables,
    process: ProcessId,
    worker: WorkerId,
    held: Vec<ClaimedJob>,
    /// The time and the replies of the server, if the test decides them.
    wire: Arc<Wire>,
}

/// `None` without a server.
fn scene(jobs: usize, lease: Duration) -> Option<Scene> {
    begin(jobs, |options, _| options.lease(lease))
}

fn on_wire(jobs: usize) -> Option<Scene> {
    begin(jobs, |options, wire| options.wire(wire.clone()))
}

fn begin(jobs: usize, set: impl Fn(MysqlOptions, &Arc<Wire>) -> MysqlOptions) -> Option<Scene> {
    let (tables, wire) = (Tables::new(address()?), Arc::<Wire>::default());
    wire.set_time(T);
    let open = || Store::on_server(set(tables.options(), &wire)).unwrap();
    let (store, other, process) = (open(), open(), ProcessId::new());
    store.insert(process, super::jobs(jobs), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    Some(Scene {
        held: claim(&store, worker, jobs),
        store,
        other,
        tables,
        process,
        worker,
        wire,
    })
}

impl Scene {
    fn counts(&self) -> JobCounts {
        let process = self.other.process(self.process);
        process.unwrap().unwrap().counts
    }

    /// The lease of the worker is no longer renewed, and the other machine has its jobs when it ends.
    fn falls_silent(&self) {
        self.store.mysql().leases.stop();
        wait_for("the lease ends", || self.other.reclaim(T).unwrap() > 0);
    }
}

fn kill(by: &Store, connection: i64) -> Result<(), Error> {
    let kill = format!("KILL CONNECTION {connection}");
    by.read(|tx| tx.run(&kill, by![]).map(drop))
}

fn own_connection(tx: &mut dyn Sql) -> Result<i64, Fault> {
    Ok(tx.one("SELECT CONNECTION_ID()", by![])?.unwrap_or(0))
}

/// A worker that is cut off until its lease has ended: its jobs pass on, its failures do not count, its successes do.
#[test]
fn a_worker_that_is_cut_off_is_fenced_and_goes_on() {
    let Some(scene) = scene(2, LEASE) else { return };
    let (cut_off, other, held) = (&scene.store, &scene.other, &scene.held);
    // Others see it live, for as long as it renews its lease.
    let heir = other.register_worker().unwrap();
    assert!(other.workers().unwrap().dead.is_empty());
    scene.falls_silent();
    let passed_on = claim(other, heir, 2);
    assert_eq!((passed_on.len(), passed_on[0].crashes), (2, 1));
    let late = [snoozed(&held[0]), completed(&held[1])];
    let late = cut_off.settle(&late, T).unwrap()[0].counts;
    assert_eq!((late.completed, late.in_progress), (1, 1));
    let ends = [completed(&passed_on[0]), snoozed(&passed_on[1])];
    other.settle(&ends, T).unwrap();
    assert_eq!(scene.counts().completed, 2);
    // It goes on with new jobs, under the number that it had.
    other.insert(scene.process, jobs(1), true, T).unwrap();
    let new = claim(cut_off, scene.worker, 1);
    cut_off.settle(&[completed(&new[0])], T).unwrap();
    assert_eq!(scene.counts().completed, 3);
    // One that has ended does not come back.
    cut_off.unregister_worker(scene.worker, T).unwrap();
    let refused = cut_off.claim_any(scene.worker, 1, T).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

/// A worker that ends when nothing is left to do waits for the jobs of other workers, or gets them.
#[test]
fn what_a_silent_worker_has_is_left_to_do() {
    let Some(scene) = scene(2, LEASE) else { return };
    let other = &scene.other;
    let idle = other.register_worker().unwrap();
    assert!(claim(other, idle, 2).is_empty());
    let others_work = |process| other.others_work(&[process]).unwrap();
    assert!(others_work(scene.process) && !others_work(ProcessId::new()));
    scene.falls_silent();
    assert!(!others_work(scene.process));
    let counts = scene.counts();
    assert_eq!((counts.pending, counts.in_progress), (2, 0));
}

/// A backup blocks all writes for longer than a lease, while reads work: no worker can renew its lease, and each keeps its
/// jobs.
#[test]
fn workers_whose_renewals_are_blocked_keep_their_jobs() {
    let lease = 2 * LEASE;
    let Some(scene) = scene(2, lease) else { return };
    let other = &scene.other;
    other.register_worker().unwrap();
    wait_for("the other one trusts its connection", || {
        other.mysql().leases.can_tell()
    });
    let address = mysql::Opts::from_url(&scene.tables.address).unwrap();
    let mut backup = mysql::Conn::new(address).unwrap();
    let lock = format!("LOCK TABLES `{}_workers` READ", scene.tables.name);
    backup.query_drop(lock).unwrap();
    let (began, mut expired) = (Instant::now(), false);
    while began.elapsed() < lease * 4 {
        if began.elapsed() > lease * 2 && !expired {
            let living = format!("SELECT 1 FROM #workers WHERE lease_until > {CLOCK}");
            expired = !other.read(|tx| tx.exists(&living, by![])).unwrap();
            assert!(expired, "nobody could renew a lease");
            backup.query_drop("UNLOCK TABLES").unwrap();
        }
        assert!(other.workers().unwrap().dead.is_empty());
        std::thread::sleep(Duration::from_millis(5));
    }
    // The lease of one that dies afterwards counts.
    scene.falls_silent();
}

/// The clock of the database is set forward by an hour, or all machines were suspended: all leases have expired at once.
#[test]
fn a_clock_that_is_set_forward_ends_no_living_worker() {
    let Some(scene) = on_wire(2) else { return };
    let other = &scene.other;
    other.register_worker().unwrap();
    let reclaimed = |seconds: i64| {
        let now = Timestamp(T.0 + (3_600 + seconds) * 1_000);
        scene.wire.set_time(now);
        other.reclaim(now).unwrap()
    };
    assert_eq!(reclaimed(0), 0);
    scene.store.renew_leases().unwrap();
    // The lease of one that dies afterwards counts.
    for seconds in [0, 4, 8, 12] {
        assert_eq!(reclaimed(seconds), 0);
        other.renew_leases().unwrap();
    }
    assert_eq!(reclaimed(16), 2);
}

/// Two processes were suspended, and the one that wakes first had renewed its lease last.
#[test]
fn one_who_was_suspended_declares_nobody_dead() {
    let Some(scene) = on_wire(2) else { return };
    let other = &scene.other;
    other.register_worker().unwrap();
    let at = |seconds: i64| {
        let now = Timestamp(T.0 + seconds * 1_000);
        scene.wire.set_time(now);
        now
    };
    for seconds in [4, 8] {
        at(seconds);
        scene.store.renew_leases().unwrap();
        other.renew_leases().unwrap();
    }
    at(12);
    other.renew_leases().unwrap();
    assert!(other.mysql().leases.can_tell());
    assert_eq!(other.reclaim(at(24)).unwrap(), 0);
    scene.store.renew_leases().unwrap();
    assert_eq!(other.reclaim(at(25)).unwrap(), 0);
}

/// A job or result that is larger than a packet of the server fails alone, and says why.
#[test]
fn what_is_too_large_for_the_server_fails_alone() {
    let Some(scene) = scene(2, LONG) else { return };
    let (store, held) = (&scene.store, &scene.held);
    let text = |bytes: usize| serde_json::value::to_raw_value(&"x".repeat(bytes)).unwrap();
    let packet = &store.mysql().database.pool.packet;
    let insert = |bytes: usize, count| {
        packet.store(1 << 20, Ordering::Relaxed);
        let large = Job::raw("k", text(bytes));
        store.insert(ProcessId::new(), vec![large; count], true, T)
    };
    let error = insert(1 << 20, 1).unwrap_err();
    let code = (error.kind(), error.status());
    assert_eq!(code, (ErrorKind::Invalid, Some(413)));
    assert!(!error.is_storage() && error.message().contains("max_allowed_packet"));
    // Together they are larger than the limit.
    insert(700 << 10, 3).unwrap();

    packet.store(1 << 20, Ordering::Relaxed);
    let mut end = completed(&held[0]);
    if let ClaimOutcome::Completed { result, .. } = &mut end.outcome {
        *result = text(1 << 20);
    }
    store.settle(&[end, completed(&held[1])], T).unwrap();
    let counts = scene.counts();
    assert_eq!((counts.completed, counts.failed), (1, 1));
    let failed = store.job(held[0].job_id).unwrap().unwrap();
    let why = failed.error.unwrap();
    assert!(why.message().contains("max_allowed_packet"), "{why}");
}

/// The server closes all connections of a store: what it holds stays its own, and calls go on.
#[test]
fn a_short_interruption_loses_no_claim() {
    let Some(scene) = scene(2, LONG) else { return };
    let (store, other, held) = (&scene.store, &scene.other, &scene.held);
    store.insert(scene.process, jobs(1), true, T).unwrap();
    let own = store.read(own_connection).unwrap();
    kill(other, own).unwrap();
    assert_eq!(claim(store, scene.worker, 1).len(), 1);
    let ends: Vec<_> = held.iter().map(completed).collect();
    store.settle(&ends, T).unwrap();
    assert_eq!(scene.counts().completed, 2);
    assert!(other.workers().unwrap().dead.is_empty());
}

/// A connection that ends within a transaction: nothing of it happened, and it is carried out once on the next one.
#[test]
fn a_transaction_that_loses_its_connection_is_carried_out_once() {
    let Some(scene) = scene(1, LONG) else { return };
    let (store, other) = (&scene.store, &scene.other);
    let mut tries = 0;
    let set = "INSERT INTO #meta (name, value) VALUES ('tries', '1') ON DUPLICATE KEY UPDATE value = value + 1";
    let done = store.write_as(Mode::WriteOnce, |tx| {
        tries += 1;
        tx.run(set, by![])?;
        if tries == 1 {
            kill(other, own_connection(tx)?)?;
            // Whatever is sent now fails.
            tx.run(set, by![])?;
        }
        Ok(())
    });
    done.unwrap();
    let value = "SELECT value FROM #meta WHERE name = 'tries'";
    let value: Option<String> = store.read(|tx| tx.one(value, by![])).unwrap();
    assert_eq!((tries, value.as_deref()), (2, Some("1")));
}

/// The reply to a commit is lost, and the transaction is repeated.
#[test]
fn a_call_is_booked_once_if_the_reply_to_its_commit_is_lost() {
    let Some(scene) = scene(1, LONG) else { return };
    let (store, other, held) = (&scene.store, &scene.other, &scene.held);
    let mut tries = 0;
    let done = store.write(|tx| {
        tries += 1;
        if tries == 1 {
            kill(other, own_connection(tx)?)?;
        }
        Ok(())
    });
    done.unwrap();
    assert_eq!(tries, 2);
    let ends = [billed(&held[0])];
    store.settle(&ends, T).unwrap();
    store.settle(&ends, T).unwrap();
    assert_eq!(calls(store), 1);
}

/// The end of a job with a call of known use.
fn billed(job: &ClaimedJob) -> Settlement {
    let mut end = completed(job);
    end.charge = Some(Box::new(Charge {
        calls: 1,
        ..Charge::default()
    }));
    if let ClaimOutcome::Completed { spent, .. } = &mut end.outcome {
        *spent = Some(Spent {
            input_tokens: 10,
            ..Spent::default()
        });
    }
    end
}

/// The number of calls that are booked.
fn calls(store: &Store) -> u64 {
    let spent = store.spent_since(None).unwrap();
    spent.iter().map(|row| row.calls).sum()
}

/// The reply to a commit is lost and the server stays away, so the worker settles again later.
#[test]
fn a_call_is_booked_once_if_it_is_settled_again_after_its_job_was_deleted() {
    let Some(scene) = on_wire(3) else { return };
    let (store, held) = (&scene.store, &scene.held);
    let other = scene.tables.open();
    let [first, second] = [0, 1].map(|at| [billed(&held[at])]);
    scene.wire.set(Gets::Unanswered);
    assert!(store.settle(&first, T).is_err());
    scene.wire.set(Gets::Lost);
    assert!(store.settle(&second, T).is_err());
    scene.wire.set(Gets::Through);
    assert_eq!(calls(&other), 1, "the first transaction was committed");
    other.delete(scene.process, T).unwrap();
    store.settle(&first, T).unwrap();
    assert_eq!(calls(&other), 1);
}

/// The reply to the commit of a claim is lost: the next claim has its jobs, at no cost, and those that are there no more not.
#[test]
fn a_claim_whose_reply_is_lost_is_made_once() {
    let Some(scene) = on_wire(0) else { return };
    let store = &scene.store;
    let other = scene.tables.open();
    let processes = [ProcessId::new(), ProcessId::new()];
    for process in processes {
        store.insert(process, jobs(2), true, T).unwrap();
    }
    let claim_of = |most| store.claim_any(scene.worker, most, T);
    scene.wire.set(Gets::Lost);
    assert!(claim_of(3).is_err());
    scene.wire.set(Gets::Unanswered);
    assert!(claim_of(3).is_err());
    scene.wire.set(Gets::Through);
    let running = |process| other.process(process).unwrap().unwrap().counts.in_progress;
    assert_eq!(processes.map(running), [2, 1], "it was committed");
    other.delete(processes[1], T).unwrap();
    let held = claim_of(1).unwrap().jobs;
    assert_eq!(held.len(), 2);
    let is_first = |job: &ClaimedJob| job.crashes == 0 && job.receipt.claim == 1;
    assert!(held.iter().all(is_first));
    let ends: Vec<_> = held.iter().map(completed).collect();
    let counts = store.settle(&ends, T).unwrap()[0].counts;
    assert_eq!((counts.completed, counts.in_progress), (2, 0));
    assert!(claim_of(1).unwrap().jobs.is_empty());
}

/// Two transactions that wait for each other: the server ends one, which begins anew.
#[test]
fn deadlocks_are_tried_again() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let store = tables.open();
    let both = std::sync::Barrier::new(2);
    let tries = AtomicU64::new(0);
    let run = |slots: [i64; 2]| {
        let mut first = true;
        let done = store.write_as(Mode::WriteOnce, |tx| {
            tries.fetch_add(1, Ordering::Relaxed);
            let lock = "SELECT version FROM #versions WHERE slot = ? FOR UPDATE";
            tx.rows(lock, by![slots[0]])?;
            if std::mem::take(&mut first) {
                both.wait();
            }
            tx.rows(lock, by![slots[1]])
        });
        done.unwrap();
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run([1, 2]));
        run([2, 1]);
    });
    assert!(tries.into_inner() >= 3);
}

/// A machine that is suspended amid a transaction holds rows: the server ends that, and others go on.
#[test]
fn a_transaction_that_stands_still_is_ended_by_the_server() {
    let Some(scene) = scene(0, LEASE) else { return };
    let (stands, goes_on) = (&scene.store, &scene.other);
    let touch = "UPDATE #schema SET value = value + 1 WHERE name = 'touched'";
    let number = || -> i64 {
        let read = "SELECT value FROM #schema WHERE name = 'touched'";
        let found = goes_on.read(|tx| tx.one(read, by![])).unwrap();
        found.unwrap()
    };
    let add = "INSERT INTO #schema (name, value) VALUES ('touched', 0)";
    goes_on.read(|tx| tx.run(add, by![])).unwrap();
    let (holds, held) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let written = stands.write(|tx| {
                tx.run(touch, by![])?;
                // The second time nobody listens any more, and it goes on at once.
                if holds.send(()).is_ok() {
                    let _ = is_done.recv();
                }
                tx.run(touch, by![])
            });
            written.unwrap();
        });
        held.recv().unwrap();
        drop(held);
        let one = goes_on.write(|tx| tx.run(touch, by![]));
        one.unwrap();
        assert_eq!(number(), 1, "what stood still was rolled back");
        done.send(()).unwrap();
    });
    assert_eq!(number(), 3, "and done anew, as a whole");
}
