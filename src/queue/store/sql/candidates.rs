//! The jobs that can be claimed, by lane and priority, and which of them comes next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use const_format::formatcp;

use crate::base::{ProcessId, Timestamp};
#[cfg(feature = "mysql")]
use crate::queue::job::PRIORITIES;
use crate::queue::store::rows::{PENDING, process_of};
use crate::queue::store::{JobBudget, JobLane};

use super::budgets::{BUDGET, job_budget};
use super::statements::{Dialect, Fault, Row, Statements, by, id_of, limit};

/// One of this many jobs is the oldest one, whatever its priority.
const OLDEST_OF: u64 = 8;

/// Groups whose jobs are read at once.
const AT_ONCE: usize = 32;

/// A job that can be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub due: i64,
    pub id: i64,
    pub crashes: i64,
}

/// The jobs of one lane and priority that have been read.
pub(crate) struct Group {
    /// The index of its lane.
    pub lane: usize,
    /// The number of its lane.
    no: i64,
    priority: i64,
    pub heads: VecDeque<Head>,
    /// Due time and key of the last job that was read.
    last: (i64, i64),
    /// No more jobs are to be read.
    is_read: bool,
}

/// A lane, and how many more of its jobs can be claimed.
pub(crate) struct OpenLane {
    no: i64,
    pub lane: Arc<JobLane>,
    left: usize,
    /// How many of its jobs one call takes.
    per_call: usize,
    picked: usize,
}

/// A process of candidates: its id, and the budget that limits it.
pub(crate) type Known = (ProcessId, Option<JobBudget>);

impl OpenLane {
    /// Whether a call of its picked jobs takes more.
    fn has_room(&self) -> bool {
        !self.picked.is_multiple_of(self.per_call)
    }
}

#[derive(Default)]
pub(crate) struct Candidates {
    pub groups: Vec<Group>,
    pub lanes: Vec<OpenLane>,
    /// The number of calls for the picked jobs.
    pub calls: usize,
    pub processes: BTreeMap<i64, Known>,
}

/// The query for the groups of jobs, by lane and priority. `which` is a condition on the jobs.
pub(crate) fn groups(dialect: Dialect, which: &str) -> String {
    match dialect {
        // One seek per group. With `>` SQLite would step through all rows of the previous group.
        Dialect::Sqlite => {
            let next = |from: &str| {
                format!(
                    "(SELECT lane * 16 + priority FROM jobs INDEXED BY jobs_to_claim
                      WHERE status = {PENDING} AND (lane, priority) >= ({from}) {which}
                      ORDER BY lane, priority LIMIT 1)"
                )
            };
            format!(
                "WITH RECURSIVE found (place) AS (SELECT {} UNION ALL
                   SELECT {} FROM found WHERE place IS NOT NULL)
                 SELECT place / 16, place % 16 FROM found WHERE place IS NOT NULL",
                next("0, 0"),
                next("place / 16, place % 16 + 1")
            )
        }
        // One index lookup for each lane, and one for each priority of the lanes with jobs: grouping would read all
        // waiting jobs. The limits prevent the server from rewriting the query into a grouping.
        #[cfg(feature = "mysql")]
        Dialect::Mysql => {
            let first = |of: &str| {
                format!(
                    "(SELECT 1 FROM #jobs FORCE INDEX (to_claim)
                      WHERE status = {PENDING} AND lane = l.no {of} {which} LIMIT 1) IS NOT NULL"
                )
            };
            let priorities = PRIORITIES.map(|priority| format!("SELECT {priority} AS priority"));
            let priorities: Vec<String> = priorities.collect();
            format!(
                "SELECT l.no, p.priority FROM #lanes l JOIN ({}) p
                 WHERE {} AND {} ORDER BY l.no, p.priority",
                priorities.join(" UNION ALL "),
                first(""),
                first("AND priority = p.priority")
            )
        }
    }
}

/// Jobs with their processes.
fn with_processes(heads: &str) -> String {
    format!(
        "SELECT h.place, h.visible_at, h.id, h.crashes, p.id, {BUDGET} FROM ({heads}) h
         LEFT JOIN #processes p ON p.no = h.id DIV 4294967296
         LEFT JOIN #processes b ON b.no = IFNULL(p.root, p.no)"
    )
}

/// The first jobs of a group in SQLite.
pub(crate) fn heads_in_sqlite(which: &str) -> String {
    const HEADS: &str = formatcp!(
        "SELECT ? AS place, visible_at, id, crashes FROM jobs INDEXED BY jobs_to_claim
         WHERE status = {PENDING} AND lane = ? AND priority = ? AND (visible_at, id) > (?, ?)"
    );
    with_processes(&format!("{HEADS} {which} ORDER BY visible_at, id LIMIT ?"))
}

impl Candidates {
    /// Whether the lane differs from that of the last group; groups are ordered by lane.
    pub(crate) fn is_new(&self, lane: i64) -> bool {
        self.lanes.last().is_none_or(|last| last.no != lane)
    }

    pub(crate) fn add_lane(&mut self, no: i64, lane: Arc<JobLane>, open: (usize, usize)) {
        let (left, per_call) = (open.0, open.1.max(1));
        self.lanes.push(OpenLane {
            no,
            lane,
            left,
            per_call,
            picked: 0,
        });
    }

    /// A job of this lane is claimed.
    pub(crate) fn pick(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        self.calls += usize::from(lane.picked.is_multiple_of(lane.per_call));
        (lane.picked, lane.left) = (lane.picked + 1, lane.left - 1);
    }

    /// Another worker has it: a different job of its lane may be claimed.
    pub(crate) fn unpick(&mut self, lane: usize) {
        let lane = &mut self.lanes[lane];
        (lane.picked, lane.left) = (lane.picked - 1, lane.left.saturating_add(1));
        self.calls -= usize::from(lane.picked.is_multiple_of(lane.per_call));
    }

