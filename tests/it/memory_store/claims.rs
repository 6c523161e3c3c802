//! Which jobs a worker is given, and what becomes of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use batchwright::Error;
use batchwright::progress::Timestamp;
use batchwright::queue::{
    COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND, JobLane, JobStatus, ProcessState,
    Spent,
};
use batchwright::unstable::{
    ClaimOutcome, ClaimReply, ClaimRequest, SUSPECT_CRASHES, Settlement, WorkerId,
};

use super::data::{Data, Place, is_among};

/// No handler decides how long they wait.
const PROMPT_KINDS: [&str; 3] = [COMPLETION_KIND, DIRECT_COMPLETION_KIND, EMBEDDING_KIND];

impl Data {
    pub fn claim(
        &mut self,
        worker: WorkerId,
        wanted: ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<ClaimReply, Error> {
        self.known(worker)?;
        let process_of = |data: &Self, key: i64| data.process_of(key).map(|process| process.id);
        let scope = self.scope(wanted.processes);
        for (key, row) in &mut self.jobs {
            let process = self.processes.get(&(key >> 32)).map(|process| process.id);
            let look = wanted.look_again || row.due_at <= now;
            if row.place == Place::Awaiting && look && is_among(scope.as_ref(), process) {
                row.look_again(now);
            }
        }
        // What waits by the order of claims, and what is left of each lane.
        let mut left: HashMap<Arc<JobLane>, usize> = HashMap::new();
        let mut waiting = BTreeMap::new();
        for (key, row) in &self.jobs {
            if row.place == Place::Waiting && is_among(scope.as_ref(), process_of(self, *key)) {
                let lane = row.lane.clone();
                left.entry(lane)
                    .or_insert_with_key(|lane| (wanted.open)(lane));
                waiting.insert((row.due_at, *key), (row.parts.priority, row.lane.clone()));
            }
        }
        let mut reply = ClaimReply::default();
        let mut ended = false;
        while reply.jobs.len() < wanted.most && !ended {
            let given = self.workers[&worker].given;
            let is_oldest = (given + 1).is_multiple_of(8);
            let due = waiting.iter();
            let due = due.filter(|((due_at, _), (_, lane))| *due_at <= now && left[lane] > 0);
            let next = due.min_by_key(|(place, (priority, _))| {
                (Reverse(if is_oldest { 0 } else { *priority }), **place)
            });
            let Some((place, (_, lane))) = next.map(|(place, of)| (*place, of.clone())) else {
                break;
            };
            let row = self.jobs.get_mut(&place.1).unwrap();
            ended = row.crashes >= SUSPECT_CRASHES;
            if ended && !(wanted.idle && reply.jobs.is_empty()) {
                break;
            }
            row.place = Place::Running(worker);
            row.claim += 1;
            waiting.remove(&place);
            *left.get_mut(&lane).unwrap() -= 1;
            self.workers.get_mut(&worker).unwrap().given += 1;
            self.touch(place.1 >> 32, now);
            let process = process_of(self, place.1).unwrap();
            reply
                .jobs
                .push(self.jobs[&place.1].claimed(place.1, process));
        }
        if reply.jobs.len() < wanted.most && !ended {
            let open = waiting.iter().find(|(_, (_, lane))| left[lane] > 0);
            let concerned = |key: &i64| is_among(scope.as_ref(), process_of(self, *key));
            let look = self.jobs.iter().filter_map(|(key, row)| {
                (row.place == Place::Awaiting && concerned(key)).then_some(row.due_at)
            });
            let due = open.map(|((due_at, _), _)| *due_at).into_iter();
            reply.next = due.chain(look).min();
        }
        reply.more = !waiting.is_empty();
        Ok(reply)
    }

    pub fn settle(
        &mut self,
        ends: &[Settlement],
        now: Timestamp,
    ) -> Result<Vec<ProcessState>, Error> {
        let mut changed = BTreeSet::new();
        for end in ends {
            let (key, no) = (end.receipt.job, end.receipt.job >> 32);
            let cancelled = self.is_stopped(no);
            if let (Some(worked), Some(process)) = (&end.worked, self.processes.get_mut(&no)) {
                process.time.tell(worked, now);
            }
            let Some(row) = self.jobs.get_mut(&key) else {
                continue;
            };
            let is_out = matches!(row.place, Place::Running(_) | Place::InBatch(_));
            let holds = is_out && row.claim == end.receipt.claim;
            let is_success = matches!(end.outcome, ClaimOutcome::Completed { .. });
            if row.place.has_ended() || !holds && !is_success {
                // Another call of the job was paid for, too.
                if let (true, Some(spent), Some(process)) = (
                    row.claim > end.receipt.claim,
                    spent(&end.outcome),
                    self.processes.get_mut(&no),
                ) {
                    process.spend(spent);
                }
                continue;
            }
            // A success overrules whoever has the job by now.
            row.claim += i64::from(!holds);
            row.calls = if holds {
                end.calls
            } else {
                row.calls.max(end.calls)
            };
            let spent = match &end.outcome {
                ClaimOutcome::Completed { result, spent } => {
                    row.place = Place::Ended(JobStatus::Completed);
                    row.result = Some(result.clone());
                    *spent
                }
                ClaimOutcome::Failed {
                    error,
                    result,
                    spent,
                } => {
                    row.place = Place::Ended(JobStatus::Failed);
                    (row.error, row.result) = (Some(error.clone()), result.clone());
                    (row.lost, row.in_doubt) = (false, false);
                    *spent
                }
                ClaimOutcome::Wait { processes, due_at } => {
                    row.put_back(Some(*due_at), cancelled);
                    if !cancelled {
                        row.place = Place::Awaiting;
                        row.awaits.clone_from(processes);
                    }
                    None
                }
                ClaimOutcome::Snooze { due_at } => {
                    row.put_back(*due_at, cancelled);
                    None
                }
                ClaimOutcome::Retry {
                    due_at,
                    step,
                    attempt,
                    in_doubt,
                    spent,
                    history,
                } => {
                    row.put_back(Some(*due_at), cancelled);
                    if !cancelled {
                        row.set_step(*step);
                        (row.attempt, row.in_doubt, row.lost) = (*attempt, *in_doubt, false);
                        row.history = Some(history.clone());
                    }
                    *spent
                }
            };
            if let (Some(spent), Some(process)) = (&spent, self.processes.get_mut(&no)) {
                process.spend(spent);
            }
            if let Place::Ended(status) = self.jobs[&key].place
                && status != JobStatus::Cancelled
            {
                self.job_ended(key, status == JobStatus::Completed);
            }
            self.touch(no, now);
            changed.insert(no);
        }
        self.wake_parents(now);
        Ok(changed.iter().filter_map(|no| self.state(*no)).collect())
    }

    pub fn pull_due_times(
        &mut self,
        worker: WorkerId,
        back: Duration,
        longest: Duration,
        now: Timestamp,
    ) -> Result<u64, Error> {
        let is_oldest = self.workers.keys().all(|other| *other >= worker);
        let back = if is_oldest {
            back.as_millis() as i64
        } else {
            0
        };
        let mut pulled = 0;
        for row in self.jobs.values_mut() {
            let early = row.created_at > now && row.due_at >= row.created_at;
            let far = back > 0 || row.due_at > now.after(longest) || early;
            if row.place.waits() && row.due_at > now && far {
                let sooner = Timestamp(row.due_at.0 - back).max(now);
                let latest = now.after(longest);
                let at_once = early && (back == 0 || row.history.is_none());
                let is_prompt = PROMPT_KINDS.contains(&row.parts.kind.as_str());
                row.due_at = if at_once || sooner > latest && is_prompt {
                    now
                } else {
                    sooner.min(latest)
                };
                pulled += 1;
            }
        }
        Ok(pulled)
    }
}

fn spent(outcome: &ClaimOutcome) -> Option<&Spent> {
    match outcome {
        ClaimOutcome::Completed { spent, .. }
        | ClaimOutcome::Failed { spent, .. }
        | ClaimOutcome::Retry { spent, .. } => spent.as_ref(),
        ClaimOutcome::Snooze { .. } | ClaimOutcome::Wait { .. } => None,
    }
}
