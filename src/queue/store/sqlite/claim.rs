//! Giving jobs to a worker, in one transaction.
//!
//! One seek for each lane and priority finds its earliest job, then these lists are merged: highest
//! priority first, oldest first within one. What lies behind, such as the backlog of a closed lane, is
//! not read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::statements::{Fault, Queries as _, Statements, by, id_of};
use crate::queue::store::sql::{SqlStore as _, due, lineage};
use crate::queue::store::{
    ClaimReply, ClaimRequest, ClaimStore, ClaimedJob, JobLane, JobReceipt, SUSPECT_CRASHES,
    Settlement, WorkerId, WorkerInfo, WorkerStatus,
};

use super::SqliteStore;
use super::rows::{
    CANCELLED, CANCELLING, DELETING, IN_PROGRESS, NO_CHORE, PENDING, RELEASING, WAITING,
    process_of, small,
};
use super::writer::Sync;

/// Of this many jobs one is the oldest, whatever its priority.
const OLDEST_OF: u64 = 8;

/// Jobs of cancelled processes that one claim puts away when it comes across them.
const MOST_STOPPED: usize = 1_000;

/// The jobs of one lane and priority, as far as they have been read.
struct Group {
    lane: usize,
    no: i64,
    priority: i64,
    heads: VecDeque<(i64, i64)>,
    last: (i64, i64),
}

struct OpenLane {
    lane: Arc<JobLane>,
    left: usize,
}

/// The condition that a job is one of a [scope](lineage::scope)'s, which is the statement's first parameter.
const IN_SCOPE: &str = "(?1 IS NULL OR id >> 32 IN (SELECT value FROM json_each(?1)))";

const FROM: &str =
    formatcp!("FROM jobs INDEXED BY jobs_to_claim WHERE status = {PENDING} AND {IN_SCOPE}");

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

/// Jobs that wait for others and are to look again.
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
    /// The processes whose jobs are wanted.
    scope: Option<String>,
    worker: WorkerId,
    now: Timestamp,
    groups: Vec<Group>,
    lanes: Vec<OpenLane>,
    processes: BTreeMap<i64, (ProcessId, bool)>,
    changes: CounterChanges,
    stopped: usize,
    claims: ClaimReply,
}

/// What became of a candidate.
enum Picked {
    Given,
    /// It was given, or has to wait, and nothing else may be given with it.
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
        let strange = || Error::new(ErrorKind::Invalid, "the worker was not enlisted here");
        let given = self
            .workers
            .lock()
            .get(&worker.0)
            .ok_or_else(strange)?
            .given;
        let claims = self.write(Sync::Lazy, |conn| {
            let tx = &mut { conn };
            check_worker(tx, worker)?;
            let scope = lineage::scope(tx, wanted.processes)?;
            let mut picking = Picking {
                store: self,
                conn,
                scope: scope.map(|numbers| serde_json::to_string(&numbers).unwrap_or_default()),
                worker,
                now,
                groups: Vec::new(),
                lanes: Vec::new(),
                processes: BTreeMap::new(),
                changes: CounterChanges::default(),
                stopped: 0,
                claims: ClaimReply::default(),
            };
            picking.look_again(wanted.look_again)?;
            picking.look(wanted.open)?;
            picking.pick(wanted.most, wanted.idle, given)?;
            picking.changes.write(conn, now)?;
            let mut any = conn.prepare_cached(ANY)?;
            picking.claims.more = any.query_row([&picking.scope], |row| row.get(0))?;
            Ok(picking.claims)
        })?;
        if let Some(enlisted) = self.workers.lock().get_mut(&worker.0) {
            enlisted.given += claims.jobs.len() as u64;
        }
        Ok(claims)
    }
}

impl SqliteStore {
    /// A job with all that its handler needs, and the receipt of its last claim.
    fn claimed(
        &self,
        conn: &Connection,
        id: i64,
        process_id: ProcessId,
        lane: &Arc<JobLane>,
    ) -> Result<ClaimedJob, Fault> {
        // Apart: joined, SQLite plans this anew for each id.
        let mut read = conn.prepare_cached(
            "SELECT claim, created_at, priority, max_retries, crashes, lost, visible_at, attempt,
                calls, in_doubt, has_history FROM jobs WHERE id = ?1",
        )?;
        let mut read_payload =
            conn.prepare_cached("SELECT item_id, request_hash, body FROM payloads WHERE job = ?1")?;
        let (job, has_history) = read.query_row([id], |row| {
            let job = |texts: &Row<'_>| Ok(self.assemble(row, texts, id, process_id, lane));
            Ok((read_payload.query_row([id], job)?, row.get(10)?))
        })?;
        let mut job = job?;
        if has_history {
            let mut read = conn.prepare_cached("SELECT body FROM histories WHERE job = ?1")?;
            job.history = read.query_row([id], |row| row.get(0)).optional()?;
        }
        Ok(job)
    }

