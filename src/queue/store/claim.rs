//! Claims jobs for a worker in one transaction.
//!
//! The earliest jobs of each lane and priority are read without locks, and these lists are merged: highest priority
//! first, then oldest first. Jobs behind them, for example the backlog of a closed lane, are not read. The picked jobs are
//! then locked, skipping jobs that another transaction has locked; other jobs are picked instead.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use const_format::formatcp;

use super::budgets::{BUDGET, CLOSED, QUEUE, not_closed};
use super::counters::CounterChanges;
use super::lineage::{PROCESS, scope};
use super::rows::{IN_PROGRESS, PENDING, process_of};
use super::statements::{
    Fault, FromRow, Queries as _, Query, Row, Sql, all, by, columns, limit, read_all,
};
use super::{
    ClaimReply, ClaimRequest, ClaimedJob, JobBudget, JobLane, JobReceipt, Mode, SUSPECT_CRASHES,
    Store, WorkerId,
};
use crate::base::{Error, ProcessId, Timestamp};
use crate::queue::job::PRIORITIES;

/// One of this many jobs is the oldest one, whatever its priority.
const OLDEST_OF: u64 = 8;

/// Groups whose jobs are read at once.
const AT_ONCE: usize = 32;

/// Jobs of a lane and priority that are read at once.
const MOST_HEADS: usize = 256;

/// How often other jobs are picked for those that another transaction has locked.
const MOST_ROUNDS: usize = 16;

/// A claim that found only jobs that others had locked ends after this time, or up to twice as long: workers that claim
/// again and again at the same moments only disturb each other. Meanwhile more slots become free for the next one.
const DISTURBED: Duration = Duration::from_millis(25);

/// The process of a job, the budget that limits it, and its lane.
pub(super) type Of = (ProcessId, Option<JobBudget>, Arc<JobLane>);

/// A job that can be claimed.
#[derive(Clone, Copy)]
struct Head {
    due: i64,
    id: i64,
    crashes: u8,
}

columns!(Head: due, id, crashes);

/// The jobs of one lane and priority that have been read.
struct Group {
    /// The index of its lane.
    lane: usize,
    priority: i64,
    heads: VecDeque<Head>,
    /// Due time and key of the last job that was read.
    last: (i64, i64),
    /// No more jobs are to be read.
    is_read: bool,
}

/// A lane, and how many more of its jobs can be claimed.
struct OpenLane {
    no: i64,
    lane: Arc<JobLane>,
    left: usize,
    /// How many of its jobs one call takes.
    per_call: usize,
    picked: usize,
}

impl OpenLane {
    /// Whether a call of its picked jobs takes more.
    fn has_room(&self) -> bool {
        !self.picked.is_multiple_of(self.per_call)
    }
}

/// The jobs that can be claimed, by lane and priority, and those that are picked.
struct Picking<'a> {
    store: &'a Store,
    now: Timestamp,
    /// Maximum number of calls.
    most: usize,
    /// Whether the worker runs no job.
    idle: bool,
    /// Number of jobs that the worker has claimed up to now.
    given: u64,
    /// The condition on the processes of the jobs.
    which: String,
    groups: Vec<Group>,
    lanes: Vec<OpenLane>,
    processes: BTreeMap<i64, (ProcessId, Option<JobBudget>)>,
    /// The number of calls for the picked jobs.
    calls: usize,
    /// The jobs that are locked, with the indices of their lanes.
    locked: Vec<(i64, usize)>,
    /// Nothing may be claimed with or after the last one.
    alone: bool,
    /// Another transaction had locked some of the picked jobs.
    is_disturbed: bool,
}

