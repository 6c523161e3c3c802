//! Giving jobs to a worker, in one transaction.
//!
//! The earliest jobs of each lane and priority are read without locks, then these lists are merged: highest priority
//! first, oldest first within one. Those that were picked are locked, without waiting for any that somebody else has by
//! then; for these others are picked.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::clock::Timestamp;
use crate::base::error::{Error, ErrorKind};
use crate::base::id::ProcessId;
use crate::queue::job::ProcessState;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::{
    ClaimReply, ClaimRequest, ClaimStore, ClaimedJob, JobLane, JobReceipt, SUSPECT_CRASHES,
    Settlement, WorkerId,
};

use super::MysqlStore;
use super::counters::lock;
use super::lineage::{self, in_scope};
use super::rows::{
    CANCELLED, CANCELLING, DELETING, IN_PROGRESS, PENDING, RELEASING, WAITING, id_of, process_of,
    small,
};
use super::writer::{Again, Fault, Tx, by, list};

/// Of this many jobs one is the oldest, whatever its priority.
const OLDEST_OF: u64 = 8;

/// Jobs of cancelled processes that one claim puts away when it comes across them.
const MOST_STOPPED: usize = 1_000;

/// Jobs of a lane and priority that are read at a time.
const MOST_HEADS: usize = 256;

/// How often others are picked for jobs that somebody else has locked.
const MOST_ROUNDS: usize = 16;

/// A job that may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    due: i64,
    id: i64,
    crashes: i64,
}

/// The jobs of one lane and priority, as far as they have been read.
struct Group {
    lane: usize,
    no: i64,
    priority: i64,
    heads: VecDeque<Head>,
    last: (i64, i64),
    is_read: bool,
}

struct OpenLane {
    lane: Arc<JobLane>,
    left: usize,
}

/// Jobs that were picked, and not locked yet.
#[derive(Default)]
struct Picks {
    /// With the place of their lanes.
    given: Vec<(i64, usize)>,
    stopped: Vec<i64>,
    alone: bool,
}

struct Picking<'a> {
    store: &'a MysqlStore,
    scope: Option<Vec<i64>>,
    now: Timestamp,
    groups: Vec<Group>,
    lanes: Vec<OpenLane>,
    processes: BTreeMap<i64, (ProcessId, bool)>,
}

impl ClaimStore for MysqlStore {
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
        self.pull_due(worker, back, longest, now)
    }
}

impl MysqlStore {
    fn claim_jobs(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let strange = || Error::new(ErrorKind::Invalid, "the worker was not enlisted here");
        let of =
            |worker: &mut super::lease::RegisteredWorker| (worker.given, worker.doubtful.clone());
        let (given, doubtful) = self.heartbeat.worker(worker.0, of).ok_or_else(strange)?;
        if !doubtful.is_empty() {
            self.undo(worker, &doubtful, now)?;
            self.heartbeat.worker(worker.0, |worker| {
                worker.doubtful.retain(|claim| !doubtful.contains(claim));
            });
        }
        let ClaimRequest {
            most,
            idle,
            processes,
            look_again,
            open,
        } = wanted;
        // A transaction that begins anew asks nobody twice.
        let mut answers: HashMap<i64, usize> = HashMap::new();
        let mut claimed: Vec<(i64, i64)> = Vec::new();
        let claims = self.write(Again::Doubtful, |tx| {
            claimed.clear();
            self.keep_listed(tx, worker)?;
            let mut picking = Picking {
                store: self,
                scope: lineage::scope(tx, processes)?,
                now,
                groups: Vec::new(),
                lanes: Vec::new(),
                processes: BTreeMap::new(),
            };
            picking.look_again(tx, look_again)?;
            picking.look(tx, |no, lane| {
                *answers.entry(no).or_insert_with(|| open(lane))
            })?;
            let claims = picking.claim(tx, worker, most, idle, given)?;
            claimed = claims
                .jobs
                .iter()
                .map(|job| (job.receipt.job, job.receipt.claim))
                .collect();
            Ok(claims)
        });
        if claims.is_err() && !claimed.is_empty() {
            // Whether they are claimed is not known: the next claim gives them back, if they are.
            self.heartbeat
                .worker(worker.0, |worker| worker.doubtful.extend(claimed));
        }
        let claims = claims?;
        self.heartbeat.given(worker.0, claims.jobs.len());
        Ok(claims)
    }

