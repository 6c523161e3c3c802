//! The progress of a run, from the progress of its process.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::base::ProcessId;
use crate::observe::progress::{Phase, Progress, ProgressNotifier};

/// Passes on where the run stands, made of where its process stands.
pub(super) struct Watch {
    pub process: ProcessId,
    /// Items that will have their outcome at the end.
    pub goal: u64,
    /// Failures of the process in earlier runs.
    pub failed: u64,
    pub notifier: Option<Arc<dyn ProgressNotifier>>,
    pub wake: Sender<()>,
}

impl ProgressNotifier for Watch {
    fn on_progress(&self, progress: &Progress) {
        if progress.process_id != Some(self.process) {
            return;
        }
        let _ = self.wake.try_send(());
        let Some(notifier) = &self.notifier else {
            return;
        };
        let ended = progress.completed + progress.failed + progress.cancelled;
        let left = progress
            .total
            .map_or(0, |total| total.saturating_sub(ended));
        let settled = self.goal.saturating_sub(left);
        let failed = progress.failed.saturating_sub(self.failed).min(settled);
        notifier.on_progress(&Progress {
            // The run has not ended before its output is whole.
            phase: match progress.phase {
                Phase::Finished | Phase::Deleted => Phase::Running,
                phase => phase,
            },
            total: Some(self.goal),
            percent: (self.goal > 0).then(|| settled as f64 * 100.0 / self.goal as f64),
            completed: settled - failed,
            failed,
            cancelled: 0,
            ..progress.clone()
        });
    }
}