impl Store {
    /// Claims due jobs for a worker: highest priority first, then oldest first, then by key if they came due together.
    /// One of every 8 jobs that a worker claims is the oldest due job of any priority. A job whose worker crashed
    /// [twice](super::SUSPECT_CRASHES) is claimed by itself, and while it is next, no job after it is claimed. Fails
    /// if the worker is not registered.
    pub fn claim(
        &self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        let known = self
            .workers
            .look(worker.0, |own| (own.given, own.attempt.take()));
        // What an earlier transaction claims if it was committed, which is unknown since its reply was lost.
        let (given, mut attempt) = known.ok_or_else(|| worker.unknown())?;
        let mut is_disturbed = false;
        let done = self.write_as(Mode::WriteLazily, |tx| {
            if let Some(earlier) = attempt.as_mut()
                && has_claimed(tx, worker, earlier)?
            {
                return Ok(());
            }
            attempt = None;
            let (which, groups) = self.groups(tx, worker, wanted.processes)?;
            let mut picking = Picking {
                store: self,
                now,
                most: wanted.most,
                idle: wanted.idle,
                given,
                which,
                groups: Vec::new(),
                lanes: Vec::new(),
                processes: BTreeMap::new(),
                calls: 0,
                locked: Vec::new(),
                alone: false,
                is_disturbed: false,
            };
            picking.look(tx, groups, wanted.open)?;
            attempt = Some(picking.claim(tx, worker)?);
            is_disturbed = picking.is_disturbed;
            Ok(())
        });
        let claimed = attempt.as_ref().map_or(0, |claimed| claimed.jobs.len());
        self.workers.look(worker.0, |own| match &done {
            Ok(()) => own.given += claimed as u64,
            // It is unknown whether the jobs were claimed: if they were, the next claim has them.
            Err(_) => own.attempt = attempt.take(),
        });
        done?;
        if is_disturbed && claimed == 0 {
            let share = (uuid::Uuid::now_v7().as_u64_pair().1 % 100) as f64 / 100.0;
            thread::sleep(DISTURBED.mul_f64(1.0 + share));
        }
        Ok(attempt.unwrap_or_default())
    }

    /// The condition on the processes of jobs that can be claimed, and the lanes and priorities of these jobs.
    fn groups(
        &self,
        tx: &mut dyn Sql,
        worker: WorkerId,
        processes: &[ProcessId],
    ) -> Result<(String, Vec<(i64, i64)>), Fault> {
        let mut which = scope(tx, PROCESS, processes)?;
        let (keeping, of_all) = (worker.keeping(), groups(&which));
        let ask = [&*keeping, CLOSED, &*of_all].map(|sql| (sql, by![]));
        let [listed, closed, mut found] = tx.rows_of(ask)?;
        let closed = read_all(closed)?;
        if listed.is_empty() {
            self.enlist_again(tx, worker)?;
        }
        if closed.contains(&QUEUE) {
            return Ok((which, Vec::new()));
        }
        let open = not_closed(tx, closed)?;
        which += &open;
        if !open.is_empty() {
            // Nobody waits for a lane that has only jobs of closed processes.
            found = tx.rows(&groups(&which), by![])?;
        }
        let mut found: Vec<(i64, i64)> = read_all(found)?;
        found.sort_unstable();
        Ok((which, found))
    }
}

/// Whether the worker has the jobs of an earlier claim, whose reply is reduced to them: the numbers of their claims show
/// that they are from that one.
fn has_claimed(
    tx: &mut dyn Sql,
    worker: WorkerId,
    earlier: &mut ClaimReply,
) -> Result<bool, Fault> {
    let ids: Vec<i64> = earlier.jobs.iter().map(|job| job.receipt.job).collect();
    let find = formatcp!(
        "SELECT id, claim FROM #jobs FORCE INDEX (PRIMARY)
         WHERE id IN :list AND worker = ? AND status = {IN_PROGRESS}"
    );
    let held: Vec<JobReceipt> = tx.many(find, by![all(&ids), worker.0])?;
    earlier.jobs.retain(|job| held.contains(&job.receipt));
    Ok(!earlier.jobs.is_empty())
}

