//! Requests with several parts: embeddings of a list of texts. Each part is a separate request. A line of a batch with
//! several parts is one job that creates its parts as child jobs and ends when all of them have: they are enqueued once
//! and billed once, whatever crashes in between.

use std::fmt::Write;

use batchwright::queue::{Children, JobResult};
use batchwright::{Error, ErrorKind, Handler, Job, Outcome, Request, RunningJob, Usage};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::answer::{self, Answers};
use super::{CHAT, EMBEDDINGS, settings};
use crate::problem::Problem;

/// The kind of such lines, which only servers carry out.
pub(crate) const KIND: &str = "batch_line";
/// Most texts of one request, as at OpenAI.
const MOST_TEXTS: usize = 2048;
/// Lists of more texts take turns, so that the vectors of only one are in memory,
const MANY_TEXTS: usize = 100;
/// as do those of a payload of more bytes than this.
const LONG: usize = 64 << 10;
/// Most bytes of a request; pictures are inside.
pub(super) const MOST_BYTES: u64 = 32 << 20;
/// Most values in the bodies of its jobs: one takes up to a kilobyte of memory.
const MOST_VALUES: u64 = 384 << 10;

/// What a body asks for.
pub(super) struct Parts {
    pub requests: Vec<Request>,
    pub model: Option<String>,
    /// Vectors are wanted packed.
    pub as_base64: bool,
}

impl Parts {
    /// The requests in a body that a client sends to an endpoint: usually one.
    ///
    /// # Errors
    /// When it is no request, or stands for more than a body may hold.
    pub fn of(endpoint: &str, body: Map<String, Value>) -> Result<Self, Problem> {
        let model = body.get("model").and_then(Value::as_str).map(str::to_owned);
        if model
            .as_deref()
            .is_some_and(|model| model.trim().is_empty())
        {
            let why = "model is empty: name one, or leave it out for that of the server";
            return Err(Problem::invalid(why).param("model"));
        }
        let (requests, as_base64) = match endpoint {
            EMBEDDINGS => vectors(body)?,
            _ => (vec![chat(body)?], false),
        };
        Ok(Self {
            requests,
            model,
            as_base64,
        })
    }
}

/// The request for a completion. Its answer is not checked: whatever was billed is the answer.
fn chat(mut body: Map<String, Value>) -> Result<Request, Problem> {
    let n = body.remove("n").filter(|n| !n.is_null());
    if n.is_some_and(|n| n != 1) {
        let why = "n above 1 is not supported: send the request once for each answer";
        return Err(Problem::invalid(why).param("n"));
    }
    let request = request(CHAT, body)?;
    refuse_functions(&request)?;
    Ok(request.with_unchecked(true))
}

/// # Errors
/// When the request has the deprecated fields in place of tools, or tools whose input is text.
pub(super) fn refuse_functions(request: &Request) -> Result<(), Problem> {
    for field in ["functions", "function_call"] {
        if request.extra.contains_key(field) {
            let why = format!("{field} is not supported: use tools and tool_choice");
            return Err(Problem::invalid(why).param(field));
        }
    }
    let tools = request.extra.get("tools").and_then(Value::as_array);
    if tools
        .into_iter()
        .flatten()
        .any(|tool| tool["type"] == "custom")
    {
        let why = "tools of the type custom are not supported: use functions";
        return Err(Problem::invalid(why).param("tools"));
    }
    Ok(())
}

