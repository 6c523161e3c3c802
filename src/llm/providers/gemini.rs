//! Gemini's `generateContent` dialect.
//!
//! What differs from the OpenAI style: the model stands in the address, parameters in
//! `generationConfig`, the assistant is called `model`, and a blocked prompt is a success reply
//! without a candidate. JSON is protobuf's: zero values are absent, 64-bit numbers are strings.
//! Source: Google's `generative_service.proto` and the types of its Python SDK.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::base::error::{Error, ErrorKind, Sent};
use crate::base::usage::{Paid, Usage};
use crate::llm::request::{Request, ResponseFormat, Text};
use crate::llm::response::Response;

use super::answer::{Answer, End, Ends, count, counts, unlike};
use super::bounded;
use super::calls::{self, Call, Choice};
use super::content::{self, Part, invalid, lacking};
use super::error_body::word;
use super::errors::failure_inside;
use super::reply_contents::Holds;
use super::vendor::Vendor;

/// A model's name as the address has it.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name that would change the address's meaning.
pub(super) fn resource(model: &str) -> Result<String, Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._/@".contains(c);
    if model.is_empty() || !model.chars().all(allowed) || model.contains("..") {
        return Err(invalid(format!("`{model}` is no model's name for gemini")));
    }
    Ok(match model.contains('/') {
        true => model.to_owned(),
        false => format!("models/{model}"),
    })
}

