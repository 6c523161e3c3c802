//! Claims jobs for a worker in one transaction.
//!
//! The earliest jobs of each lane and priority are read without locks, and these lists are merged: highest priority
//! first, then oldest first. Jobs behind them, for example the backlog of a closed lane, are not read. The picked jobs are
//! then locked, skipping jobs that another transaction has locked; other jobs are picked instead.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::base::{Error, ProcessId, Timestamp};
use crate::queue::store::counters::CounterChanges;
use crate::queue::store::rows::{IN_PROGRESS, PENDING, process_of, small};
use crate::queue::store::{
    ClaimReply, ClaimRequest, ClaimedJob, JobBudget, JobLane, JobReceipt, SUSPECT_CRASHES, Store,
    WorkerId,
};

use super::Again;
use super::budgets::{CLOSED, not_closed};
use super::candidates::{Candidates, groups};
use super::lineage::{self, in_scope};
use super::statements::{Dialect, Fault, Queries as _, Query, Row, Statements};
use super::waiting::IS_PAUSED;

/// Jobs of a lane and priority that are read at once.
const MOST_HEADS: usize = 256;

/// How often other jobs are picked for those that another transaction has locked.
const MOST_ROUNDS: usize = 16;

/// A claim that found only jobs that others had locked ends after this time, or up to twice as long: workers that claim
/// again and again at the same moments only disturb each other. Meanwhile more slots become free for the next one.
const DISTURBED: Duration = Duration::from_millis(25);

struct Picking<'a> {
    store: &'a Store,
    now: Timestamp,
    /// The condition on the processes of the jobs.
    which: String,
    candidates: Candidates,
    /// The jobs that are locked.
    jobs: Vec<ClaimedJob>,
    /// Nothing may be claimed with or after the last one.
    alone: bool,
    /// Another transaction had locked some of the picked jobs.
    is_disturbed: bool,
}

/// `given` is the number of jobs that the worker has claimed up to now. `attempt` is what an earlier transaction claims if it
/// was committed, which is unknown since the reply to its commit was lost; after a failure, that of this one.
pub(crate) fn claim(
    store: &Store,
    worker: WorkerId,
    given: u64,
    wanted: ClaimRequest<'_>,
    now: Timestamp,
    attempt: &mut Option<ClaimReply>,
) -> Result<ClaimReply, Error> {
    let ClaimRequest {
        most,
        idle,
        processes,
        open,
    } = wanted;
    // If the transaction is repeated, no lane is asked twice.
    let mut answers: HashMap<i64, (usize, usize)> = HashMap::new();
    let mut is_disturbed = false;
    store.write_lazily(Again::Harmless, |tx| {
        if let Some(earlier) = attempt.as_mut()
            && has_claimed(tx, worker, earlier)?
        {
            return Ok(());
        }
        *attempt = None;
        let scope = in_scope(lineage::scope(tx, processes)?.as_ref());
        let (keeping, all) = (worker.keeping(), groups(tx.dialect(), &scope));
        let [listed, paused, closed, mut found] = tx.rows_of([
            Query::Of(&keeping),
            Query::Of(IS_PAUSED),
            Query::Of(CLOSED),
            Query::Of(&all),
        ])?;
        if listed.is_empty() {
            store.enlist_again(tx, worker)?;
        }
        if !paused.is_empty() {
            return Ok(());
        }
        let open_ones = not_closed(tx, closed)?;
        let which = scope + &open_ones;
        if !open_ones.is_empty() {
            // Nobody waits for a lane that has only jobs of closed processes.
            found = tx.rows(&groups(tx.dialect(), &which), Vec::new())?;
        }
        let mut picking = Picking {
            store,
            now,
            which,
            candidates: Candidates::default(),
            jobs: Vec::new(),
            alone: false,
            is_disturbed: false,
        };
        picking.look(tx, found, |no, lane| {
            *answers.entry(no).or_insert_with(|| open(lane))
        })?;
        *attempt = Some(picking.claim(tx, worker, most, idle, given)?);
        is_disturbed = picking.is_disturbed;
        Ok(())
    })?;
    let claimed = attempt.take().unwrap_or_default();
    if is_disturbed && claimed.jobs.is_empty() {
        let share = (uuid::Uuid::now_v7().as_u64_pair().1 % 100) as f64 / 100.0;
        thread::sleep(DISTURBED.mul_f64(1.0 + share));
    }
    Ok(claimed)
}

