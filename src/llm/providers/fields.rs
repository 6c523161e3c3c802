//! The fields of prompt files in OpenAI's format: which of them each vendor lacks, and which it supports only with
//! certain values or in another form. `tables/vendors.json` lists them by vendor.
//!
//! A field that the vendor lacks is omitted, because sending it would fail, and the user is warned. A field
//! that is not listed is sent: vendors add fields faster than the lists grow.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::base::Error;
use crate::llm::hash::hex;
use crate::llm::params::ResponseFormat;
use crate::llm::request::Request;

use super::content::invalid;
use super::files::Files;
use super::left_out::{LeftOut, Why};
use super::{anthropic_schema, calls};

/// The fields that one vendor supports; without an entry in the table, all of them.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fields {
    /// Fields of the body that make the vendor reject a request.
    lacks: Vec<String>,
    /// Names of lists in the table that `lacks` includes as well.
    lacks_groups: Vec<String>,
    /// Fields of which it supports only some values.
    takes: HashMap<String, Takes>,
    /// Types of content parts in OpenAI's format that it does not support, and what to write instead.
    pub(super) lacks_parts: HashMap<String, String>,
    /// The local files that it supports.
    pub(super) files: Files,
    /// The fields of a message in addition to role and content.
    turns: Turns,
    /// The format of tools, if it is not OpenAI's.
    tools: Option<calls::Words>,
    call_ids: CallIds,
    /// The smallest and largest seed.
    seeds: Option<(i64, i64)>,
    /// The lowest and highest temperature.
    temperatures: (f64, f64),
    /// Whether a stop text may consist of spaces and line breaks.
    blank_stops: bool,
    schemas: Schemas,
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            lacks: Vec::new(),
            lacks_groups: Vec::new(),
            takes: HashMap::new(),
            lacks_parts: HashMap::new(),
            files: Files::any(),
            turns: Turns::All,
            tools: None,
            call_ids: CallIds::Any,
            seeds: Some((i64::MIN, i64::MAX)),
            temperatures: (f64::MIN, f64::MAX),
            blank_stops: true,
            schemas: Schemas::All,
        }
    }
}

/// The ids of tool calls that a vendor accepts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallIds {
    Any,
    #[serde(rename = "at_most_40")]
    AtMost40,
    NineAlphanumeric,
    /// Letters, digits, `_` and `-`.
    Name,
}

/// The schemas that a vendor supports. Any other schema is added to the system text.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Schemas {
    All,
    /// Those that Anthropic's structured outputs support.
    Anthropic,
    Nothing,
}

