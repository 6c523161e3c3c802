//! A store of jobs against a model of it: random operations on both, compared after each.

mod batches;
mod compare;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::*;
use batches::ModelBatch;

#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Held,
    Pending,
    Running(WorkerId),
    AtProvider(BatchNo),
    Completed,
    Failed,
    Cancelled,
    Gone,
}

impl State {
    fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// As callers see it, while it is stored.
    fn shown(self) -> Option<JobStatus> {
        Some(match self {
            Self::Held | Self::Pending => JobStatus::Pending,
            Self::Running(_) | Self::AtProvider(_) => JobStatus::InProgress,
            Self::Completed => JobStatus::Completed,
            Self::Failed => JobStatus::Failed,
            Self::Cancelled => JobStatus::Cancelled,
            Self::Gone => return None,
        })
    }
}

#[derive(Debug)]
struct ModelJob {
    id: JobId,
    process: ProcessId,
    /// When its process began, and its place in it.
    order: (u64, u64),
    state: State,
    due: i64,
    priority: u8,
    name: &'static str,
    step: u8,
    /// It was tried, and has a history.
    tried: bool,
    crashes: u8,
    /// A worker that had it died, and it has not ended or been tried again since.
    lost: bool,
    last: Option<JobReceipt>,
    /// How often it was put back by hand.
    epoch: u32,
}

#[derive(Default)]
struct ModelProcess {
    serial: u64,
    sealed: bool,
    cancelled: bool,
    counts: JobCounts,
    info: ProcessInfo,
}

struct Model {
    db: Opened,
    random: u64,
    now: i64,
    serial: u64,
    jobs: Vec<ModelJob>,
    index: HashMap<JobId, usize>,
    processes: BTreeMap<ProcessId, ModelProcess>,
    names: Vec<ProcessId>,
    /// Of either handle: how many jobs each has been given.
    workers: [Vec<(WorkerId, u64)>; 2],
    receipts: Vec<(usize, JobReceipt)>,
    deliveries: Vec<(usize, u32, JobReceipt)>,
    batches: Vec<ModelBatch>,
    newest_batch: i64,
    /// What was last seen of each process.
    seen: HashMap<ProcessId, (JobCounts, bool, bool)>,
}

const LANES: [&str; 3] = ["x", "y", "z"];

/// A call that was not abandoned has told how many jobs it changed.
fn agrees(reported: Option<u64>, changed: u64) {
    assert!(
        reported.is_none_or(|reported| reported == changed),
        "{reported:?} and not {changed}"
    );
}

