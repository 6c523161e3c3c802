//! Recording the ends of claims. A success counts while the job has no outcome; any other end counts only if its claim
//! is the last one.
//!
//! The jobs are locked and read, the changes are computed here, and few statements write all of them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::types::Value;

use crate::base::{Error, ProcessId, Timestamp};
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::SqlStore as _;
use crate::queue::store::sql::counting::Counted;
use crate::queue::store::sql::lineage::{self, Ended, EndedFamilies};
use crate::queue::store::sql::standing::{Standing, lock};
use crate::queue::store::sql::statements::{RESULTS, Statements as _, Table, error_text};
use crate::queue::store::{ClaimOutcome, Settlement};

use super::MysqlStore;
use super::writer::{Again, Fault, Queries as _, Tx, by, list, too_large};
use crate::queue::store::rows::{
    AT_PROVIDER, CANCELLED, COMPLETED, FAILED, IN_PROGRESS, PENDING, WAITING, process_of,
};

/// A complete row of a job.
struct Row {
    id: i64,
    lane: i64,
    priority: i64,
    status: i64,
    visible_at: i64,
    created_at: i64,
    claim: i64,
    worker: Option<i64>,
    batch: Option<i64>,
    attempt: i64,
    calls: i64,
    lost: i64,
    in_doubt: i64,
    has_history: i64,
    is_changed: bool,
}

const COLUMNS: &str = "id, lane, priority, status, visible_at, created_at, claim, worker, batch, attempt, calls, lost, \
     in_doubt, has_history";

/// Locks jobs in ascending order of their keys. Also returns whether any process has a parent.
fn rows(tx: &mut Tx<'_>, ids: BTreeSet<i64>) -> Result<(BTreeMap<i64, Row>, bool), Fault> {
    let sql = format!(
        "SELECT {COLUMNS} FROM #jobs FORCE INDEX (PRIMARY) WHERE id IN {} ORDER BY id FOR UPDATE",
        list(ids)
    );
    // The job is locked first; after that it gets no more children.
    let [jobs, any] = tx.rows_of([&sql, lineage::ANY])?;
    let families = !any.is_empty();
    let mut found = BTreeMap::new();
    for mut row in jobs {
        let job = Row {
            id: row.at(0)?,
            lane: row.at(1)?,
            priority: row.at(2)?,
            status: row.at(3)?,
            visible_at: row.at(4)?,
            created_at: row.at(5)?,
            claim: row.at(6)?,
            worker: row.at(7)?,
            batch: row.at(8)?,
            attempt: row.at(9)?,
            calls: row.at(10)?,
            lost: row.at(11)?,
            in_doubt: row.at(12)?,
            has_history: row.at(13)?,
            is_changed: false,
        };
        found.insert(job.id, job);
    }
    Ok((found, families))
}

/// Jobs per statement. Each job takes a few hundred bytes of it.
const MOST_ROWS: usize = 1_000;

fn write_rows(tx: &mut Tx<'_>, rows: BTreeMap<i64, Row>) {
    let changed: Vec<Row> = rows.into_values().filter(|row| row.is_changed).collect();
    let nullable = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| value.to_string());
    for some in changed.chunks(MOST_ROWS) {
        let values = some.iter().map(|row| {
            let Row {
                id,
                lane,
                priority,
                status,
                visible_at,
                created_at,
                claim,
                attempt,
                calls,
                lost,
                in_doubt,
                has_history,
                ..
            } = row;
            let (worker, batch) = (nullable(row.worker), nullable(row.batch));
            format!(
                "({id},{lane},{priority},{status},{visible_at},{created_at},{claim},{worker},{batch},{attempt},\
                 {calls},{lost},{in_doubt},{has_history})"
            )
        });
        let values: Vec<String> = values.collect();
        tx.defer_text(&format!(
            "INSERT INTO #jobs ({COLUMNS}) VALUES {}
             ON DUPLICATE KEY UPDATE lane = VALUES(lane), status = VALUES(status), visible_at = VALUES(visible_at),
               claim = VALUES(claim), worker = VALUES(worker), batch = VALUES(batch), attempt = VALUES(attempt),
               calls = VALUES(calls), lost = VALUES(lost), in_doubt = VALUES(in_doubt),
               has_history = VALUES(has_history)",
            values.join(",")
        ));
    }
}

