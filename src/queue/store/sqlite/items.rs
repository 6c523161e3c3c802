//! What waits and what is there, job by job: for those who put jobs together into batches, and those
//! who compare a process with what it was made of.

use std::cmp::Reverse;
use std::collections::HashMap;

use const_format::formatcp;
use rusqlite::{Connection, OptionalExtension, params};

use crate::base::clock::Timestamp;
use crate::base::error::Error;
use crate::base::id::{JobId, ProcessId};
use crate::queue::store::{JobSummary, WaitingJobs};

use super::SqliteStore;
use super::claim::IN_SCOPE;
use super::counters::CounterChanges;
use super::lineage;
use super::rows::{
    AT_PROVIDER, CANCELLED, DELETING, HELD, MOST_JOBS, NO_CHORE, PENDING, RETRYING, id_of, key,
    key_of, process_no, process_of, shown,
};
use super::writer::{Fault, Sync};

/// Jobs of one process and lane, as they are met one after the other.
#[derive(Default)]
struct Group {
    due: u64,
    next: Option<i64>,
    /// Priority, due time and key of the first one that would be claimed.
    first: Option<(Reverse<i64>, i64, i64)>,
    /// Due time and key of the first one that will come due.
    soonest: Option<(i64, i64)>,
}

impl Group {
    fn meet(&mut self, priority: i64, visible_at: i64, id: i64, now: Timestamp) {
        if visible_at <= now.0 {
            self.due += 1;
            let rank = (Reverse(priority), visible_at, id);
            self.first = Some(self.first.map_or(rank, |first| first.min(rank)));
        } else {
            self.next = Some(self.next.map_or(visible_at, |next| next.min(visible_at)));
            let rank = (visible_at, id);
            self.soonest = Some(self.soonest.map_or(rank, |soonest| soonest.min(rank)));
        }
    }
}

impl SqliteStore {
    pub(super) fn read_waiting(
        &self,
        kind: &str,
        processes: &[ProcessId],
        now: Timestamp,
    ) -> Result<Vec<WaitingJobs>, Error> {
        self.read(|conn| {
            // All of one moment.
            let conn = &*conn.unchecked_transaction()?;
            let mut groups: HashMap<(i64, i64), Group> = HashMap::new();
            let scope = lineage::scope(conn, processes)?;
            for lane in first_lanes(conn, kind)? {
                let mut find = conn.prepare_cached(formatcp!(
                    "SELECT priority, visible_at, id FROM jobs INDEXED BY jobs_to_claim
                     WHERE status = {PENDING} AND lane = ?2 AND {IN_SCOPE}"
                ))?;
                let mut rows = find.query(params![scope, lane])?;
                while let Some(row) = rows.next()? {
                    let id = row.get(2)?;
                    let group = groups.entry((process_of(id), lane)).or_default();
                    group.meet(row.get(0)?, row.get(1)?, id, now);
                }
            }
            let mut groups: Vec<_> = groups.into_iter().collect();
            groups.sort_by_key(|(_, group)| (group.first.is_none(), group.first, group.soonest));
            let mut open = conn.prepare_cached(formatcp!(
                "SELECT id FROM processes WHERE no = ?1 AND cancelled = 0 AND chore = {NO_CHORE}"
            ))?;
            let mut waiting = Vec::new();
            for ((process, lane), group) in groups {
                let id = open.query_row([process], |row| row.get::<_, Vec<u8>>(0));
                if let Some(id) = id.optional()? {
                    waiting.push(WaitingJobs {
                        process_id: id_of(&id)?,
                        lane: self.lane(conn, lane)?,
                        due: group.due,
                        next: group.next.map(Timestamp),
                    });
                }
            }
            Ok(waiting)
        })
    }

