//! Workers that are cut off, connections that are lost, deadlocks, and a server that forgets or stands still.

use mysql::prelude::Queryable as _;

use super::*;
use crate::base::{Charge, Sent};
use crate::queue::job::Spent;
use crate::queue::store::ClaimedJob;
use crate::queue::store::mysql::wire::{Gets, Wire};

/// A worker that is cut off until its lease has ended: its jobs pass on, its failures do not count, its successes do.
#[test]
fn a_worker_that_is_cut_off_is_fenced_and_goes_on() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let lease = Duration::from_secs(1);
    let cut_off = Store::on_server(tables.options().lease(lease)).unwrap();
    let other = Store::on_server(tables.options().lease(lease)).unwrap();
    let process = ProcessId::new();
    cut_off.insert(process, jobs(2), true, T).unwrap();
    let worker = cut_off.register_worker().unwrap();
    let held = claim(&cut_off, worker, 2);
    assert_eq!(held.len(), 2);
    // Others see it live, for as long as it renews its lease.
    let heir = other.register_worker().unwrap();
    assert!(other.dead_workers().unwrap().is_empty());
    cut_off.mysql().heartbeat.stop();
    wait_for("the lease ends", || other.reclaim(T).unwrap() > 0);
    let passed_on = claim(&other, heir, 2);
    assert_eq!(passed_on.len(), 2);
    assert_eq!(passed_on[0].crashes, 1);
    let late = cut_off
        .settle(&[snoozed(&held[0]), completed(&held[1])], T)
        .unwrap();
    assert_eq!(
        (late[0].counts.completed, late[0].counts.in_progress),
        (1, 1)
    );
    other
        .settle(&[completed(&passed_on[0]), snoozed(&passed_on[1])], T)
        .unwrap();
    assert_eq!(other.process(process).unwrap().unwrap().counts.completed, 2);
    // It goes on with new jobs, under the number that it had.
    let more = ProcessId::new();
    other.insert(more, jobs(1), true, T).unwrap();
    let new = claim(&cut_off, worker, 1);
    assert_eq!(new.len(), 1);
    cut_off.settle(&[completed(&new[0])], T).unwrap();
    assert_eq!(other.process(more).unwrap().unwrap().counts.completed, 1);
    // One that has ended does not come back.
    cut_off.unregister_worker(worker, T).unwrap();
    let refused = cut_off.claim_any(worker, 1, T).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

/// Whoever ends when nothing is left to do waits for the lease of a worker that has gone silent, and gets its jobs.
#[test]
fn what_a_silent_worker_has_is_left_to_do() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let lease = Duration::from_secs(1);
    let silent = Store::on_server(tables.options().lease(lease)).unwrap();
    let other = Store::on_server(tables.options().lease(lease)).unwrap();
    let process = ProcessId::new();
    silent.insert(process, jobs(2), true, T).unwrap();
    let worker = silent.register_worker().unwrap();
    assert_eq!(claim(&silent, worker, 2).len(), 2);
    let idle = other.register_worker().unwrap();
    assert!(claim(&other, idle, 2).is_empty());
    // One that lives shows it.
    assert!(other.maintain(T).unwrap());
    while other.maintain(T).unwrap() {}
    assert_eq!(
        other.process(process).unwrap().unwrap().counts.in_progress,
        2
    );
    silent.mysql().heartbeat.stop();
    other.insert(process, jobs(1), true, T).unwrap();
    let own = claim(&other, idle, 1);
    other.settle(&[completed(&own[0])], T).unwrap();
    assert!(claim(&other, idle, 1).is_empty());
    while other.maintain(T).unwrap() {
        other.reclaim(T).unwrap();
    }
    let counts = other.process(process).unwrap().unwrap().counts;
    assert_eq!((counts.pending, counts.in_progress), (2, 0));
}

