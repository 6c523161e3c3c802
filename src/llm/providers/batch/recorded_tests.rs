//! Replies of every provider's Batch API and what they mean: the cases of `recorded.json`.

use serde::Deserialize;
use serde_json::Value;

use super::scripted::{DATE, NoInput, intent, says, scripted};
use super::*;
use crate::llm::batch::RequestName;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    created: Vec<CreatedCase>,
    found: Vec<FoundCase>,
    statuses: Vec<StatusCase>,
    lines: Vec<LineCase>,
    unreadable: Vec<UnreadableCase>,
}

/// The call that creates a batch from the file `file-1`, and the id in its reply.
#[derive(Deserialize)]
struct CreatedCase {
    providers: Vec<String>,
    reply: Value,
    id: String,
    call: String,
    body: Value,
}

/// The pages of a list, and the batches in it that may have been created from `file-1`.
#[derive(Deserialize)]
struct FoundCase {
    providers: Vec<String>,
    pages: Vec<Value>,
    #[serde(default)]
    known: HashSet<String>,
    #[serde(default)]
    found: Vec<String>,
    calls: Option<Vec<String>>,
    /// The kind of the error.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct StatusCase {
    providers: Vec<String>,
    batch: Value,
    /// None if the reply is not a status.
    state: Option<String>,
    #[serde(default)]
    results: Vec<String>,
    expected: Option<u64>,
    counts: Option<[u64; 3]>,
    refusal: Option<String>,
    #[serde(default)]
    lines: Vec<u64>,
    kind: Option<String>,
    #[serde(default)]
    says: String,
}

/// A line of results: the text of its answer, or the kind of its error.
#[derive(Deserialize)]
struct LineCase {
    providers: Vec<String>,
    line: Value,
    text: Option<String>,
    input_tokens: Option<u64>,
    kind: Option<String>,
    #[serde(default)]
    says: String,
    request_id: Option<String>,
    #[serde(default)]
    not_processed: bool,
}

/// Lines that do not name a request.
#[derive(Deserialize)]
struct UnreadableCase {
    providers: Vec<String>,
    lines: Vec<String>,
}

