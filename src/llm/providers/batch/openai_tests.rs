//! Batches of OpenAI and Groq against scripted replies.

use serde_json::json;

use super::*;
use crate::base::Context;
use crate::llm::batch::{BatchClient, BatchStage};
use crate::llm::providers::batch::files::since;
use crate::llm::providers::batch::scripted::{DATE, intent, says, scripted, uploaded};

/// Seconds after [`DATE`].
const DAY: i64 = 24 * 3600;

#[test]
fn without_a_server_time_a_list_is_read_back_to_a_day_before_the_intent() {
    let begun = intent().begun;
    let from = |stage: &BatchStage| since(&intent(), stage);
    let day = DAY * 1000;
    assert_eq!(from(&uploaded()), Timestamp(DATE.0 - day));
    let untimed = BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: None,
    };
    assert_eq!(from(&untimed), Timestamp(begun.0 - day));
}

#[test]
fn the_server_sets_the_time_of_the_next_poll() {
    let mut reply = says(200, json!({"status": "in_progress"})).unwrap();
    reply.headers = [("retry-after", "90")].into_iter().collect();
    let (api, _) = scripted("openai", [Ok(reply)]);
    let reported = api.status("b-1", &Context::new()).unwrap();
    assert_eq!(
        reported.poll_after,
        Some(std::time::Duration::from_secs(90))
    );
}
