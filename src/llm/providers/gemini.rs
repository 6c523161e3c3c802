//! Gemini's `generateContent` dialect.
//!
//! Differences from OpenAI's format: the model is a part of the address, parameters are in `generationConfig`, the role
//! of the assistant is `model`, and a blocked prompt is a success reply without a candidate. The JSON is that of
//! protocol buffers: fields with the value zero are absent, and 64-bit numbers are strings. Sources: Google's
//! `generative_service.proto` and the types of its Python SDK.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::base::json_text::set;
use crate::base::{Error, ErrorKind, Paid, Sent, Usage};
use crate::llm::reply_details::{RawJson, shallow};
use crate::llm::request::{Request, Text};
use crate::llm::response::Response;

use super::answer::{Answer, name_calls, reasoning, tool_call, unlike};
use super::content::{self, Call, Choice, Part, invalid};
use super::errors::failure_inside;
use super::fields::{self, Counts, Raw, count, field, optional};
use super::further::without_tools;
use super::rules::word;
use super::vendor::Vendor;

/// The name of a model as a part of the address.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name that would change the meaning of the address.
pub(super) fn resource(model: &str) -> Result<String, Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._/@".contains(c);
    if model.is_empty() || !model.chars().all(allowed) || model.contains("..") {
        return Err(invalid(format!(
            "`{model}` is not the name of a gemini model"
        )));
    }
    Ok(if model.contains('/') {
        model.to_owned()
    } else {
        format!("models/{model}")
    })
}

/// The body of a call.
pub(super) fn content(request: &Request, model: &str) -> Result<Value, Error> {
    let (system, contents) = conversation(request, model)?;
    if contents.is_empty() {
        return Err(invalid(
            "gemini needs a message in addition to the system text",
        ));
    }
    let mut body = json!({"contents": contents});
    let fields = content::object(&mut body);
    if !system.is_empty() {
        fields.insert("systemInstruction".to_owned(), json!({"parts": system}));
    }
    let mut further = without_tools(request);
    let config = generation_config(request, further.remove("generationConfig"));
    if !config.is_empty() {
        fields.insert("generationConfig".to_owned(), config.into());
    }
    tools(request, fields, further.contains_key("toolConfig"));
    if let Some(tier) = further.remove("service_tier") {
        fields.insert("serviceTier".to_owned(), tier);
    }
    for (field, value) in further {
        fields.entry(field).or_insert(value);
    }
    Ok(body)
}

/// The parts of the system text, and the messages of a request in Gemini's format.
fn conversation(request: &Request, model: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut system = Vec::new();
    let mut contents = Vec::new();
    // The names of the tools that were called, and whether Gemini called them itself.
    let mut called: HashMap<&str, (&str, bool)> = HashMap::new();
    for (role, text, extra) in request.rendered() {
        let role = match role {
            "system" | "developer" => {
                let text = text.plain();
                if !text.trim().is_empty() {
                    system.push(json!({"text": text}));
                }
                continue;
            }
            "user" => "user",
            "assistant" => "model",
            "tool" => {
                let (id, result) = content::result(text, extra)?;
                let (name, is_own) = *called.get(id).ok_or_else(|| {
                    invalid(format!(
                        "no tool call in the conversation has the id `{id}`"
                    ))
                })?;
                let Some(result) = result else {
                    let why = "a message of the role `tool` is text for gemini; say the rest in a \
                               message of the user";
                    return Err(invalid(why));
                };
                let is_result = |part: &Value| part.get("functionResponse").is_some();
                let response = function_response(name, is_own.then_some(id), &result);
                content::add_result(&mut contents, "parts", is_result, response);
                continue;
            }
            other => {
                return Err(invalid(format!(
                    "gemini does not support messages with the role `{other}`"
                )));
            }
        };
        let mut parts = parts(text, content::calls_of_turn(extra).next().is_some())?;
        let signature = content::reasoning_details(extra).find_map(|d| d.get("thoughtSignature"));
        if let (Some(signature), Some(last)) = (signature, parts.last_mut()) {
            last["thoughtSignature"] = signature.clone();
        }
        let calls: Result<Vec<Call<'_>>, Error> =
            content::calls_of_turn(extra).map(Call::read).collect();
        let calls = calls?;
        // Gemini signs only the first of several calls of one turn.
        let is_own = calls.iter().any(|call| call.signature.is_some());
        for call in calls {
            parts.push(function_call(&call, is_own, model));
            called.insert(call.id, (call.name, is_own));
        }
        contents.push(json!({"role": role, "parts": parts}));
    }
    Ok((system, contents))
}

