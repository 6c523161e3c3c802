//! Replies of every provider's Batch API and what they mean: the cases of `recorded.json`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::scripted::{DATE, Lines, NoInput, Script, intent, says, scripted, uploaded};
use super::*;
use crate::llm::batch::{RequestName, is_unknown};
use crate::llm::transport::HttpReply;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    created: Vec<CreatedCase>,
    written: Vec<WrittenCase>,
    advanced: Vec<AdvancedCase>,
    found: Vec<FoundCase>,
    statuses: Vec<StatusCase>,
    lines: Vec<LineCase>,
    unreadable: Vec<UnreadableCase>,
    refusals: Vec<RefusalCase>,
}

/// A provider, the status and the message of its refusal, and what it means.
#[derive(Deserialize)]
struct RefusalCase(String, u16, String, String);

/// The call that creates a batch from the file `file-1`, and the id in its reply.
#[derive(Deserialize)]
struct CreatedCase {
    providers: Vec<String>,
    reply: Value,
    id: String,
    call: String,
    body: Value,
}

/// The line of a request.
#[derive(Deserialize)]
struct WrittenCase {
    providers: Vec<String>,
    line: Value,
}

/// A step towards a batch: its calls with their replies, and what it leads to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvancedCase {
    provider: String,
    /// The file that was uploaded before.
    file: Option<String>,
    script: Vec<Played>,
    uploaded: Option<String>,
    created: Option<String>,
    /// The body of the last call, and headers of it.
    sent: Option<Value>,
    #[serde(default)]
    headers: HashMap<String, String>,
    kind: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    says: String,
    /// Whether the call may have had its effect.
    unknown: Option<bool>,
    wait: Option<u64>,
    #[serde(default)]
    unreachable: bool,
}

/// A call, and its reply: JSON or a text, with the address of an upload.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Played {
    call: String,
    status: u16,
    body: Value,
    session: Option<String>,
}

