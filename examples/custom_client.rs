//! Anything that answers prompts can be a client: here a service inside the company, imitated by
//! a function that is slow, and now and then fails.
//!
//! The engine does the rest: threads, retries with backoff, a rate limit, and one failure costing
//! one item. `cargo run --example custom_client`

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use batchwright::client::QuotaKey;
use batchwright::{
    Bulk, Context, Error, ErrorKind, Limits, LlmClient, Request, Response, RetryPolicy, Route,
    Usage,
};

struct InHouse {
    calls: AtomicU32,
}

impl LlmClient for InHouse {
    fn complete(&self, request: &Request, ctx: &Context) -> Result<Response, Error> {
        ctx.check()?;
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(20));
        match call % 7 {
            // The kind decides: a transient error is tried again, an invalid request is not.
            3 => Err(Error::new(ErrorKind::Transient, "the backend restarted")),
            _ => {
                let text = request.messages[0].text();
                let usage = Usage {
                    input_tokens: text.len() as u64 / 4,
                    output_tokens: 1,
                    ..Usage::default()
                };
                let answer = format!("{} letters", text.len());
                Ok(Response::new("in-house", answer).with_usage(usage))
            }
        }
    }

    /// All calls share one allowance, whoever makes them.
    fn quota(&self, _: &Request) -> QuotaKey {
        QuotaKey::new(&["in-house"])
    }

    fn provider(&self) -> &str {
        "in-house"
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = InHouse {
        calls: AtomicU32::new(0),
    };
    let limits = Limits::default().requests_per_minute(6000.0).burst(20);
    let retry = RetryPolicy::default().base_delay(Duration::from_millis(50));
    let route = Route::limited(&client, limits).retry(retry);
    let requests: Vec<Request> = (0..50)
        .map(|i| Request::new("x".repeat(i)).with_id(format!("item-{i}")))
        .collect();
    let outcomes = Bulk::new(route).concurrency(8).collect(&requests)?;
    for outcome in outcomes.iter().filter(|o| o.attempts > 1) {
        println!("{}", serde_json::to_string(outcome)?);
    }
    let answered = outcomes.iter().filter(|o| o.is_success()).count();
    let calls = client.calls.load(Ordering::Relaxed);
    println!("{answered} of {} answered in {calls} calls", outcomes.len());
    Ok(())
}