    fn assemble(
        &self,
        row: &Row<'_>,
        texts: &Row<'_>,
        id: i64,
        process_id: ProcessId,
        lane: &Arc<JobLane>,
    ) -> Result<ClaimedJob, Fault> {
        let payload = RawValue::from_string(texts.get(2)?);
        Ok(ClaimedJob {
            receipt: JobReceipt {
                job: id,
                claim: row.get(0)?,
            },
            job_id: self.job_id(id, Timestamp(row.get(1)?)),
            process_id,
            lane: lane.clone(),
            item_id: texts.get(0)?,
            request_hash: texts.get(1)?,
            payload: payload.map_err(|_| Fault::Odd("a payload that is not JSON"))?,
            priority: small(row.get(2)?),
            max_retries: row.get::<_, Option<i64>>(3)?.map(small),
            attempt: small(row.get(7)?),
            calls: u32::try_from(row.get::<_, i64>(8)?).unwrap_or(u32::MAX),
            crashes: small(row.get(4)?),
            lost: row.get(5)?,
            in_doubt: row.get(9)?,
            due_at: Timestamp(row.get(6)?),
            history: None,
        })
    }
}

/// What a worker has that is on no list would never be given back.
pub(super) fn check_worker(tx: &mut dyn Statements, worker: WorkerId) -> Result<(), Fault> {
    if tx.exists("SELECT 1 FROM #workers WHERE no = ?", by![worker.0])? {
        return Ok(());
    }
    let why =
        "the worker is no longer registered: other workers took over its jobs. Start it again";
    Err(Error::new(ErrorKind::Invalid, why).into())
}