    /// Gives back what was claimed without the worker's knowing.
    fn undo(&self, worker: WorkerId, claims: &[(i64, i64)], now: Timestamp) -> Result<(), Error> {
        self.write(Again::Harmless, |tx| {
            let sql = format!(
                "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN {} AND worker = {} AND status = {IN_PROGRESS} ORDER BY id FOR UPDATE",
                list(claims.iter().map(|(job, _)| *job)),
                worker.0
            );
            let mut held = Vec::new();
            for mut row in tx.rows(&sql, Vec::new())? {
                let claim: (i64, i64) = (row.at(0)?, row.at(1)?);
                if claims.contains(&claim) {
                    held.push(claim.0);
                }
            }
            let processes = lock(tx, held.iter().map(|id| process_of(*id)))?;
            let mut changes = CounterChanges::default();
            for id in held {
                let process = processes.get(&process_of(id));
                let status = match process.is_none_or(|process| process.stops_trying()) {
                    true => CANCELLED,
                    false => PENDING,
                };
                tx.run(
                    &format!("UPDATE #jobs SET status = {status}, worker = NULL WHERE id = ?"),
                    by![id],
                )?;
                changes.moved(id, IN_PROGRESS, status);
            }
            changes.write_to(tx, now)?;
            Ok(())
        })
    }

