//! Calls whose answer must be JSON of some shape: an answer is checked, and the text around its JSON is removed. What does
//! not fit is shown to the model, together with what is wrong, when the engine asks again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::brief::beginning;
use crate::base::{Context, Error, ErrorKind, Optional, Sent};

use super::client::LlmClient;
use super::params::ResponseFormat;
use super::request::{Message, Request, Role};
use super::response::{FinishReason, Response, unfenced};
use super::schema::Schema;

/// An answer that did not fit, and why.
#[derive(Clone, Serialize, Deserialize, derive_more::Debug)]
#[debug("Correction")]
pub(crate) struct Correction {
    answer: String,
    why: String,
}

/// One call, and the look at its answer.
pub(crate) fn complete(
    client: &dyn LlmClient,
    request: &Request,
    format: &ResponseFormat,
    before: Option<&Correction>,
    ctx: &Context,
) -> Result<Response, Error> {
    let shape = Shape::of(format)?;
    let response = match before {
        Some(before) => client.complete(&before.corrected(request), ctx)?,
        None => client.complete(request, ctx)?,
    };
    held_against(&shape, response, request.unchecked)
}

/// Checks an answer of a batch against the requested format.
pub(crate) fn fitting(
    format: &ResponseFormat,
    response: Response,
    unchecked: bool,
) -> Result<Response, Error> {
    held_against(&Shape::of(format)?, response, unchecked)
}

/// Checks an answer against its format. Tool calls are not checked, because they are not the answer yet. An `unchecked`
/// answer of another format is returned unchanged.
fn held_against(shape: &Shape, mut response: Response, unchecked: bool) -> Result<Response, Error> {
    if !response.details().tool_calls.is_empty() {
        return Ok(response);
    }
    let fit = shape.fit(&response.text);
    // Of what was cut nobody knows what would have followed.
    let is_cut = response.finish_reason == FinishReason::Length;
    let found = || shape.find(&response.text).filter(|_| !is_cut);
    match fit.or_else(|misfit| found().ok_or(misfit)) {
        Ok(json) if json.len() < response.text.len() => response.text = json.to_owned(),
        Ok(_) => {}
        Err(_) if unchecked => {}
        Err(misfit) => return Err(refused(shape, misfit, &response)),
    }
    Ok(response)
}

/// The failure of an answer that does not fit. What was cut would be cut again.
fn refused(shape: &Shape, misfit: String, response: &Response) -> Error {
    let cut = response.finish_reason == FinishReason::Length;
    let why = if cut {
        "the answer was cut at the token limit before its JSON was complete; allow more tokens (max_tokens)"
            .to_owned()
    } else {
        format!("{MISFIT}{}: {misfit}", shape.name())
    };
    let error = Error::new(ErrorKind::Invalid, why)
        .with_sent(Sent::Answered)
        .with_rate_hints(response.hints)
        .with_paid(response.paid())
        .with_answered_model(response.model.clone())
        .with_raw(&response.text);
    error.when(!cut, Error::misshapen)
}

/// How the message of such a failure begins.
const MISFIT: &str = "the answer does not fit the ";

impl Correction {
    /// The correction of an answer that failed so.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        let why = error.message().strip_prefix(MISFIT)?;
        let answer = error.raw().filter(|_| error.is_schema_mismatch())?;
        Some(Self {
            answer: answer.to_owned(),
            why: why.to_owned(),
        })
    }

    /// The request, continued by the answer and what is wrong with it. An empty answer cannot be
    /// part of a conversation: then it is the request as it was.
    fn corrected(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if !self.answer.trim().is_empty() {
            let wanted = format!(
                "This does not fit the {}. Answer again with nothing but the corrected JSON.",
                self.why
            );
            let answer = Message::new(Role::Assistant, self.answer.as_str());
            request.messages.push(answer);
            request.messages.push(Message::new(Role::User, wanted));
        }
        request
    }
}

/// The format that an answer must have: a schema, or any JSON object.
struct Shape(Option<Schema>);

/// The maximum length of a description of a mismatch, which is sent to the model and shown to people.
const MISFIT_LEN: usize = 500;

impl Shape {
    /// The format that a request asks for.
    ///
    /// # Errors
    /// The defect of its schema.
    fn of(format: &ResponseFormat) -> Result<Self, Error> {
        let ResponseFormat::JsonSchema { schema, .. } = format else {
            return Ok(Self(None));
        };
        let compiled = Schema::compile(schema).map_err(|fault| {
            let why = format!("the request's JSON Schema cannot be used: {fault}");
            Error::new(ErrorKind::Invalid, why)
        });
        Ok(Self(Some(compiled?)))
    }

