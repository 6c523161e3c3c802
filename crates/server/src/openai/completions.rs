//! `/v1/completions`: OpenAI's older completion of a text.

use serde_json::{Value, json};

use super::answer::Reply;
use super::arriving::Piece;
use super::direct;
use super::endpoints::{COMPLETIONS, flag};
use super::parts::{MOST_BYTES, Parts};
use super::stream::{AnswerEvents, Changed, rest};
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::records::files::now;

/// `POST /v1/completions`.
pub(super) fn create(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let mut body = call.object(MOST_BYTES)?;
    let is_streamed = flag(&mut body, "stream")?;
    let options = body.remove("stream_options").unwrap_or_default();
    let with_usage = options["include_usage"] == true;
    let strict = app.is_strict(&call.head)?;
    let parts = Parts::of(COMPLETIONS, body, strict)?;
    if is_streamed {
        let mut events = CompletionEvents {
            with_usage,
            head: Value::Null,
            sent: String::new(),
        };
        return direct::streamed(app, call, COMPLETIONS, parts, &mut events);
    }
    direct::answered(app, call, COMPLETIONS, parts, |reply| {
        Response::json(200, reply)
    })
}

/// Writes the events of a completion: the text of its first choice while it arrives, and at the end each choice in one
/// piece.
struct CompletionEvents {
    with_usage: bool,
    head: Value,
    sent: String,
}

impl CompletionEvents {
    fn chunk(&self, head: &Value, choices: Value, usage: &Value) -> String {
        let mut chunk = head.clone();
        chunk["choices"] = choices;
        chunk["usage"] = usage.clone();
        format!("data: {chunk}\n\n")
    }
}

impl AnswerEvents for CompletionEvents {
    fn begin(&mut self, id: &str, model: &str) -> String {
        self.head = json!({
            "id": id, "object": "text_completion", "created": now(), "model": model, "choices": [], "usage": null,
            "system_fingerprint": null,
        });
        String::new()
    }

    fn piece(&mut self, piece: &Piece) -> String {
        let Piece::Text(text) = piece else {
            return String::new();
        };
        self.sent += text;
        let choice = json!({"index": 0, "text": text, "logprobs": null, "finish_reason": null});
        self.chunk(&self.head, json!([choice]), &Value::Null)
    }

    fn end(&mut self, reply: &Reply) -> Result<String, (String, Changed)> {
        let Reply::Json(completion) = reply else {
            return Ok(String::new());
        };
        let mut head = completion.clone();
        if !self.sent.is_empty() {
            head["created"] = self.head["created"].take();
        }
        let mut out = String::new();
        for choice in completion["choices"].as_array().into_iter().flatten() {
            let mut choice = choice.clone();
            let text = choice["text"].as_str().unwrap_or_default();
            let sent = std::mem::take(&mut self.sent);
            let text = match rest(text, &sent) {
                Ok(rest) => rest.to_owned(),
                // It is not the rest of the pieces, and no other answer either.
                Err(Changed) if choice["refusal"].is_string() => format!("\n\n{text}"),
                Err(changed) => return Err((out, changed)),
            };
            choice["text"] = text.into();
            out += &self.chunk(&head, json!([choice]), &Value::Null);
        }
        if self.with_usage {
            out += &self.chunk(&head, json!([]), &completion["usage"]);
        }
        Ok(out + "data: [DONE]\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::text_completion::of_chat;

    #[test]
    fn a_refusal_follows_the_pieces_that_were_sent() {
        let mut events = CompletionEvents {
            with_usage: false,
            head: Value::Null,
            sent: String::new(),
        };
        events.begin("c", "m");
        events.piece(&Piece::Text("a".to_owned()));
        let message = json!({"role": "assistant", "content": null, "refusal": "No."});
        let refused =
            json!({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]});
        let end = events.end(&Reply::Json(of_chat(refused))).unwrap();
        let (chunk, done) = end.split_once("\n\n").unwrap();
        let chunk: Value = serde_json::from_str(chunk.trim_start_matches("data: ")).unwrap();
        assert_eq!(chunk["choices"][0]["text"], "\n\nNo.");
        assert_eq!(done, "data: [DONE]\n\n");
    }
}