    /// Jobs with all that their handlers need, and the receipts of their last claims; in the order of the ids. Those that
    /// are gone are left out.
    pub(super) fn claimed(
        &self,
        tx: &mut Tx<'_>,
        ids: &[i64],
        mut of: impl FnMut(i64) -> Option<(ProcessId, Arc<JobLane>)>,
    ) -> Result<Vec<ClaimedJob>, Fault> {
        let mut found: HashMap<i64, ClaimedJob> = HashMap::new();
        let mut with_history = Vec::new();
        let sql = format!(
            "SELECT j.id, j.claim, j.created_at, j.priority, j.max_retries, j.crashes, j.lost, j.visible_at,
               j.attempt, j.calls, j.in_doubt, j.has_history, p.item_id, p.request_hash, p.body
             FROM #jobs j JOIN #payloads p ON p.job = j.id WHERE j.id IN {}",
            list(ids.iter().copied())
        );
        for mut row in tx.rows(&sql, Vec::new())? {
            let id: i64 = row.at(0)?;
            let Some((process_id, lane)) = of(id) else {
                continue;
            };
            if row.at::<i64>(11)? != 0 {
                with_history.push(id);
            }
            let payload = RawValue::from_string(row.at(14)?);
            let job = ClaimedJob {
                receipt: JobReceipt {
                    job: id,
                    claim: row.at(1)?,
                },
                job_id: self.job_id(id, Timestamp(row.at(2)?)),
                process_id,
                lane,
                item_id: row.at(12)?,
                request_hash: row.at(13)?,
                payload: payload.map_err(|_| Fault::Odd("a payload that is no JSON"))?,
                priority: small(row.at(3)?),
                max_retries: row.at::<Option<i64>>(4)?.map(small),
                attempt: small(row.at(8)?),
                calls: u32::try_from(row.at::<i64>(9)?).unwrap_or(u32::MAX),
                crashes: small(row.at(5)?),
                lost: row.at::<i64>(6)? != 0,
                in_doubt: row.at::<i64>(10)? != 0,
                due_at: Timestamp(row.at(7)?),
                history: None,
            };
            found.insert(id, job);
        }
        if !with_history.is_empty() {
            let sql = format!(
                "SELECT job, body FROM #histories WHERE job IN {}",
                list(with_history)
            );
            for mut row in tx.rows(&sql, Vec::new())? {
                if let Some(job) = found.get_mut(&row.at(0)?) {
                    job.history = row.at(1)?;
                }
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }
}

impl Picking<'_> {
    /// Makes those claimable that have waited for others long enough, or all.
    fn look_again(&mut self, tx: &mut Tx<'_>, all: bool) -> Result<(), Fault> {
        let until = if all { i64::MAX } else { self.now.0 };
        let which = format!(
            "status = {WAITING} AND visible_at <= {until} {}",
            in_scope(self.scope.as_ref())
        );
        let sql = format!("SELECT id FROM #jobs FORCE INDEX (by_status) WHERE {which}");
        if !tx.exists(&format!("{sql} LIMIT 1"), Vec::new())? {
            return Ok(());
        }
        let ids: Vec<i64> = tx.column(&format!("{sql} FOR UPDATE SKIP LOCKED"), Vec::new())?;
        let look = format!(
            "UPDATE #jobs SET status = {PENDING}, visible_at = LEAST(visible_at, ?) WHERE id IN {}",
            list(ids)
        );
        tx.run(&look, by![self.now.0])?;
        Ok(())
    }

    /// Finds the groups, and asks of each lane once how many of it may be given.
    fn look(
        &mut self,
        tx: &mut Tx<'_>,
        mut open: impl FnMut(i64, &Arc<JobLane>) -> usize,
    ) -> Result<(), Fault> {
        let sql = format!(
            "SELECT lane, priority FROM #jobs FORCE INDEX (to_claim)
             WHERE status = {PENDING} {} GROUP BY lane, priority ORDER BY lane, priority",
            in_scope(self.scope.as_ref())
        );
        let mut known = None;
        for mut row in tx.rows(&sql, Vec::new())? {
            let (no, priority): (i64, i64) = (row.at(0)?, row.at(1)?);
            // Groups come lane by lane.
            if known != Some(no) {
                known = Some(no);
                let lane = self.store.lane(tx, no)?;
                let left = open(no, &lane);
                self.lanes.push(OpenLane { lane, left });
            }
            let lane = self.lanes.len() - 1;
            if self.lanes[lane].left > 0 {
                self.groups.push(Group {
                    lane,
                    no,
                    priority,
                    heads: VecDeque::new(),
                    last: (i64::MIN, i64::MIN),
                    is_read: false,
                });
            }
        }
        Ok(())
    }

    /// Reads the next jobs of those groups that have none left here.
    fn read_heads(&mut self, tx: &mut Tx<'_>, wanted: usize) -> Result<(), Fault> {
        let scope = in_scope(self.scope.as_ref());
        let empty = self.groups.iter().enumerate().filter(|(_, group)| {
            group.heads.is_empty() && !group.is_read && self.lanes[group.lane].left > 0
        });
        let empty: Vec<usize> = empty.map(|(at, _)| at).collect();
        for some in empty.chunks(32) {
            let mut limits = HashMap::new();
            let parts = some.iter().map(|at| {
                let group = &self.groups[*at];
                // One more, which tells when the next one comes due.
                let few = wanted.min(self.lanes[group.lane].left).min(MOST_HEADS) + 1;
                limits.insert(*at, few);
                let (due, id) = group.last;
                format!(
                    "(SELECT {at} AS place, visible_at, id, crashes FROM #jobs FORCE INDEX (to_claim)
                      WHERE status = {PENDING} AND lane = {} AND priority = {} AND visible_at >= {due}
                        AND (visible_at > {due} OR id > {id}) {scope}
                      ORDER BY visible_at, id LIMIT {few})",
                    group.no, group.priority
                )
            });
            let sql = parts.collect::<Vec<_>>().join(" UNION ALL ");
            let mut found: HashMap<usize, Vec<Head>> = HashMap::new();
            for mut row in tx.rows(&sql, Vec::new())? {
                let head = Head {
                    due: row.at(1)?,
                    id: row.at(2)?,
                    crashes: row.at(3)?,
                };
                found.entry(row.at(0)?).or_default().push(head);
            }
            for at in some {
                let mut heads = found.remove(at).unwrap_or_default();
                heads.sort_by_key(|head| (head.due, head.id));
                let group = &mut self.groups[*at];
                group.is_read = heads.len() < limits[at];
                if let Some(last) = heads.last() {
                    group.last = (last.due, last.id);
                }
                group.heads = heads.into();
            }
        }
        Ok(())
    }

