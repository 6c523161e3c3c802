//! Any number of prompts in little memory: requests are pulled from an iterator as there is room,
//! each outcome is handled as it comes, and progress is shown meanwhile.
//!
//! `cargo run --example streaming > results.jsonl`

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use batchwright::progress::Phase;
use batchwright::{Bulk, Extract, Progress, Request};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prompts = (0..100_000).map(|i| {
        Request::new(format!("Document {i}: a text that is made up on the way"))
            .with_id(format!("doc-{i}"))
    });
    let progress = |progress: &Progress| {
        if progress.phase != Phase::Finished {
            eprintln!("{} done, {:.0} a second", progress.completed, progress.rate);
        }
    };
    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let summary = Bulk::new(Extract)
        .concurrency(8)
        .notifier(Arc::new(progress))
        .for_each(prompts, |outcome| {
            let saved = serde_json::to_writer(&mut out, &outcome)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            match saved {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    broken = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
    if let Some(error) = broken {
        return Err(error.into());
    }
    let summary = summary?;
    eprintln!("{} answers, {} failures", summary.completed, summary.failed);
    Ok(())
}
