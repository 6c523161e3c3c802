//! Events as they happen: a stream that each client holds open (server-sent events).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use super::processes;
use crate::app::App;
use crate::events::Next;
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
    // What is no number lies behind all.
    let from = named.filter(|id| !id.is_empty());
    let from = from.map_or(now, |id| id.parse().unwrap_or(u64::MAX));
    let write = move |out: &mut dyn Write| {
        let _listening = listening;
        let mut at = from;
        out.write_all(b"retry: 1000\n\n")?;
        loop {
            out.flush()?;
            match events.after(&mut at, process, HEARTBEAT) {
                Next::Events(some) => {
                    for event in some {
                        let (number, name, data) = (event.number, event.name, &event.data);
                        write!(out, "id: {number}\nevent: {name}\ndata: {data}\n\n")?;
                    }
                }
                Next::Nothing => out.write_all(ALIVE)?,
                // Events were missed: the client reads the present state again.
                Next::Lost => write!(out, "id: {at}\nevent: reset\ndata: {{}}\n\n")?,
                Next::Closed => return Ok(()),
            }
        }
    };
    Ok(Response::stream("text/event-stream", write))
}