/// A request for each text, and whether vectors are wanted packed.
fn vectors(mut body: Map<String, Value>) -> Result<(Vec<Request>, bool), Problem> {
    let as_base64 = match body.remove("encoding_format") {
        None | Some(Value::Null) => false,
        Some(format) if format == "float" => false,
        Some(format) if format == "base64" => true,
        Some(_) => {
            let why = "encoding_format is float or base64";
            return Err(Problem::invalid(why).param("encoding_format"));
        }
    };
    let are_tokens = |list: &[Value]| !list.is_empty() && list.iter().all(Value::is_u64);
    let texts = match body.remove("input") {
        Some(Value::Array(tokens)) if are_tokens(&tokens) => vec![Value::Array(tokens)],
        Some(Value::Array(texts)) => texts,
        Some(text) => vec![text],
        None => Vec::new(),
    };
    let are_texts = texts.iter().all(Value::is_string)
        || texts
            .iter()
            .all(|list| list.as_array().is_some_and(|list| are_tokens(list)));
    if !are_texts || !(1..=MOST_TEXTS).contains(&texts.len()) {
        let why = format!(
            "input must be a text or a list of tokens, or a list of 1 to {MOST_TEXTS} of either"
        );
        return Err(Problem::invalid(why).param("input"));
    }
    if texts.len() > 1 {
        check_bulk(&body, texts.len(), "input")?;
    }
    let requests = texts.into_iter().map(|text| {
        let mut body = body.clone();
        body.insert("input".to_owned(), text);
        request(EMBEDDINGS, body)
    });
    Ok((requests.collect::<Result<_, _>>()?, as_base64))
}

/// Refuses a request that stands for many jobs, each with all of this body, if they take too much together: a few bytes
/// must not take all memory.
fn check_bulk(body: &Map<String, Value>, jobs: usize, param: &'static str) -> Result<(), Problem> {
    let json = serde_json::to_vec(body).unwrap_or_default();
    let (bytes, jobs) = (json.len() as u64, jobs as u64);
    let values = json.iter().filter(|byte| b"{[,".contains(byte)).count() as u64;
    if bytes * jobs <= MOST_BYTES && values * jobs <= MOST_VALUES {
        return Ok(());
    }
    let why = format!(
        "{jobs} requests with these {bytes} bytes each are more than one may stand for, which are {MOST_BYTES} bytes, or \
         less where they have many fields: ask for fewer at a time"
    );
    Err(Problem::invalid(why).param(param))
}

/// The request that a body is.
fn request(endpoint: &str, body: Map<String, Value>) -> Result<Request, Problem> {
    let line = json!({"custom_id": "one", "method": "POST", "url": endpoint, "body": body});
    let request = settings(endpoint).request(&line.to_string())?;
    Ok(Request {
        id: None,
        ..request
    })
}

/// The payload of a line that stands for several requests.
#[derive(Serialize, Deserialize)]
struct Payload {
    endpoint: String,
    body: Map<String, Value>,
}

/// The result of one, with the result line of each part.
#[derive(Deserialize)]
struct Done<'d> {
    #[serde(borrow)]
    parts: Vec<&'d RawValue>,
    as_base64: bool,
}

/// What a failed line keeps in its error: why a part of it failed, and what all of them used. Vectors are of no use to it,
/// and thousands of them are more than a store takes.
#[derive(Serialize, Deserialize)]
struct Failed {
    error: Error,
    used: Option<Usage>,
}

/// The failure of a line with a failed part.
fn failed(results: &[JobResult]) -> Option<Error> {
    let at = results.iter().position(|part| !part.is_success())?;
    let error = answer::outcome(&results[at]).and_then(|outcome| outcome.result);
    let used = results.iter().filter_map(|part| {
        let outcome = answer::outcome(part).and_then(|outcome| outcome.result);
        answer::used(&outcome)
    });
    let failed = Failed {
        error: error.err()?.with_raw(""),
        used: used.reduce(|mut all, more| {
            all += more;
            all
        }),
    };
    let why = format!("part {} of {} has failed", at + 1, results.len());
    let failed = serde_json::to_string(&failed).unwrap_or_default();
    // To its caller nothing would help but another request.
    Some(Error::new(ErrorKind::Invalid, why).with_raw(&failed))
}