    /// Adds a group of the last lane, unless the lane is closed.
    pub(crate) fn add_group(&mut self, priority: i64) {
        let place = self.lanes.len().saturating_sub(1);
        if let Some(lane) = self.lanes.last().filter(|lane| lane.left > 0) {
            self.groups.push(Group {
                lane: place,
                no: lane.no,
                priority,
                heads: VecDeque::new(),
                last: (i64::MIN, i64::MIN),
                is_read: false,
            });
        }
    }

    /// The first job of each group whose lane is open.
    pub(crate) fn open_heads(&self) -> impl Iterator<Item = (usize, Head)> {
        let open = |group: &Group| self.lanes[group.lane].left > 0;
        let groups = self.groups.iter().enumerate();
        groups
            .filter(move |(_, group)| open(group))
            .filter_map(|(at, group)| Some((at, *group.heads.front()?)))
    }

    /// Whether this number of calls has all jobs that it takes.
    pub(crate) fn is_full(&self, most: usize) -> bool {
        self.calls >= most && !self.lanes.iter().any(OpenLane::has_room)
    }

    /// The group whose first job is claimed next, for at most this number of calls. `given`: number of jobs that the
    /// worker has claimed so far.
    pub(crate) fn best(&self, most: usize, given: u64, now: Timestamp) -> Option<usize> {
        let oldest = (given + 1).is_multiple_of(OLDEST_OF);
        let fits = |at: usize| self.calls < most || self.lanes[self.groups[at].lane].has_room();
        let due = self.open_heads();
        let due = due.filter(|(at, head)| head.due <= now.0 && fits(*at));
        let rank = |at: usize| if oldest { 0 } else { -self.groups[at].priority };
        due.min_by_key(|(at, head)| (rank(*at), head.due, head.id))
            .map(|(at, _)| at)
    }

    /// Reads the next jobs of the groups that have none left in memory, up to `wanted` of each.
    pub(crate) fn read_heads(
        &mut self,
        tx: &mut dyn Statements,
        which: &str,
        wanted: usize,
    ) -> Result<(), Fault> {
        let is_empty = |group: &Group| {
            group.heads.is_empty() && !group.is_read && self.lanes[group.lane].left > 0
        };
        let groups = self.groups.iter().enumerate();
        let empty = groups.filter(|(_, group)| is_empty(group));
        let empty: Vec<usize> = empty.map(|(at, _)| at).collect();
        for some in empty.chunks(AT_ONCE) {
            // One more, to know when the next job is due; on a server some more, for those that others have locked.
            let spare = match tx.dialect() {
                Dialect::Sqlite => 1,
                #[cfg(feature = "mysql")]
                Dialect::Mysql => 8,
            };
            let few = |at: &usize| {
                let group = &self.groups[*at];
                let is_first = group.last.0 == i64::MIN && tx.dialect() == Dialect::Sqlite;
                // Without a server, reading more of the groups from which jobs are claimed costs little.
                let most = if is_first { 0 } else { wanted };
                let lane = &self.lanes[group.lane];
                most.saturating_mul(lane.per_call).min(lane.left) + spare
            };
            let limits: Vec<(usize, usize)> = some.iter().map(|at| (*at, few(at))).collect();
            for row in self.heads(tx, which, &limits)? {
                self.add_head(row)?;
            }
            for (at, few) in limits {
                let group = &mut self.groups[at];
                let heads = group.heads.make_contiguous();
                heads.sort_by_key(|head| (head.due, head.id));
                group.is_read = heads.len() < few;
                if let Some(last) = heads.last() {
                    group.last = (last.due, last.id);
                }
            }
        }
        Ok(())
    }

    fn add_head(&mut self, mut row: Row) -> Result<(), Fault> {
        let head = Head {
            due: row.at(1)?,
            id: row.at(2)?,
            crashes: row.at(3)?,
        };
        if let Some(id) = row.at::<Option<Vec<u8>>>(4)? {
            let known = (id_of(&id)?, job_budget(&mut row, 5)?);
            self.processes.insert(process_of(head.id), known);
        }
        self.groups[row.at::<usize>(0)?].heads.push_back(head);
        Ok(())
    }

    /// The first jobs of groups after the last ones that were read, up to a limit for each group.
    fn heads(
        &self,
        tx: &mut dyn Statements,
        which: &str,
        limits: &[(usize, usize)],
    ) -> Result<Vec<Row>, Fault> {
        match tx.dialect() {
            Dialect::Sqlite => {
                let (mut rows, heads) = (Vec::new(), heads_in_sqlite(which));
                for (at, few) in limits {
                    let group = &self.groups[*at];
                    let (due, id) = group.last;
                    let values = by![*at as i64, group.no, group.priority, due, id, limit(*few)];
                    rows.extend(tx.rows(&heads, values)?);
                }
                Ok(rows)
            }
            #[cfg(feature = "mysql")]
            Dialect::Mysql => {
                let parts = limits.iter().map(|(at, few)| {
                    let group = &self.groups[*at];
                    let (due, id) = group.last;
                    format!(
                        "(SELECT {at} AS place, visible_at, id, crashes FROM #jobs FORCE INDEX (to_claim)
                          WHERE status = {PENDING} AND lane = {} AND priority = {} AND visible_at >= {due}
                            AND (visible_at > {due} OR id > {id}) {which}
                          ORDER BY visible_at, id LIMIT {few})",
                        group.no, group.priority
                    )
                });
                let parts: Vec<String> = parts.collect();
                tx.rows(&with_processes(&parts.join(" UNION ALL ")), Vec::new())
            }
        }
    }
}