/// The body of a call.
pub(super) fn content(vendor: &Vendor, request: &Request, model: &str) -> Result<Value, Error> {
    let mut system = Vec::new();
    let mut contents = Vec::new();
    let mut called: HashMap<&str, &str> = HashMap::new();
    for (role, text, extra) in request.rendered() {
        let role = match role {
            "system" | "developer" => {
                let text = content::plain(text);
                if !text.trim().is_empty() {
                    system.push(json!({"text": text}));
                }
                continue;
            }
            "user" => "user",
            "assistant" => "model",
            "tool" => {
                let (id, result) = calls::result(text, extra)?;
                let name = called.get(id).copied().ok_or_else(|| {
                    invalid(format!(
                        "no tool call in the conversation has the id `{id}`"
                    ))
                })?;
                answered(&mut contents, name, &result);
                continue;
            }
            other => {
                return Err(invalid(format!(
                    "gemini takes no message with the role `{other}`"
                )));
            }
        };
        let mut parts = parts(text, calls::of_turn(extra).next().is_some())?;
        for call in calls::of_turn(extra) {
            let call = Call::read(call)?;
            called.insert(call.id, call.name);
            parts.push(function_call(&call, model));
        }
        contents.push(json!({"role": role, "parts": parts}));
    }
    if contents.is_empty() {
        return Err(invalid(
            "gemini needs a message besides the system text".to_owned(),
        ));
    }
    let mut body = json!({"contents": contents});
    let fields = content::object(&mut body);
    if !system.is_empty() {
        fields.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    let further = vendor.fields.further(request);
    let mut further: Map<_, _> = further
        .map(|(field, value)| (field.to_owned(), value.into_owned()))
        .collect();
    let config = generation_config(vendor, request, &mut further);
    if !config.is_empty() {
        fields.insert("generationConfig".to_owned(), config.into());
    }
    if calls::are_told(request) && !further.contains_key("tools") {
        tools(request, fields);
    }
    for (field, value) in further {
        fields.entry(field).or_insert(value);
    }
    Ok(body)
}

/// What Google's documentation names for calls that were made elsewhere: from Gemini 3 on they are
/// refused without a signature.
const FOREIGN: &str = "skip_thought_signature_validator";

fn function_call(call: &Call<'_>, model: &str) -> Value {
    let older = ["gemini-1", "gemini-2", "gemma"]
        .iter()
        .any(|name| model.contains(name));
    let foreign = (!older).then_some(FOREIGN);
    let mut part = json!({"functionCall": {"name": call.name, "args": call.arguments}});
    if let Some(signature) = call.signature.or(foreign) {
        part["thoughtSignature"] = signature.into();
    }
    part
}

/// Adds what came of a call. All results of one turn stand in one message.
fn answered(contents: &mut Vec<Value>, name: &str, result: &str) {
    let response = match serde_json::from_str(result) {
        Ok(Value::Object(fields)) => Value::Object(fields),
        _ => json!({"result": result}),
    };
    let part = json!({"functionResponse": {"name": name, "response": response}});
    let last = contents
        .last_mut()
        .and_then(|last| last["parts"].as_array_mut());
    match last {
        Some(parts)
            if parts
                .iter()
                .all(|part| part.get("functionResponse").is_some()) =>
        {
            parts.push(part);
        }
        _ => contents.push(json!({"role": "user", "parts": [part]})),
    }
}

/// The tools of a conversation with calls, in Gemini's words.
fn tools(request: &Request, fields: &mut Map<String, Value>) {
    let tools = calls::tools(request);
    if tools.is_empty() {
        return;
    }
    let declared = tools.iter().map(|tool| {
        let mut own = json!({"name": tool.name, "parametersJsonSchema": tool.parameters});
        if let Some(description) = tool.description {
            own["description"] = description.into();
        }
        own
    });
    let declared: Vec<Value> = declared.collect();
    fields.insert(
        "tools".to_owned(),
        json!([{"functionDeclarations": declared}]),
    );
    let choice = match calls::choice(request) {
        None => return,
        Some(Choice::Auto) => json!({"mode": "AUTO"}),
        Some(Choice::Never) => json!({"mode": "NONE"}),
        Some(Choice::Any) => json!({"mode": "ANY"}),
        Some(Choice::One(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    };
    fields.insert(
        "toolConfig".to_owned(),
        json!({"functionCallingConfig": choice}),
    );
}

/// Takes what belongs there out of the further fields.
fn generation_config(
    vendor: &Vendor,
    request: &Request,
    further: &mut Map<String, Value>,
) -> Map<String, Value> {
    let params = &request.params;
    // What the user wrote in Gemini's own words stays, but for what was set by name.
    let mut config = match further.remove("generationConfig") {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    if let Some(effort) = further.remove("reasoning_effort") {
        let thinking = config.entry("thinkingConfig");
        // It takes a level or a budget, not both.
        thinking.or_insert_with(|| json!({"thinkingLevel": effort}));
    }
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(name.to_owned(), value);
        }
    };
    let temperature = vendor.fields.temperature(request);
    set("temperature", temperature.map(Value::from));
    set("topP", params.top_p.map(Value::from));
    set("topK", further.remove("top_k"));
    set("presencePenalty", further.remove("presence_penalty"));
    set("frequencyPenalty", further.remove("frequency_penalty"));
    set("maxOutputTokens", params.max_tokens.map(Value::from));
    set("seed", vendor.fields.seed(request).map(Value::from));
    let stops = vendor.fields.stops(request);
    set("stopSequences", (!stops.is_empty()).then(|| json!(stops)));
    let (kind, schema) = match &params.response_format {
        None => (None, None),
        Some(ResponseFormat::JsonObject) => (Some("application/json"), None),
        Some(ResponseFormat::JsonSchema { schema, .. }) => {
            (Some("application/json"), Some(schema.clone()))
        }
    };
    set("responseMimeType", kind.map(Value::from));
    set("responseJsonSchema", schema);
    config
}

/// The parts of a content. Beside tool calls there need be no text.
fn parts(text: Text<'_>, beside_calls: bool) -> Result<Vec<Value>, Error> {
    let parts = match text {
        Text::Value(Value::Null) if beside_calls => return Ok(Vec::new()),
        Text::Value(Value::String(text)) if beside_calls && text.is_empty() => {
            return Ok(Vec::new());
        }
        Text::Plain(text) => return Ok(vec![json!({"text": text})]),
        Text::Value(Value::Array(parts)) => parts,
        Text::Value(Value::String(text)) => return Ok(vec![json!({"text": text})]),
        Text::Value(_) => return Err(invalid("gemini needs a text in every message".to_owned())),
    };
    let parts = parts.iter().map(|part| match content::part(part) {
        Part::Text(text) => Ok(json!({"text": text})),
        Part::Data { kind, base64 } => {
            Ok(json!({"inlineData": {"mimeType": kind, "data": base64}}))
        }
        Part::Url(url) => Ok(json!({"fileData": {"fileUri": url}})),
        Part::Sound { format, base64 } => {
            Ok(json!({"inlineData": {"mimeType": format!("audio/{format}"), "data": base64}}))
        }
        Part::File { kind, base64, .. } => {
            Ok(json!({"inlineData": {"mimeType": kind, "data": base64}}))
        }
        Part::FileId(id) => {
            let why = format!("{id} is kept by another provider; give it as file_data");
            Err(lacking("gemini", "file", &why))
        }
        Part::Other(other) => content::own("gemini", other),
    });
    parts.collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply<'b> {
    #[serde(default, deserialize_with = "bounded::first")]
    candidates: Option<Candidate>,
    #[serde(default, deserialize_with = "bounded::field")]
    prompt_feedback: Option<Value>,
    #[serde(borrow)]
    usage_metadata: Option<&'b RawValue>,
    #[serde(default, deserialize_with = "bounded::field")]
    model_version: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    #[serde(default, deserialize_with = "bounded::field")]
    content: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    finish_reason: Option<Value>,
    #[serde(default, deserialize_with = "bounded::field")]
    safety_ratings: Option<Value>,
}

const ENDS: Ends = &[
    ("STOP", End::Complete),
    ("MAX_TOKENS", End::Cut),
    ("SAFETY", End::Blocked),
    ("RECITATION", End::Blocked),
    ("LANGUAGE", End::Blocked),
    ("BLOCKLIST", End::Blocked),
    ("PROHIBITED_CONTENT", End::Blocked),
    ("SPII", End::Blocked),
    ("IMAGE_SAFETY", End::Blocked),
    ("IMAGE_PROHIBITED_CONTENT", End::Blocked),
    ("IMAGE_RECITATION", End::Blocked),
    ("IMAGE_OTHER", End::Blocked),
    // Google's policies: of the answer, and of the account.
    ("ESCALATION", End::Blocked),
    ("PUP_LIMITED_DISABLED", End::Blocked),
    ("MALFORMED_FUNCTION_CALL", End::Tool),
    ("UNEXPECTED_TOOL_CALL", End::Tool),
    ("TOO_MANY_TOOL_CALLS", End::Tool),
    // A tool's call in the conversation came without its signature.
    ("MISSING_THOUGHT_SIGNATURE", End::Tool),
    ("OTHER", End::Fault),
    ("MALFORMED_RESPONSE", End::Fault),
    ("NO_IMAGE", End::Fault),
    ("FINISH_REASON_UNSPECIFIED", End::Fault),
];

/// Reads the body of a success reply.
///
/// # Errors
/// When it is not the dialect's JSON; inside, when it holds a failure, or no usable answer.
pub(super) fn read(vendor: &Vendor, body: &[u8]) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_slice(body)?;
    Ok(reply.judged(vendor, body))
}

impl Reply<'_> {
    /// The answer, or why there is none.
    fn judged(self, vendor: &Vendor, body: &[u8]) -> Result<Response, Error> {
        let usage = Counts::read(self.usage_metadata).and_then(|counts| counts.usage());
        let paid = Paid {
            usage,
            cost_usd: None,
        };
        let Some(candidate) = self.candidates else {
            if let Some(error) = &self.error {
                return Err(failure_inside(vendor, error, body));
            }
            return Err(match blocked(vendor, self.prompt_feedback.as_ref()) {
                Some(blocked) => blocked.with_paid(paid),
                None => unlike("it has no candidates", body).with_paid(paid),
            });
        };
        let answer = Answer {
            text: text_of(candidate.content.as_ref()),
            finish: word(candidate.finish_reason.as_ref()),
            refusal: None,
            category: category(candidate.safety_ratings.as_ref()),
            model: Some(word(self.model_version.as_ref())),
            usage,
            cost_usd: None,
            holds: holds(candidate.content.as_ref()),
        };
        answer.conclude(vendor.name, ENDS, body)
    }
}

