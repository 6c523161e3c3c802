//! The shortest useful program: a list of prompts in, one outcome for each, in order.
//!
//! `OPENAI_API_KEY=… cargo run --example bulk -- gpt-x`, or without arguments against nothing at all.

use batchwright::{Context, LlmConfig, Request, execute_bulk_sync};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = match std::env::args().nth(1) {
        Some(model) => LlmConfig::new("openai").model(model).client()?,
        None => LlmConfig::new("extract").client()?,
    };
    let prompts = ["Name a prime.", "Name a colour.", "Name a river."];
    let requests: Vec<Request> = prompts.map(Request::new).into();
    for outcome in execute_bulk_sync(&Context::new(), &client, &requests, 5)? {
        match outcome.result {
            Ok(answer) => println!("{}", answer.text),
            Err(error) => println!("failed ({}): {error}", error.kind()),
        }
    }
    Ok(())
}
