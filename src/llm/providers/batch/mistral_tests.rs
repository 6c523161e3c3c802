//! Batches of Mistral against scripted replies.

use serde_json::{Value, json};

use std::collections::HashSet;

use super::*;
use crate::base::{Context, ErrorKind};
use crate::llm::batch::{BatchClient, BatchStage};
use crate::llm::providers::batch::scripted::{DATE, NoInput, intent, says, scripted};

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(DATE),
    }
}

#[test]
fn a_batch_needs_a_model() {
    let (api, _) = scripted("mistral", []);
    let mut intent = intent();
    intent.model = None;
    let error = api.advance(&intent, &uploaded(), &mut NoInput, &Context::new());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn without_a_total_a_full_page_has_a_next_one() {
    let job = |id: &str, file: &str, label: &str| json!({"id": id, "input_files": [file], "metadata": {"label": label}, "created_at": DATE.0 / 1000});
    let find = |pages: Vec<Value>| {
        let (api, script) = scripted("mistral", pages.into_iter().map(|page| says(200, page)));
        let found = api.find(&intent(), &uploaded(), &HashSet::new(), &Context::new());
        (found, script.calls())
    };
    let others: Vec<Value> = (0..100).map(|n| job(&format!("j-{n}"), "f", "l")).collect();
    let (found, calls) = find(vec![json!({"data": others}), json!({"data": []})]);
    assert_eq!((found.unwrap(), calls.len()), (ListedBatches::None, 2));
}

#[test]
fn a_job_is_cancelled_at_its_own_address() {
    let (api, script) = scripted("mistral", [says(200, "{}"), says(200, "x")]);
    api.cancel("j-1", &Context::new()).unwrap();
    let mut sink = Vec::new();
    api.download("j-1", "o", &mut sink, &Context::new())
        .unwrap();
    assert_eq!(
        script.calls(),
        ["POST /batch/jobs/j-1/cancel", "GET /files/o/content"]
    );
}