/// Puts the results of all parts together. Vectors are long: what a part has come to goes as its line is written.
///
/// # Errors
/// When a part has failed.
fn done(results: Vec<JobResult>, as_base64: bool) -> Result<Box<RawValue>, Error> {
    if let Some(error) = failed(&results) {
        return Err(error);
    }
    let mut text = String::from("{\"parts\":[");
    for (n, result) in results.into_iter().enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&result.line());
    }
    let _ = write!(text, "],\"as_base64\":{as_base64}}}");
    RawValue::from_string(text)
        .map_err(|error| Error::new(ErrorKind::Malformed, format!("a part is not JSON: {error}")))
}

/// The job of a line that stands for several requests.
pub(super) fn job(id: &str, endpoint: &str, body: Map<String, Value>) -> Job {
    let payload = Payload {
        endpoint: endpoint.to_owned(),
        body,
    };
    Job::raw(KIND, to_raw_value(&payload).expect("it was JSON")).item_id(id)
}

/// Carries out such jobs.
pub(crate) fn handler() -> Handler {
    let turn = Mutex::new(());
    Handler::with_children(move |job: &RunningJob, children: &Children, _| {
        let payload: Payload = job.parse()?;
        let body = &payload.body;
        let as_base64 = body
            .get("encoding_format")
            .is_some_and(|format| format == "base64");
        let texts = body
            .get("input")
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let is_long = texts > MANY_TEXTS || job.payload.get().len() > LONG;
        let _turn = is_long.then(|| turn.lock());
        let parts = || {
            let parts = Parts::of(&payload.endpoint, payload.body);
            let parts =
                parts.map_err(|problem| Error::new(ErrorKind::Invalid, problem.to_string()))?;
            // A batch of the provider for each line would be the slowest way.
            let jobs = parts.requests.into_iter();
            Ok(jobs.map(|part| Job::from(part).direct()).collect())
        };
        match children.gather("parts", parts)? {
            None => Ok(None),
            Some(results) => done(results, as_base64).map(Some),
        }
    })
}

/// The answers to the requests of a batch's job, in their order.
pub(super) fn answers(result: &JobResult) -> Answers {
    if result.kind == KIND
        && let Some(done) = &result.result
        && let Ok(done) = serde_json::from_str::<Done<'_>>(done.get())
    {
        let mut answers = Answers {
            as_base64: done.as_base64,
            ..Answers::default()
        };
        for line in done.parts {
            let why = |error| format!("the answer cannot be read: {error}");
            let read = serde_json::from_str::<Outcome>(line.get());
            answers.add(read.map_err(|error| Error::new(ErrorKind::Malformed, why(error))));
        }
        return answers;
    }
    let mut answers = Answers::default();
    let failed = result.error.as_ref().filter(|_| result.kind == KIND);
    match failed.and_then(|error| serde_json::from_str::<Failed>(error.raw()?).ok()) {
        Some(Failed { error, used: None }) => answers.add(Err(error)),
        Some(Failed {
            error,
            used: Some(used),
        }) => answers.add(Err(error.with_usage(used))),
        None => answers.add(answer::outcome(result)),
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize, other: &Value) -> Map<String, Value> {
        let body = json!({"model": "m", "input": vec!["a"; count], "other": other});
        body.as_object().expect("an object").clone()
    }

    #[test]
    fn a_few_bytes_stand_for_no_more_than_memory_holds() {
        let ask = |count, other: &Value| {
            let parts = Parts::of(EMBEDDINGS, texts(count, other));
            parts
                .map(|parts| parts.requests.len())
                .map_err(|problem| problem.to_string())
        };
        assert_eq!(ask(MOST_TEXTS, &json!(512)), Ok(MOST_TEXTS));
        // Many empty maps take a hundred times what they are written with.
        let maps = json!(vec![json!({"": 0}); 400]);
        assert!(serde_json::to_vec(&maps).expect("JSON").len() < 4 << 10);
        assert_eq!(ask(100, &maps), Ok(100));
        let why = ask(MOST_TEXTS, &maps).expect_err("too much");
        assert!(why.contains("ask for fewer"), "{why}");
    }
}
