//! Requests with several parts: embeddings of a list of texts. Each part is a separate request. A line of a batch with
//! several parts is one job that creates its parts as child jobs and ends when all of them have: they are enqueued once
//! and billed once, whatever crashes in between.

use batchwright::queue::{Children, JobResult};
use batchwright::{Error, ErrorKind, Handler, Job, Request, RunningJob};
use parking_lot::Mutex;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};

use super::answer::{self, Vectors};
use super::{CHAT, EMBEDDINGS, settings};
use crate::problem::Problem;

/// The kind of such lines, which only servers carry out.
pub(crate) const KIND: &str = "batch_line";
/// Most texts of one request, as at OpenAI.
const MOST_TEXTS: usize = 2048;
/// Most bytes of a request; pictures are inside.
pub(super) const MOST_BYTES: u64 = 32 << 20;
/// Most bytes of the other fields of a list of texts, together for all texts: each becomes a job with all of them.
const MOST_REPEATED: usize = 1 << 20;

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
        check_bulk(&body, texts.len())?;
    }
    let requests = texts.into_iter().map(|text| {
        let mut body = body.clone();
        body.insert("input".to_owned(), text);
        request(EMBEDDINGS, body)
    });
    Ok((requests.collect::<Result<_, _>>()?, as_base64))
}

/// Refuses a list of texts whose other fields take too much together: a few bytes must not take all memory.
fn check_bulk(body: &Map<String, Value>, texts: usize) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(body).unwrap_or_default().len();
    if bytes * texts <= MOST_REPEATED {
        return Ok(());
    }
    let why = format!(
        "the {bytes} bytes of the other fields are repeated for each of {texts} texts, and may be {MOST_REPEATED} in all: \
         ask for fewer texts at a time"
    );
    Err(Problem::invalid(why).param("input"))
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

/// The job of a line that stands for several requests.
pub(super) fn job(id: &str, body: &Map<String, Value>) -> Job {
    Job::raw(KIND, to_raw_value(body).expect("it was JSON")).item_id(id)
}

/// Carries out such jobs: the result of one is the body of its reply. They take turns, because vectors are long.
pub(crate) fn handler() -> Handler {
    let turn = Mutex::new(());
    Handler::with_children(move |job: &RunningJob, children: &Children, _| {
        let _turn = turn.lock();
        let parts = Parts::of(EMBEDDINGS, job.parse()?);
        let parts = parts.map_err(|problem| Error::new(ErrorKind::Invalid, problem.to_string()))?;
        let (model, as_base64) = (parts.model.unwrap_or_default(), parts.as_base64);
        // A batch of the provider for each line would be the slowest way.
        let jobs = parts
            .requests
            .into_iter()
            .map(|part| Job::from(part).direct());
        match children.gather("parts", || Ok(jobs.collect()))? {
            None => Ok(None),
            Some(results) => done(&results, &model, as_base64).map(Some),
        }
    })
}

/// Puts the vectors of all parts together.
///
/// # Errors
/// The failure of the first part that failed: to its caller nothing would help but another request.
fn done(results: &[JobResult], model: &str, as_base64: bool) -> Result<Vectors, Error> {
    let answers = results.iter().map(answer::outcome);
    match answers.collect::<Result<Vec<_>, _>>() {
        Ok(answers) => Ok(answer::vectors(model, answers, as_base64)),
        Err(error) => {
            let raw = serde_json::to_string(&error.with_raw("")).unwrap_or_default();
            Err(Error::new(ErrorKind::Invalid, "a text of the line has failed").with_raw(&raw))
        }
    }
}

/// What such a job failed with.
pub(super) fn failure(error: &Error) -> Option<Error> {
    serde_json::from_str(error.raw()?).ok()
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
        let maps = json!(vec![json!({"": 0}); 400]);
        assert!(serde_json::to_vec(&maps).expect("JSON").len() < 4 << 10);
        assert_eq!(ask(100, &maps), Ok(100));
        let why = ask(MOST_TEXTS, &maps).expect_err("too much");
        assert!(why.contains("ask for fewer"), "{why}");
    }
}
