//! Calls whose answer must be JSON of some shape. What does not fit is shown to the model, together
//! with what is wrong, when the engine asks again.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::{Error, ErrorKind, RAW_LIMIT, Sent, beginning};
use crate::base::usage::Usage;
use crate::engine::route::Tries;
use crate::engine::run::Reply;

use super::client::LlmClient;
use super::hash::digest;
use super::request::{Message, Request, ResponseFormat, Role};
use super::response::{FinishReason, Response};
use super::shape::Shape;

/// Answers to be corrected are kept up to this number and size; the oldest go first, and their
/// requests are asked again as they were.
const MOST_NOTES: usize = 4_096;
const MOST_BYTES: usize = 16 << 20;

/// What a route remembers of answers that did not fit.
#[derive(Default)]
pub(crate) struct Shaped(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    notes: HashMap<Key, Note>,
    bytes: usize,
    written: u64,
}

/// An item: its request, its id, and when its first call began.
type Key = ([u8; 32], Option<String>, u64);

/// An answer that did not fit.
struct Note {
    text: String,
    misfit: String,
    paid: Paid,
    number: u64,
}

/// What a call used and cost.
#[derive(Clone, Copy)]
struct Paid {
    usage: Option<Usage>,
    cost_usd: Option<f64>,
}

impl Shaped {
    /// One call, and the look at its answer.
    pub(crate) fn call(
        &self,
        client: &dyn LlmClient,
        request: &Request,
        format: &ResponseFormat,
        tries: &Tries,
        ctx: &Context,
    ) -> Reply<Response> {
        let shape = match Shape::of(format) {
            Ok(shape) => shape,
            Err(fault) => {
                let why = format!("the request's JSON Schema cannot be used: {fault}");
                return Error::new(ErrorKind::Invalid, why).into();
            }
        };
        let again = tries.misfits > 0;
        let note = again.then(|| self.take(request, tries)).flatten();
        let answered = match &note {
            Some(note) => client.complete(&note.corrected(request, &shape), ctx),
            None => client.complete(request, ctx),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                if let Some(note) = note {
                    self.keep(request, tries, note);
                }
                return error.into();
            }
        };
        let used = response.usage.map(|u| (u.input_tokens, u.output_tokens));
        let hints = response.hints;
        let result = match shape.fit(&response.text) {
            Ok(json) => {
                if json.len() < response.text.len() {
                    response.text = json.to_owned();
                }
                if let Some(note) = note {
                    note.paid.add_to(&mut response);
                }
                Ok(response)
            }
            Err(misfit) => {
                let error = refused(&shape, &misfit, &response);
                if error.is_misfit() && !again {
                    self.keep(request, tries, Note::of(response, misfit));
                }
                Err(error)
            }
        };
        Reply {
            result,
            used,
            hints,
            fatal: false,
        }
    }

    fn keep(&self, request: &Request, tries: &Tries, note: Note) {
        self.0.lock().put(key(request, tries), note);
    }

    fn take(&self, request: &Request, tries: &Tries) -> Option<Note> {
        self.0.lock().remove(&key(request, tries))
    }
}

fn key(request: &Request, tries: &Tries) -> Key {
    let first = tries.first.unwrap_or_default();
    (digest(request), request.id.clone(), first.as_nanos())
}

/// The error of an answer that does not fit. What was cut would be cut again.
fn refused(shape: &Shape, misfit: &str, response: &Response) -> Error {
    let cut = response.finish_reason == FinishReason::Length;
    let why = if cut {
        "the answer was cut at the token limit before its JSON was complete; allow more tokens"
            .to_owned()
    } else {
        format!("the answer does not fit the {}: {misfit}", shape.name())
    };
    let error = Error::new(ErrorKind::Invalid, why)
        .with_sent(Sent::Answered)
        .with_rate_hints(response.hints)
        .with_raw(&response.text);
    if cut { error } else { error.with_misfit() }
}

impl Notes {
    fn put(&mut self, key: Key, mut note: Note) {
        if let Some(known) = self.remove(&key) {
            // Equal requests without an id that began at the same instant share what they paid.
            note.paid.add(known.paid);
        }
        note.number = self.written;
        self.written += 1;
        self.bytes += weight(&key, &note);
        self.notes.insert(key, note);
        while self.notes.len() > MOST_NOTES || self.bytes > MOST_BYTES {
            let oldest = self.notes.iter().min_by_key(|(_, note)| note.number);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Note> {
        let note = self.notes.remove(key)?;
        self.bytes -= weight(key, &note);
        Some(note)
    }
}

fn weight(key: &Key, note: &Note) -> usize {
    key.1.as_ref().map_or(0, String::len) + note.text.len() + note.misfit.len()
}

impl Note {
    fn of(response: Response, misfit: String) -> Self {
        let paid = Paid {
            usage: response.usage,
            cost_usd: response.cost_usd,
        };
        Self {
            text: beginning(&response.text, RAW_LIMIT).to_owned(),
            misfit,
            paid,
            number: 0,
        }
    }

    /// The request, continued by the answer and what is wrong with it. An empty answer cannot be
    /// part of a conversation: then it is the request as it was.
    fn corrected(&self, request: &Request, shape: &Shape) -> Request {
        let mut request = request.clone();
        if !self.text.trim().is_empty() {
            let wanted = format!(
                "This does not fit the {} that was asked for: {}. Answer again with nothing but \
                 the corrected JSON.",
                shape.name(),
                self.misfit
            );
            let answer = Message::new(Role::Assistant, self.text.as_str());
            request.messages.push(answer);
            request.messages.push(Message::new(Role::User, wanted));
        }
        request
    }
}

impl Paid {
    /// Tokens are summed as far as they are known; a cost of which a part is unknown is unknown.
    fn add(&mut self, other: Self) {
        match (&mut self.usage, other.usage) {
            (Some(usage), Some(other)) => *usage += other,
            (usage, other) => *usage = usage.or(other),
        }
        let costs = self.cost_usd.zip(other.cost_usd);
        self.cost_usd = costs.map(|(one, other)| one + other);
    }

    fn add_to(mut self, response: &mut Response) {
        self.add(Self {
            usage: response.usage,
            cost_usd: response.cost_usd,
        });
        response.usage = self.usage;
        response.cost_usd = self.cost_usd;
    }
}

#[cfg(test)]
#[path = "shaped_tests.rs"]
mod tests;