/// The pages of a list, and the batches in it that may have been created from `file-1`.
#[derive(Deserialize)]
struct FoundCase {
    providers: Vec<String>,
    /// A page is its JSON, or a text with a status.
    pages: Vec<Value>,
    #[serde(default)]
    known: HashSet<String>,
    #[serde(default)]
    found: Vec<String>,
    /// Batches that it may be one of.
    #[serde(default)]
    undecidable: Vec<String>,
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
fn lines_have_the_format_of_each_provider() {
    let request = Request::new("a\nb").with_system("S").with_max_tokens(9);
    for case in cases().written {
        for provider in &case.providers {
            let line = scripted(provider, []).0.line("r7-000001", &request);
            let line = String::from_utf8(line.unwrap()).unwrap();
            let line = line.strip_suffix('\n').unwrap();
            assert!(!line.contains('\n'), "{provider}");
            let written: Value = serde_json::from_str(line).unwrap();
            assert_eq!(written, case.line, "{provider}");
        }
    }
}

#[test]
fn each_step_towards_a_batch_makes_its_calls() {
    for case in cases().advanced {
        let script = Arc::<Script>::default();
        for Played {
            call,
            status,
            body,
            session,
        } in &case.script
        {
            let text = body.as_str().map(str::to_owned);
            let session = session.iter().map(|url| ("x-goog-upload-url", &**url));
            let headers: Vec<_> = session.collect();
            script.on_with(
                call,
                *status,
                &headers,
                text.unwrap_or_else(|| body.to_string()),
            );
        }
        let uploaded = |file: String, time| BatchStage::Uploaded { file, time };
        let before = case.file.clone().map(|file| uploaded(file, Some(DATE)));
        let before = before.unwrap_or(BatchStage::Ready);
        let api = script.api(&case.provider);
        let after = api.advance(&intent(), &before, &mut Lines, &Context::new());
        let last = script.played().pop().unwrap();
        let shown = format!("{} {}", case.provider, last.what);
        if let Some(sent) = case.sent {
            assert_eq!(last.json(), sent, "{shown}");
        }
        for (name, value) in &case.headers {
            assert_eq!(last.header(name), Some(&**value), "{shown}");
        }
        // When Gemini says that it has made the file.
        let made = Some(Timestamp(DATE.0 + 2_500));
        let created = |id| BatchStage::Created {
            id,
            file: case.file.clone(),
        };
        let expected = case.created.map(created);
        let expected = expected.or(case.uploaded.map(|file| uploaded(file, made)));
        if let Some(expected) = expected {
            assert_eq!(after.unwrap(), expected, "{shown}");
            continue;
        }
        let error = after.unwrap_err();
        check_error(&error, case.kind.as_deref(), &case.says, &last.what.into());
        let wait = error.retry_after().map(|wait| wait.as_secs());
        assert!(
            case.status.is_none() || error.status() == case.status,
            "{shown}: {error:?}"
        );
        assert!(
            case.wait.is_none() || wait == case.wait,
            "{shown}: {error:?}"
        );
        let unknown = case.unknown.unwrap_or(is_unknown(&error));
        assert_eq!(is_unknown(&error), unknown, "{shown}: {error:?}");
        assert!(
            !case.unreachable || error.is_unreachable(),
            "{shown}: {error:?}"
        );
    }
}

/// A reply without a date: the clock of the provider is that of this machine.
fn page(page: &Value) -> Result<HttpReply, Error> {
    let status = page["status"].as_u64().unwrap_or(200) as u16;
    let text = page["text"].as_str().map(str::to_owned);
    let mut reply = says(status, text.unwrap_or_else(|| page.to_string()))?;
    reply.headers = Default::default();
    Ok(reply)
}

#[test]
fn batches_are_found_in_lists() {
    for case in cases().found {
        for provider in &case.providers {
            let pages = case.pages.iter().map(page);
            let (api, script) = scripted(provider, pages);
            let found = api.find(&intent(), &uploaded(), &case.known, &Context::new());
            let shown = Value::from(case.pages.clone());
            if let Some(kind) = &case.kind {
                check_error(&found.unwrap_err(), Some(kind), "", &shown);
                continue;
            }
            let found = found.unwrap();
            if let ListedBatches::Undecidable(why) = &found {
                let names = |id: &String| why.contains(&**id);
                assert!(case.undecidable.iter().all(names), "{shown}: {why}");
                assert!(!case.undecidable.is_empty(), "{shown}: {why}");
                continue;
            }
            let expected = match &case.found[..] {
                [] => ListedBatches::None,
                [one] => ListedBatches::One(one.clone()),
                many => ListedBatches::Many(many.to_vec()),
            };
            assert_eq!(found, expected, "{provider} {shown}");
            assert!(case.undecidable.is_empty(), "{shown}");
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
                BatchState::Refused(refusal) => {
                    if let BatchRefusal::Named(all) = refusal {
                        lines.extend(all.iter().filter_map(|(name, _)| match name {
                            RequestName::Line(line) => Some(*line),
                            RequestName::Key(_) => None,
                        }));
                    }
                    let (name, error) = meaning(refusal);
                    (Some(name), error)
                }
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

/// The name of a refusal in the cases, and its first error.
fn meaning(refusal: &BatchRefusal) -> (&'static str, &Error) {
    match refusal {
        BatchRefusal::Named(all) => ("named", &all[0].1),
        BatchRefusal::Unnamed(error) => ("unnamed", error),
        BatchRefusal::TooMuchQueued(error) => ("too_much_queued", error),
        BatchRefusal::TooLarge(error) => ("too_large", error),
        BatchRefusal::Account(error) => ("account", error),
        BatchRefusal::NoFile(error) => ("no_file", error),
        BatchRefusal::Busy(error) => ("busy", error),
        BatchRefusal::Whole(error) => ("whole", error),
    }
}

#[test]
fn refusals_of_a_creation_are_understood() {
    for RefusalCase(provider, status, message, meant) in cases().refusals {
        let body = serde_json::json!({"error": {"message": message}});
        let (api, _) = scripted(&provider, [says(status, &body)]);
        let refused = api.advance(&intent(), &uploaded(), &mut Lines, &Context::new());
        let refusal = refusal_of(refused.unwrap_err());
        assert_eq!(meaning(&refusal).0, meant, "{provider} {status} {message}");
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