/// A backup blocks all writes for longer than a lease, while reads work: no worker can renew its lease, and each keeps its
/// jobs.
#[test]
fn workers_whose_renewals_are_blocked_keep_their_jobs() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address.clone());
    let lease = Duration::from_secs(2);
    let open = || Store::on_server(tables.options().lease(lease)).unwrap();
    let (store, other) = (open(), open());
    let process = ProcessId::new();
    store.insert(process, jobs(2), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    assert_eq!(claim(&store, worker, 2).len(), 2);
    other.register_worker().unwrap();
    wait_for("the other one trusts its connection", || {
        other.mysql().heartbeat.can_tell()
    });
    let mut backup = mysql::Conn::new(mysql::Opts::from_url(&address).unwrap()).unwrap();
    let lock = format!("LOCK TABLES `{}_workers` READ", tables.name);
    backup.query_drop(lock).unwrap();
    let (began, mut expired) = (Instant::now(), false);
    while began.elapsed() < lease * 4 {
        if began.elapsed() > lease * 2 && !expired {
            let living = format!("SELECT 1 FROM #workers WHERE lease_until > {CLOCK}");
            expired = !other.read(|tx| tx.exists(&living, Vec::new())).unwrap();
            assert!(expired, "nobody could renew a lease");
            backup.query_drop("UNLOCK TABLES").unwrap();
        }
        assert_eq!(other.dead_workers().unwrap(), []);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The lease of one that dies afterwards counts.
    store.mysql().heartbeat.stop();
    wait_for("the lease ends", || other.reclaim(T).unwrap() > 0);
}

/// The clock of the database is set forward by an hour, or all machines were suspended: all leases have expired at once.
#[test]
fn a_clock_that_is_set_forward_ends_no_living_worker() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let wire = Arc::new(Wire::default());
    wire.set_time(T);
    let open = || Arc::new(Store::on_server(tables.options().wire(wire.clone())).unwrap());
    let (store, other) = (open(), open());
    store.insert(ProcessId::new(), jobs(2), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    assert_eq!(claim(&store, worker, 2).len(), 2);
    other.register_worker().unwrap();
    let ahead = |seconds: i64| {
        let now = Timestamp(T.0 + (3_600 + seconds) * 1_000);
        wire.set_time(now);
        now
    };
    let now = ahead(0);
    assert_eq!(other.reclaim(now).unwrap(), 0);
    store.renew_leases().unwrap();
    other.renew_leases().unwrap();
    let now = ahead(12);
    assert_eq!(other.reclaim(now).unwrap(), 0);
    // The lease of one that dies afterwards counts.
    other.renew_leases().unwrap();
    let now = ahead(16);
    assert_eq!(other.reclaim(now).unwrap(), 2);
}

/// The clock of the database is set back by an hour after a worker has died: its lease ends soon all the
/// same.
#[test]
fn a_clock_that_is_set_back_does_not_keep_the_dead_alive() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let wire = Arc::new(Wire::default());
    wire.set_time(T);
    let open = || Arc::new(Store::on_server(tables.options().wire(wire.clone())).unwrap());
    let (dead, other) = (open(), open());
    dead.insert(ProcessId::new(), jobs(2), true, T).unwrap();
    let worker = dead.register_worker().unwrap();
    assert_eq!(claim(&dead, worker, 2).len(), 2);
    dead.die();
    other.register_worker().unwrap();
    let back = Timestamp(T.0 - 3_600_000);
    wire.set_time(back);
    other.renew_leases().unwrap();
    assert_eq!(other.reclaim(back).unwrap(), 0);
    let later = Timestamp(back.0 + 61_000);
    wire.set_time(later);
    other.renew_leases().unwrap();
    assert_eq!(other.reclaim(later).unwrap(), 2);
}

/// A job or result that is larger than a packet of the server fails alone, and says why.
#[test]
fn what_is_too_large_for_the_server_fails_alone() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let store = tables.open();
    let text = |bytes: usize| serde_json::value::to_raw_value(&"x".repeat(bytes)).unwrap();
    let process = ProcessId::new();
    store.insert(process, jobs(2), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    let held = claim(&store, worker, 2);
    let packet = &store.mysql().database.pool.packet;
    let limit = || packet.store(1 << 20, Ordering::Relaxed);

    limit();
    let mut large = jobs(1);
    large[0].payload = text(1 << 20);
    let error = store.insert(ProcessId::new(), large, true, T).unwrap_err();
    assert_eq!(
        (error.kind(), error.status()),
        (ErrorKind::Invalid, Some(413))
    );
    assert!(!error.is_storage() && error.message().contains("max_allowed_packet"));
    // Together they are larger than the limit.
    let mut several = jobs(3);
    for job in &mut several {
        job.payload = text(700 << 10);
    }
    store.insert(ProcessId::new(), several, true, T).unwrap();

    limit();
    let mut end = completed(&held[0]);
    if let ClaimOutcome::Completed { result, .. } = &mut end.outcome {
        *result = text(1 << 20);
    }
    let states = store.settle(&[end, completed(&held[1])], T).unwrap();
    let counts = &states[0].counts;
    assert_eq!((counts.completed, counts.failed), (1, 1));
    let failed = store.job(held[0].job_id).unwrap().unwrap();
    let why = failed.error.unwrap();
    assert!(why.message().contains("max_allowed_packet"), "{why}");
}