    fn claim(
        &mut self,
        tx: &mut Tx<'_>,
        worker: WorkerId,
        most: usize,
        idle: bool,
        given: u64,
    ) -> Result<ClaimReply, Fault> {
        let (mut locked, mut stopped): (Vec<(i64, usize)>, Vec<i64>) = (Vec::new(), Vec::new());
        let mut alone = false;
        for _ in 0..MOST_ROUNDS {
            if locked.len() >= most || alone {
                break;
            }
            let picks = self.pick(tx, most, idle, given, locked.len(), stopped.len())?;
            alone = picks.alone;
            let wanted = picks.given.iter().map(|(id, _)| *id);
            let wanted: Vec<i64> = wanted.chain(picks.stopped.iter().copied()).collect();
            if wanted.is_empty() {
                break;
            }
            let sql = format!(
                "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
                 WHERE id IN {} AND status = {PENDING} AND visible_at <= {} ORDER BY id FOR UPDATE SKIP LOCKED",
                list(wanted.iter().copied()),
                self.now.0
            );
            let got: HashSet<i64> = tx.column::<i64>(&sql, Vec::new())?.into_iter().collect();
            for (id, lane) in picks.given {
                match got.contains(&id) {
                    true => locked.push((id, lane)),
                    // Somebody else has it: another one of its lane may be given.
                    false => self.lanes[lane].left = self.lanes[lane].left.saturating_add(1),
                }
            }
            stopped.extend(picks.stopped.into_iter().filter(|id| got.contains(id)));
            if got.len() == wanted.len() {
                break;
            }
        }
        self.give(tx, worker, locked, stopped, (most, alone))
    }

    /// Picks jobs, without locking any.
    fn pick(
        &mut self,
        tx: &mut Tx<'_>,
        most: usize,
        idle: bool,
        given: u64,
        locked: usize,
        stopped: usize,
    ) -> Result<Picks, Fault> {
        let mut picks = Picks::default();
        while locked + picks.given.len() < most && !picks.alone {
            let has = locked + picks.given.len();
            self.read_heads(tx, most - has)?;
            let turn = given + has as u64 + 1;
            let Some(at) = self.best(turn.is_multiple_of(OLDEST_OF)) else {
                break;
            };
            let Some(head) = self.groups[at].heads.front().copied() else {
                break;
            };
            let lane = self.groups[at].lane;
            if self.process(tx, process_of(head.id))?.1 {
                picks.stopped.push(head.id);
                picks.alone = stopped + picks.stopped.len() >= MOST_STOPPED;
            } else if small(head.crashes) >= SUSPECT_CRASHES {
                picks.alone = true;
                if !idle || has > 0 {
                    break;
                }
                self.lanes[lane].left -= 1;
                picks.given.push((head.id, lane));
            } else {
                self.lanes[lane].left -= 1;
                picks.given.push((head.id, lane));
            }
            self.groups[at].heads.pop_front();
        }
        Ok(picks)
    }

