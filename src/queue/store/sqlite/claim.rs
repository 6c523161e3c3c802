//! Claims jobs for a worker in one transaction.
//!
//! One seek for each lane and priority finds its earliest job, and these lists are merged: highest priority first, then
//! oldest first. Jobs behind them, for example the backlog of a closed lane, are not read.

use std::collections::BTreeMap;
use std::sync::Arc;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::{Error, ErrorKind, ProcessId, Timestamp};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::candidates::{Candidates, Head, MOST_STOPPED};
use crate::queue::store::sql::claimed::{Of, claimed};
use crate::queue::store::sql::budgets::{BUDGET, CLOSED, job_budget, not_closed};
use crate::queue::store::sql::pauses;
use crate::queue::store::sql::standing::stops_starting;
use crate::queue::store::sql::statements::{Fault, Queries as _, Statements, by, id_of};
use crate::queue::store::sql::{SqlStore as _, lineage};
use crate::queue::store::{
    ClaimReply, ClaimRequest, JobBudget, JobLane, SUSPECT_CRASHES, WorkerId,
};

use super::SqliteStore;
use super::writer::Sync;
use crate::queue::store::rows::{
    CANCELLED, IN_PROGRESS, NO_CHORE, PENDING, RELEASING, WAITING, process_of,
};

/// The condition that a job belongs to a [scope](lineage::scope), which is the statement's first parameter.
const IN_SCOPE: &str = "(?1 IS NULL OR id >> 32 IN (SELECT value FROM json_each(?1)))";

/// The place of the condition that excludes closed processes.
const OPEN: &str = "/*open*/";

const FROM: &str =
    formatcp!("FROM jobs INDEXED BY jobs_to_claim WHERE status = {PENDING} AND {IN_SCOPE}{OPEN}");

pub(super) const GROUP: &str = formatcp!(
    "SELECT lane, priority, visible_at, id {FROM} AND (lane, priority) >= (?2, ?3)
     ORDER BY lane, priority, visible_at, id LIMIT 1"
);

pub(super) const HEADS: &str = formatcp!(
    "SELECT visible_at, id {FROM} AND lane = ?2 AND priority = ?3
       AND (visible_at, id) > (?4, ?5) ORDER BY visible_at, id LIMIT ?6"
);

const ANY: &str = formatcp!(
    "SELECT EXISTS (SELECT 1 {FROM}) OR
       EXISTS (SELECT 1 FROM processes WHERE chore <> {NO_CHORE} AND chore = {RELEASING})"
);

/// Jobs that wait for others and should check again.
const LOOK_AGAIN: &str = formatcp!(
    "UPDATE jobs INDEXED BY jobs_that_wait SET status = {PENDING}, visible_at = min(visible_at, ?2)
     WHERE status = {WAITING} AND visible_at <= ?3 AND {IN_SCOPE}"
);

const NEXT_LOOK: &str = formatcp!(
    "SELECT min(visible_at) FROM jobs INDEXED BY jobs_that_wait
     WHERE status = {WAITING} AND {IN_SCOPE}"
);

struct Picking<'a> {
    store: &'a SqliteStore,
    conn: &'a Connection,
    /// The processes whose jobs are requested.
    scope: Option<String>,
    worker: WorkerId,
    now: Timestamp,
    /// The condition that excludes closed processes.
    open: String,
    candidates: Candidates,
    processes: BTreeMap<i64, (ProcessId, Option<JobBudget>, bool)>,
    changes: CounterChanges,
    stopped: usize,
    /// The claimed jobs in order, and the process and lane of each.
    ids: Vec<i64>,
    given: BTreeMap<i64, Of>,
    claims: ClaimReply,
}

/// The handling of a candidate.
enum Picked {
    Given,
    /// It was claimed, or has to wait, and no other job may be claimed with it.
    Alone,
    PutAway,
}

