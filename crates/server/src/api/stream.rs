//! Events as they happen (server-sent events).

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::processes;
use crate::app::App;
use crate::events::{Events, Next};
use crate::http::{Call, Response};
use crate::problem::Problem;

/// A comment is sent after so much silence: by that both sides see that the other is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
const ALIVE: &[u8] = b": here\n\n";

/// `GET /api/v1/events`: those that follow on `Last-Event-ID`, or those from now on; of all, or of a process.
pub(super) fn events(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    call.takes(&["last_event_id", "process_id"])?;
    let process = call.query("process_id")?;
    if let Some(process) = process {
        processes::find(app, process)?;
    }
    let named = call.query::<String>("last_event_id")?;
    let named = call
        .head
        .header("last-event-id")
        .map(str::to_owned)
        .or(named);
    let events = Arc::clone(&app.events);
    let listening = events.listen();
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
        let (mut at, mut written) = (from, Instant::now());
        out.write_all(b"retry: 1000\n\n")?;
        if is_lost {
            reset(out, &events, at)?;
        }
        loop {
            out.flush()?;
            match events.after(&mut at, process, HEARTBEAT) {
                Next::Events(some) => {
                    for event in some {
                        let (boot, number) = (events.boot(), event.number);
                        written = Instant::now();
                        write!(
                            out,
                            "id: {boot}-{number}\nevent: {}\ndata: {}\n\n",
                            event.name, event.data
                        )?;
                    }
                    // Events of others are no sign of life for this client.
                    if written.elapsed() >= HEARTBEAT {
                        out.write_all(ALIVE)?;
                        written = Instant::now();
                    }
                }
                Next::Nothing => {
                    out.write_all(ALIVE)?;
                    written = Instant::now();
                }
                Next::Lost => reset(out, &events, at)?,
                Next::Closed => return Ok(()),
            }
        }
    };
    Ok(Response::stream("text/event-stream", write))
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