    /// Gives the worker what is locked, and puts away what is stopped.
    fn give(
        &mut self,
        tx: &mut Tx<'_>,
        worker: WorkerId,
        locked: Vec<(i64, usize)>,
        stopped: Vec<i64>,
        (most, alone): (usize, bool),
    ) -> Result<ClaimReply, Fault> {
        let mut claims = ClaimReply::default();
        let ids: Vec<i64> = locked.iter().map(|(id, _)| *id).collect();
        if !ids.is_empty() || !stopped.is_empty() {
            let lanes: HashMap<i64, usize> = locked.into_iter().collect();
            let of = |id: i64| {
                let lane = self.lanes[*lanes.get(&id)?].lane.clone();
                Some((self.processes.get(&process_of(id))?.0, lane))
            };
            claims.jobs = match ids.is_empty() {
                true => Vec::new(),
                false => self.store.claimed(tx, &ids, of)?,
            };
            if claims.jobs.len() != ids.len() {
                return Err(Fault::Odd("a job without a payload"));
            }
            let all = ids.iter().chain(&stopped);
            let processes = lock(tx, all.map(|id| process_of(*id)))?;
            // Decided since it was looked at: what was picked may have to be put away.
            let goes_on = |id: &i64| {
                let process = processes.get(&process_of(*id));
                process.is_some_and(|process| !process.stops_starting())
            };
            if !ids.iter().all(goes_on) {
                return Err(Fault::Overtaken);
            }
            let mut changes = CounterChanges::default();
            if !ids.is_empty() {
                let take = format!(
                    "UPDATE #jobs SET status = {IN_PROGRESS}, worker = {}, claim = claim + 1 WHERE id IN {}",
                    worker.0,
                    list(ids.iter().copied())
                );
                tx.run(&take, Vec::new())?;
            }
            for job in &mut claims.jobs {
                job.receipt.claim += 1;
                changes.moved(job.receipt.job, PENDING, IN_PROGRESS);
            }
            // A process that is put back meanwhile keeps them.
            let stopped: Vec<i64> = stopped.into_iter().filter(|id| !goes_on(id)).collect();
            if !stopped.is_empty() {
                let stop = format!(
                    "UPDATE #jobs SET status = {CANCELLED} WHERE id IN {}",
                    list(stopped.iter().copied())
                );
                tx.run(&stop, Vec::new())?;
                for id in stopped {
                    changes.moved(id, PENDING, CANCELLED);
                }
            }
            changes.write_to(tx, self.now)?;
        }
        let scope = in_scope(self.scope.as_ref());
        if claims.jobs.len() < most && !alone {
            let look = format!(
                "SELECT MIN(visible_at) FROM #jobs FORCE INDEX (to_claim) WHERE status = {WAITING} {scope}"
            );
            let look: Option<i64> = tx.one(&look, Vec::new())?.flatten();
            let due = self.open_heads().map(|(_, head)| head.due);
            claims.next = due.chain(look).min().map(Timestamp);
        }
        let any = format!(
            "SELECT 1 FROM #jobs FORCE INDEX (to_claim) WHERE status = {PENDING} {scope} LIMIT 1"
        );
        let releasing = format!("SELECT 1 FROM #processes WHERE chore = {RELEASING} LIMIT 1");
        claims.more = tx.exists(&any, Vec::new())? || tx.exists(&releasing, Vec::new())?;
        Ok(claims)
    }

    /// The first job of each group of which another may be given.
    fn open_heads(&self) -> impl Iterator<Item = (usize, Head)> {
        let open = |group: &Group| self.lanes[group.lane].left > 0;
        let groups = self.groups.iter().enumerate();
        groups
            .filter(move |(_, group)| open(group))
            .filter_map(|(at, group)| Some((at, *group.heads.front()?)))
    }

    /// The group whose first job is given next.
    fn best(&self, oldest: bool) -> Option<usize> {
        let due = self.open_heads().filter(|(_, head)| head.due <= self.now.0);
        let rank = |at: usize| if oldest { 0 } else { -self.groups[at].priority };
        due.min_by_key(|(at, head)| (rank(*at), head.due, head.id))
            .map(|(at, _)| at)
    }

    /// A process, and whether its jobs are not to be started any more.
    fn process(&mut self, tx: &mut Tx<'_>, no: i64) -> Result<(ProcessId, bool), Fault> {
        if let Some(known) = self.processes.get(&no) {
            return Ok(*known);
        }
        let found = tx.first("SELECT id, chore FROM #processes WHERE no = ?", by![no])?;
        // It went away between the two looks.
        let mut row = found.ok_or(Fault::Overtaken)?;
        let doing: i64 = row.at(1)?;
        let stopping = doing == CANCELLING || doing == DELETING;
        let process = (id_of(&row.at::<Vec<u8>>(0)?)?, stopping);
        self.processes.insert(no, process);
        Ok(process)
    }
}
