//! Claims jobs for a worker in one transaction.
//!
//! The earliest jobs of each lane and priority are read without locks, and these lists are merged: highest priority
//! first, then oldest first. The picked jobs are then locked, skipping jobs that another transaction has locked; other
//! jobs are picked instead.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::base::{Error, ProcessId, Timestamp};
use crate::queue::job::PRIORITIES;
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::sql::SqlStore as _;
use crate::queue::store::sql::candidates::{Candidates, Head, MOST_STOPPED};
use crate::queue::store::sql::claimed::{WHOLE, read_claimed};
use crate::queue::store::sql::counting::CHANGED;
use crate::queue::store::sql::lineage::{self, in_scope};
use crate::queue::store::sql::budgets::{BUDGET, CLOSED, job_budget, not_closed};
use crate::queue::store::sql::pauses;
use crate::queue::store::sql::standing::{Standing, lock, locking, standings, stops_starting};
use crate::queue::store::sql::statements::{id_of, with_list};
use crate::queue::store::{
    ClaimReply, ClaimRequest, ClaimedJob, JobBudget, JobLane, SUSPECT_CRASHES, WorkerId,
};

use super::MysqlStore;
use super::workers::keeping;
use super::writer::{Again, Fault, Queries as _, Statements as _, Tx, by, list};
use crate::queue::store::rows::{
    CANCELLED, IN_PROGRESS, PENDING, RELEASING, WAITING, process_of, small,
};

/// Jobs of a lane and priority that are read at once.
const MOST_HEADS: usize = 256;

/// How often other jobs are picked for those that another transaction has locked.
const MOST_ROUNDS: usize = 16;

/// Jobs that were picked and are not locked yet.
#[derive(Default)]
struct Picks {
    /// With the indices of their lanes.
    given: Vec<(i64, usize)>,
    stopped: Vec<i64>,
    alone: bool,
}

/// Jobs that are locked, with their processes.
#[derive(Default)]
struct Picked {
    jobs: Vec<ClaimedJob>,
    stopped: Vec<i64>,
    processes: BTreeMap<i64, Standing>,
    alone: bool,
}

struct Picking<'a> {
    store: &'a MysqlStore,
    scope: Option<Vec<i64>>,
    now: Timestamp,
    is_paused: bool,
    /// The condition that excludes closed processes.
    open: String,
    candidates: Candidates,
    processes: BTreeMap<i64, (ProcessId, Option<JobBudget>, bool)>,
}

impl MysqlStore {
    pub(super) fn claim_jobs(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let of =
            |worker: &mut super::lease::RegisteredWorker| (worker.given, worker.doubtful.clone());
        let (given, doubtful) = self
            .heartbeat
            .worker(worker.0, of)
            .ok_or_else(|| worker.unknown())?;
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
        // If the transaction is repeated, no lane is asked twice.
        let mut answers: HashMap<i64, usize> = HashMap::new();
        let mut claimed: Vec<(i64, i64)> = Vec::new();
        let claims = self.write(Again::Doubtful, |tx| {
            claimed.clear();
            let mut picking = Picking {
                store: self,
                scope: lineage::scope(tx, processes)?,
                now,
                is_paused: false,
                open: String::new(),
                candidates: Candidates::default(),
                processes: BTreeMap::new(),
            };
            picking.look(tx, worker, look_again, |no, lane| {
                *answers.entry(no).or_insert_with(|| open(lane))
            })?;
            if picking.is_paused {
                return Ok(ClaimReply::default());
            }
            let claims = picking.claim(tx, worker, most, idle, given)?;
            claimed = claims
                .jobs
                .iter()
                .map(|job| (job.receipt.job, job.receipt.claim))
                .collect();
            Ok(claims)
        });
        if claims.is_err() && !claimed.is_empty() {
            // It is unknown whether the jobs were claimed: if they were, the next claim returns them.
            self.heartbeat
                .worker(worker.0, |worker| worker.doubtful.extend(claimed));
        }
        let claims = claims?;
        self.heartbeat.given(worker.0, claims.jobs.len());
        Ok(claims)
    }

    /// Returns jobs that were claimed without the worker's knowledge.
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
                let status = if process.is_none_or(|process| process.stops_trying()) {
                    CANCELLED
                } else {
                    PENDING
                };
                tx.run(
                    &format!("UPDATE #jobs SET status = {status}, worker = NULL WHERE id = ?"),
                    by![id],
                )?;
                changes.moved(id, IN_PROGRESS, status);
            }
            changes.write(tx, now)?;
            Ok(())
        })
    }
}