/// The values of a field that a vendor supports.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Takes {
    /// These words.
    These(Vec<String>),
    /// These words, each with the vendor's own word for it.
    Words(Map<String, Value>),
    /// Values of a type.
    OfType(ValueType),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ValueType {
    Boolean,
    Count,
    Number,
    Object,
    /// An object whose only field is the text `user_id`.
    UserIdOnly,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Turns {
    /// All fields, including those that another provider has signed: for unknown servers, and for those
    /// that forward them to that provider.
    All,
    AllBut(Vec<String>),
    Nothing,
}

impl CallIds {
    fn contains(&self, id: &str) -> bool {
        let in_a_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        match self {
            Self::Any => true,
            Self::AtMost40 => id.len() <= 40,
            Self::NineAlphanumeric => {
                id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
            }
            Self::Name => !id.is_empty() && id.bytes().all(in_a_name),
        }
    }
}

impl ValueType {
    fn contains(&self, value: &Value) -> bool {
        match self {
            Self::Boolean => value.is_boolean(),
            Self::Count => value.is_u64(),
            Self::Number => value.is_number(),
            Self::Object => value.is_object(),
            Self::UserIdOnly => value.as_object().is_some_and(|fields| {
                let is_user = |(name, id): (&String, &Value)| name == "user_id" && id.is_string();
                fields.iter().all(is_user)
            }),
        }
    }
}

/// Fields that the request's own parameters set, or that are never set, for example the number of answers.
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
    /// Adds the fields of the groups to those that the vendor lacks.
    pub(super) fn add_groups(&mut self, groups: &HashMap<String, Vec<String>>) {
        for group in &self.lacks_groups {
            self.lacks.extend(groups[group].iter().cloned());
        }
    }

    /// The value of a field of the body as the vendor supports it.
    fn place<'v>(&'v self, field: &str, value: &'v Value) -> Result<Cow<'v, Value>, Why> {
        if OWN.contains(&field) {
            return Err(Why::Own);
        }
        if self.lacks.iter().any(|lacking| lacking == field) {
            return Err(Why::Lacking);
        }
        let own = match self.takes.get(field) {
            None => Ok(value),
            Some(Takes::OfType(of)) => of.contains(value).then_some(value).ok_or(Why::Value),
            Some(Takes::These(words)) => {
                let known = words.iter().any(|word| value == word);
                known
                    .then_some(value)
                    .ok_or_else(|| Why::Words(words.clone()))
            }
            Some(Takes::Words(words)) => {
                let own = value.as_str().and_then(|word| words.get(word));
                own.ok_or_else(|| Why::Words(words.keys().cloned().collect()))
            }
        };
        own.map(Cow::Borrowed)
    }

    /// Rejects a value that would be omitted. The error names the supported values.
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

    /// The id of a tool call in a form that the vendor accepts. Ids of another form are replaced, each always by the
    /// same one, in a form that every vendor accepts.
    pub(super) fn call_id<'i>(&self, id: &'i str) -> Cow<'i, str> {
        if self.call_ids.contains(id) {
            Cow::Borrowed(id)
        } else {
            Cow::Owned(hex(&Sha256::digest(id))[..9].to_owned())
        }
    }

    pub(super) fn has_turn(&self, field: &str) -> bool {
        match &self.turns {
            Turns::All => true,
            Turns::AllBut(names) => names.iter().all(|name| name != field),
            Turns::Nothing => false,
        }
    }

    /// The request's further fields that the vendor supports, in its form.
    pub(super) fn further<'r>(
        &'r self,
        request: &'r Request,
    ) -> impl Iterator<Item = (&'r str, Cow<'r, Value>)> {
        let given = self.given(request);
        given.filter_map(|(field, value)| Some((field.as_str(), self.place(field, value).ok()?)))
    }

    /// The request's further fields, without those that the dialect translates itself.
    fn given<'r>(&self, request: &'r Request) -> impl Iterator<Item = (&'r String, &'r Value)> {
        let own = match self.tools {
            Some(_) => &calls::FIELDS[..],
            None => &[],
        };
        let given = request.extra.iter().filter(|(_, value)| !value.is_null());
        given.filter(|(field, _)| !own.contains(&field.as_str()))
    }

    /// Whether it may get what another provider has signed.
    pub(super) fn takes_signatures(&self) -> bool {
        matches!(self.turns, Turns::All)
    }

    /// The further fields of a message that the vendor supports.
    pub(super) fn of_turn<'r>(
        &'r self,
        extra: &'r Map<String, Value>,
    ) -> impl Iterator<Item = (&'r String, &'r Value)> {
        given(extra).filter(|(field, _)| self.has_turn(field))
    }

    pub(super) fn seed(&self, request: &Request) -> Option<i64> {
        let (least, most) = self.seeds?;
        request
            .params
            .seed
            .filter(|seed| (least..=most).contains(seed))
    }

    pub(super) fn temperature(&self, request: &Request) -> Option<f64> {
        let (least, most) = self.temperatures;
        let wanted = request.params.temperature;
        wanted.filter(|wanted| (least..=most).contains(wanted))
    }

    pub(super) fn takes_schema(&self, schema: &Value) -> bool {
        match self.schemas {
            Schemas::All => true,
            Schemas::Anthropic => anthropic_schema::anthropic(schema).is_some(),
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

    /// All parts of the request that are omitted.
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
                // Reasoning in the form of a result line is translated for providers that accept it.
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
            let why = self.seeds.map_or(Why::Lacking, |_| Why::Value);
            out.push(LeftOut::new("seed", why));
        }
        if let Some(wanted) = params.temperature
            && self.temperature(request).is_none()
        {
            let why = match self.temperatures.1 {
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

/// The further fields of a message that are not empty. In recorded conversations many are null or an empty list, and
/// OpenAI rejects some of these.
fn given(extra: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    extra.iter().filter(|(field, value)| {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        !empty && !matches!(field.as_str(), "role" | "content")
    })
}

#[cfg(test)]
mod tests;