impl SqliteStore {
    pub(super) fn claim_jobs(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let given = self.workers.lock().get(&worker.0).map(|known| known.given);
        let given = given.ok_or_else(|| worker.unknown())?;
        let claims = self.write(Sync::Lazy, |conn| {
            let tx = &mut { conn };
            check_worker(tx, worker)?;
            if tx.exists(pauses::IS_PAUSED, Vec::new())? {
                return Ok(ClaimReply::default());
            }
            let closed = tx.rows(CLOSED, Vec::new())?;
            let open = not_closed(tx, closed)?.replace(" DIV 4294967296", " >> 32");
            let scope = lineage::scope(tx, wanted.processes)?;
            let mut picking = Picking {
                store: self,
                conn,
                scope: scope.map(|numbers| serde_json::to_string(&numbers).unwrap_or_default()),
                worker,
                now,
                open,
                candidates: Candidates::default(),
                processes: BTreeMap::new(),
                changes: CounterChanges::default(),
                stopped: 0,
                ids: Vec::new(),
                given: BTreeMap::new(),
                claims: ClaimReply::default(),
            };
            picking.look_again(wanted.look_again)?;
            picking.look(wanted.open)?;
            picking.pick(wanted.most, wanted.idle, given)?;
            let mut given = std::mem::take(&mut picking.given);
            picking.claims.jobs = claimed(self, tx, &picking.ids, |id| given.remove(&id))?;
            if !given.is_empty() {
                return Err(Fault::Odd("a job without its payload"));
            }
            picking.changes.write(tx, now)?;
            let mut any = conn.prepare_cached(&picking.of_open(ANY))?;
            picking.claims.more = any.query_row([&picking.scope], |row| row.get(0))?;
            Ok(picking.claims)
        })?;
        if let Some(registered) = self.workers.lock().get_mut(&worker.0) {
            registered.given += claims.jobs.len() as u64;
        }
        Ok(claims)
    }
}

/// Jobs of an unregistered worker would never return to the queue.
pub(super) fn check_worker(tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
    if tx.exists("SELECT 1 FROM #workers WHERE no = ?", by![worker.0])? {
        return Ok(());
    }
    let why =
        "the worker is no longer registered: other workers took over its jobs. Start it again";
    Err(Error::new(ErrorKind::Invalid, why).into())
}