impl Picking<'_> {
    /// Finds the groups, and determines once per lane how many of its jobs may be claimed. Makes jobs claimable that
    /// have waited for others long enough, or all.
    fn look(
        &mut self,
        tx: &mut Tx<'_>,
        worker: WorkerId,
        look_again: bool,
        mut open: impl FnMut(i64, &Arc<JobLane>) -> usize,
    ) -> Result<(), Fault> {
        let scope = in_scope(self.scope.as_ref());
        let until = if look_again { i64::MAX } else { self.now.0 };
        let waiting = format!(
            "SELECT id FROM #jobs FORCE INDEX (by_status)
             WHERE status = {WAITING} AND visible_at <= {until} {scope}"
        );
        // One index lookup for each lane, and one for each priority of the lanes with jobs: grouping would read all
        // waiting jobs. The limits prevent the server from rewriting the query into a grouping.
        let first = |of: &str| {
            format!(
                "(SELECT 1 FROM #jobs FORCE INDEX (to_claim)
                  WHERE status = {PENDING} AND lane = l.no {of} {scope} LIMIT 1) IS NOT NULL"
            )
        };
        let priorities = PRIORITIES.map(|priority| format!("SELECT {priority} AS priority"));
        let priorities: Vec<String> = priorities.collect();
        let groups = format!(
            "SELECT l.no, p.priority FROM #lanes l JOIN ({}) p
             WHERE {} AND {} ORDER BY l.no, p.priority",
            priorities.join(" UNION ALL "),
            first(""),
            first("AND priority = p.priority")
        );
        let first_waiting = format!("{waiting} LIMIT 1");
        let queries = [
            &keeping(worker),
            &first_waiting,
            pauses::IS_PAUSED,
            CLOSED,
            &groups,
        ];
        let [listed, waits, pauses, closed, mut found] = tx.rows_of(queries)?;
        self.is_paused = !pauses.is_empty();
        self.open = not_closed(tx, closed)?;
        if listed.is_empty() {
            self.store.list_again(tx, worker)?;
        }
        if !waits.is_empty() {
            let lock = format!("{waiting} FOR UPDATE SKIP LOCKED");
            let ids: Vec<i64> = tx.column(&lock, Vec::new())?;
            // Other workers may have claimed them in the meantime.
            if !ids.is_empty() {
                tx.defer_text(&format!(
                    "UPDATE #jobs SET status = {PENDING}, visible_at = LEAST(visible_at, {}) WHERE id IN {}",
                    self.now.0,
                    list(ids)
                ));
                [found] = tx.rows_of([&*groups])?;
            }
        }
        for mut row in found {
            let (no, priority): (i64, i64) = (row.at(0)?, row.at(1)?);
            if self.candidates.is_new(no) {
                let lane = self.store.lane(tx, no)?;
                let left = open(no, &lane);
                self.candidates.add_lane(no, lane, left);
            }
            self.candidates.add_group(priority, None);
        }
        Ok(())
    }

    /// Reads the next jobs of the groups that have none left in memory.
    fn read_heads(&mut self, tx: &mut Tx<'_>, wanted: usize) -> Result<(), Fault> {
        let scope = in_scope(self.scope.as_ref()) + &self.open;
        let empty = self
            .candidates
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| {
                group.heads.is_empty()
                    && !group.is_read
                    && self.candidates.lanes[group.lane].left > 0
            });
        let empty: Vec<usize> = empty.map(|(at, _)| at).collect();
        for some in empty.chunks(32) {
            let mut limits = HashMap::new();
            let parts = some.iter().map(|at| {
                let group = &self.candidates.groups[*at];
                // One more, to know when the next job is due.
                let few = wanted.min(self.candidates.lanes[group.lane].left).min(MOST_HEADS) + 1;
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
            // Each job with the state of its process.
            let sql = format!(
                "SELECT h.place, h.visible_at, h.id, h.crashes, p.id, p.chore, {BUDGET} FROM ({}) h
                 LEFT JOIN #processes p ON p.no = h.id DIV 4294967296
                 LEFT JOIN #processes b ON b.no = IFNULL(p.root, p.no)",
                parts.collect::<Vec<_>>().join(" UNION ALL ")
            );
            let mut found: HashMap<usize, Vec<Head>> = HashMap::new();
            for mut row in tx.rows(&sql, Vec::new())? {
                let head = Head {
                    due: row.at(1)?,
                    id: row.at(2)?,
                    crashes: row.at(3)?,
                };
                if let (Some(id), Some(chore)) = (row.at::<Option<Vec<u8>>>(4)?, row.at(5)?) {
                    let budget = job_budget(&mut row, 6)?;
                    let process = (id_of(&id)?, budget, stops_starting(chore));
                    self.processes.insert(process_of(head.id), process);
                }
                found.entry(row.at(0)?).or_default().push(head);
            }
            for at in some {
                let mut heads = found.remove(at).unwrap_or_default();
                heads.sort_by_key(|head| (head.due, head.id));
                let group = &mut self.candidates.groups[*at];
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
        let mut picked = Picked::default();
        for _ in 0..MOST_ROUNDS {
            if picked.jobs.len() >= most || picked.alone {
                break;
            }
            let (has, stopped) = (picked.jobs.len(), picked.stopped.len());
            let picks = self.pick(tx, most, idle, given, has, stopped)?;
            picked.alone = picks.alone;
            if picks.given.is_empty() && picks.stopped.is_empty() {
                break;
            }
            if self.take(tx, picks, &mut picked)? {
                break;
            }
        }
        self.give(tx, worker, picked, most)
    }

    /// Locks the picked jobs that no other worker has locked, and their processes. Returns whether it locked all of
    /// them.
    fn take(&mut self, tx: &mut Tx<'_>, picks: Picks, picked: &mut Picked) -> Result<bool, Fault> {
        let given: Vec<i64> = picks.given.iter().map(|(id, _)| *id).collect();
        let wanted: Vec<i64> = given.iter().chain(&picks.stopped).copied().collect();
        let lock = format!(
            "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN {} AND status = {PENDING} AND visible_at <= {} ORDER BY id FOR UPDATE SKIP LOCKED",
            list(wanted.iter().copied()),
            self.now.0
        );
        // If jobs are only claimed, the update of the counters locks the row of the process, for which all machines
        // wait.
        let processes = locking(picks.stopped.iter().map(|id| process_of(*id)));
        let [locked, jobs, processes] = if picks.stopped.is_empty() {
            let [locked, jobs] = tx.rows_of([&lock, &with_list(WHOLE, given.iter().copied())])?;
            [locked, jobs, Vec::new()]
        } else {
            tx.rows_of([&lock, &with_list(WHOLE, given.iter().copied()), &processes])?
        };
        let got = locked.into_iter().map(|mut row| row.at(0));
        let got: HashSet<i64> = got.collect::<Result<_, Fault>>()?;
        picked.processes.extend(standings(processes)?);
        let lanes: HashMap<i64, usize> = picks.given.iter().copied().collect();
        let of = |id: i64| {
            let lane = lanes.get(&id).filter(|_| got.contains(&id))?;
            let (process, budget, _) = *self.processes.get(&process_of(id))?;
            Some((process, budget, self.candidates.lanes[*lane].lane.clone()))
        };
        let mut jobs = read_claimed(self.store, tx, jobs, of)?;
        for (id, lane) in picks.given {
            if got.contains(&id) {
                let job = jobs.remove(&id);
                picked
                    .jobs
                    .push(job.ok_or(Fault::Odd("a job without a payload"))?);
            } else {
                // Another worker has it: a different job of its lane may be claimed.
                self.candidates.lanes[lane].left =
                    self.candidates.lanes[lane].left.saturating_add(1);
            }
        }
        let stopped = picks.stopped.into_iter();
        picked.stopped.extend(stopped.filter(|id| got.contains(id)));
        Ok(got.len() == wanted.len())
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
            let Some(at) = self.candidates.best(given + has as u64, self.now) else {
                break;
            };
            let Some(head) = self.candidates.groups[at].heads.front().copied() else {
                break;
            };
            let lane = self.candidates.groups[at].lane;
            if self.process(tx, process_of(head.id))?.2 {
                picks.stopped.push(head.id);
                picks.alone = stopped + picks.stopped.len() >= MOST_STOPPED;
            } else if small(head.crashes) >= SUSPECT_CRASHES {
                picks.alone = true;
                if !idle || has > 0 {
                    break;
                }
                self.candidates.lanes[lane].left -= 1;
                picks.given.push((head.id, lane));
            } else {
                self.candidates.lanes[lane].left -= 1;
                picks.given.push((head.id, lane));
            }
            self.candidates.groups[at].heads.pop_front();
        }
        Ok(picks)
    }

    /// Assigns the locked jobs to the worker, and cancels jobs of stopped processes.
    fn give(
        &mut self,
        tx: &mut Tx<'_>,
        worker: WorkerId,
        picked: Picked,
        most: usize,
    ) -> Result<ClaimReply, Fault> {
        let Picked {
            mut jobs,
            stopped,
            processes,
            alone,
        } = picked;
        let put_away = stopped.len();
        let mut changes = CounterChanges::default();
        if !jobs.is_empty() {
            tx.defer_text(&format!(
                "UPDATE #jobs SET status = {IN_PROGRESS}, worker = {}, claim = claim + 1 WHERE id IN {}",
                worker.0,
                list(jobs.iter().map(|job| job.receipt.job))
            ));
        }
        for job in &mut jobs {
            job.receipt.claim += 1;
            changes.moved(job.receipt.job, PENDING, IN_PROGRESS);
        }
        // If a process is requeued meanwhile, it keeps these jobs.
        let is_stopped = |id: &i64| {
            let process = processes.get(&process_of(*id));
            process.is_none_or(Standing::stops_starting)
        };
        let stopped: Vec<i64> = stopped.into_iter().filter(is_stopped).collect();
        for id in &stopped {
            changes.moved(*id, PENDING, CANCELLED);
        }
        if !stopped.is_empty() {
            tx.defer_text(&format!(
                "UPDATE #jobs SET status = {CANCELLED} WHERE id IN {}",
                list(stopped)
            ));
        }
        let scope = in_scope(self.scope.as_ref()) + &self.open;
        let next_look = format!(
            "SELECT MIN(visible_at) FROM #jobs FORCE INDEX (to_claim) WHERE status = {WAITING} {scope}"
        );
        let any = format!(
            "SELECT 1 FROM #jobs FORCE INDEX (to_claim) WHERE status = {PENDING} {scope} LIMIT 1"
        );
        let releasing = format!("SELECT 1 FROM #processes WHERE chore = {RELEASING} LIMIT 1");
        changes.add(tx, self.now)?;
        let changed = with_list(CHANGED, changes.numbers());
        let [changed, mut look, any, releasing] =
            tx.rows_of([&*changed, &next_look, &any, &releasing])?;
        let counted = changes.count(tx, changed, self.now)?;
        // A process may have been cancelled since its jobs were picked: these jobs must be removed.
        let may_start = |job: &ClaimedJob| counted.startable.contains(&process_of(job.receipt.job));
        if !jobs.iter().all(may_start) {
            return Err(Fault::Overtaken);
        }
        let mut next = None;
        if jobs.len() < most && !alone {
            let look: Option<i64> = match look.pop() {
                Some(mut row) => row.at(0)?,
                None => None,
            };
            let due = self.candidates.open_heads().map(|(_, head)| head.due);
            next = due.chain(look).min().map(Timestamp);
        } else if jobs.is_empty() && put_away >= MOST_STOPPED {
            // What is behind the jobs that were put away must not wait.
            next = Some(self.now);
        }
        Ok(ClaimReply {
            jobs,
            next,
            more: !any.is_empty() || !releasing.is_empty(),
        })
    }

    /// A process, and whether its jobs must not start any more.
    fn process(
        &mut self,
        tx: &mut Tx<'_>,
        no: i64,
    ) -> Result<(ProcessId, Option<JobBudget>, bool), Fault> {
        if let Some(known) = self.processes.get(&no) {
            return Ok(*known);
        }
        let find = format!(
            "SELECT p.id, p.chore, {BUDGET} FROM #processes p
               JOIN #processes b ON b.no = IFNULL(p.root, p.no) WHERE p.no = ?"
        );
        let found = tx.first(&find, by![no])?;
        // The process was removed between the two reads.
        let mut row = found.ok_or(Fault::Overtaken)?;
        let process = (
            id_of(&row.at::<Vec<u8>>(0)?)?,
            job_budget(&mut row, 2)?,
            stops_starting(row.at(1)?),
        );
        self.processes.insert(no, process);
        Ok(process)
    }
}
