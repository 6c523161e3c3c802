//! Answers as streams. The head of the response is sent at once, a comment every few seconds while the client waits, the
//! pieces of the answer while they arrive if nothing has to be checked first, and at the end what is missing of the
//! complete answer, which is the one that is stored.

use batchwright::{Error, ProcessId};
use serde_json::{Value, json};

use super::answer::{self, Reply};
use super::arriving::Piece;
use super::caller::Caller;
use super::parts::Parts;
use crate::problem::Problem;
use crate::records::files::id_of;

/// The complete answer differs from the pieces that were sent, because its call was repeated.
#[derive(Debug, PartialEq)]
pub(super) struct Changed;

impl Changed {
    pub const CODE: &'static str = "answer_changed";
    pub const WHY: &'static str = "the call was repeated, and the answer differs from the pieces that were sent: this event has the \
        complete answer";
}

/// Writes the events of a stream.
pub(super) trait AnswerEvents {
    /// The events before the answer. The ids of the events are made of `id`; `model` is the model that is called first.
    fn begin(&mut self, id: &str, model: &str) -> String;

    /// The events of a piece.
    fn piece(&mut self, piece: &Piece) -> String;

    /// The events with the rest of the complete answer, after those of the pieces.
    ///
    /// # Errors
    /// If the answer does not begin with these pieces, with the events that are not affected.
    fn end(&mut self, reply: &Reply) -> Result<String, (String, Changed)>;

    /// The event of an answer that differs from its pieces.
    fn changed(&mut self, reply: &Reply) -> String {
        let answer = serde_json::to_value(reply).unwrap_or_default();
        let error = json!({
            "message": Changed::WHY, "type": "server_error", "param": null, "code": Changed::CODE, "answer": answer,
        });
        format!("data: {}\n\n", json!({ "error": error }))
    }

    /// The events of a request that has failed.
    fn failed(&mut self, error: &Error) -> String {
        format!("data: {}\n\n", answer::failure(error).1)
    }

    /// The event of a problem of the server.
    fn broken(&mut self, problem: &Problem) -> String {
        problem.event()
    }
}

/// The part of a text that was not sent.
pub(super) fn rest<'t>(text: &'t str, sent: &str) -> Result<&'t str, Changed> {
    text.strip_prefix(sent).ok_or(Changed)
}

/// The same for the arguments of a call, which the answer may have with other white space.
pub(super) fn rest_of_arguments<'t>(text: &'t str, sent: &str) -> Result<&'t str, Changed> {
    let read = |json| serde_json::from_str::<Value>(json).ok();
    if let Ok(rest) = rest(text, sent) {
        return Ok(rest);
    }
    // The input of a custom tool may be text, in which white space counts.
    let value = read(text).ok_or(Changed)?;
    if read(sent) == Some(value) {
        return Ok("");
    }
    let (mut whole, mut from) = (without_space(text), 0);
    for (_, sent) in without_space(sent) {
        let (at, same) = whole.next().ok_or(Changed)?;
        if same != sent {
            return Err(Changed);
        }
        from = at + same.len_utf8();
    }
    Ok(&text[from..])
}

/// The characters of a JSON text and their positions, without white space outside of strings.
fn without_space(json: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut in_string, mut is_escaped) = (false, false);
    json.char_indices().filter(move |(_, char)| {
        let is_kept = in_string || !char.is_ascii_whitespace();
        match char {
            '"' if !is_escaped => in_string = !in_string,
            '\\' if in_string && !is_escaped => {
                is_escaped = true;
                return is_kept;
            }
            _ => {}
        }
        is_escaped = false;
        is_kept
    })
}

/// The stream of a client that waits.
pub(super) struct Outgoing<'e> {
    pub events: &'e mut dyn AnswerEvents,
    /// Whether pieces are sent before the answer is complete.
    pub is_live: bool,
    /// The beginning of the id of the answer.
    prefix: &'static str,
}

impl<'e> Outgoing<'e> {
    /// The stream of an answer to these parts. Pieces of an answer that has to be checked first are not sent.
    pub fn new(events: &'e mut dyn AnswerEvents, parts: &Parts, prefix: &'static str) -> Self {
        let is_live = match &parts.requests[..] {
            [request] => request.unchecked && request.params.response_format.is_none(),
            _ => false,
        };
        Self {
            events,
            is_live,
            prefix,
        }
    }

    /// Sends the events before the answer.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn begin(
        &mut self,
        caller: &mut Caller<'_, '_>,
        process: ProcessId,
    ) -> Result<(), Problem> {
        let id = id_of(self.prefix, process);
        let first = caller.app.limits.of(&caller.like).into_iter().next();
        let model = caller.like.model.clone();
        let model = model.or(first.and_then(|first| first.model));
        let events = self.events.begin(&id, &model.unwrap_or_default());
        send(caller, &events)
    }

    /// Sends pieces that have arrived.
    ///
    /// # Errors
    /// When the client is gone.
    pub fn pass_on(
        &mut self,
        caller: &mut Caller<'_, '_>,
        pieces: &[Piece],
    ) -> Result<(), Problem> {
        let events: String = pieces
            .iter()
            .map(|piece| self.events.piece(piece))
            .collect();
        send(caller, &events)
    }

    /// The events at the end.
    pub fn rest(&mut self, reply: &Result<Reply, Error>) -> String {
        match reply {
            Ok(reply) => self.events.end(reply).unwrap_or_else(|(events, Changed)| {
                log::warn!("the answer of a repeated call differs from the pieces that were sent");
                events + &self.events.changed(reply)
            }),
            Err(error) => self.events.failed(error),
        }
    }
}

fn send(caller: &mut Caller<'_, '_>, events: &str) -> Result<(), Problem> {
    if events.is_empty() {
        return Ok(());
    }
    caller.send(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_with_other_white_space_are_the_same() {
        assert_eq!(rest_of_arguments("{\"a\":1}", "{\"a\": 1}"), Ok(""));
        assert_eq!(rest_of_arguments("{\"a\":1}", "{\"a\""), Ok(":1}"));
        assert_eq!(rest_of_arguments("{}", ""), Ok("{}"));
        let [text, other] = [r#"{"a":"b \" c","d":1}"#, r#"{"a":"b\" c","d":1}"#];
        for (sent, rest) in [
            ("{ \"a\" : ", r#""b \" c","d":1}"#),
            (r#"{"a": "b \" "#, r#"c","d":1}"#),
            ("{\n  \"a\": \"b \\\" c\",\n  \"d\": ", "1}"),
        ] {
            assert_eq!(rest_of_arguments(text, sent), Ok(rest), "{sent}");
        }
        assert_eq!(rest_of_arguments(other, r#"{"a": "b \" "#), Err(Changed));
        assert_eq!(rest_of_arguments("not json", "not  j"), Err(Changed));
        assert_eq!(rest_of_arguments("{\"a\":1}", "{\"a\": 2}"), Err(Changed));
        assert_eq!(rest("abc", "b"), Err(Changed));
    }
}