/// The server closes all connections of a store: what it holds stays its own, and calls go on.
#[test]
fn a_short_interruption_loses_no_claim() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let (store, other) = (tables.open(), tables.open());
    let process = ProcessId::new();
    store.insert(process, jobs(3), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    let held = claim(&store, worker, 2);
    let own: i64 = store
        .read(|tx| Ok(tx.one("SELECT CONNECTION_ID()", Vec::new())?.unwrap_or(0)))
        .unwrap();
    other
        .read(|tx| tx.run(&format!("KILL CONNECTION {own}"), Vec::new()))
        .unwrap();
    assert_eq!(claim(&store, worker, 1).len(), 1);
    let ends: Vec<_> = held.iter().map(completed).collect();
    let states = store.settle(&ends, T).unwrap();
    assert_eq!(states[0].counts.completed, 2);
    assert!(other.dead_workers().unwrap().is_empty());
}

/// A connection that ends within a transaction: nothing of it happened, and it is carried out once on the next one.
#[test]
fn a_transaction_that_loses_its_connection_is_carried_out_once() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let (store, other) = (tables.open(), tables.open());
    let mut tries = 0;
    let set = "INSERT INTO #meta (name, value) VALUES ('tries', '1') ON DUPLICATE KEY UPDATE value = value + 1";
    store
        .write(Again::Doubtful, |tx| {
            tries += 1;
            tx.run(set, Vec::new())?;
            if tries == 1 {
                let own: i64 = tx.one("SELECT CONNECTION_ID()", Vec::new())?.unwrap_or(0);
                let kill =
                    |tx: &mut dyn Statements| tx.run(&format!("KILL CONNECTION {own}"), Vec::new());
                other.read(kill).map_err(Fault::from)?;
                // Whatever is sent now fails.
                tx.run(
                    "UPDATE #meta SET value = '9' WHERE name = 'tries'",
                    Vec::new(),
                )?;
            }
            Ok(())
        })
        .unwrap();
    let value: Option<String> = store
        .read(|tx| tx.one("SELECT value FROM #meta WHERE name = 'tries'", Vec::new()))
        .unwrap();
    assert_eq!((tries, value.as_deref()), (2, Some("1")));
}