/// The signature that Google documents for calls that another model made. From Gemini 3 on, calls without a signature
/// are rejected.
const FOREIGN: &str = "skip_thought_signature_validator";

fn function_call(call: &Call<'_>, is_own: bool, model: &str) -> Value {
    let older = ["gemini-1", "gemini-2", "gemma"]
        .iter()
        .any(|name| model.contains(name));
    let foreign = (!older && !is_own).then_some(FOREIGN);
    let mut made = json!({"name": call.name, "args": call.arguments});
    if is_own {
        made["id"] = call.id.into();
    }
    let mut part = json!({"functionCall": made});
    if let Some(signature) = call.signature.or(foreign) {
        part["thoughtSignature"] = signature.into();
    }
    part
}

/// The result of a call of this tool. Gemini knows the ids of the calls that it made itself.
fn function_response(name: &str, id: Option<&str>, result: &str) -> Value {
    let response = match serde_json::from_str(result) {
        Ok(Value::Object(fields)) => Value::Object(fields),
        _ => json!({"result": result}),
    };
    let mut made = json!({"name": name, "response": response});
    if let Some(id) = id {
        made["id"] = id.into();
    }
    json!({"functionResponse": made})
}

/// The tools in Gemini's format, and the choice among them unless the request has it in Gemini's format already. In
/// this format strictness applies to all tools together.
fn tools(request: &Request, fields: &mut Map<String, Value>, has_choice: bool) {
    let (functions, own) = content::tools(request);
    let declared = functions.iter().map(|function| {
        let mut own = json!({"name": function["name"]});
        if function["description"].is_string() {
            own["description"] = function["description"].clone();
        }
        if function["parameters"].is_object() {
            own["parametersJsonSchema"] = function["parameters"].clone();
        }
        own
    });
    let declared: Vec<Value> = declared.collect();
    let mut all: Vec<Value> = own.into_iter().cloned().collect();
    if !declared.is_empty() {
        all.push(json!({"functionDeclarations": declared}));
    }
    if all.is_empty() {
        return;
    }
    fields.insert("tools".to_owned(), all.into());
    let strict = functions.iter().any(|function| function["strict"] == true);
    let choice = match content::choice(request) {
        _ if has_choice => return,
        None | Some(Choice::Auto) if strict => json!({"mode": "VALIDATED"}),
        None => return,
        Some(Choice::Own(own)) => own.clone(),
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

/// The generation config. The given fields stay, unless a parameter sets the same field.
fn generation_config(request: &Request, given: Option<Value>) -> Map<String, Value> {
    let params = &request.params;
    let mut config = match given {
        Some(Value::Object(own)) => own,
        _ => Map::new(),
    };
    // Only one of several answers would be kept, but all would be billed.
    for name in ["candidateCount", "candidate_count"] {
        config.remove(name);
    }
    let fields = &mut config;
    set(fields, "temperature", params.temperature);
    set(fields, "topP", params.top_p);
    set(fields, "maxOutputTokens", params.max_tokens);
    set(fields, "seed", params.seed);
    let stops = (!params.stop.is_empty()).then(|| params.stop.clone());
    set(fields, "stopSequences", stops);
    let format = params.response_format.as_ref();
    set(
        fields,
        "responseMimeType",
        format.map(|_| "application/json"),
    );
    set(fields, "responseJsonSchema", request.schema().cloned());
    config
}

/// The parts of a content. If the turn has tool calls, it may have no text.
fn parts(text: Text<'_>, beside_calls: bool) -> Result<Vec<Value>, Error> {
    let parts = match text {
        Text::Other(Value::Null) | Text::Plain("") if beside_calls => return Ok(Vec::new()),
        Text::Plain(text) => return Ok(vec![json!({"text": text})]),
        Text::Parts(parts) => parts,
        Text::Other(_) => return Err(invalid("gemini needs a text in every message")),
    };
    let parts = parts.iter().map(|part| match content::part(part) {
        Part::Text(text) => json!({"text": text}),
        Part::Url(url) => json!({"fileData": {"fileUri": url}}),
        Part::Sound { format, base64 } => {
            json!({"inlineData": {"mimeType": format!("audio/{format}"), "data": base64}})
        }
        Part::Data { kind, base64 } | Part::File { kind, base64, .. } => {
            json!({"inlineData": {"mimeType": kind, "data": base64}})
        }
        Part::Other(other) => other.clone(),
    });
    Ok(parts.collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'b"))]
struct Reply<'b> {
    #[serde(default, deserialize_with = "fields::first")]
    candidates: Option<Candidate<'b>>,
    prompt_feedback: Raw<'b>,
    usage_metadata: Raw<'b>,
    model_version: Raw<'b>,
    response_id: Raw<'b>,
    error: Raw<'b>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "'de: 'b"))]
struct Candidate<'b> {
    #[serde(default, deserialize_with = "fields::any")]
    content: Option<Value>,
    finish_reason: Raw<'b>,
    safety_ratings: Raw<'b>,
    grounding_metadata: Raw<'b>,
    citation_metadata: Raw<'b>,
    avg_logprobs: Raw<'b>,
    logprobs_result: Raw<'b>,
}

impl Candidate<'_> {
    /// The sources of the answer, and the number of web searches for it.
    fn citations(&self) -> (Vec<Value>, u64) {
        let grounding = optional(self.grounding_metadata);
        let searched = grounding
            .as_ref()
            .and_then(|g| g.get("webSearchQueries")?.as_array());
        let searches = searched.map_or(0, |queries| queries.len() as u64);
        let sources = optional(self.citation_metadata);
        let sources = sources.and_then(|mut sources| {
            let own = sources.get_mut("citationSources").map(Value::take);
            let sources = own.or_else(|| sources.get_mut("citations").map(Value::take));
            match sources? {
                Value::Array(sources) => Some(sources),
                _ => None,
            }
        });
        let found = grounding.filter(|g| g.as_object().is_some_and(|g| !g.is_empty()));
        let found = found.into_iter().chain(sources.into_iter().flatten());
        (found.map(shallow).collect(), searches)
    }

    fn logprobs(&self) -> Option<RawJson> {
        let fields = [
            ("avgLogprobs", self.avg_logprobs),
            ("logprobsResult", self.logprobs_result),
        ];
        let told = fields.into_iter();
        let told = told.filter_map(|(name, json)| Some(format!("\"{name}\":{}", json?.get())));
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| RawJson::new(&format!("{{{}}}", told.join(","))))
    }
}

/// Reads the body of a success reply.
///
/// # Errors
/// If it is not JSON of this format. The inner result is an error if the reply contains a failure or no usable answer.
pub(super) fn read(
    vendor: &Vendor,
    text: &str,
    unchecked: bool,
) -> serde_json::Result<Result<Response, Error>> {
    let reply: Reply<'_> = serde_json::from_str(text)?;
    let body = text.as_bytes();
    let counts = Counts::read(reply.usage_metadata);
    let usage = usage(&counts, false);
    let paid = Paid::new(usage, None);
    let Some(candidate) = reply.candidates else {
        if let Some(error) = field(reply.error)? {
            return Ok(Err(failure_inside(vendor, &error, body)));
        }
        let blocked = blocked(vendor, field(reply.prompt_feedback)?.as_ref());
        let error = blocked.unwrap_or_else(|| unlike("it has no candidates", body));
        return Ok(Err(error.with_paid(paid)));
    };
    let (citations, searches) = candidate.citations();
    let logprobs = candidate.logprobs();
    let mut answer = Answer {
        finish: fields::word(field(candidate.finish_reason)?),
        category: category(field(candidate.safety_ratings)?.as_ref()),
        model: Some(fields::word(field(reply.model_version)?)),
        usage: usage.map(|usage| Usage {
            server_tool_calls: searches,
            web_search_calls: searches,
            ..usage
        }),
        ..content_of(candidate.content)
    };
    name_calls(&mut answer.details.tool_calls, reply.response_id);
    answer.details.citations = citations;
    answer.details.logprobs = logprobs;
    let tier = word(counts.value("serviceTier").as_ref());
    answer.details.service_tier = Some(tier).filter(|tier| !tier.is_empty());
    Ok(answer.conclude(vendor.name, body, unchecked))
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

/// The content of a candidate.
fn content_of(content: Option<Value>) -> Answer {
    let parts = content.and_then(|mut content| content.get_mut("parts").map(Value::take));
    let parts = match parts {
        Some(Value::Array(parts)) => parts,
        _ => Vec::new(),
    };
    let (mut answer, mut thoughts, mut signed) = (Answer::default(), String::new(), Vec::new());
    for part in parts {
        let text = part.get("text").and_then(Value::as_str).unwrap_or_default();
        let signature = part.get("thoughtSignature").and_then(Value::as_str);
        if let Some(call) = part.get("functionCall") {
            let word = |name: &str| call.get(name).and_then(Value::as_str);
            let mut call = tool_call(word("id"), word("name"), call.get("args").cloned());
            call.signature = signature.map(str::to_owned);
            answer.details.tool_calls.push(call);
        } else if let Some(data) = part.get("inlineData").or_else(|| part.get("fileData")) {
            answer.holds.media(&word(data.get("mimeType")));
        } else if part.get("executableCode").is_some() {
            answer.holds.part("code that was carried out");
        } else if part.get("thought").and_then(Value::as_bool) == Some(true) {
            thoughts += text;
            answer.holds.part("thoughts");
        } else {
            answer.text += text;
            let signature = signature.map(|signature| json!({"thoughtSignature": signature}));
            signed.extend(signature);
        }
    }
    answer.details.reasoning = reasoning(thoughts, signed);
    answer
}

/// The category of the rating that blocked the answer.
fn category(ratings: Option<&Value>) -> Option<String> {
    let blocked = |rating: &&Value| rating.get("blocked").and_then(Value::as_bool) == Some(true);
    let rating = ratings?.as_array()?.iter().find(blocked)?;
    Some(rating.get("category")?.as_str()?.to_owned())
}

/// The number of tokens of one kind in a list of counts.
fn of_kind(details: Option<&Value>, kind: &str) -> u64 {
    let details = details.and_then(Value::as_array).into_iter().flatten();
    let of_kind = details.filter(|part| part["modality"] == kind);
    let counts = of_kind.filter_map(|part| count(&part["tokenCount"].to_string()));
    counts.fold(0, u64::saturating_add)
}

/// The tokens of a call, also if it `makes_vectors`, which are no tokens.
pub(super) fn usage(counts: &Counts<'_>, makes_vectors: bool) -> Option<Usage> {
    let thoughts = counts.or_zero("thoughtsTokenCount");
    // The tokens that Google's own tools added to the prompt.
    let tools = counts.or_zero("toolUsePromptTokenCount");
    let input_tokens = counts.get("promptTokenCount")?.saturating_add(tools);
    // The tokens of the candidates do not include those of thoughts.
    let spoken = if makes_vectors {
        Some(0)
    } else {
        counts.get("candidatesTokenCount")
    };
    let both = spoken.map(|spoken| spoken.saturating_add(thoughts));
    let read = counts.value("promptTokensDetails");
    let written = counts.value("candidatesTokensDetails");
    Some(Usage {
        input_tokens,
        cached_input_tokens: counts.or_zero("cachedContentTokenCount"),
        output_tokens: counts.output(both, "totalTokenCount", input_tokens)?,
        reasoning_tokens: thoughts,
        input_audio_tokens: of_kind(read.as_ref(), "AUDIO"),
        input_image_tokens: of_kind(read.as_ref(), "IMAGE"),
        output_audio_tokens: of_kind(written.as_ref(), "AUDIO"),
        output_image_tokens: of_kind(written.as_ref(), "IMAGE"),
        ..Usage::default()
    })
}

#[cfg(test)]
#[path = "gemini_tests.rs"]
mod tests;