/// The query for the lanes and priorities of jobs. `which` is a condition on the jobs. There is one index lookup for each
/// lane, and one for each priority of the lanes with jobs: grouping would read all waiting jobs. The limits prevent a server
/// from rewriting the query into a grouping.
pub(super) fn groups(which: &str) -> String {
    let first = |of: &str| {
        format!(
            "(SELECT 1 FROM #jobs FORCE INDEX (to_claim)
              WHERE status = {PENDING} AND lane = l.no {of} {which} LIMIT 1) IS NOT NULL"
        )
    };
    let priorities = PRIORITIES.map(|priority| format!("SELECT {priority} AS priority"));
    let priorities: Vec<String> = priorities.collect();
    format!(
        "SELECT l.no, q.priority FROM #lanes l STRAIGHT_JOIN ({}) q WHERE {} AND {}",
        priorities.join(" UNION ALL "),
        first(""),
        first("AND priority = q.priority")
    )
}

/// The first jobs of a group after a place, with their processes.
pub(super) fn heads(which: &str) -> String {
    format!(
        "SELECT h.visible_at, h.id, h.crashes, p.id, {BUDGET} FROM (
           SELECT visible_at, id, crashes FROM #jobs FORCE INDEX (to_claim)
           WHERE status = {PENDING} AND lane = ? AND priority = ? AND visible_at >= ?
             AND (visible_at > ? OR id > ?) {which} ORDER BY visible_at, id LIMIT ?) h
         STRAIGHT_JOIN #processes p ON p.no = h.id DIV 4294967296
         STRAIGHT_JOIN #processes b ON b.no = IFNULL(p.root, p.no)"
    )
}