/// Whether the worker has the jobs of an earlier claim, whose reply is reduced to them: the numbers of their claims show
/// that they are from that one.
fn has_claimed(
    tx: &mut dyn Statements,
    worker: WorkerId,
    earlier: &mut ClaimReply,
) -> Result<bool, Fault> {
    let ids: Vec<i64> = earlier.jobs.iter().map(|job| job.receipt.job).collect();
    let find = format!(
        "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id IN :list AND worker = {} AND status = {IN_PROGRESS}",
        worker.0
    );
    let mut held = HashSet::new();
    for mut row in tx.rows_in(&find, &ids)? {
        held.insert((row.at::<i64>(0)?, row.at::<i64>(1)?));
    }
    let is_held = |job: &ClaimedJob| held.contains(&(job.receipt.job, job.receipt.claim));
    earlier.jobs.retain(is_held);
    Ok(!earlier.jobs.is_empty())
}

impl Picking<'_> {
    /// Finds the groups, and asks once per lane how many of its jobs can start.
    fn look(
        &mut self,
        tx: &mut dyn Statements,
        groups: Vec<Row>,
        mut open: impl FnMut(i64, &Arc<JobLane>) -> (usize, usize),
    ) -> Result<(), Fault> {
        for mut row in groups {
            let (no, priority): (i64, i64) = (row.at(0)?, row.at(1)?);
            if self.candidates.is_new(no) {
                let lane = self.store.lane(tx, no)?;
                let open = open(no, &lane);
                self.candidates.add_lane(no, lane, open);
            }
            self.candidates.add_group(priority);
        }
        Ok(())
    }

    fn claim(
        &mut self,
        tx: &mut dyn Statements,
        worker: WorkerId,
        most: usize,
        idle: bool,
        given: u64,
    ) -> Result<ClaimReply, Fault> {
        for _ in 0..MOST_ROUNDS {
            let picks = self.pick(tx, most, idle, given)?;
            if picks.is_empty() || self.take(tx, picks)? {
                break;
            }
        }
        self.give(tx, worker, most)
    }

    /// Picks jobs, without locking any. Returns them with the indices of their lanes.
    fn pick(
        &mut self,
        tx: &mut dyn Statements,
        most: usize,
        idle: bool,
        given: u64,
    ) -> Result<Vec<(i64, usize)>, Fault> {
        let mut picks = Vec::new();
        while !self.candidates.is_full(most) && !self.alone {
            let has = self.jobs.len() + picks.len();
            let few = (most - self.candidates.calls + 1).min(MOST_HEADS);
            self.candidates.read_heads(tx, &self.which, few)?;
            let Some(at) = self.candidates.best(most, given + has as u64, self.now) else {
                break;
            };
            let group = &mut self.candidates.groups[at];
            let lane = group.lane;
            let Some(head) = group.heads.pop_front() else {
                break;
            };
            let processes = &self.candidates.processes;
            if !processes.contains_key(&process_of(head.id)) {
                // It was removed between the two reads.
                return Err(Fault::Overtaken);
            }
            if small(head.crashes) >= SUSPECT_CRASHES {
                self.alone = true;
                if !idle || has > 0 {
                    break;
                }
            }
            self.candidates.pick(lane);
            picks.push((head.id, lane));
        }
        Ok(picks)
    }

    /// Locks the picked jobs that no other worker has locked. Returns whether it locked all of them.
    fn take(&mut self, tx: &mut dyn Statements, picks: Vec<(i64, usize)>) -> Result<bool, Fault> {
        let wanted: Vec<i64> = picks.iter().map(|(id, _)| *id).collect();
        let due = match tx.dialect() {
            // Nobody else writes meanwhile, and a text that stays the same is prepared once.
            Dialect::Sqlite => String::new(),
            #[cfg(feature = "mysql")]
            Dialect::Mysql => format!("AND visible_at <= {}", self.now.0),
        };
        // The update of the counters locks the row of the process, for which all machines wait.
        let lock = format!(
            "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN :list AND status = {PENDING} {due} ORDER BY id FOR UPDATE SKIP LOCKED"
        );
        let [locked, jobs] = tx.rows_of([Query::In(&lock, &wanted), Query::In(WHOLE, &wanted)])?;
        let got = locked.into_iter().map(|mut row| row.at(0));
        let got: HashSet<i64> = got.collect::<Result<_, Fault>>()?;
        let lanes: HashMap<i64, usize> = picks.iter().copied().collect();
        let of = |id: i64| {
            let lane = lanes.get(&id).filter(|_| got.contains(&id))?;
            let (process, budget) = *self.candidates.processes.get(&process_of(id))?;
            Some((process, budget, self.candidates.lanes[*lane].lane.clone()))
        };
        let mut jobs = read_claimed(self.store, tx, jobs, of)?;
        for (id, lane) in picks {
            if got.contains(&id) {
                let job = jobs.remove(&id);
                self.jobs
                    .push(job.ok_or(Fault::Odd("a job without a payload"))?);
            } else {
                self.candidates.unpick(lane);
            }
        }
        let is_all = got.len() == wanted.len();
        self.is_disturbed |= !is_all;
        Ok(is_all)
    }

    /// Assigns the locked jobs to the worker.
    fn give(
        &mut self,
        tx: &mut dyn Statements,
        worker: WorkerId,
        most: usize,
    ) -> Result<ClaimReply, Fault> {
        let mut jobs = std::mem::take(&mut self.jobs);
        let mut changes = CounterChanges::default();
        let given: Vec<i64> = jobs.iter().map(|job| job.receipt.job).collect();
        let take = format!(
            "UPDATE #jobs SET status = {IN_PROGRESS}, worker = {}, claim = claim + 1 WHERE id IN :list",
            worker.0
        );
        tx.defer_in(&take, &given)?;
        for job in &mut jobs {
            job.receipt.claim += 1;
            changes.moved(job.receipt.job, PENDING, IN_PROGRESS);
        }
        let counted = changes.write(tx, self.now)?;
        // A process may have been cancelled since its jobs were picked: these jobs must be removed.
        let may_start = |job: &ClaimedJob| counted.startable.contains(&process_of(job.receipt.job));
        if !jobs.iter().all(may_start) {
            return Err(Fault::Overtaken);
        }
        let mut next = None;
        if self.candidates.calls < most && !self.alone {
            let due = self.candidates.open_heads().map(|(_, head)| head.due);
            next = due.min().map(Timestamp);
        }
        Ok(ClaimReply { jobs, next })
    }
}

