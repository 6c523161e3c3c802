//! `/v1/embeddings`: each text is a job, and the worker sends many with one call.

use batchwright::{Job, Request};
use serde_json::Value;

use super::chat::{MOST_BYTES, hold_bulk, request};
use super::lines::EMBEDDINGS;
use super::{answer, direct, limits};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;

/// Most texts of one request, as at OpenAI.
const MOST_TEXTS: usize = 2048;

/// `POST /v1/embeddings`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let as_base64 = match body.remove("encoding_format") {
        None | Some(Value::Null) => false,
        Some(format) if format == "float" => false,
        Some(format) if format == "base64" => true,
        Some(_) => {
            return Err(
                Problem::invalid("encoding_format is float or base64").param("encoding_format")
            );
        }
    };
    let texts = match body.remove("input") {
        Some(Value::Array(texts)) => texts,
        Some(text) => vec![text],
        None => Vec::new(),
    };
    let are_texts = texts.iter().all(Value::is_string);
    if !are_texts || !(1..=MOST_TEXTS).contains(&texts.len()) {
        let why = format!(
            "input is a text, or a list of 1 to {MOST_TEXTS} texts; lists of tokens are not taken"
        );
        return Err(Problem::invalid(why).param("input"));
    }
    if texts.len() > 1 {
        hold_bulk(call, &body, texts.len(), "input")?;
    }
    let model = match body.get("model") {
        Some(Value::String(model)) => model.clone(),
        _ => String::new(),
    };
    let mut like = Request::embedding("");
    let jobs = texts.into_iter().map(|text| {
        let mut body = body.clone();
        body.insert("input".to_owned(), text);
        let request = request(EMBEDDINGS, body)?;
        like.model.clone_from(&request.model);
        Ok(Job::from(request))
    });
    let jobs = jobs.collect::<Result<_, Problem>>()?;
    // While the answers are waited for nothing of it is needed.
    drop(body);
    let results = direct::results(app, call, jobs)?;
    let vectors: Result<Vec<_>, _> = results.iter().map(answer::outcome).collect();
    let (by, response) = match &vectors {
        Ok(vectors) => {
            let by = vectors.first().map(|vector| vector.provider.as_str());
            (
                by,
                Response::json(200, &answer::embeddings(&model, vectors, as_base64)),
            )
        }
        Err(error) => (None, direct::refused(error)),
    };
    Ok(limits::told(app, &like, by, response))
}