impl Model {
    fn new(db: Opened, seed: u64) -> Self {
        Self {
            db,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: 1_763_000_000_000,
            serial: 0,
            jobs: Vec::new(),
            index: HashMap::new(),
            processes: BTreeMap::new(),
            names: (0..4).map(|_| ProcessId::new()).collect(),
            workers: [Vec::new(), Vec::new()],
            receipts: Vec::new(),
            deliveries: Vec::new(),
            batches: Vec::new(),
            newest_batch: 0,
            seen: HashMap::new(),
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % bound
    }

    fn any_process(&mut self) -> ProcessId {
        let at = self.below(self.names.len());
        self.names[at]
    }

    fn store(&self, handle: usize) -> Arc<Store> {
        if handle == 0 {
            self.db.one.clone().unwrap()
        } else {
            self.db.two.clone()
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.now)
    }

    fn step(&mut self) {
        self.now += self.below(3) as i64;
        match self.below(100) {
            0..14 => self.insert(),
            14..18 => self.seal(),
            18..40 => self.claim(),
            40..63 => self.settle(),
            63..71 => self.consume(),
            71..73 => self.cancel(),
            73..76 => self.retry(),
            76..77 => self.delete(),
            77..80 => self.enlist(),
            80..81 => self.describe(),
            81..83 => self.retire(),
            83..85 => self.die(),
            _ => self.batch_step(),
        }
    }

    fn insert(&mut self) {
        let process = self.any_process();
        let sealed = self.below(4) > 0;
        let mut jobs = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..self.below(7) {
            let (priority, name) = (1 + self.below(10) as u8, LANES[self.below(3)]);
            jobs.push(Job::raw("k", json("1")).priority(priority).lane(name));
            kept.push((priority, name));
        }
        let handle = self.below(2);
        let info = (self.below(4) == 0).then(|| self.any_info());
        let ids =
            self.store(handle)
                .insert_part(process, info.as_ref(), jobs, sealed, None, self.wall());
        if kept.is_empty() {
            assert!(ids.unwrap().is_empty());
            return;
        }
        if self.is_cancelled(process) {
            assert_eq!(ids.unwrap_err().kind(), ErrorKind::Invalid);
            return;
        }
        self.serial += 1;
        let new = ModelProcess {
            serial: self.serial,
            sealed: true,
            ..ModelProcess::default()
        };
        let known = self.processes.entry(process).or_insert(new);
        known.sealed &= sealed;
        if let Some(info) = info {
            known.info = info;
        }
        for (id, (priority, name)) in ids.unwrap().into_iter().zip(kept) {
            self.index.insert(id, self.jobs.len());
            self.jobs.push(ModelJob {
                id,
                process,
                order: (known.serial, known.counts.total),
                state: [State::Held, State::Pending][usize::from(known.sealed)],
                due: self.now,
                priority,
                name,
                step: 0,
                tried: false,
                crashes: 0,
                lost: false,
                last: None,
                epoch: 0,
            });
            known.counts.total += 1;
        }
    }

    fn is_cancelled(&self, process: ProcessId) -> bool {
        let known = self.processes.get(&process);
        known.is_some_and(|known| known.cancelled)
    }

    fn any_info(&mut self) -> ProcessInfo {
        let info = ProcessInfo::new().name(format!("the {}th", self.below(1_000)));
        let info = info.input("/i").output("/o").note("1:2").provider("p");
        info.command("run 'a b' -o \"c\"\n--more")
    }

    fn describe(&mut self) {
        let (process, info, handle) = (self.any_process(), self.any_info(), self.below(2));
        let reported = self.store(handle).describe(process, &info);
        let known = self.processes.get_mut(&process);
        assert_eq!(reported.unwrap(), known.is_some());
        if let Some(known) = known {
            known.info = info;
        }
    }

    /// Lets what the first handle does be abandoned halfway sometimes, and has the other one finish.
    fn halfway<T>(
        &mut self,
        work: impl FnOnce(&Store, Timestamp) -> Result<T, Error>,
    ) -> Option<T> {
        let chunks = [0, 1, 2, 1_000, 1_000, 1_000][self.below(6)];
        self.db.abandon_after(chunks);
        let done = work(&self.store(0), self.wall()).ok();
        self.db.abandon_after(None);
        while self.db.two.maintain(self.wall()).unwrap() {}
        done
    }

    fn each(&mut self, process: ProcessId, change: impl FnMut(&mut ModelJob)) {
        let of = self.jobs.iter_mut().filter(|job| job.process == process);
        of.filter(|job| job.state != State::Gone).for_each(change);
    }

    fn seal(&mut self) {
        let process = self.any_process();
        self.halfway(|store, now| store.seal(process, now));
        self.each(process, |job| {
            if job.state == State::Held {
                job.state = State::Pending;
            }
        });
        if let Some(known) = self.processes.get_mut(&process) {
            known.sealed = true;
        }
    }

    fn cancel(&mut self) {
        let process = self.any_process();
        let reported = self.halfway(|store, now| store.cancel(process, now));
        let mut waited = 0;
        self.each(process, |job| {
            if matches!(job.state, State::Held | State::Pending) {
                job.state = State::Cancelled;
                waited += 1;
            }
        });
        agrees(reported, waited);
        if let Some(known) = self.processes.get_mut(&process) {
            (known.cancelled, known.sealed) = (true, true);
        }
    }

    fn retry(&mut self) {
        let process = self.any_process();
        let reported = self.halfway(|store, now| store.retry_failed(process, now));
        if reported.is_none() {
            // Whoever began it repeats it.
            self.db.two.retry_failed(process, self.wall()).unwrap();
        }
        let (now, mut back) = (self.now, 0);
        self.each(process, |job| {
            if matches!(job.state, State::Failed | State::Cancelled) {
                (job.state, job.due, job.step, job.crashes) = (State::Pending, now, 0, 0);
                job.tried = false;
                job.epoch += 1;
                back += 1;
            }
        });
        agrees(reported, back);
        if let Some(known) = self.processes.get_mut(&process) {
            known.cancelled = false;
        }
    }

    fn delete(&mut self) {
        let process = self.any_process();
        let reported = self.halfway(|store, now| store.delete(process, now));
        let mut gone = 0;
        self.each(process, |job| {
            job.state = State::Gone;
            gone += 1;
        });
        agrees(reported, gone);
        self.processes.remove(&process);
    }

    fn enlist(&mut self) {
        let handle = self.below(2);
        if self.workers[handle].len() < 3 {
            let worker = self.store(handle).register_worker().unwrap();
            self.workers[handle].push((worker, 0));
        }
    }

    fn retire(&mut self) {
        let handle = self.below(2);
        if let Some((worker, _)) = self.workers[handle].pop() {
            let (store, now) = (self.store(handle), self.wall());
            for _ in 0..2 {
                store.unregister_worker(worker, now).unwrap();
            }
            is_refused(store.claim_any(worker, 1, now));
            self.give_back(worker, false);
        }
    }

    /// The first handle ends without a word, with all its workers.
    fn die(&mut self) {
        self.db.one = None;
        let mut affected = 0;
        for (worker, _) in std::mem::take(&mut self.workers[0]) {
            affected += self.give_back(worker, true);
        }
        assert_eq!(self.db.two.reclaim(self.wall()).unwrap(), affected);
        self.db.reopen();
    }

    fn give_back(&mut self, worker: WorkerId, lost: bool) -> u64 {
        let owned = |batch: &&mut ModelBatch| batch.worker == Some(worker);
        let owned = self.batches.iter_mut().filter(owned);
        owned.for_each(|batch| batch.worker = None);
        let held = self.jobs.iter_mut();
        let mut jobs = 0;
        for job in held.filter(|job| job.state == State::Running(worker)) {
            job.crashes += u8::from(lost);
            job.lost |= lost;
            job.state = if self.processes[&job.process].cancelled {
                State::Cancelled
            } else if lost && job.crashes >= MAX_CRASHES {
                State::Failed
            } else {
                State::Pending
            };
            jobs += 1;
        }
        jobs
    }

    fn claim(&mut self) {
        let handle = self.below(2);
        if self.workers[handle].is_empty() {
            return;
        }
        let at = self.below(self.workers[handle].len());
        let (worker, mut given) = self.workers[handle][at];
        let (most, idle) = (self.below(6), self.below(2) == 0);
        let only = (self.below(3) == 0).then(|| self.any_process());
        let sizes = [0, 1, 3, usize::MAX];
        let mut left: HashMap<(&str, u8), usize> = HashMap::new();
        for name in LANES {
            for step in 0..2 {
                left.insert((name, step), sizes[self.below(4)]);
            }
        }
        let asked = left.clone();
        let mut lanes = Vec::new();
        let mut open = |lane: &Arc<JobLane>| {
            assert!(!lanes.contains(lane), "each is asked once");
            lanes.push(lane.clone());
            (asked[&(lane.name.as_deref().unwrap(), lane.step)], 1)
        };
        let wanted = ClaimRequest {
            most,
            idle,
            processes: only.as_slice(),
            open: &mut open,
        };
        let claims = self.store(handle).claim(worker, wanted, self.wall());
        let claims = claims.unwrap();

        let mut expected = Vec::new();
        let mut ended = false;
        let wanted = |job: &ModelJob| {
            job.state == State::Pending && only.is_none_or(|only| only == job.process)
        };
        while expected.len() < most {
            let oldest = (given + 1).is_multiple_of(8);
            let due = self.jobs.iter().enumerate().filter(|(_, job)| {
                wanted(job) && job.due <= self.now && left[&(job.name, job.step)] > 0
            });
            let rank = |job: &ModelJob| if oldest { 0 } else { -i32::from(job.priority) };
            let next = due.min_by_key(|(_, job)| (rank(job), job.due, job.order));
            let Some((at, job)) = next else { break };
            let suspect = job.crashes >= SUSPECT_CRASHES;
            ended = suspect;
            if suspect && !(idle && expected.is_empty()) {
                break;
            }
            *left.get_mut(&(job.name, job.step)).unwrap() -= 1;
            self.jobs[at].state = State::Running(worker);
            expected.push(at);
            given += 1;
            if suspect {
                break;
            }
        }
        let given_out = claims.jobs.iter();
        let ids: Vec<usize> = given_out.map(|job| self.index[&job.job_id]).collect();
        assert_eq!(ids, expected);
        let later = self.jobs.iter();
        let later = later.filter(|job| wanted(job) && left[&(job.name, job.step)] > 0);
        let later = later.map(|job| Timestamp(job.due)).min();
        let later = later.filter(|_| !ended && expected.len() < most);
        assert_eq!(claims.next, later);
        for (at, job) in expected.into_iter().zip(&claims.jobs) {
            let known = &self.jobs[at];
            let expected = (known.crashes, known.lost, known.step);
            assert_eq!((job.crashes, job.lost, job.lane.step), expected);
            assert_eq!(
                (job.history.is_some(), job.attempt > 0),
                (known.tried, known.tried)
            );
            self.note_claim(at, job.receipt);
        }
        self.workers[handle][at].1 = given;
    }

    /// A claim is newer than those before.
    fn note_claim(&mut self, at: usize, receipt: JobReceipt) {
        let last = self.jobs[at].last.replace(receipt);
        assert!(last.is_none_or(|last| last.claim < receipt.claim));
        self.receipts.push((at, receipt));
    }

    fn settle(&mut self) {
        let mut ends = Vec::new();
        let mut changed: HashSet<ProcessId> = HashSet::new();
        for _ in 0..self.below(4) {
            if self.receipts.is_empty() {
                return;
            }
            // Mostly one of the last, and now and then one of long ago.
            let all = self.receipts.len();
            let recent = [all, 8, 8, 8][self.below(4)].min(all);
            let back = self.below(recent) + 1;
            let (at, receipt) = self.receipts[all - back];
            let outcome = self.outcome();
            if self.apply(at, receipt, &outcome) {
                changed.insert(self.jobs[at].process);
            }
            ends.push(Settlement::new(receipt, 1, outcome));
        }
        let handle = self.below(2);
        let reported = self.store(handle).settle(&ends, self.wall()).unwrap();
        for state in &reported {
            assert_eq!(state.info, self.processes[&state.process_id].info);
        }
        assert_eq!(reported.len(), changed.len());
        let mut reported = reported.iter().map(|process| process.process_id);
        assert!(reported.all(|process| changed.contains(&process)));
    }

    fn outcome(&mut self) -> ClaimOutcome {
        let later = Timestamp(self.now + self.below(20) as i64);
        match self.below(6) {
            0 | 1 => completed(),
            2 => failed(),
            3 => PLACE,
            4 => ClaimOutcome::Snooze {
                due_at: Some(later),
            },
            _ => retry(later, self.below(2) as u8),
        }
    }

    /// Whether an end counts, and what it does then.
    fn apply(&mut self, at: usize, receipt: JobReceipt, outcome: &ClaimOutcome) -> bool {
        let cancelled = self.is_cancelled(self.jobs[at].process);
        let job = &mut self.jobs[at];
        let held = matches!(job.state, State::Running(_) | State::AtProvider(_))
            && job.last == Some(receipt);
        let open = job.state != State::Gone && !job.state.is_final();
        match outcome {
            ClaimOutcome::Completed { .. } if open => job.state = State::Completed,
            ClaimOutcome::Failed { .. } if held => (job.state, job.lost) = (State::Failed, false),
            ClaimOutcome::Retry { .. } | ClaimOutcome::Snooze { .. } if held && cancelled => {
                job.state = State::Cancelled;
            }
            ClaimOutcome::Retry { due_at, step, .. } if held => {
                (job.state, job.due, job.step) = (State::Pending, due_at.0, *step);
                (job.tried, job.lost) = (true, false);
            }
            ClaimOutcome::Snooze { due_at } if held => {
                job.state = State::Pending;
                job.due = due_at.map_or(job.due, |at| at.0);
            }
            _ => return false,
        }
        true
    }
}

pub(super) fn run(db: Opened, seed: u64, operations: u32) {
    let mut model = Model::new(db, seed);
    for turn in 1..=operations {
        model.step();
        model.compare(turn % 50 == 0);
    }
    let gone = |job: &&ModelJob| job.state == State::Gone;
    let ended = model.jobs.iter().filter(gone).count();
    assert!(
        operations < 1_000 || ended > 50,
        "a run in which {ended} jobs are consumed shows little"
    );
}
