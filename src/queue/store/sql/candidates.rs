//! The jobs that can be claimed, by lane and priority, and which of them comes next.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::Timestamp;
use crate::queue::store::JobLane;

/// One of this many jobs is the oldest one, whatever its priority.
const OLDEST_OF: u64 = 8;

/// Maximum number of jobs of cancelled processes that one claim cancels when it finds them.
pub(crate) const MOST_STOPPED: usize = 1_000;

/// A job that can be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub due: i64,
    pub id: i64,
    /// 0 in a store that reads it separately.
    pub crashes: i64,
}

/// The jobs of one lane and priority that have been read.
pub(crate) struct Group {
    /// The index of its lane.
    pub lane: usize,
    /// The number of its lane.
    pub no: i64,
    pub priority: i64,
    pub heads: VecDeque<Head>,
    /// Due time and key of the last job that was read.
    pub last: (i64, i64),
    /// No more jobs are to be read.
    #[cfg_attr(
        not(feature = "mysql"),
        expect(dead_code, reason = "only a server's groups are read later")
    )]
    pub is_read: bool,
}

/// A lane, and how many more of its jobs can be claimed.
pub(crate) struct OpenLane {
    no: i64,
    pub lane: Arc<JobLane>,
    pub left: usize,
}

#[derive(Default)]
pub(crate) struct Candidates {
    pub groups: Vec<Group>,
    pub lanes: Vec<OpenLane>,
}

impl Candidates {
    /// Whether the lane differs from that of the last group; groups are ordered by lane.
    pub(crate) fn is_new(&self, lane: i64) -> bool {
        self.lanes.last().is_none_or(|last| last.no != lane)
    }

    pub(crate) fn add_lane(&mut self, no: i64, lane: Arc<JobLane>, left: usize) {
        self.lanes.push(OpenLane { no, lane, left });
    }

    /// Adds a group of the last lane, unless the lane is closed.
    pub(crate) fn add_group(&mut self, priority: i64, head: Option<Head>) {
        let place = self.lanes.len().saturating_sub(1);
        if let Some(lane) = self.lanes.last().filter(|lane| lane.left > 0) {
            self.groups.push(Group {
                lane: place,
                no: lane.no,
                priority,
                heads: head.into_iter().collect(),
                last: head.map_or((i64::MIN, i64::MIN), |head| (head.due, head.id)),
                is_read: false,
            });
        }
    }

    /// How many more jobs of a group's lane can be claimed.
    pub(crate) fn left(&mut self, group: usize) -> &mut usize {
        &mut self.lanes[self.groups[group].lane].left
    }

    /// The first job of each group whose lane is open.
    pub(crate) fn open_heads(&self) -> impl Iterator<Item = (usize, Head)> {
        let open = |group: &Group| self.lanes[group.lane].left > 0;
        let groups = self.groups.iter().enumerate();
        groups
            .filter(move |(_, group)| open(group))
            .filter_map(|(at, group)| Some((at, *group.heads.front()?)))
    }

    /// The group whose first job is claimed next. `given`: number of jobs that the worker has claimed so far.
    pub(crate) fn best(&self, given: u64, now: Timestamp) -> Option<usize> {
        let oldest = (given + 1).is_multiple_of(OLDEST_OF);
        let due = self.open_heads().filter(|(_, head)| head.due <= now.0);
        let rank = |at: usize| if oldest { 0 } else { -self.groups[at].priority };
        due.min_by_key(|(at, head)| (rank(*at), head.due, head.id))
            .map(|(at, _)| at)
    }
}