/// The reply to a commit is lost, and the transaction is repeated.
#[test]
fn a_call_is_booked_once_if_the_reply_to_its_commit_is_lost() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let (store, other) = (tables.open(), tables.open());
    let mut tries = 0;
    store
        .write(Again::Harmless, |tx| {
            tries += 1;
            let own: i64 = tx.one("SELECT CONNECTION_ID()", Vec::new())?.unwrap_or(0);
            if tries == 1 {
                let kill =
                    |tx: &mut dyn Statements| tx.run(&format!("KILL CONNECTION {own}"), Vec::new());
                other.read(kill).map_err(Fault::from)?;
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(tries, 2);

    let process = ProcessId::new();
    store.insert(process, jobs(1), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    let ends = [billed(&claim(&store, worker, 1)[0])];
    store.settle(&ends, T).unwrap();
    store.settle(&ends, T).unwrap();
    assert_eq!(calls(&store), 1);
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
            output_tokens: 3,
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
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let wire = Arc::new(Wire::default());
    wire.set_time(T);
    let store = Store::on_server(tables.options().wire(wire.clone())).unwrap();
    let other = tables.open();
    let process = ProcessId::new();
    store.insert(process, jobs(3), true, T).unwrap();
    let worker = store.register_worker().unwrap();
    let jobs = claim(&store, worker, 3);
    let [first, second] = [0, 1].map(|at| [billed(&jobs[at])]);
    // Only the first error says that its transaction may have been committed, so that its costs stay counted.
    wire.set(Gets::Unanswered);
    assert_eq!(store.settle(&first, T).unwrap_err().sent(), Sent::Maybe);
    wire.set(Gets::Lost);
    assert_eq!(store.settle(&second, T).unwrap_err().sent(), Sent::No);
    wire.set(Gets::Through);
    assert_eq!(calls(&other), 1, "the first transaction was committed");
    other.delete(process, T).unwrap();
    store.settle(&first, T).unwrap();
    assert_eq!(calls(&other), 1);
}

/// The reply to the commit of a claim is lost: the next claim has its jobs, at no cost, and those that are there no more not.
#[test]
fn a_claim_whose_reply_is_lost_is_made_once() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let wire = Arc::new(Wire::default());
    wire.set_time(T);
    let store = Store::on_server(tables.options().wire(wire.clone())).unwrap();
    let other = tables.open();
    let processes = [ProcessId::new(), ProcessId::new()];
    for process in processes {
        store.insert(process, jobs(2), true, T).unwrap();
    }
    let worker = store.register_worker().unwrap();
    let claim_of = |most| store.claim_any(worker, most, T);
    wire.set(Gets::Lost);
    assert!(claim_of(3).is_err());
    wire.set(Gets::Unanswered);
    assert!(claim_of(3).is_err());
    wire.set(Gets::Through);
    let running = |process| other.process(process).unwrap().unwrap().counts.in_progress;
    assert_eq!(processes.map(running), [2, 1], "it was committed");
    other.delete(processes[1], T).unwrap();
    let held = claim_of(1).unwrap().jobs;
    assert_eq!(held.len(), 2);
    assert!(
        held.iter()
            .all(|job| job.crashes == 0 && job.receipt.claim == 1)
    );
    let ends: Vec<_> = held.iter().map(completed).collect();
    let states = store.settle(&ends, T).unwrap();
    assert_eq!(
        (states[0].counts.completed, states[0].counts.in_progress),
        (2, 0)
    );
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
    std::thread::scope(|scope| {
        for slots in [[1, 2], [2, 1]] {
            let (store, both, tries) = (&store, &both, &tries);
            scope.spawn(move || {
                let mut first = true;
                store
                    .write(Again::Doubtful, |tx| {
                        tries.fetch_add(1, Ordering::Relaxed);
                        let lock = "SELECT version FROM #versions WHERE slot = ? FOR UPDATE";
                        tx.rows(lock, by![slots[0]])?;
                        if std::mem::take(&mut first) {
                            both.wait();
                        }
                        tx.rows(lock, by![slots[1]])?;
                        Ok(())
                    })
                    .unwrap();
            });
        }
    });
    assert!(tries.into_inner() >= 3);
}

/// A machine that is suspended amid a transaction holds rows: the server ends that, and others go on.
#[test]
fn a_transaction_that_stands_still_is_ended_by_the_server() {
    let Some(address) = address() else { return };
    let tables = Tables::new(address);
    let open = || Store::on_server(tables.options().lease(Duration::from_secs(1))).unwrap();
    let (stands, goes_on) = (open(), open());
    let touch = "UPDATE #schema SET value = value + 1 WHERE name = 'touched'";
    let number = || -> i64 {
        let read = "SELECT value FROM #schema WHERE name = 'touched'";
        let found = goes_on.read(|tx| tx.one(read, Vec::new())).unwrap();
        found.unwrap()
    };
    let add = "INSERT INTO #schema (name, value) VALUES ('touched', 0)";
    goes_on.read(|tx| tx.run(add, Vec::new())).unwrap();
    let before = number();
    let (holds, held) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (holds, is_done) = (holds, is_done);
            let written = stands.write(Again::Harmless, |tx| {
                tx.run(touch, Vec::new())?;
                // The second time nobody listens any more, and it goes on at once.
                if holds.send(()).is_ok() {
                    let _ = is_done.recv();
                }
                tx.run(touch, Vec::new())
            });
            written.unwrap();
        });
        held.recv().unwrap();
        drop(held);
        goes_on
            .write(Again::Harmless, |tx| tx.run(touch, Vec::new()))
            .unwrap();
        assert_eq!(number(), before + 1, "what stood still was rolled back");
        done.send(()).unwrap();
    });
    assert_eq!(number(), before + 3, "and done anew, as a whole");
}
