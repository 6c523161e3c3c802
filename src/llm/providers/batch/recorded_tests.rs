//! Replies of every provider's Batch API and what they mean: the cases of `recorded.json`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::scripted::{DATE, Lines, NoInput, Played, Script, intent, says, scripted, uploaded};
use super::*;
use crate::llm::batch::{BatchRefusal, RefusalOutcome, RequestName, is_unknown};
use crate::llm::providers::dialect::testing::failed;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    written: Vec<WrittenCase>,
    steps: Vec<StepCase>,
    statuses: Vec<StatusCase>,
    lines: Vec<LineCase>,
    unreadable: Vec<UnreadableCase>,
    refusals: Vec<RefusalCase>,
}

/// A provider, the status and the message or body of its refusal, and what it means.
#[derive(Deserialize)]
struct RefusalCase(String, u16, Value, String);

/// The line of a request.
#[derive(Deserialize)]
struct WrittenCase {
    providers: Vec<String>,
    line: Value,
}

/// A step of a client: its calls with their replies, and what it leads to.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepCase {
    providers: Vec<String>,
    step: String,
    script: Vec<Played>,
    got: Option<String>,
    /// The body of the last call, and headers that it has or has not.
    sent: Option<Value>,
    #[serde(default)]
    headers: HashMap<String, Option<String>>,
    kind: Option<String>,
    /// Zero if it has none.
    status: Option<u16>,
    #[serde(default)]
    says: String,
    /// Whether the call may have had its effect.
    unknown: Option<bool>,
    wait: Option<u64>,
    #[serde(default)]
    unreachable: bool,
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

/// Takes a step, which is its name, the id or file that it is about, and what else it needs.
fn take(api: &BatchApi, step: &str) -> Result<String, BatchRefusal> {
    let ctx = Context::new();
    let mut words = step.split(' ');
    let (what, id) = (words.next().unwrap(), words.next().unwrap_or_default());
    let more = words.next().unwrap_or_default();
    let mut intent = intent();
    intent.begun.0 += 1_000 * more.parse::<i64>().unwrap_or_default();
    let mut sink = Vec::new();
    let stage = match what {
        "submit" => api.advance(&intent, &BatchStage::Ready, &mut Lines, &ctx)?,
        "create" => {
            let time = Some(DATE);
            let file = id.to_owned();
            let uploaded = BatchStage::Uploaded { file, time };
            api.advance(&intent, &uploaded, &mut NoInput, &ctx)?
        }
        "status" => {
            let status = api.status(id, &ctx)?;
            let wait = status.poll_after.unwrap_or_default().as_secs();
            return Ok(format!("{} {wait}", status.state.as_str()));
        }
        "find" => {
            let known = step.strip_prefix("find ").unwrap_or_default();
            let known = known.split(',').map(str::to_owned).collect();
            return Ok(shown(api.find(&intent, &uploaded(), &known, &ctx)?));
        }
        "discard" => {
            api.discard(id, &ctx)?;
            return Ok("done".to_owned());
        }
        "cancel" => {
            api.cancel(id, &ctx)?;
            return Ok("done".to_owned());
        }
        _ => {
            api.download(id, more, &mut sink, &ctx)?;
            let text = String::from_utf8(sink).unwrap();
            let key = |line: &str| api.read(line.as_bytes()).unwrap().key + " ";
            let is_text = what == "download";
            return Ok(if is_text {
                text
            } else {
                text.lines().map(key).collect()
            });
        }
    };
    Ok(match stage {
        BatchStage::Created { id, .. } => format!("created {id}"),
        BatchStage::Uploaded { file, time } => format!("uploaded {file} {}", time.unwrap().0),
        BatchStage::Ready => unreachable!("it was ready before"),
    })
}

/// What a list shows, with the ids of those that the reason names at its end.
fn shown(found: ListedBatches) -> String {
    let (what, mut ids) = match found {
        ListedBatches::None => ("none", Vec::new()),
        ListedBatches::One(one) => ("one", vec![one]),
        ListedBatches::Many(many) => ("many", many),
        ListedBatches::Undecidable(why) => {
            let (_, ids) = why.rsplit_once(": ").unwrap();
            let ids = ids.split(", ").map(str::to_owned);
            ("undecidable", ids.collect())
        }
    };
    if what == "undecidable" {
        ids.sort();
    }
    [vec![what.to_owned()], ids].concat().join(" ")
}