struct Settling<'a> {
    store: &'a MysqlStore,
    now: Timestamp,
    rows: BTreeMap<i64, Row>,
    processes: BTreeMap<i64, Standing>,
    /// The numbers of processes that jobs wait for.
    awaited: BTreeMap<ProcessId, i64>,
    /// The child processes of jobs that may end permanently.
    ended_families: BTreeMap<i64, EndedFamilies>,
    changes: CounterChanges,
    /// Results and errors to be written.
    outcomes: BTreeMap<i64, Vec<Value>>,
    histories: BTreeMap<i64, String>,
    /// Jobs that have their outcome now.
    ended: Vec<i64>,
}

const HISTORIES: Table = Table {
    name: "#histories",
    columns: &["job", "body"],
};

impl MysqlStore {
    pub(super) fn settle_ends(
        &self,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<Vec<ProcessState>, Error> {
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        let fitting: Vec<Settlement>;
        let ends: &[Settlement] = if ends.iter().any(|end| self.is_too_large(end).is_some()) {
            fitting = ends.iter().map(|end| self.fitting(end)).collect();
            &fitting
        } else {
            ends
        };
        let (changed, woken) =
            self.write(Again::Harmless, |tx| self.settle_in(tx, ends, now))?;
        if woken {
            self.wake();
        }
        Ok(changed)
    }

    /// The size of a result that the server would not accept.
    fn is_too_large(&self, end: &Settlement) -> Option<usize> {
        let result = match &end.outcome {
            ClaimOutcome::Completed { result, .. } => Some(result),
            ClaimOutcome::Failed { result, .. } => result.as_ref(),
            _ => None,
        };
        let bytes = result?.get().len();
        (bytes > self.database.most_value()).then_some(bytes)
    }

    /// The same end, or a failure in place of a result that is too large: otherwise its worker would try in vain to save
    /// it, and no other end with it.
    fn fitting(&self, end: &Settlement) -> Settlement {
        let mut end = end.clone();
        if let Some(bytes) = self.is_too_large(&end) {
            let error = too_large("the result", bytes, self.database.most_value());
            match &mut end.outcome {
                ClaimOutcome::Completed { spent, .. } => {
                    let spent = spent.take();
                    end.outcome = ClaimOutcome::Failed {
                        error,
                        result: None,
                        spent,
                    };
                }
                ClaimOutcome::Failed { result, .. } => *result = None,
                _ => {}
            }
        }
        end
    }

    /// Returns the changed processes, and whether jobs were woken.
    pub(super) fn settle_in(
        &self,
        tx: &mut Tx<'_>,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<(Vec<ProcessState>, bool), Fault> {
        let mut settling = Settling::begin(self, tx, ends, now)?;
        for end in ends {
            settling.end(tx, end)?;
        }
        settling.finish(tx)
    }
}

impl<'a> Settling<'a> {
    /// Locks and reads everything that these ends affect.
    fn begin(
        store: &'a MysqlStore,
        tx: &mut Tx<'_>,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let (rows, families) = rows(tx, ends.iter().map(|end| end.receipt.job).collect())?;
        let mut wanted: BTreeSet<i64> =
            ends.iter().map(|end| process_of(end.receipt.job)).collect();
        // A process that a job waits for stays locked until it is known whether it has ended.
        let mut awaited = BTreeMap::new();
        for end in ends {
            if let ClaimOutcome::Wait { processes, .. } = &end.outcome {
                for id in processes {
                    if let Some(no) = tx.process_no(*id)? {
                        awaited.insert(*id, no);
                    }
                }
            }
        }
        wanted.extend(awaited.values());
        let mut ended_families: BTreeMap<i64, EndedFamilies> = BTreeMap::new();
        if families {
            for end in ends {
                let ended = match &end.outcome {
                    ClaimOutcome::Completed { .. } => Ended::ForGood,
                    ClaimOutcome::Failed { .. } => Ended::MayBeRetried,
                    _ => continue,
                };
                let left = lineage::ended_families(tx, end.receipt.job, ended)?;
                wanted.extend(left.families.iter().flatten());
                ended_families.insert(end.receipt.job, left);
            }
        }
        // All machines wait for the row of a process. If jobs only end, the update of its counters locks the row, as
        // late as possible.
        let only_ends = ends.iter().all(|end| {
            matches!(
                end.outcome,
                ClaimOutcome::Completed { .. } | ClaimOutcome::Failed { .. }
            )
        });
        if families {
            // The cost of a child counts in the row of its oldest ancestor, which has a lower number.
            let budgets =
                "SELECT DISTINCT root FROM #processes WHERE root IS NOT NULL AND no IN :list";
            let known: Vec<i64> = wanted.iter().copied().collect();
            for mut row in tx.rows_in(budgets, &known)? {
                wanted.insert(row.at(0)?);
            }
        }
        let processes = if families || !only_ends {
            lock(tx, wanted)?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            store,
            now,
            rows,
            processes,
            awaited,
            ended_families,
            changes: CounterChanges::default(),
            outcomes: BTreeMap::new(),
            histories: BTreeMap::new(),
            ended: Vec::new(),
        })
    }

