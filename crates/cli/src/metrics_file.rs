//! `--metrics-file`: the numbers of a run, written now and then for node-exporter's textfile collector.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use batchwright::progress::{CallObserver, Metrics};
use batchwright::{Error, JobQueue, Progress, ProgressNotifier};

use super::args::shared::MetricsArgs;
use super::exit::Refusal;

/// Collectors are scraped every 15 s or so.
const EVERY: Duration = Duration::from_secs(5);

/// Who is told how the work goes.
pub struct Listeners {
    pub notifier: Arc<dyn ProgressNotifier>,
    pub observer: Option<Arc<dyn CallObserver>>,
}

impl MetricsArgs {
    /// The display, and the file if there is to be one.
    pub fn listeners(
        &self,
        display: Arc<dyn ProgressNotifier>,
        queue: Option<&JobQueue>,
    ) -> Result<Listeners, Refusal> {
        let Some(path) = &self.metrics_file else {
            return Ok(Listeners {
                notifier: display,
                observer: None,
            });
        };
        let file = MetricsFile::create(path, display, queue)?;
        Ok(Listeners {
            observer: Some(Arc::new(file.metrics.clone())),
            notifier: Arc::new(file),
        })
    }
}

/// Counts, and writes the counts to a file; passes progress on.
struct MetricsFile {
    metrics: Metrics,
    path: PathBuf,
    next: Mutex<Instant>,
    display: Arc<dyn ProgressNotifier>,
    /// Whose length is told too.
    queue: Option<JobQueue>,
}

impl MetricsFile {
    /// Writes the file at once, so that one that cannot be written shows before anything is spent.
    fn create(
        path: &Path,
        display: Arc<dyn ProgressNotifier>,
        queue: Option<&JobQueue>,
    ) -> Result<Self, Refusal> {
        let file = Self {
            metrics: Metrics::new(),
            path: path.to_owned(),
            next: Mutex::new(Instant::now() + EVERY),
            display,
            queue: queue.cloned(),
        };
        file.try_write()
            .map_err(|error| Refusal::usage(error.message()))?;
        Ok(file)
    }

    fn write(&self) {
        if let Err(error) = self.try_write() {
            log::warn!("{error}");
        }
    }

    fn try_write(&self) -> Result<(), Error> {
        if let Some(queue) = &self.queue {
            self.metrics.observe_queue(queue)?;
        }
        self.metrics.write_file(&self.path)
    }
}

/// What happened since the last time.
impl Drop for MetricsFile {
    fn drop(&mut self) {
        self.write();
    }
}

impl ProgressNotifier for MetricsFile {
    fn on_progress(&self, progress: &Progress) {
        self.metrics.on_progress(progress);
        let Ok(mut next) = self.next.lock() else {
            return self.display.on_progress(progress);
        };
        let now = Instant::now();
        if now >= *next {
            *next = now + EVERY;
            self.write();
        }
        drop(next);
        self.display.on_progress(progress);
    }
}
