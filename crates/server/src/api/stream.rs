//! Events as they happen (server-sent events).

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use batchwright::{JobQueue, ProcessId};
use serde::Deserialize;

use crate::app::App;
use crate::events::{Event, Events, MOST_LISTENERS, Next};
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::tokens::Caller;

/// A comment is sent after so much silence: by that both sides see that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// `GET /api/v1/events`: those that follow on `Last-Event-ID`, or those from now on.
pub(super) fn events(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["last_event_id"])?;
    let named = call.query::<String>("last_event_id")?;
    let named = call
        .head
        .header("last-event-id")
        .map(str::to_owned)
        .or(named);
    let events = Arc::clone(&app.events);
    let mut own = Own {
        queue: app.queue.clone(),
        caller: call.caller.clone(),
        known: HashMap::new(),
    };
    let Some(listening) = events.listen() else {
        let why = format!("{MOST_LISTENERS} clients listen to events already");
        return Err(Problem::new(503, "too_many_streams", why).header("retry-after", "5"));
    };
    // Later events are not missed, however late the stream begins.
    let now = events.last();
    let (from, is_lost) = match named.filter(|id| !id.is_empty()) {
        None => (now, false),
        Some(id) => match number(&events, &id) {
            Some(number) => (number, false),
            None => (now, true),
        },
    };
    let write = move |out: &mut dyn Write| {
        let _listening = listening;
        let mut at = from;
        out.write_all(b"retry: 1000\n\n")?;
        if is_lost {
            reset(out, &events, at)?;
        }
        loop {
            out.flush()?;
            match events.after(at, HEARTBEAT) {
                Next::Events(some) => {
                    for event in some {
                        at = event.number;
                        if !own.sees(&event) {
                            continue;
                        }
                        let (boot, name) = (events.boot(), event.name);
                        write!(
                            out,
                            "id: {boot}-{at}\nevent: {name}\ndata: {}\n\n",
                            event.data
                        )?;
                    }
                }
                Next::Nothing => out.write_all(b": here\n\n")?,
                Next::Lost(last) => {
                    at = last;
                    reset(out, &events, at)?;
                }
                Next::Closed => return Ok(()),
            }
        }
    };
    Ok(Response::stream("text/event-stream", write))
}

/// Selects the events of a client that sees only its own jobs.
struct Own {
    queue: JobQueue,
    caller: Caller,
    /// Whether it sees a process.
    known: HashMap<ProcessId, bool>,
}

/// Maximum number of processes whose owner a stream remembers.
const MOST_KNOWN: usize = 10_000;

impl Own {
    fn sees(&mut self, event: &Event) -> bool {
        #[derive(Deserialize)]
        struct Of {
            process_id: Option<ProcessId>,
        }
        if self.caller.only().is_none() {
            return true;
        }
        let of = serde_json::from_str::<Of>(&event.data).ok();
        let Some(process) = of.and_then(|of| of.process_id) else {
            return false;
        };
        if let Some(sees) = self.known.get(&process) {
            return *sees;
        }
        // A process that is gone, or cannot be read now, is not remembered.
        let Ok(Some(state)) = self.queue.process(process) else {
            return false;
        };
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        let sees = self.caller.sees(state.info.owner.as_deref());
        self.known.insert(process, sees);
        sees
    }
}

/// Reports that events were missed, so that the client reads the current state again.
fn reset(out: &mut dyn Write, events: &Events, at: u64) -> io::Result<()> {
    write!(
        out,
        "id: {}-{at}\nevent: reset\ndata: {{}}\n\n",
        events.boot()
    )
}

/// The number within an id, if it is one of this start of the server.
fn number(events: &Events, id: &str) -> Option<u64> {
    let (boot, number) = id.rsplit_once('-')?;
    let number = number.parse().ok()?;
    (boot == events.boot() && number <= events.last()).then_some(number)
}