    /// Writes all changes. Returns the changed processes, and whether jobs were woken.
    fn finish(self, tx: &mut Tx<'_>) -> Result<(Vec<ProcessState>, bool), Fault> {
        tx.upsert_rows(&RESULTS, &mut self.outcomes.into_values())?;
        let histories = self.histories.into_iter();
        tx.upsert_rows(&HISTORIES, &mut histories.map(|(job, body)| by![job, body]))?;
        write_rows(tx, self.rows);
        let Counted {
            woken, mut states, ..
        } = self.changes.write(tx, self.now)?;
        for job in self.ended {
            if let Some(ended_families) = self.ended_families.get(&job) {
                lineage::job_ended(tx, ended_families, self.now)?;
            }
        }
        // The use of child jobs is counted with their parents.
        if !self.ended_families.is_empty() {
            states.extend(self.changes.states(tx)?);
        }
        Ok((states, woken))
    }
}

impl Settling<'_> {
    fn end(&mut self, tx: &mut Tx<'_>, end: &Settlement) -> Result<(), Fault> {
        if self.apply(tx, end)? {
            self.changes.lost(end.receipt.job, end.lost);
            if let Some(spent) = end.outcome.spent() {
                let charge = end.charge.as_deref();
                self.changes.spent(end.receipt.job, spent, charge);
            }
        }
        Ok(())
    }

    /// Changes the job. Returns false if this end came too late.
    fn apply(&mut self, tx: &mut Tx<'_>, end: &Settlement) -> Result<bool, Fault> {
        let id = end.receipt.job;
        match &end.outcome {
            ClaimOutcome::Completed { result, .. } => {
                let Some(from) = self.complete(end) else {
                    return Ok(false);
                };
                self.changes.moved(id, from, COMPLETED);
                self.ended.push(id);
                let result = result.get().to_owned();
                self.outcomes.insert(id, by![id, None::<String>, result]);
            }
            ClaimOutcome::Failed { error, result, .. } => {
                let failed = |row: &mut Row| {
                    (row.lost, row.in_doubt) = (0, 0);
                };
                let Some(from) = self.update(end, FAILED, failed) else {
                    return Ok(false);
                };
                self.changes.moved(id, from, FAILED);
                self.ended.push(id);
                let result = result.as_ref().map(|result| result.get().to_owned());
                self.outcomes
                    .insert(id, by![id, error_text(error)?, result]);
            }
            ClaimOutcome::Retry { .. }
            | ClaimOutcome::Snooze { .. }
            | ClaimOutcome::Wait { .. } => {
                let process = self.processes.get(&process_of(id));
                let (from, to) = if process.is_none_or(Standing::stops_trying) {
                    (self.update(end, CANCELLED, |_| ()), CANCELLED)
                } else {
                    (self.put_back(tx, end)?, PENDING)
                };
                let Some(from) = from else {
                    return Ok(false);
                };
                self.changes.moved(id, from, to);
            }
        }
        Ok(true)
    }

    /// Completes the job. Returns its former status if it had no outcome.
    fn complete(&mut self, end: &Settlement) -> Option<i64> {
        if let Some(from) = self.update(end, COMPLETED, |_| ()) {
            return Some(from);
        }
        // Another worker has claimed it, or it waits again. The result was billed, so it counts. The number of the
        // claim increases, so the report of the other worker has no effect.
        let row = self.rows.get_mut(&end.receipt.job)?;
        if row.status >= COMPLETED {
            return None;
        }
        let from = row.status;
        (row.status, row.worker, row.batch) = (COMPLETED, None, None);
        row.calls = row.calls.max(i64::from(end.calls));
        row.claim += 1;
        row.is_changed = true;
        Some(from)
    }

    /// Returns a job to the queue. Returns its former status.
    fn put_back(&mut self, tx: &mut Tx<'_>, end: &Settlement) -> Result<Option<i64>, Fault> {
        let now = self.now.0;
        Ok(match &end.outcome {
            ClaimOutcome::Retry {
                due_at,
                step,
                attempt,
                in_doubt,
                spent: _,
                history,
            } => {
                let Some(lane) = self.held(end).map(|row| row.lane) else {
                    return Ok(None);
                };
                let lane = self.store.at_step(tx, lane, *step)?;
                let from = self.update(end, PENDING, |row| {
                    (row.visible_at, row.lane) = (due_at.0, lane);
                    (row.attempt, row.in_doubt) = (i64::from(*attempt), i64::from(*in_doubt));
                    (row.lost, row.has_history) = (0, 1);
                });
                self.histories.insert(end.receipt.job, history.clone());
                from
            }
            ClaimOutcome::Snooze { due_at } => self.update(end, PENDING, |row| {
                row.visible_at = due_at.map_or(row.visible_at, |at| at.0);
            }),
            // Otherwise, the processes that the job waits for have ended since it checked.
            ClaimOutcome::Wait { processes, due_at } => {
                let is_open = |id| {
                    let standing = self.awaited.get(id).and_then(|no| self.processes.get(no));
                    standing.is_some_and(|process| process.open > 0)
                };
                if processes.iter().all(is_open) {
                    self.update(end, WAITING, |row| row.visible_at = due_at.0)
                } else {
                    self.update(end, PENDING, |row| row.visible_at = now)
                }
            }
            ClaimOutcome::Completed { .. } | ClaimOutcome::Failed { .. } => None,
        })
    }

    /// The job, if the end belongs to its last claim.
    fn held(&mut self, end: &Settlement) -> Option<&mut Row> {
        let row = self.rows.get_mut(&end.receipt.job)?;
        let is_held = row.status == IN_PROGRESS || row.status == AT_PROVIDER;
        (is_held && row.claim == end.receipt.claim).then_some(row)
    }

    /// Changes the job if the end belongs to its last claim. Returns its former status.
    fn update(
        &mut self,
        end: &Settlement,
        status: i64,
        change: impl FnOnce(&mut Row),
    ) -> Option<i64> {
        let row = self.held(end)?;
        let from = row.status;
        (row.status, row.worker, row.batch) = (status, None, None);
        row.calls = i64::from(end.calls);
        change(row);
        row.is_changed = true;
        Some(from)
    }
}