impl Picking<'_> {
    /// Notes the groups of open lanes, which are ordered by lane, and asks once per lane how many of its jobs can start.
    fn look(
        &mut self,
        tx: &mut dyn Sql,
        groups: Vec<(i64, i64)>,
        open: &mut dyn FnMut(&Arc<JobLane>) -> (usize, usize),
    ) -> Result<(), Fault> {
        for (no, priority) in groups {
            if self.lanes.last().is_none_or(|last| last.no != no) {
                let lane = self.store.lane(tx, no)?;
                let (left, per_call) = open(&lane);
                self.lanes.push(OpenLane {
                    no,
                    lane,
                    left,
                    per_call: per_call.max(1),
                    picked: 0,
                });
            }
            let lane = self.lanes.len() - 1;
            if self.lanes[lane].left > 0 {
                self.groups.push(Group {
                    lane,
                    priority,
                    heads: VecDeque::new(),
                    last: (i64::MIN, i64::MIN),
                    is_read: false,
                });
            }
        }
        Ok(())
    }

    fn claim(&mut self, tx: &mut dyn Sql, worker: WorkerId) -> Result<ClaimReply, Fault> {
        for _ in 0..MOST_ROUNDS {
            let picks = self.pick(tx)?;
            if picks.is_empty() || self.take(tx, picks)? {
                break;
            }
        }
        self.give(tx, worker)
    }

    /// Picks jobs, without locking any. Returns them with the indices of their lanes.
    fn pick(&mut self, tx: &mut dyn Sql) -> Result<Vec<(i64, usize)>, Fault> {
        let mut picks = Vec::new();
        while !self.alone && (self.calls < self.most || self.lanes.iter().any(OpenLane::has_room)) {
            self.read_heads(tx)?;
            let has = self.locked.len() + picks.len();
            let best = self.best(self.given + has as u64);
            let Some((lane, head)) = best.and_then(|at| {
                let group = &mut self.groups[at];
                Some((group.lane, group.heads.pop_front()?))
            }) else {
                break;
            };
            if head.crashes >= SUSPECT_CRASHES {
                self.alone = true;
                if !self.idle || has > 0 {
                    break;
                }
            }
            picks.push((head.id, lane));
            let lane = &mut self.lanes[lane];
            self.calls += usize::from(!lane.has_room());
            (lane.picked, lane.left) = (lane.picked + 1, lane.left - 1);
        }
        Ok(picks)
    }

    /// The first job of each group whose lane is open.
    fn open_heads(&self) -> impl Iterator<Item = (&Group, usize, Head)> {
        let groups = self.groups.iter().enumerate();
        let open = groups.filter(|(_, group)| self.lanes[group.lane].left > 0);
        open.filter_map(|(at, group)| Some((group, at, *group.heads.front()?)))
    }

    /// The group whose first job is claimed next. `given`: number of jobs that the worker has claimed so far.
    fn best(&self, given: u64) -> Option<usize> {
        let oldest = (given + 1).is_multiple_of(OLDEST_OF);
        let has_room = |group: &Group| self.lanes[group.lane].has_room();
        let fits = |group: &Group| self.calls < self.most || has_room(group);
        let due = self.open_heads();
        let due = due.filter(|(group, _, head)| head.due <= self.now.0 && fits(group));
        let rank = |group: &Group| if oldest { 0 } else { -group.priority };
        due.min_by_key(|(group, _, head)| (rank(group), head.due, head.id))
            .map(|(_, at, _)| at)
    }

    /// Reads the next jobs of the groups that have none left in memory.
    fn read_heads(&mut self, tx: &mut dyn Sql) -> Result<(), Fault> {
        let wanted = (self.most - self.calls.min(self.most) + 1).min(MOST_HEADS);
        // One more, to know when the next job is due; on a server some more, for those that others have locked.
        let (is_near, spare) = (!tx.is_server(), if tx.is_server() { 8 } else { 1 });
        let is_empty = |group: &Group| {
            group.heads.is_empty() && !group.is_read && self.lanes[group.lane].left > 0
        };
        let groups = self.groups.iter().enumerate();
        let empty = groups.filter(|(_, group)| is_empty(group));
        let few = |group: &Group| {
            // Without a server, reading more of the groups from which jobs are claimed costs little.
            let is_first = is_near && group.last.0 == i64::MIN;
            let (most, lane) = (if is_first { 0 } else { wanted }, &self.lanes[group.lane]);
            most.saturating_mul(lane.per_call).min(lane.left) + spare
        };
        let empty: Vec<(usize, usize)> = empty.map(|(at, group)| (at, few(group))).collect();
        if empty.is_empty() {
            return Ok(());
        }
        let heads = heads(&self.which);
        for some in empty.chunks(AT_ONCE) {
            let query = |(at, few): &(usize, usize)| -> Query<'_> {
                let group = &self.groups[*at];
                let (lane, (due, id)) = (self.lanes[group.lane].no, group.last);
                (&heads, by![lane, group.priority, due, due, id, limit(*few)])
            };
            let found = tx.rows_of_all(some.iter().map(query).collect())?;
            for ((at, few), rows) in some.iter().zip(found) {
                let group = &mut self.groups[*at];
                group.is_read = rows.len() < *few;
                for (head, process, budget) in read_all::<(Head, _, _)>(rows)? {
                    self.processes
                        .insert(process_of(head.id), (process, budget));
                    group.heads.push_back(head);
                }
                let heads = group.heads.make_contiguous();
                heads.sort_by_key(|head| (head.due, head.id));
                group.last = heads.last().map_or(group.last, |last| (last.due, last.id));
            }
        }
        Ok(())
    }

    /// Locks the picked jobs that no other worker has locked. Returns whether it locked all of them.
    fn take(&mut self, tx: &mut dyn Sql, picks: Vec<(i64, usize)>) -> Result<bool, Fault> {
        let wanted: Vec<i64> = picks.iter().map(|(id, _)| *id).collect();
        // The update of the counters locks the row of the process, for which all machines wait.
        let lock = formatcp!(
            "SELECT id FROM #jobs FORCE INDEX (PRIMARY)
             WHERE id IN :list AND status = {PENDING} AND visible_at <= ? ORDER BY id FOR UPDATE SKIP LOCKED"
        );
        let got: Vec<i64> = tx.many(lock, by![all(&wanted), self.now.0])?;
        let got: HashSet<i64> = got.into_iter().collect();
        for (id, lane) in picks {
            if got.contains(&id) {
                self.locked.push((id, lane));
            } else {
                // Another worker has it: a different job of its lane may be claimed.
                let lane = &mut self.lanes[lane];
                (lane.picked, lane.left) = (lane.picked - 1, lane.left.saturating_add(1));
                self.calls -= usize::from(!lane.has_room());
            }
        }
        let is_all = got.len() == wanted.len();
        self.is_disturbed |= !is_all;
        Ok(is_all)
    }

    /// Assigns the locked jobs to the worker.
    fn give(&mut self, tx: &mut dyn Sql, worker: WorkerId) -> Result<ClaimReply, Fault> {
        let mut jobs = Vec::with_capacity(self.locked.len());
        let mut changes = CounterChanges::default();
        if !self.locked.is_empty() {
            let given: Vec<i64> = self.locked.iter().map(|(id, _)| *id).collect();
            let take = formatcp!(
                "UPDATE #jobs SET status = {IN_PROGRESS}, worker = ?, claim = claim + 1 WHERE id IN :list"
            );
            tx.defer(take, by![worker.0, all(&given)])?;
            let lanes: HashMap<i64, usize> = self.locked.iter().copied().collect();
            let of = |id: i64| {
                let (process, budget) = *self.processes.get(&process_of(id))?;
                Some((process, budget, self.lanes[*lanes.get(&id)?].lane.clone()))
            };
            let rows = tx.rows(WHOLE, by![all(&given)])?;
            let mut found = read_claimed(self.store, rows, of)?;
            for id in given {
                let job = found.remove(&id);
                jobs.push(job.ok_or(Fault::Odd("a job without a payload"))?);
                changes.moved(id, PENDING, IN_PROGRESS);
            }
        }
        let (_, is_stopped) = changes.write(tx, self.now)?;
        if is_stopped {
            // A process was cancelled since its jobs were picked: these jobs must be removed.
            return Err(Fault::Overtaken);
        }
        let mut next = None;
        if self.calls < self.most && !self.alone {
            let due = self.open_heads().map(|(_, _, head)| head.due);
            next = due.min().map(Timestamp);
        }
        Ok(ClaimReply { jobs, next })
    }
}

