//! What the calls of an item leave for its next one: what they cost, and an answer to be corrected.
//!
//! A waiting item carries none of it. It is kept here, by the item's request, from a paid call that
//! failed to the next one.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::usage::Paid;
use crate::engine::route::Tries;
use crate::engine::run::Reply;

use super::client::LlmClient;
use super::hash::digest;
use super::request::Request;
use super::response::Response;
use super::structured_output::{self, Correction, Failed};

/// Notes are kept up to this number and size; the oldest go first. What their items had paid is
/// missing in the accounts then, and answers are asked for again without a word of what was wrong.
const MOST_NOTES: usize = 4_096;
const MOST_BYTES: usize = 16 << 20;

/// An item: its request, its id, and when its first call began.
type Key = ([u8; 32], Option<String>, u64);

/// What a route remembers of items that are called again.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    notes: HashMap<Key, Note>,
    bytes: usize,
    written: u64,
}

#[derive(Default)]
struct Note {
    paid: Paid,
    correction: Option<Correction>,
    number: u64,
}

impl Notes {
    /// One call, with what its item has been through. `again` says whether an item that failed in
    /// such a way is called again.
    pub(crate) fn call(
        &self,
        client: &dyn LlmClient,
        request: &Request,
        tries: &Tries,
        again: impl FnOnce(&Error) -> bool,
        ctx: &Context,
    ) -> Reply<Response> {
        let note = self.take(request, tries);
        let (paid, correction) = note.map_or((None, None), |note| {
            let misfit = note.correction.filter(|_| tries.misfits > 0);
            (Some(note.paid), misfit)
        });
        let answered = match &request.params.response_format {
            None => client.complete(request, ctx).map_err(Failed::from),
            Some(format) => {
                structured_output::complete(client, request, format, correction.as_ref(), ctx)
            }
        };
        match answered {
            Ok(mut response) => {
                let used = response.paid().tokens();
                if let Some(paid) = paid {
                    response.set_paid(paid + response.paid());
                }
                Reply {
                    used,
                    ..Ok(response).into()
                }
            }
            Err(Failed { error, misfit }) => {
                let call = error.paid();
                // A misfit was paid for although nobody may have said how much.
                let call_paid = (misfit.is_some() || call.is_known()).then_some(call);
                let sum = match (paid, call_paid) {
                    (Some(paid), Some(call)) => Some(paid + call),
                    (one, other) => one.or(other),
                };
                let error = error.with_paid(sum.unwrap_or_default());
                if let Some(paid) = sum
                    && again(&error)
                {
                    let note = Note {
                        paid,
                        correction: misfit.or(correction),
                        number: 0,
                    };
                    let key = key(request, tries);
                    self.0.lock().put(key, note);
                }
                Reply {
                    used: call.tokens(),
                    ..error.into()
                }
            }
        }
    }

    /// What an item has paid that is not called again after all.
    pub(crate) fn take_paid(&self, request: &Request, tries: &Tries) -> Paid {
        let note = self.take(request, tries);
        note.map_or_else(Paid::default, |note| note.paid)
    }

    /// Notes what the calls of an item have cost, some of which may have been made by another process.
    #[cfg(feature = "queue")]
    pub(crate) fn remember(&self, request: &Request, tries: &Tries, paid: Paid) {
        let key = key(request, tries);
        let mut kept = self.0.lock();
        let correction = kept.remove(&key).and_then(|known| known.correction);
        let note = Note {
            paid,
            correction,
            number: 0,
        };
        kept.put(key, note);
    }

    fn take(&self, request: &Request, tries: &Tries) -> Option<Note> {
        if tries.calls == 0 || self.0.lock().notes.is_empty() {
            return None;
        }
        let key = key(request, tries);
        self.0.lock().remove(&key)
    }
}

fn key(request: &Request, tries: &Tries) -> Key {
    let first = tries.first.time().unwrap_or_default();
    (digest(request), request.id.clone(), first.as_nanos())
}

impl Kept {
    fn put(&mut self, key: Key, mut note: Note) {
        if let Some(known) = self.remove(&key) {
            // Equal requests without an id that began at the same instant share what they paid.
            note.paid = note.paid + known.paid;
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
    let text = note.correction.as_ref().map_or(0, Correction::weight);
    key.1.as_ref().map_or(0, String::len) + text
}

#[cfg(test)]
#[path = "carried_cost_tests.rs"]
mod tests;
