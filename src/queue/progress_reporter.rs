//! Tells a notifier where the processes of a queue stand.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::id::ProcessId;
use crate::observe::progress::{Phase, ProgressNotifier};

use super::batch::BatchInfo;
use super::controls::Controls;
use super::job::ProcessState;
use super::store::JobStore;
use super::tracker::ProgressTracker;

/// How often it is looked what others have changed.
const LOOK: Duration = Duration::from_secs(1);

/// What is told of a moment.
pub(crate) struct Picture {
    /// Processes that this worker has changed.
    pub changed: Vec<ProcessState>,
    /// Processes that are no longer there.
    pub deleted: Vec<ProcessState>,
    /// Why the store takes nothing at the moment.
    pub stuck: Option<String>,
    /// Why nothing moves at the moment.
    pub trouble: Option<String>,
    /// For how long a server has been loading its model.
    pub loading: Option<Duration>,
    pub stopping: bool,
}

pub(crate) struct Teller {
    store: Arc<dyn JobStore>,
    controls: Arc<Controls>,
    notifier: Option<Arc<dyn ProgressNotifier>>,
    tracker: ProgressTracker,
    /// Each process as it was last told.
    told: HashMap<ProcessId, ProcessState>,
    looked: Option<Time>,
    /// The batches there were, and when that was looked at.
    batches: Vec<BatchInfo>,
    batches_looked: Option<Time>,
    /// What was last told to be in the way: the trouble, whether a server loads, whether it stops.
    in_the_way: (Option<String>, bool, bool),
    stuck: Option<String>,
}

impl Teller {
    pub(crate) fn new(
        store: Arc<dyn JobStore>,
        controls: Arc<Controls>,
        notifier: Option<Arc<dyn ProgressNotifier>>,
    ) -> Self {
        let mut teller = Self {
            store,
            controls,
            notifier,
            tracker: ProgressTracker::new(),
            told: HashMap::new(),
            looked: None,
            batches: Vec::new(),
            batches_looked: None,
            in_the_way: (None, false, false),
            stuck: None,
        };
        teller.tell(Picture {
            changed: Vec::new(),
            deleted: Vec::new(),
            stuck: None,
            trouble: None,
            loading: None,
            stopping: false,
        });
        teller
    }

    pub(crate) fn tell(&mut self, mut picture: Picture) {
        if let Some(why) = &picture.stuck
            && self.stuck != picture.stuck
        {
            log::warn!("{why}; nothing new is started until it works");
        }
        self.stuck = picture.stuck.take();
        let Some(notifier) = self.notifier.clone() else {
            return;
        };
        self.look(&mut picture);
        self.look_at_batches(&mut picture);
        let in_the_way = (
            picture.trouble.clone(),
            picture.loading.is_some(),
            picture.stopping,
        );
        if self.in_the_way != in_the_way {
            self.in_the_way = in_the_way;
            // While nothing moves nothing changes, and that is news for all who wait.
            let seen = |id: &ProcessId| picture.changed.iter().any(|new| new.process_id == *id);
            let others = self.told.iter().filter(|(id, _)| !seen(id));
            let waiting: Vec<ProcessState> = others
                .filter(|(_, process)| !process.counts.is_finished())
                .map(|(_, process)| process.clone())
                .collect();
            picture.changed.extend(waiting);
        }
        let (now, wall) = (self.controls.clock.now(), self.controls.clock.wall());
        for process in picture.deleted {
            let mut progress = self.tracker.progress(&process, now, wall);
            self.tracker.forget(process.process_id);
            // That of a finished one has been told, and its results were consumed.
            if progress.phase != Phase::Finished {
                progress.phase = Phase::Deleted;
                notifier.on_progress(&progress);
            }
        }
        for process in picture.changed {
            let progress = self.tracker.progress(&process, now, wall);
            let mut progress = progress.with_batches(&self.batches);
            if progress.phase != Phase::Finished {
                progress.trouble.clone_from(&picture.trouble);
                progress.loading = picture.loading;
            }
            if picture.stopping && progress.phase == Phase::Running {
                progress.phase = Phase::Stopping;
            }
            self.told.insert(process.process_id, process);
            notifier.on_progress(&progress);
        }
    }

    /// Adds the processes of whose batches a provider now tells something else.
    fn look_at_batches(&mut self, picture: &mut Picture) {
        let (now, wall) = (self.controls.clock.now(), self.controls.clock.wall());
        let all = self.told.values().chain(&picture.changed);
        let any = all.map(|process| process.counts.at_provider).max() > Some(0);
        let due = self.batches_looked.is_none_or(|at| now.since(at) >= LOOK);
        if !any || !due {
            return;
        }
        self.batches_looked = Some(now);
        let batches = match self.store.batches(None) {
            Ok(batches) => batches,
            Err(error) => {
                log::warn!("cannot tell where the batches stand: {error}");
                return;
            }
        };
        let batches = batches.iter().map(|batch| BatchInfo::new(batch, wall));
        let batches = batches.collect();
        let before = std::mem::replace(&mut self.batches, batches);
        let done = |batches: &[BatchInfo], id| -> u64 {
            let own = batches.iter().filter(|batch| batch.process_id == Some(id));
            own.filter_map(|batch| Some(batch.completed? + batch.failed.unwrap_or(0)))
                .sum()
        };
        let seen = |id: &ProcessId| picture.changed.iter().any(|new| new.process_id == *id);
        let others = self.told.iter().filter(|(id, _)| !seen(id));
        // Time passes, too, which is all that some providers let one see.
        let news = others.filter(|(id, process)| {
            process.counts.at_provider > 0 || done(&before, **id) != done(&self.batches, **id)
        });
        let news: Vec<ProcessState> = news.map(|(_, process)| process.clone()).collect();
        picture.changed.extend(news);
    }

    /// Adds what others have changed. The first look sees all there is.
    fn look(&mut self, picture: &mut Picture) {
        let now = self.controls.clock.now();
        let due = self.looked.is_none_or(|at| now.since(at) >= LOOK);
        if !due || !self.controls.written.swap(false, Ordering::SeqCst) && self.looked.is_some() {
            return;
        }
        self.looked = Some(now);
        let all = match self.store.processes() {
            Ok(all) => all,
            Err(error) => {
                log::warn!("cannot tell where the queue stands: {error}");
                return;
            }
        };
        let there: HashSet<ProcessId> = all.iter().map(|process| process.process_id).collect();
        let gone = self.told.extract_if(|id, _| !there.contains(id));
        picture.deleted.extend(gone.map(|(_, process)| process));
        let news = all.into_iter().filter(|process| {
            let known = self.told.get(&process.process_id);
            known.is_none_or(|known| {
                known.counts != process.counts || known.sealed != process.sealed
            })
        });
        let news: HashMap<ProcessId, ProcessState> =
            news.map(|process| (process.process_id, process)).collect();
        let older = |process: &ProcessState| news.contains_key(&process.process_id);
        picture.changed.retain(|process| !older(process));
        picture.changed.extend(news.into_values());
    }
}
