//! Events as they happen (server-sent events).

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::events::{Events, MOST_LISTENERS, Next};
use crate::http::{Call, Response};
use crate::problem::Problem;

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
