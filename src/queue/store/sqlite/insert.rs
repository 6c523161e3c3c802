//! Adding jobs: claimable at once, or held until their process is sealed.

use std::collections::HashSet;
use std::sync::Arc;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::{JobId, ProcessId};
use crate::queue::info::ProcessInfo;
use crate::queue::job::{Job, JobState, ProcessState, QueueTotals};
use crate::queue::store::{EnqueueStore, JobLane, JobSummary};

use super::SqliteStore;
use super::counters::CounterChanges;
use super::rows::{
    DELETING, HELD, MOST_JOBS, MOST_PROCESSES, NO_CHORE, PENDING, RELEASING, key, lane_no,
};
use super::writer::{Fault, Sync};
use crate::queue::store::group_commit::{Insert, Inserted};

/// What of a process decides how jobs are added to it.
struct Target {
    no: i64,
    sealed: i64,
    total: i64,
    chore: i64,
}

impl SqliteStore {
    pub(super) fn insert_jobs(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Inserted {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let insert = Insert {
            process,
            info: info.map(written),
            parent: info
                .and_then(|info| info.parent)
                .map(|parent| parent.job_id),
            jobs,
            sealed,
            now,
            guard: None,
        };
        let lock = || self.writer.lock();
        let ids = self.inserts.run(insert, lock, |writer, inserts| {
            let done = self.write_locked(writer, Sync::AsSet, |conn| {
                inserts
                    .iter()
                    .map(|insert| self.add(conn, insert))
                    .collect()
            });
            done.unwrap_or_else(|error: Error| inserts.iter().map(|_| Err(error.clone())).collect())
        })?;
        if sealed {
            self.wake();
        }
        Ok(ids)
    }

    /// One insert of several in a transaction. It is refused before it has written anything, so
    /// others are not concerned; a failure of the database fails them all.
    fn add(&self, conn: &Connection, insert: &Insert) -> Result<Inserted, Fault> {
        let parent = insert.parent.map(|parent| self.parent(conn, parent));
        let target = match parent
            .transpose()
            .and_then(|parent| target(conn, insert, parent))
        {
            Ok(target) => target,
            Err(Fault::Refused(error)) => return Ok(Err(error)),
            Err(fault) => return Err(fault),
        };
        let all_sealed = insert.sealed && target.sealed == target.total;
        let status = if all_sealed && target.chore != RELEASING {
            PENDING
        } else {
            HELD
        };
        let ids = self.add_rows(conn, &target, insert, status)?;
        let count = i64::try_from(insert.jobs.len()).unwrap_or(i64::MAX);
        let mut changes = CounterChanges::default();
        changes.added(target.no, count);
        changes.write(conn, insert.now)?;
        if all_sealed {
            conn.prepare_cached("UPDATE processes SET sealed = total WHERE no = ?1")?
                .execute([target.no])?;
        }
        if let Some(info) = &insert.info {
            conn.prepare_cached("UPDATE processes SET info = ?2 WHERE no = ?1")?
                .execute(params![target.no, info])?;
        }
        Ok(Ok(ids))
    }

    pub(super) fn describe_process(
        &self,
        id: ProcessId,
        info: &ProcessInfo,
    ) -> Result<bool, Error> {
        let info = written(info);
        self.write(Sync::AsSet, |conn| {
            let changed = conn
                .prepare_cached(formatcp!(
                    "UPDATE processes SET info = ?2 WHERE id = ?1 AND chore <> {DELETING}"
                ))?
                .execute(params![&id.0.as_bytes()[..], info])?;
            Ok(changed > 0)
        })
    }

    fn add_rows(
        &self,
        conn: &Connection,
        target: &Target,
        insert: &Insert,
        status: i64,
    ) -> Result<Vec<JobId>, Fault> {
        let mut add_job = conn.prepare_cached(
            "INSERT INTO jobs (id, lane, priority, status, visible_at, created_at, max_retries)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
        )?;
        let mut add_payload = conn.prepare_cached(
            "INSERT INTO payloads (job, item_id, request_hash, body) VALUES (?1, ?2, ?3, ?4)",
        )?;
        let mut ids = Vec::with_capacity(insert.jobs.len());
        let mut last: Option<(&Job, i64)> = None;
        for (job, seq) in insert.jobs.iter().zip(target.total..) {
            let lane = match last {
                Some((like, lane)) if like.kind == job.kind && like.lane == job.lane => lane,
                _ => lane_no(conn, &job.kind, job.lane.as_deref(), 0)?,
            };
            last = Some((job, lane));
            let id = key(target.no, seq);
            add_job.execute(params![
                id,
                lane,
                job.priority,
                status,
                insert.now.0,
                job.max_retries
            ])?;
            add_payload.execute(params![
                id,
                job.item_id,
                job.request_hash,
                job.payload.get()
            ])?;
            ids.push(self.job_id(id, insert.now));
        }
        Ok(ids)
    }
}

/// Texts alone: that cannot fail.
fn written(info: &ProcessInfo) -> String {
    serde_json::to_string(info).unwrap_or_default()
}

/// The process, which begins to exist here if it did not.
fn target(conn: &Connection, insert: &Insert, parent: Option<i64>) -> Result<Target, Fault> {
    let id = insert.process;
    let refuse = |why: &str| {
        Fault::from(Error::new(
            ErrorKind::Invalid,
            format!("process {id} {why}"),
        ))
    };
    let mut find = conn.prepare_cached(
        "SELECT no, sealed, total, chore, cancelled FROM processes WHERE id = ?1",
    )?;
    let found = find
        .query_row([&id.0.as_bytes()[..]], |row| {
            let target = Target {
                no: row.get(0)?,
                sealed: row.get(1)?,
                total: row.get(2)?,
                chore: row.get(3)?,
            };
            Ok((target, row.get::<_, bool>(4)?))
        })
        .optional()?;
    let count = i64::try_from(insert.jobs.len()).unwrap_or(i64::MAX);
    let room = MOST_JOBS - found.as_ref().map_or(0, |(target, _)| target.total);
    if count > room {
        return Err(refuse(
            "would have more than 4,294,967,296 jobs; create another process",
        ));
    }
    match found {
        Some((target, _)) if target.chore == DELETING => Err(refuse("is being deleted")),
        Some((_, true)) => Err(refuse(
            "was cancelled and accepts no more jobs; create another process",
        )),
        Some((target, false)) => Ok(target),
        None => {
            conn.prepare_cached(
                "INSERT INTO processes (id, parent, created_at, changed_at) VALUES (?1, ?2, ?3, ?3)",
            )?
            .execute(params![&id.0.as_bytes()[..], parent, insert.now.0])?;
            let no = conn.last_insert_rowid();
            if no >= MOST_PROCESSES {
                return Err(Fault::Odd("it has had more than a billion processes"));
            }
            Ok(Target {
                no,
                sealed: 0,
                total: 0,
                chore: NO_CHORE,
            })
        }
    }
}

impl EnqueueStore for SqliteStore {
    fn insert_described(
        &self,
        process: ProcessId,
        info: Option<&ProcessInfo>,
        jobs: Vec<Job>,
        sealed: bool,
        now: Timestamp,
    ) -> Result<Vec<JobId>, Error> {
        self.insert_jobs(process, info, jobs, sealed, now)
    }

