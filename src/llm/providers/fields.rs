//! What becomes of the fields that prompt files carry in OpenAI's words: one list per vendor of what
//! it has no place for, and of what it takes in certain values or other words.
//!
//! What has no place is left out rather than sent to be refused, and users are told. A field that
//! stands in no list is passed on: vendors add fields faster than lists grow.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::error::Error;
use crate::llm::hash::hex;
use crate::llm::params::ResponseFormat;
use crate::llm::request::Request;

use super::calls;
use super::content::invalid;
use super::files::Files;
use super::left_out::{LeftOut, Why};

pub(super) mod hosts;
pub(super) mod vendors;

/// One vendor's list.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Fields of the body that it would refuse a request for.
    lacks: &'static [&'static [&'static str]],
    /// Fields of which it takes some values only.
    takes: &'static [(&'static str, Takes)],
    /// Types of content parts, in OpenAI's words, that it has no place for, and what to write instead.
    pub(super) lacks_parts: &'static [(&'static str, &'static str)],
    /// The local files that it takes.
    pub(super) files: Files,
    /// What a message may have beside its role and content.
    turns: Turns,
    /// In whose words its dialect says tools, where it has others than OpenAI.
    tools: Option<calls::Words>,
    /// Which ids of tool calls it takes.
    call_ids: fn(&str) -> bool,
    seeds: Option<RangeInclusive<i64>>,
    temperatures: RangeInclusive<f64>,
    /// Whether blanks and line breaks may end the answer.
    blank_stops: bool,
    schemas: Schemas,
}

/// Which schemas have a place. One that has none is put into the system text.
#[derive(Debug)]
enum Schemas {
    All,
    If(fn(&Value) -> bool),
    Nothing,
}

#[derive(Debug)]
enum Takes {
    /// These words.
    These(&'static [&'static str]),
    /// These words, each beside the one that the vendor has for it.
    Words(&'static [(&'static str, &'static str)]),
    /// What this is true of.
    If(fn(&Value) -> bool),
}

#[derive(Debug)]
enum Turns {
    /// Whatever stands there, what another provider has signed included: for servers that are not known
    /// better, and for those that pass it on to that provider.
    All,
    AllBut(&'static [&'static str]),
    Nothing,
}

/// Set by a request's own parameters or, like a number of answers, by none.
const OWN: [&str; 14] = [
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "seed",
    "random_seed",
    "response_format",
    "n",
    "best_of",
    "stream",
    "stream_options",
];