impl Picking<'_> {
    /// Makes those claimable that have waited for others long enough, or all.
    fn look_again(&mut self, all: bool) -> Result<(), Fault> {
        let mut look = self.conn.prepare_cached(LOOK_AGAIN)?;
        let until = if all { i64::MAX } else { self.now.0 };
        look.execute(params![self.scope, self.now.0, until])?;
        Ok(())
    }

    /// Finds the groups, and asks of each lane once how many of it may be given.
    fn look(&mut self, open: &mut dyn FnMut(&Arc<JobLane>) -> usize) -> Result<(), Fault> {
        let mut next = self.conn.prepare_cached(GROUP)?;
        // Written with `>`, SQLite would step through all of the group before.
        let (mut lane, mut priority) = (0_i64, 0_i64);
        let mut known = None;
        loop {
            let found = next.query_row(params![self.scope, lane, priority], |row| {
                Ok((row.get(0)?, row.get(1)?, (row.get(2)?, row.get(3)?)))
            });
            let Some((no, of, head)) = found.optional()? else {
                return Ok(());
            };
            (lane, priority) = (no, of + 1);
            // Groups come lane by lane.
            if known != Some(no) {
                known = Some(no);
                let lane = self.store.lane(&mut { self.conn }, no)?;
                let left = open(&lane);
                self.lanes.push(OpenLane { lane, left });
            }
            let at = self.lanes.len() - 1;
            if self.lanes[at].left > 0 {
                self.groups.push(Group {
                    lane: at,
                    no,
                    priority: of,
                    heads: VecDeque::from([head]),
                    last: head,
                });
            }
        }
    }

    fn pick(&mut self, most: usize, idle: bool, given: u64) -> Result<(), Fault> {
        let mut alone = false;
        while self.claims.jobs.len() < most && !alone {
            let turn = given + self.claims.jobs.len() as u64 + 1;
            let Some(at) = self.best(turn.is_multiple_of(OLDEST_OF)) else {
                break;
            };
            let id = self.groups[at].heads[0].1;
            match self.give(id, at, idle)? {
                Picked::Given => self.lanes[self.groups[at].lane].left -= 1,
                Picked::Alone => alone = true,
                Picked::PutAway => {
                    self.stopped += 1;
                    alone = self.stopped >= MOST_STOPPED;
                }
            }
            self.advance(at, most)?;
        }
        if self.claims.jobs.len() < most && !alone {
            let mut look = self.conn.prepare_cached(NEXT_LOOK)?;
            let look: Option<i64> = look.query_row([&self.scope], |row| row.get(0))?;
            let due = self.open_heads().map(|(_, head)| head.0);
            self.claims.next = due.chain(look).min().map(Timestamp);
        }
        Ok(())
    }

    /// The first job of each group of which another may be given.
    fn open_heads(&self) -> impl Iterator<Item = (usize, (i64, i64))> {
        let open = |group: &Group| self.lanes[group.lane].left > 0;
        let groups = self.groups.iter().enumerate();
        groups
            .filter(move |(_, group)| open(group))
            .filter_map(|(at, group)| Some((at, *group.heads.front()?)))
    }

    /// The group whose first job is given next.
    fn best(&self, oldest: bool) -> Option<usize> {
        let due = self.open_heads().filter(|(_, head)| head.0 <= self.now.0);
        let rank = |at: usize| if oldest { 0 } else { -self.groups[at].priority };
        due.min_by_key(|(at, head)| (rank(*at), *head))
            .map(|(at, _)| at)
    }

    /// Goes on to the group's next job.
    fn advance(&mut self, at: usize, most: usize) -> Result<(), Fault> {
        let left = self.lanes[self.groups[at].lane].left;
        let group = &mut self.groups[at];
        group.heads.pop_front();
        if !group.heads.is_empty() || left == 0 {
            return Ok(());
        }
        // One more, which tells when the next one comes due.
        let few = (most - self.claims.jobs.len().min(most)).min(left).min(256) + 1;
        let mut more = self.conn.prepare_cached(HEADS)?;
        let range = params![
            self.scope,
            group.no,
            group.priority,
            group.last.0,
            group.last.1,
            few as i64
        ];
        let rows = more.query_map(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in rows {
            group.heads.push_back(row?);
        }
        if let Some(last) = group.heads.back() {
            group.last = *last;
        }
        Ok(())
    }

    fn give(&mut self, id: i64, at: usize, idle: bool) -> Result<Picked, Fault> {
        let (process_id, stopping) = self.process(process_of(id))?;
        if stopping {
            let mut stop = self.conn.prepare_cached(formatcp!(
                "UPDATE jobs SET status = {CANCELLED} WHERE id = ?1"
            ))?;
            stop.execute([id])?;
            self.changes.moved(id, PENDING, CANCELLED);
            return Ok(Picked::PutAway);
        }
        let lane = &self.lanes[self.groups[at].lane].lane;
        let mut job = self.store.claimed(self.conn, id, process_id, lane)?;
        let suspect = job.crashes >= SUSPECT_CRASHES;
        if suspect && !(idle && self.claims.jobs.is_empty()) {
            return Ok(Picked::Alone);
        }
        let mut take = self.conn.prepare_cached(formatcp!(
            "UPDATE jobs SET status = {IN_PROGRESS}, worker = ?2, claim = claim + 1 WHERE id = ?1"
        ))?;
        take.execute([id, self.worker.0])?;
        job.receipt.claim += 1;
        self.changes.moved(id, PENDING, IN_PROGRESS);
        self.claims.jobs.push(job);
        Ok(if suspect {
            Picked::Alone
        } else {
            Picked::Given
        })
    }

    /// A process, and whether its jobs are not to be started any more.
    fn process(&mut self, no: i64) -> Result<(ProcessId, bool), Fault> {
        if let Some(known) = self.processes.get(&no) {
            return Ok(*known);
        }
        let mut read = self
            .conn
            .prepare_cached("SELECT id, chore FROM processes WHERE no = ?1")?;
        let (id, doing): (Vec<u8>, i64) =
            read.query_row([no], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let stopping = doing == CANCELLING || doing == DELETING;
        let process = (id_of(&id)?, stopping);
        self.processes.insert(no, process);
        Ok(process)
    }
}

impl ClaimStore for SqliteStore {
    fn register_worker(&self, now: Timestamp) -> Result<WorkerId, Error> {
        self.enlist_worker(now)
    }

    fn unregister_worker(&self, worker: WorkerId, now: Timestamp) -> Result<(), Error> {
        self.retire_worker(worker, now)
    }

    fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        self.claim_jobs(worker, wanted, now)
    }

    fn settle(&self, ends: &[Settlement], now: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.settle_ends(ends, now)
    }

    fn report_worker(&self, worker: WorkerId, status: &WorkerStatus) -> Result<(), Error> {
        self.keep_report(worker, status)
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>, Error> {
        self.list_workers()
    }

    fn dead_workers(&self) -> Result<Vec<WorkerId>, Error> {
        self.find_dead()
    }

    fn reclaim(&self, now: Timestamp) -> Result<u64, Error> {
        self.reclaim_jobs(now)
    }

    fn pull_due_times(
        &self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        due::pull_due(self, worker, back, longest, now)
    }
}
