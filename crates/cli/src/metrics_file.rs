//! `--metrics-file`: the numbers of a run, written periodically for node-exporter's textfile collector.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use batchwright::progress::{CallObserver, JobObserver, Metrics};
use batchwright::{Error, JobQueue, Progress, ProgressNotifier};

use super::args::shared::MetricsArgs;
use super::exit::Refusal;

/// Collectors are scraped about every 15 s.
const EVERY: Duration = Duration::from_secs(5);

/// Observers of the work's progress.
pub struct Listeners {
    pub notifier: Arc<dyn ProgressNotifier>,
    pub observer: Option<Arc<dyn CallObserver>>,
    pub jobs: Option<Arc<dyn JobObserver>>,
}

/// Which jobs of a queue are processed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Those of this run: their numbers are kept after the queue has deleted them.
    ThisRun,
    Everybody,
}

impl MetricsArgs {
    /// The display, and the metrics file if it is requested.
    pub fn listeners(
        &self,
        display: Arc<dyn ProgressNotifier>,
        queue: Option<(&JobQueue, Served)>,
    ) -> Result<Listeners, Refusal> {
        let Some(path) = &self.metrics_file else {
            return Ok(Listeners {
                notifier: display,
                observer: None,
                jobs: None,
            });
        };
        let file = MetricsFile::create(path, display, queue)?;
        Ok(Listeners {
            observer: Some(Arc::new(file.metrics.clone())),
            jobs: Some(Arc::new(file.metrics.clone())),
            notifier: Arc::new(file),
        })
    }
}

/// Counts, and passes progress on; a thread writes the counts to a file.
struct MetricsFile {
    metrics: Metrics,
    display: Arc<dyn ProgressNotifier>,
    /// Dropping it ends the thread.
    ends: Option<Sender<()>>,
    writer: Option<JoinHandle<()>>,
}

impl MetricsFile {
    /// Writes the file immediately, so that an unwritable file is detected before anything is billed.
    fn create(
        path: &Path,
        display: Arc<dyn ProgressNotifier>,
        queue: Option<(&JobQueue, Served)>,
    ) -> Result<Self, Refusal> {
        let metrics = Metrics::new();
        let (numbers, path, queue) = (
            metrics.clone(),
            path.to_owned(),
            queue.map(|(queue, served)| (queue.clone(), served)),
        );
        let write = move || -> Result<(), Error> {
            if let Some((queue, served)) = &queue {
                numbers.observe_queue(queue)?;
                if *served == Served::Everybody {
                    numbers.forget_ended_processes(queue)?;
                }
            }
            numbers.write_file(&path)
        };
        write().map_err(|error| Refusal::usage(error.message()))?;
        let (ends, ended) = channel();
        let writer = thread::Builder::new().name("batchwright-metrics".to_owned());
        let writer = writer.spawn(move || {
            loop {
                let end = ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout);
                if let Err(error) = write() {
                    log::warn!("{error}");
                }
                if end {
                    return;
                }
            }
        });
        let writer = writer.map_err(|error| Refusal::could_not_run(error.to_string()))?;
        Ok(Self {
            metrics,
            display,
            ends: Some(ends),
            writer: Some(writer),
        })
    }
}

/// Writes what happened since the last write.
impl Drop for MetricsFile {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(writer) = self.writer.take() {
            // Errors were logged when they happened.
            let _ = writer.join();
        }
    }
}

impl ProgressNotifier for MetricsFile {
    fn on_progress(&self, progress: &Progress) {
        self.metrics.on_progress(progress);
        self.display.on_progress(progress);
    }
}