    pub(super) fn count_waiting(&self) -> Result<Vec<(u8, u64)>, Error> {
        self.read(|conn| {
            let mut count = conn.prepare_cached(formatcp!(
                "SELECT priority, count(*) FROM jobs INDEXED BY jobs_to_claim
                 WHERE status = {PENDING} GROUP BY priority ORDER BY priority DESC"
            ))?;
            let counts = count.query_map([], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned()))
            })?;
            Ok(counts.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn read_items(
        &self,
        process: ProcessId,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobSummary>, Error> {
        self.read(|conn| {
            let Some(no) = process_no(conn, process)? else {
                return Ok(Vec::new());
            };
            let mut read = conn.prepare_cached(
                "SELECT j.id, j.created_at, j.status, p.item_id, p.request_hash
                 FROM jobs j NOT INDEXED CROSS JOIN payloads p ON p.job = j.id
                 WHERE j.id > ?1 AND j.id <= ?2 ORDER BY j.id LIMIT ?3",
            )?;
            let before = key(no, 0) - 1;
            let start = after.map_or(before, |job| key_of(job).max(before));
            let limit = i64::try_from(most).unwrap_or(i64::MAX);
            let range = params![start, key(no, MOST_JOBS - 1), limit];
            let items = read.query_map(range, |row| {
                let status: i64 = row.get(2)?;
                Ok(JobSummary {
                    job_id: self.job_id(row.get(0)?, Timestamp(row.get(1)?)),
                    item_id: row.get(3)?,
                    request_hash: row.get(4)?,
                    status: shown(status),
                    at_provider: status == AT_PROVIDER,
                })
            })?;
            Ok(items.collect::<Result<_, _>>()?)
        })
    }

    pub(super) fn cancel_waiting(&self, jobs: &[JobId], now: Timestamp) -> Result<u64, Error> {
        let mut cancelled = 0;
        let chunk = usize::try_from(self.chunk).unwrap_or(1).max(1);
        for jobs in jobs.chunks(chunk) {
            loop {
                let done = self.write(Sync::AsSet, |conn| self.cancel_chunk(conn, jobs, now))?;
                match done {
                    Cancelled::Jobs(count) => {
                        cancelled += count;
                        break;
                    }
                    Cancelled::After(process) => {
                        self.carry_out(process, now)?;
                    }
                }
            }
        }
        Ok(cancelled)
    }

    fn cancel_chunk(
        &self,
        conn: &Connection,
        jobs: &[JobId],
        now: Timestamp,
    ) -> Result<Cancelled, Fault> {
        let mut find = conn.prepare_cached(formatcp!(
            "SELECT j.created_at, p.chore FROM jobs j JOIN processes p ON p.no = j.id >> 32
             WHERE j.id = ?1 AND j.status <= {HELD} AND p.chore <> {DELETING}"
        ))?;
        let mut found = Vec::new();
        for job in jobs {
            let id = key_of(*job);
            let row = find.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)));
            let Some((created_at, doing)): Option<(i64, i64)> = row.optional()? else {
                continue;
            };
            if doing == RETRYING {
                return Ok(Cancelled::After(process_of(id)));
            }
            // The rest of the id has to fit too: it may be one of another database.
            if self.job_id(id, Timestamp(created_at)) == *job {
                found.push(id);
            }
        }
        let mut cancel = conn.prepare_cached(formatcp!(
            "UPDATE jobs SET status = {CANCELLED} WHERE id = ?1 AND status <= {HELD}"
        ))?;
        let (mut changes, mut count) = (CounterChanges::default(), 0);
        for id in found {
            if cancel.execute([id])? == 1 {
                changes.moved(id, PENDING, CANCELLED);
                count += 1;
            }
        }
        changes.write(conn, now)?;
        Ok(Cancelled::Jobs(count))
    }
}

enum Cancelled {
    Jobs(u64),
    /// Jobs of this process are being put back, which would put back what is cancelled now.
    After(i64),
}

/// The lanes of a kind at the first step.
fn first_lanes(conn: &Connection, kind: &str) -> Result<Vec<i64>, Fault> {
    let mut find = conn.prepare_cached("SELECT no FROM lanes WHERE kind = ?1 AND step = 0")?;
    let all = find.query_map([kind], |row| row.get(0))?;
    Ok(all.collect::<Result<_, _>>()?)
}