impl Picking<'_> {
    /// A statement in which closed processes are excluded.
    fn of_open(&self, sql: &str) -> String {
        sql.replace(OPEN, &self.open)
    }

    /// Makes jobs claimable that have waited for others long enough, or all waiting jobs.
    fn look_again(&mut self, all: bool) -> Result<(), Fault> {
        let mut look = self.conn.prepare_cached(LOOK_AGAIN)?;
        let until = if all { i64::MAX } else { self.now.0 };
        look.execute(params![self.scope, self.now.0, until])?;
        Ok(())
    }

    /// Finds the groups, and asks once per lane how many of its jobs can start.
    fn look(&mut self, open: &mut dyn FnMut(&Arc<JobLane>) -> usize) -> Result<(), Fault> {
        let conn = self.conn;
        let mut next = conn.prepare_cached(&self.of_open(GROUP))?;
        // With `>` SQLite would step through all rows of the previous group.
        let (mut lane, mut priority) = (0_i64, 0_i64);
        loop {
            let found = next.query_row(params![self.scope, lane, priority], |row| {
                let head = Head {
                    due: row.get(2)?,
                    id: row.get(3)?,
                    crashes: 0,
                };
                Ok((row.get(0)?, row.get(1)?, head))
            });
            let Some((no, of, head)) = found.optional()? else {
                return Ok(());
            };
            (lane, priority) = (no, of + 1);
            if self.candidates.is_new(no) {
                let lane = self.store.lane(&mut { self.conn }, no)?;
                let left = open(&lane);
                self.candidates.add_lane(no, lane, left);
            }
            self.candidates.add_group(of, Some(head));
        }
    }

    fn pick(&mut self, most: usize, idle: bool, given: u64) -> Result<(), Fault> {
        let mut alone = false;
        while self.ids.len() < most && !alone {
            let given = given + self.ids.len() as u64;
            let Some(at) = self.candidates.best(given, self.now) else {
                break;
            };
            let id = self.candidates.groups[at].heads[0].id;
            match self.give(id, at, idle)? {
                Picked::Given => *self.candidates.left(at) -= 1,
                Picked::Alone => alone = true,
                Picked::PutAway => {
                    self.stopped += 1;
                    alone = self.stopped >= MOST_STOPPED;
                }
            }
            self.advance(at, most)?;
        }
        if self.ids.len() < most && !alone {
            let mut look = self.conn.prepare_cached(NEXT_LOOK)?;
            let look: Option<i64> = look.query_row([&self.scope], |row| row.get(0))?;
            let due = self.candidates.open_heads().map(|(_, head)| head.due);
            self.claims.next = due.chain(look).min().map(Timestamp);
        } else if self.ids.is_empty() && self.stopped >= MOST_STOPPED {
            // What is behind the jobs that were put away must not wait.
            self.claims.next = Some(self.now);
        }
        Ok(())
    }

    /// Advances to the group's next job.
    fn advance(&mut self, at: usize, most: usize) -> Result<(), Fault> {
        let left = *self.candidates.left(at);
        let (conn, heads) = (self.conn, self.of_open(HEADS));
        let group = &mut self.candidates.groups[at];
        group.heads.pop_front();
        if !group.heads.is_empty() || left == 0 {
            return Ok(());
        }
        // One more, to know when the next job is due.
        let few = (most - self.ids.len().min(most)).min(left).min(256) + 1;
        let mut more = conn.prepare_cached(&heads)?;
        let range = params![
            self.scope,
            group.no,
            group.priority,
            group.last.0,
            group.last.1,
            few as i64
        ];
        let rows = more.query_map(range, |row| {
            Ok(Head {
                due: row.get(0)?,
                id: row.get(1)?,
                crashes: 0,
            })
        })?;
        for row in rows {
            group.heads.push_back(row?);
        }
        if let Some(last) = group.heads.back() {
            group.last = (last.due, last.id);
        }
        Ok(())
    }

    fn give(&mut self, id: i64, at: usize, idle: bool) -> Result<Picked, Fault> {
        let (process_id, budget, stopping) = self.process(process_of(id))?;
        if stopping {
            let mut stop = self.conn.prepare_cached(formatcp!(
                "UPDATE jobs SET status = {CANCELLED} WHERE id = ?1"
            ))?;
            stop.execute([id])?;
            self.changes.moved(id, PENDING, CANCELLED);
            return Ok(Picked::PutAway);
        }
        let lane = &self.candidates.lanes[self.candidates.groups[at].lane].lane;
        let mut read = self
            .conn
            .prepare_cached("SELECT crashes FROM jobs WHERE id = ?1")?;
        let crashes: i64 = read.query_row([id], |row| row.get(0))?;
        let suspect = crashes >= i64::from(SUSPECT_CRASHES);
        if suspect && !(idle && self.ids.is_empty()) {
            return Ok(Picked::Alone);
        }
        let mut take = self.conn.prepare_cached(formatcp!(
            "UPDATE jobs SET status = {IN_PROGRESS}, worker = ?2, claim = claim + 1 WHERE id = ?1"
        ))?;
        take.execute([id, self.worker.0])?;
        self.changes.moved(id, PENDING, IN_PROGRESS);
        self.given.insert(id, (process_id, budget, lane.clone()));
        self.ids.push(id);
        Ok(if suspect {
            Picked::Alone
        } else {
            Picked::Given
        })
    }

    /// A process, and whether its jobs must not start any more.
    fn process(&mut self, no: i64) -> Result<(ProcessId, Option<JobBudget>, bool), Fault> {
        if let Some(known) = self.processes.get(&no) {
            return Ok(*known);
        }
        let find = formatcp!(
            "SELECT p.id, p.chore, {BUDGET} FROM processes p
               CROSS JOIN processes b ON b.no = ifnull(p.root, p.no) WHERE p.no = ?"
        );
        let found = (&mut { self.conn }).first(find, by![no])?;
        let mut row = found.ok_or(Fault::Odd("a job without its process"))?;
        let process = (
            id_of(&row.at::<Vec<u8>>(0)?)?,
            job_budget(&mut row, 2)?,
            stops_starting(row.at(1)?),
        );
        self.processes.insert(no, process);
        Ok(process)
    }
}