    /// The JSON in an answer of this format, without white space or a Markdown fence around it.
    ///
    /// # Errors
    /// The mismatch. It quotes nothing from the answer except names of fields.
    fn fit<'t>(&self, text: &'t str) -> Result<&'t str, String> {
        let json = unfenced(text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}'));
        if json.is_empty() {
            return Err("it is empty".to_owned());
        }
        let value: Value =
            serde_json::from_str(json).map_err(|error| format!("it is not JSON ({error})"))?;
        match self.misfit(&value) {
            None => Ok(json),
            Some(misfit) => Err(shortened(misfit)),
        }
    }

    /// The only JSON object or list of this format in an answer with further text, for example reasoning, prose or a
    /// fence. `None` if there are two, because either may be the answer, or if one is broken, because JSON inside of it is
    /// only a part of the answer.
    fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        let text = without_thoughts(text)?;
        let (mut found, mut at) = (None, 0);
        while let Some(start) = text[at..].find(['{', '[']) {
            let start = at + start;
            let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter();
            at = match values.next() {
                Some(Ok(value)) => {
                    let end = start + values.byte_offset();
                    if self.misfit(&value).is_none() && found.replace(&text[start..end]).is_some() {
                        return None;
                    }
                    end
                }
                Some(Err(error)) if error.is_eof() || is_meant(&text[start..]) => return None,
                _ => start + 1,
            };
        }
        found
    }

    fn misfit(&self, value: &Value) -> Option<String> {
        match &self.0 {
            Some(schema) => schema.misfit(value),
            None => (!value.is_object()).then(|| "it is JSON, but no object".to_owned()),
        }
    }

    /// What an answer has to fit, in words.
    fn name(&self) -> &'static str {
        match self.0 {
            None => "JSON object",
            Some(_) => "schema",
        }
    }
}

/// Whether a brace or bracket begins JSON, unlike one of `{name}` and `[sic]` in prose.
fn is_meant(text: &str) -> bool {
    text[1..].trim_start().starts_with(['"', '{', '['])
}

/// What follows the thoughts that some models put before their answer; none if they do not end.
fn without_thoughts(text: &str) -> Option<&str> {
    match text.rsplit_once("</think>") {
        Some((_, answer)) => Some(answer),
        None => (!text.trim_start().starts_with("<think>")).then_some(text),
    }
}

fn shortened(text: String) -> String {
    if text.len() <= MISFIT_LEN {
        return text;
    }
    format!("{}…", beginning(&text, MISFIT_LEN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::base::cases::{cases, unescaped};

    /// `fit` reads an answer that is one JSON object, and `find` finds one in other text.
    #[test]
    fn an_object_is_read_or_found_and_never_guessed() {
        for (case, expected) in cases(include_str!("json_answer_cases.txt")) {
            let (how, text) = case.split_once(' ').unwrap_or((case, ""));
            let text = unescaped(text);
            let found = match how {
                "fit" => Shape(None)
                    .fit(&text)
                    .map_err(|why| format!("error: {why}")),
                _ => Shape(None).find(&text).ok_or("none".to_owned()),
            };
            assert_eq!(
                found.map_or_else(|why| why, str::to_owned),
                expected,
                "{case}"
            );
        }
        let many = "[".repeat(1_000_000) + "{}";
        assert_eq!(Shape(None).find(&many), None);
    }

    #[cfg(feature = "schema")]
    #[test]
    fn json_of_another_format_is_ignored() {
        let schema = json!({"type": "object", "required": ["a"]});
        let shape = Shape(Some(Schema::compile(&schema).unwrap()));
        let text = "Not {\"b\": 1} but {\"a\": 1}.";
        assert_eq!(shape.find(text), Some("{\"a\": 1}"));
        assert_eq!(shape.find("{\"b\": {\"a\": 1}}, so"), None);
    }

    #[test]
    fn a_schema_without_an_object_allows_any_json() {
        let format = ResponseFormat::JsonSchema {
            name: "a".to_owned(),
            schema: json!({}),
            strict: false,
        };
        let shape = Shape::of(&format).unwrap();
        assert_eq!(shape.fit(" 5 ").unwrap(), "5");
        assert!(shape.fit("five").is_err());
    }

    #[cfg(feature = "schema")]
    #[test]
    fn the_description_of_a_mismatch_is_short() {
        let names: Vec<String> = (0..200).map(|n| format!("ä{n}")).collect();
        let shape = Shape(Some(Schema::compile(&json!({"enum": names})).unwrap()));
        let misfit = shape.fit("5").unwrap_err();
        assert!(misfit.len() <= MISFIT_LEN + '…'.len_utf8(), "{misfit}");
        let required = Shape(Some(Schema::compile(&json!({"required": names})).unwrap()));
        let misfit = required.fit("{}").unwrap_err();
        assert!(
            misfit.starts_with("\"ä0\" is a required property; \"ä1\""),
            "{misfit}"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            // Words of JSON Schema among them, so that some schemas are ones.
            "(a|b|type|string|object|array|[$]ref|#|[^\\x00]{0,3})".prop_map(Value::from),
        ];
        let key = "(a|b|type|items|properties|required|anyOf|not|enum|[$]ref|pattern|.{0,2})";
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_makes_the_check_panic(schema in any_json(), value in any_json(), text in ".*") {
            let format = ResponseFormat::JsonSchema {
                name: "a".to_owned(),
                schema,
                strict: false,
            };
            let json = value.to_string();
            if let Ok(shape) = Shape::of(&format) {
                for text in [&text, &json, &format!("```{text}```"), &format!("x {json} {text}")] {
                    let kept = shape.fit(text).ok();
                    if let Some(kept) = kept.or_else(|| shape.find(text)) {
                        prop_assert!(serde_json::from_str::<Value>(kept).is_ok());
                    }
                }
            }
            prop_assert_eq!(Shape(None).fit(&json).is_ok(), value.is_object());
        }
    }
}