fn cases() -> Cases {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

fn uploaded() -> BatchStage {
    BatchStage::Uploaded {
        file: "file-1".to_owned(),
        time: Some(DATE),
    }
}

#[track_caller]
fn check_error(error: &Error, kind: Option<&str>, says: &str, case: &Value) {
    assert!(
        kind.is_none_or(|kind| kind == error.kind().as_str()),
        "{case}: {error:?}"
    );
    assert!(error.message().contains(says), "{case}: {error}");
}

#[test]
fn batches_are_created_by_the_documented_call() {
    for case in cases().created {
        for provider in &case.providers {
            let (api, script) = scripted(provider, [says(200, &case.reply)]);
            let stage = api.advance(&intent(), &uploaded(), &mut NoInput, &Context::new());
            let created = BatchStage::Created {
                id: case.id.clone(),
                file: Some("file-1".to_owned()),
            };
            assert_eq!(stage.unwrap(), created, "{provider}");
            let asked = script.asked().remove(0);
            assert_eq!((&asked.what, asked.json()), (&case.call, case.body.clone()));
        }
    }
}

#[test]
fn batches_are_found_in_lists() {
    for case in cases().found {
        for provider in &case.providers {
            let pages = case.pages.iter().map(|page| says(200, page));
            let (api, script) = scripted(provider, pages);
            let found = api.find(&intent(), &uploaded(), &case.known, &Context::new());
            let shown = Value::from(case.pages.clone());
            if let Some(kind) = &case.kind {
                check_error(&found.unwrap_err(), Some(kind), "", &shown);
                continue;
            }
            let expected = match &case.found[..] {
                [] => ListedBatches::None,
                [one] => ListedBatches::One(one.clone()),
                many => ListedBatches::Many(many.to_vec()),
            };
            assert_eq!(found.unwrap(), expected, "{provider} {shown}");
            assert!(
                case.calls
                    .as_ref()
                    .is_none_or(|calls| *calls == script.calls())
            );
        }
    }
}

#[test]
fn statuses_are_understood() {
    for case in cases().statuses {
        for provider in &case.providers {
            let (api, _) = scripted(provider, [says(200, &case.batch)]);
            let status = api.status("b-1", &Context::new());
            let (kind, shown) = (case.kind.as_deref(), &case.batch);
            let Some(state) = &case.state else {
                check_error(&status.unwrap_err(), kind, &case.says, shown);
                continue;
            };
            let status = status.unwrap_or_else(|error| panic!("{provider} {shown}: {error}"));
            assert_eq!(status.state.as_str(), state, "{provider} {shown}");
            let counts = status.counts.map(|c| [c.total, c.completed, c.failed]);
            assert_eq!(
                (&status.results, status.expected, counts),
                (&case.results, case.expected, case.counts),
                "{provider} {shown}"
            );
            let mut lines = Vec::new();
            let (refusal, error) = match &status.state {
                BatchState::Refused(BatchRefusal::Named(all)) => {
                    lines.extend(all.iter().filter_map(|(name, _)| match name {
                        RequestName::Line(line) => Some(*line),
                        RequestName::Key(_) => None,
                    }));
                    (Some("named"), &all[0].1)
                }
                BatchState::Refused(BatchRefusal::Unnamed(error)) => (Some("unnamed"), error),
                BatchState::Refused(BatchRefusal::TooMuchQueued(error)) => {
                    (Some("too_much_queued"), error)
                }
                BatchState::Refused(BatchRefusal::TooLarge(error)) => (Some("too_large"), error),
                BatchState::Refused(BatchRefusal::Account(error)) => (Some("account"), error),
                BatchState::Refused(BatchRefusal::NoFile(error)) => (Some("no_file"), error),
                BatchState::Refused(BatchRefusal::Busy(error)) => (Some("busy"), error),
                BatchState::Refused(BatchRefusal::Whole(error)) => (Some("whole"), error),
                BatchState::Failed(error) => (None, error),
                _ => continue,
            };
            assert_eq!(
                (refusal, lines),
                (case.refusal.as_deref(), case.lines.clone()),
                "{provider} {shown}"
            );
            check_error(error, kind, &case.says, shown);
        }
    }
}

#[test]
fn lines_of_results_are_understood() {
    for case in cases().lines {
        for provider in &case.providers {
            let (api, _) = scripted(provider, []);
            let read = api.read(case.line.to_string().as_bytes()).unwrap();
            assert_eq!(read.key, "k");
            let not_processed = matches!(read.result, BatchLineResult::NotProcessed(_));
            assert_eq!(not_processed, case.not_processed, "{}", case.line);
            let answer = match read.result {
                BatchLineResult::Answered(answer) => *answer,
                BatchLineResult::NotProcessed(error) => Err(error),
            };
            let usage = match &answer {
                Ok(answer) => answer.usage,
                Err(error) => error.usage(),
            };
            if let Some(tokens) = case.input_tokens {
                assert_eq!(usage.unwrap().input_tokens, tokens, "{}", case.line);
            }
            match (answer, &case.text) {
                (Ok(answer), text) => {
                    assert_eq!(Some(&answer.text), text.as_ref(), "{}", case.line);
                    assert_eq!(&answer.provider, provider);
                }
                (Err(error), None) => {
                    check_error(&error, case.kind.as_deref(), &case.says, &case.line);
                    assert_eq!(error.request_id(), case.request_id.as_deref());
                }
                (Err(error), Some(_)) => panic!("{provider} {}: {error}", case.line),
            }
        }
    }
}

#[test]
fn a_line_that_names_no_request_is_malformed() {
    for case in cases().unreadable {
        for provider in &case.providers {
            for line in &case.lines {
                let error = scripted(provider, []).0.read(line.as_bytes()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Malformed, "{provider} {line}");
            }
        }
    }
}