impl Fields {
    /// The value of a field of the body as the vendor takes it.
    fn place<'v>(&self, field: &str, value: &'v Value) -> Result<Cow<'v, Value>, Why> {
        if OWN.contains(&field) {
            return Err(Why::Own);
        }
        if self.lacks.iter().any(|names| names.contains(&field)) {
            return Err(Why::Lacking);
        }
        let rule = self.takes.iter().find(|(name, _)| *name == field);
        match rule.map(|(_, takes)| takes) {
            None => Ok(Cow::Borrowed(value)),
            Some(Takes::If(good)) => good(value)
                .then_some(Cow::Borrowed(value))
                .ok_or(Why::Value),
            Some(Takes::These(words)) => {
                if words.iter().any(|word| value == word) {
                    Ok(Cow::Borrowed(value))
                } else {
                    Err(Why::Words(words.to_vec()))
                }
            }
            Some(Takes::Words(words)) => match words.iter().find(|(word, _)| value == word) {
                Some((_, own)) => Ok(Cow::Owned(Value::from(*own))),
                None => Err(Why::Words(words.iter().map(|(word, _)| *word).collect())),
            },
        }
    }

    /// Refuses a value that would be left out, with those that are taken.
    pub(super) fn check(&self, vendor: &str, field: &str, value: &Value) -> Result<(), Error> {
        let Err(why) = self.place(field, value) else {
            return Ok(());
        };
        let why = match why {
            Why::Words(words) => {
                let words = words.join(", ");
                format!("{vendor} does not support {field} {value}, only {words}")
            }
            _ => format!("{vendor} does not support {field}"),
        };
        Err(invalid(why))
    }

    /// The id of a tool call as the vendor takes it. Those that others gave become another, the same one
    /// wherever it stands in a conversation, which every vendor takes.
    pub(super) fn call_id<'i>(&self, id: &'i str) -> Cow<'i, str> {
        if (self.call_ids)(id) {
            Cow::Borrowed(id)
        } else {
            Cow::Owned(hex(&Sha256::digest(id))[..9].to_owned())
        }
    }

    pub(super) fn has_turn(&self, field: &str) -> bool {
        match self.turns {
            Turns::All => true,
            Turns::AllBut(names) => !names.contains(&field),
            Turns::Nothing => false,
        }
    }

    /// The request's further fields that have a place, as the vendor takes them.
    pub(super) fn further<'r>(
        &'r self,
        request: &'r Request,
    ) -> impl Iterator<Item = (&'r str, Cow<'r, Value>)> {
        let given = self.given(request);
        given.filter_map(|(field, value)| Some((field.as_str(), self.place(field, value).ok()?)))
    }

    /// The request's further fields, without those that the dialect has words of its own for.
    fn given<'r>(&self, request: &'r Request) -> impl Iterator<Item = (&'r String, &'r Value)> {
        let own = match self.tools {
            Some(_) => &calls::FIELDS[..],
            None => &[],
        };
        let given = request.extra.iter().filter(|(_, value)| !value.is_null());
        given.filter(|(field, _)| !own.contains(&field.as_str()))
    }

    /// Whether it may take back what another provider has signed.
    pub(super) fn takes_signatures(&self) -> bool {
        matches!(self.turns, Turns::All)
    }

    /// A message's further fields that have a place.
    pub(super) fn of_turn<'r>(
        &'r self,
        extra: &'r Map<String, Value>,
    ) -> impl Iterator<Item = (&'r String, &'r Value)> {
        given(extra).filter(|(field, _)| self.has_turn(field))
    }

    pub(super) fn seed(&self, request: &Request) -> Option<i64> {
        let seeds = self.seeds.as_ref()?;
        request.seed().filter(|seed| seeds.contains(seed))
    }

    pub(super) fn temperature(&self, request: &Request) -> Option<f64> {
        let wanted = request.params.temperature;
        wanted.filter(|wanted| self.temperatures.contains(wanted))
    }

    pub(super) fn takes_schema(&self, schema: &Value) -> bool {
        match self.schemas {
            Schemas::All => true,
            Schemas::If(fits) => fits(schema),
            Schemas::Nothing => false,
        }
    }

    /// The texts that end the answer.
    pub(super) fn stops<'r>(&self, request: &'r Request) -> Vec<&'r str> {
        let stops = request.params.stop.iter().map(String::as_str);
        stops.filter(|stop| self.takes_stop(stop)).collect()
    }

    fn takes_stop(&self, stop: &str) -> bool {
        self.blank_stops || !stop.trim().is_empty()
    }

    /// Everything that does not go out.
    pub(super) fn left_out(&self, request: &Request) -> Vec<LeftOut> {
        let mut out = Vec::new();
        for (field, value) in self.given(request) {
            if let Err(why) = self.place(field, value) {
                out.push(LeftOut::new(field, why));
            }
        }
        let tools = self.tools.map(|words| calls::left_out(words, request));
        for (field, otherwise) in tools.into_iter().flatten() {
            let why = if otherwise { Why::Value } else { Why::Lacking };
            out.push(LeftOut::new(&field, why));
        }
        for (field, value) in request.messages.iter().flat_map(|turn| given(&turn.extra)) {
            let told = match field.as_str() {
                "tool_calls" | "tool_call_id" => self.tools.is_some(),
                // As a result has it, it is said in the words of whoever takes it back.
                "reasoning" if value.is_object() => {
                    self.tools.is_some() || self.has_turn("reasoning_content")
                }
                _ => false,
            };
            if !self.has_turn(field) && !told {
                out.push(LeftOut::new(&format!("messages[].{field}"), Why::Lacking));
            }
        }
        let params = &request.params;
        if params.seed.is_some() && self.seed(request).is_none() {
            let why = self.seeds.as_ref().map_or(Why::Lacking, |_| Why::Value);
            out.push(LeftOut::new("seed", why));
        }
        if let Some(wanted) = params.temperature
            && self.temperature(request).is_none()
        {
            let why = match *self.temperatures.end() {
                most if most < wanted => Why::Hot(most, wanted),
                _ => Why::Value,
            };
            out.push(LeftOut::new("temperature", why));
        }
        if params.stop.iter().any(|stop| !self.takes_stop(stop)) {
            out.push(LeftOut::new("stop", Why::Value));
        }
        if let Some(ResponseFormat::JsonSchema { name, schema, .. }) = &params.response_format
            && !self.takes_schema(schema)
        {
            let why = match self.schemas {
                Schemas::Nothing => Why::AnySchema,
                _ => Why::Schema,
            };
            out.push(LeftOut::new(&format!("schema as `{name}`"), why));
        }
        out
    }
}

/// A message's further fields that say something. In recorded conversations many are null or an
/// empty list, which OpenAI itself refuses for some.
fn given(extra: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    extra.iter().filter(|(field, value)| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        !empty && !matches!(field.as_str(), "role" | "content")
    })
}

#[cfg(test)]
mod tests;