// Jobs with all data that their handlers need.

/// The process of a job, the budget that limits it, and its lane.
pub(crate) type Of = (ProcessId, Option<JobBudget>, Arc<JobLane>);

/// Jobs with all data that their handlers need, and the receipts of their last claims, in the order of the ids. Jobs
/// that no longer exist are left out.
pub(crate) fn claimed(
    store: &Store,
    tx: &mut dyn Statements,
    ids: &[i64],
    of: impl FnMut(i64) -> Option<Of>,
) -> Result<Vec<ClaimedJob>, Fault> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx.rows_in(WHOLE, ids)?;
    let mut found = read_claimed(store, tx, rows, of)?;
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// The jobs that a query of [`WHOLE`] has found and `of` accepts, by their ids.
pub(crate) fn read_claimed(
    store: &Store,
    tx: &mut dyn Statements,
    rows: Vec<Row>,
    mut of: impl FnMut(i64) -> Option<Of>,
) -> Result<HashMap<i64, ClaimedJob>, Fault> {
    let mut found: HashMap<i64, ClaimedJob> = HashMap::new();
    let mut with_history = Vec::new();
    for mut row in rows {
        let id: i64 = row.at(0)?;
        let Some((process_id, budget, lane)) = of(id) else {
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
            job_id: store.job_id(id, Timestamp(row.at(2)?)),
            process_id,
            budget,
            lane,
            item_id: row.at(12)?,
            request_hash: row.at(13)?,
            payload: payload.map_err(|_| Fault::Odd("a payload that is not JSON"))?,
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
        let sql = "SELECT job, body FROM #histories WHERE job IN :list";
        for mut row in tx.rows_in(sql, &with_history)? {
            if let Some(job) = found.get_mut(&row.at(0)?) {
                job.history = row.at(1)?;
            }
        }
    }
    Ok(found)
}

/// The query for jobs with their payloads.
pub(crate) const WHOLE: &str =
    "SELECT j.id, j.claim, j.created_at, j.priority, j.max_retries, j.crashes, j.lost, j.visible_at,
       j.attempt, j.calls, j.in_doubt, j.has_history, p.item_id, p.request_hash, p.body
     FROM #jobs j CROSS JOIN #payloads p ON p.job = j.id WHERE j.id IN :list";