    fn seal(&self, process: ProcessId, now: Timestamp) -> Result<(), Error> {
        self.seal_process(process, now)
    }

    fn describe(
        &self,
        process: ProcessId,
        info: &ProcessInfo,
        _now: Timestamp,
    ) -> Result<bool, Error> {
        self.describe_process(process, info)
    }

    fn process(&self, process: ProcessId) -> Result<Option<ProcessState>, Error> {
        self.read_process(process)
    }

    fn processes(&self) -> Result<Vec<ProcessState>, Error> {
        self.read_processes()
    }

    fn changed_processes(&self, since: Timestamp) -> Result<Vec<ProcessState>, Error> {
        self.read_changed(since)
    }

    fn process_ids(&self) -> Result<HashSet<ProcessId>, Error> {
        self.read_ids()
    }

    fn newest_processes(
        &self,
        before: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, ProcessState)>, Error> {
        self.read_newest(before, most)
    }

    fn totals(&self) -> Result<QueueTotals, Error> {
        self.read_totals()
    }

    fn job(&self, job: JobId) -> Result<Option<JobState>, Error> {
        self.read_job(job)
    }

    fn items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.read_items(process, after, most)
    }

    fn lanes(&self, process: ProcessId) -> Result<Vec<Arc<JobLane>>, Error> {
        self.read_lanes(process)
    }

    fn waiting_by_priority(&self) -> Result<Vec<(u8, u64)>, Error> {
        self.count_waiting()
    }
}