/// The failure of a prompt that was blocked.
fn blocked(vendor: &Vendor, feedback: Option<&Value>) -> Option<Error> {
    let reason = word(feedback?.get("blockReason"));
    if reason.is_empty() {
        return None;
    }
    let detail = word(feedback?.get("blockReasonMessage"));
    let colon = if detail.is_empty() { "" } else { ": " };
    let name = vendor.name;
    let message = format!("{name} blocked the prompt: {reason}{colon}{detail}");
    let error = Error::new(ErrorKind::Blocked, message).with_sent(Sent::Answered);
    Some(error.with_category(&reason))
}

/// What the parts hold beside text.
fn holds(content: Option<&Value>) -> Holds {
    let mut holds = Holds::default();
    let parts = content.and_then(|content| content.get("parts")?.as_array());
    for part in parts.into_iter().flatten() {
        let thought = part.get("thought").and_then(Value::as_bool) == Some(true);
        if let Some(call) = part.get("functionCall") {
            holds.call(call.get("name"));
        } else if let Some(data) = part.get("inlineData") {
            holds.media(&word(data.get("mimeType")));
        } else if part.get("executableCode").is_some() {
            holds.part("code that was carried out");
        } else if thought {
            holds.part("thoughts");
        }
    }
    holds
}

/// The text parts, without the model's thoughts.
fn text_of(content: Option<&Value>) -> String {
    let parts = content.and_then(|content| content.get("parts")?.as_array());
    let spoken = |part: &&Value| part.get("thought").and_then(Value::as_bool) != Some(true);
    let parts = parts.into_iter().flatten().filter(spoken);
    parts
        .filter_map(|part| part.get("text")?.as_str())
        .collect()
}

/// The category of the rating that blocked.
fn category(ratings: Option<&Value>) -> Option<String> {
    let blocked = |rating: &&Value| rating.get("blocked").and_then(Value::as_bool) == Some(true);
    let rating = ratings?.as_array()?.iter().find(blocked)?;
    Some(rating.get("category")?.as_str()?.to_owned())
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Counts {
    #[serde(deserialize_with = "count")]
    prompt_token_count: Option<u64>,
    #[serde(deserialize_with = "count")]
    cached_content_token_count: Option<u64>,
    #[serde(deserialize_with = "count")]
    candidates_token_count: Option<u64>,
    #[serde(deserialize_with = "count")]
    thoughts_token_count: Option<u64>,
}

impl Counts {
    pub(super) fn read(raw: Option<&RawValue>) -> Option<Self> {
        counts(raw)
    }

    pub(super) fn usage(&self) -> Option<Usage> {
        let thoughts = self.thoughts_token_count.unwrap_or(0);
        let spoken = self.candidates_token_count.unwrap_or(0);
        Some(Usage {
            input_tokens: self.prompt_token_count?,
            cached_input_tokens: self.cached_content_token_count.unwrap_or(0),
            // Thoughts are not among the candidates' tokens here.
            output_tokens: spoken.saturating_add(thoughts),
            reasoning_tokens: thoughts,
        })
    }
}

#[cfg(test)]
#[path = "gemini_tests.rs"]
mod tests;