/// The jobs that a query of [`WHOLE`] has found and `of` accepts, by their ids.
pub(super) fn read_claimed(
    store: &Store,
    rows: Vec<Row>,
    mut of: impl FnMut(i64) -> Option<Of>,
) -> Result<HashMap<i64, ClaimedJob>, Fault> {
    let mut found = HashMap::new();
    for mut row in rows {
        let receipt: JobReceipt = row.read()?;
        let Some((process_id, budget, lane)) = of(receipt.job) else {
            continue;
        };
        let job = ClaimedJob {
            receipt,
            job_id: store.job_id(receipt.job, row.read()?),
            process_id,
            budget,
            lane,
            item_id: row.read()?,
            request_hash: row.read()?,
            payload: row.read()?,
            priority: row.read()?,
            max_retries: row.read()?,
            attempt: row.read()?,
            calls: row.read()?,
            crashes: row.read()?,
            lost: row.read()?,
            in_doubt: row.read()?,
            due_at: row.read()?,
            history: row.read()?,
        };
        found.insert(receipt.job, job);
    }
    Ok(found)
}

/// The query for jobs with their payloads.
pub(super) const WHOLE: &str =
    "SELECT j.id, j.claim, j.created_at, p.item_id, p.request_hash, p.body, j.priority, j.max_retries, j.attempt,
       j.calls, j.crashes, j.lost, j.in_doubt, j.visible_at, r.history
     FROM #jobs j CROSS JOIN #payloads p ON p.job = j.id LEFT JOIN #results r ON r.job = j.id
     WHERE j.id IN :list";