#[test]
fn each_step_makes_its_calls() {
    for case in cases().steps {
        for provider in &case.providers {
            let script = Arc::new(Script::default());
            script.replies.lock().extend(case.script.clone());
            let done = take(&script.api(provider), &case.step);
            let asked = script.played();
            let (last, got) = (asked.last().unwrap(), case.got.as_deref());
            let shown = Value::from(format!("{provider} {} {}", case.step, last.what));
            if let Some(sent) = &case.sent {
                assert_eq!(last.json(), *sent, "{shown}");
            }
            for (name, value) in &case.headers {
                assert_eq!(last.header(name), value.as_deref(), "{shown}");
            }
            let Err(BatchRefusal { error, .. }) = done else {
                assert_eq!(done.ok().as_deref(), got, "{shown}");
                continue;
            };
            check_error(&error, case.kind.as_deref(), &case.says, &shown);
            let wait = error.retry_after().map(|wait| wait.as_secs());
            let is = (error.status(), wait, is_unknown(&error));
            let status = case
                .status
                .map_or(is.0, |status| Some(status).filter(|s| *s > 0));
            let expected = (status, case.wait.or(is.1), case.unknown.unwrap_or(is.2));
            assert_eq!(is, expected, "{shown}: {error:?}");
            assert!(got.is_none(), "{shown}: {error:?}");
            assert!(!case.unreachable || error.is_unreachable(), "{shown}");
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
                    if let RefusalOutcome::Named(all) = &refusal.outcome {
                        lines.extend(all.iter().filter_map(|(name, _)| match name {
                            RequestName::Line(line) => Some(*line),
                            RequestName::Key(_) => None,
                        }));
                    }
                    (Some(meaning(refusal)), &refusal.error)
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

/// The name of a refusal in the cases.
fn meaning(refusal: &BatchRefusal) -> &'static str {
    match refusal.outcome {
        RefusalOutcome::Named(_) => "named",
        RefusalOutcome::Unnamed => "unnamed",
        RefusalOutcome::TooLarge => "too_large",
        RefusalOutcome::Wait { room: true } => "room",
        RefusalOutcome::Wait { room: false } => "wait",
        RefusalOutcome::NoFile => "no_file",
        RefusalOutcome::Stops { of_account: true } => "stops_account",
        RefusalOutcome::Stops { of_account: false } => "stops",
    }
}

/// What follows from this refusal of a creation, with the requests that it names.
fn refused(provider: &str, status: u16, body: &str) -> String {
    // Azure is asked before whether it has checked the file.
    let checked = says(200, r#"{"id": "file-1", "status": "processed"}"#);
    let first = (provider == "azure").then_some(checked);
    let (api, _) = scripted(provider, first.into_iter().chain([says(status, body)]));
    let refused = api.advance(&intent(), &uploaded(), &mut Lines, &Context::new());
    let refusal = refused.unwrap_err();
    let mut found = meaning(&refusal).to_owned();
    if let RefusalOutcome::Named(names) = &refusal.outcome {
        for (name, _) in names {
            found += &match name {
                RequestName::Line(line) => format!(" {line}"),
                RequestName::Key(key) => format!(" {key}"),
            };
        }
    }
    found
}

#[test]
fn refusals_of_a_creation_are_understood() {
    let mut wrong = Vec::new();
    for RefusalCase(provider, status, message, meant) in cases().refusals {
        let body = match &message {
            Value::String(page) if page.starts_with('<') => page.clone(),
            Value::String(text) => serde_json::json!({"error": {"message": text}}).to_string(),
            body => body.to_string(),
        };
        let found = refused(&provider, status, &body);
        if found != meant {
            wrong.push(format!(
                "{provider} {status} {message}: {found}, not {meant}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One reply has one verdict, whether a call or a batch gets it, and no word of a name or of a quoted prompt changes it.
#[test]
fn names_and_quoted_prompts_decide_nothing() {
    type VerdictCase = (String, u16, Value, String, Option<String>);
    let cases = include_str!("../verdict_cases.json");
    let mut wrong = Vec::new();
    for (provider, status, body, call, batch) in
        serde_json::from_str::<Vec<VerdictCase>>(cases).unwrap()
    {
        let text = body.as_str().map(str::to_owned);
        let text = text.unwrap_or_else(|| body.to_string());
        let error = failed(&provider, status, &text);
        let verdict = error.verdict();
        let (whom, again): (&str, &str) = ((&verdict.whom).into(), (&verdict.again).into());
        let found = format!("{} {whom} {again}", error.kind().as_str());
        let in_batch = batch.as_ref().map(|_| refused(&provider, status, &text));
        if (&found, &in_batch) != (&call, &batch) {
            wrong.push(format!("{provider} {status} {body}: {found} {in_batch:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
