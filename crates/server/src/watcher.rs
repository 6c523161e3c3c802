//! A thread that looks what has changed, and tells those who listen.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use batchwright::Error;
use batchwright::progress::Timestamp;
use serde_json::{Value, json};

use crate::app::App;
use crate::background::{Background, Wake};
use crate::shapes::{self, now};

/// How often it looks, and tells of a process that has changed.
const INTERVAL: Duration = Duration::from_millis(500);
const OVERVIEW_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread.
///
/// # Errors
/// When the system cannot start a thread.
pub(crate) fn start(app: Arc<App>) -> io::Result<Background> {
    let wake = Wake::new();
    let looks = Looks {
        began: now(),
        overview: None,
        app,
    };
    let stopped = Arc::clone(&wake);
    Background::start("batchwright-watch", &wake, move || looks.run(&stopped))
}

struct Looks {
    app: Arc<App>,
    /// What had not changed since is no news.
    began: Timestamp,
    /// When the overview was last told, and what.
    overview: Option<(Instant, Value)>,
}

impl Looks {
    fn run(mut self, wake: &Wake) {
        while !wake.is_stopped() {
            if wake.wait(INTERVAL) {
                continue;
            }
            self.processes();
            let looks = [self.settings(), self.overview()];
            for error in looks.into_iter().filter_map(Result::err) {
                log::debug!("changes could not be published: {error}");
            }
        }
    }

    fn settings(&mut self) -> Result<(), Error> {
        match &self.app.settings {
            Some(settings) => settings.settings(&self.app.events).map(drop),
            None => Ok(()),
        }
    }

    fn processes(&self) {
        let app = &self.app;
        for id in app.observer.take_changed() {
            let Ok(known) = app.queue.process(id) else {
                // It is looked at again.
                app.observer.touch(id);
                continue;
            };
            match known {
                Some(process) if process.info.parent.is_some() => {}
                Some(process) if process.changed_at < self.began => {}
                Some(process) => {
                    let shown = shapes::process(&process, app.observer.pace(id).as_ref());
                    app.events.publish("process", Some(id), &shown);
                }
                None => {
                    let gone = json!({"process_id": id, "state": "deleted"});
                    app.events.publish("process", Some(id), &gone);
                }
            }
        }
    }

    fn overview(&mut self) -> Result<(), Error> {
        let due = |(at, _): &(Instant, Value)| at.elapsed() >= OVERVIEW_INTERVAL;
        if self.app.events.listeners() == 0 || !self.overview.as_ref().is_none_or(due) {
            return Ok(());
        }
        let mut shown = Value::clone(&*self.app.overview.now()?);
        let time = shown["now"].take();
        if matches!(&self.overview, Some((_, last)) if *last == shown) {
            return Ok(());
        }
        self.overview = Some((Instant::now(), shown.clone()));
        shown["now"] = time;
        self.app.events.publish("overview", None, &shown);
        Ok(())
    }
}
