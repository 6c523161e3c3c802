//! The rules of each API for the definitions of tools, for the choice of tools, and for calls in a conversation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::grammar;
use super::objects;
use super::prompt::Fault;
use super::tools::{Choice, Function, Tools};
use super::tree::Object;

fn invalid(at: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault::invalid(at, "invalid_value", message)
}

/// The name of a tool, which must be one.
pub(super) fn named(object: &Object<'_>, longest: usize, more: &str) -> Result<String, Fault> {
    let name = object.text("name")?.ok_or_else(|| object.missing("name"))?;
    objects::is_name(object, "name", longest, more)?;
    Ok(name.to_owned())
}

/// The tools, if there are any: every name is unique, and the tool to call is among them.
pub(super) fn checked(tools: Tools) -> Result<Option<Tools>, Fault> {
    if tools.functions.is_empty() && !tools.search {
        return Ok(None);
    }
    let names: BTreeSet<&str> = tools.functions.iter().map(|f| &*f.name).collect();
    if names.len() < tools.functions.len() {
        return Err(invalid("tools", "Tool names must be unique."));
    }
    match &tools.choice {
        Choice::One(name) if !tools.has(name) => {
            let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
            Err(invalid("tool_choice", message))
        }
        _ => Ok(Some(tools)),
    }
}

/// Checks a schema and returns its error.
pub(super) type SchemaCheck = fn(&Value) -> Result<(), String>;

/// Checks the id of a call and returns its error.
pub(super) type IdCheck = fn(&str) -> Result<(), String>;

/// Mistral's.
pub(super) fn nine_characters(id: &str) -> Result<(), String> {
    if id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        Ok(())
    } else {
        Err(format!(
            "Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of 9."
        ))
    }
}

/// OpenAI's.
pub(super) fn forty_characters(id: &str) -> Result<(), String> {
    match id.len() {
        ..=40 => Ok(()),
        length => Err(format!(
            "string too long. Expected a string with maximum length 40, but got a string with \
             length {length} instead."
        )),
    }
}

/// In OpenAI's format. `strict` checks the schema of a strict function, if the API has such functions; only OpenAI has
/// custom tools.
pub(super) fn openai(
    root: &Object<'_>,
    strict: Option<SchemaCheck>,
    customs: bool,
    ids: Option<IdCheck>,
) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools {
        search: root.get("web_search_options").is_some(),
        ..Tools::default()
    };
    let listed = root.objects("tools")?.unwrap_or_default();
    for tool in &listed {
        let kind = tool.text("type")?.ok_or_else(|| tool.missing("type"))?;
        if kind == "custom" && customs {
            let custom = tool.object("custom")?;
            let custom = custom.ok_or_else(|| tool.missing("custom"))?;
            objects::check(&custom, "openai", "custom")?;
            tools.functions.push(Function {
                name: named(&custom, 64, "")?,
                parameters: Value::Null,
                custom: true,
            });
            continue;
        }
        if kind != "function" {
            let message = format!("Invalid value: '{kind}'. Supported values are: 'function'.");
            return Err(invalid(tool.at("type"), message));
        }
        let function = tool.object("function")?;
        let function = function.ok_or_else(|| tool.missing("function"))?;
        objects::check(&function, "openai", "function")?;
        let name = named(&function, 64, "")?;
        if let Some(parameters) = function.object("parameters")?
            && parameters
                .text("type")?
                .is_some_and(|kind| kind != "object")
        {
            let message =
                format!("Invalid schema for function '{name}': schema must be of type 'object'.");
            return Err(invalid(function.at("parameters"), message));
        }
        let parameters = function.get("parameters").cloned();
        let parameters = parameters.unwrap_or_else(|| json!({"type": "object"}));
        if let (Some(true), Some(strict)) = (function.flag("strict")?, strict) {
            strict(&parameters).map_err(|problem| {
                let message = format!("Invalid schema for function '{name}': {problem}");
                invalid(function.at("parameters"), message)
            })?;
        }
        tools.functions.push(Function {
            name,
            parameters,
            custom: false,
        });
    }
    tools.single = root.flag("parallel_tool_calls")? == Some(false);
    tools.choice = openai_choice(root, |choice| {
        let kind = choice.text("type")?.ok_or_else(|| choice.missing("type"))?;
        let chosen = choice.object(kind)?.ok_or_else(|| choice.missing(kind))?;
        Ok(Choice::One(named(&chosen, 64, "")?))
    })?;
    tools.answered = openai_calls(root, ids)?;
    checked(tools)
}

/// The choice among tools, which `read_object` reads where it is an object.
pub(super) fn openai_choice(
    root: &Object<'_>,
    read_object: impl FnOnce(&Object<'_>) -> Result<Choice, Fault>,
) -> Result<Choice, Fault> {
    match root.get("tool_choice") {
        None => Ok(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::Never),
            "required" => Ok(Choice::Any),
            other => Err(invalid("tool_choice", format!("Invalid value: '{other}'."))),
        },
        Some(_) => {
            let choice = root.object("tool_choice")?;
            read_object(&choice.ok_or_else(|| root.missing("tool_choice"))?)
        }
    }
}

/// Each result must belong to a call of the message of the assistant before it. Whether the last
/// message is a result.
fn openai_calls(root: &Object<'_>, ids: Option<IdCheck>) -> Result<bool, Fault> {
    let (mut open, mut answered) = (BTreeSet::new(), false);
    for message in root.objects("messages")?.unwrap_or_default() {
        answered = message.text("role")? == Some("tool");
        if message.text("role")? == Some("tool") {
            let id = message.text("tool_call_id")?;
            let id = id.ok_or_else(|| message.missing("tool_call_id"))?;
            if !open.remove(id) {
                let why = "messages with role 'tool' must be a response to a preceding message with \
                           'tool_calls'.";
                return Err(invalid(message.at("role"), why));
            }
            continue;
        }
        if !open.is_empty() {
            let why = "An assistant message with 'tool_calls' must be followed by tool messages \
                       responding to each 'tool_call_id'.";
            return Err(invalid(message.at("role"), why));
        }
        for call in message.objects("tool_calls")?.unwrap_or_default() {
            objects::check(&call, "openai", "tool_call")?;
            let id = call.text("id")?.unwrap_or_default();
            ids.map_or(Ok(()), |check| check(id))
                .map_err(|why| invalid(call.at("id"), why))?;
            let kind = call.text("type")?.unwrap_or_default();
            let said = call.object(kind)?.ok_or_else(|| call.missing(kind))?;
            let rule = match kind {
                "custom" => "called_custom",
                _ => "called_function",
            };
            objects::check(&said, "openai", rule)?;
            open.insert(id.to_owned());
        }
    }
    Ok(answered)
}

/// In Anthropic's format.
pub(super) fn anthropic(root: &Object<'_>) -> Result<Option<Tools>, Fault> {
    let fault = |at: String, message: &str| Err(Fault::invalid(at, "", message));
    let mut tools = Tools::default();
    let listed = root.objects("tools")?.unwrap_or_default();
    for tool in &listed {
        match tool.text("type")? {
            None | Some("custom") => {}
            // The provider's own tools have a date in their names, such as `web_search_20250305`.
            Some(kind) if is_dated(kind) => {
                tools.search |= kind.starts_with("web_search_");
                continue;
            }
            Some(kind) => {
                let message =
                    format!("tools: Input tag '{kind}' does not match any of the expected tags");
                return fault(tool.at("type"), &message);
            }
        }
        objects::check(tool, "anthropic", "tool")?;
        let name = named(tool, 128, "")?;
        let parameters = tool.get("input_schema").cloned().unwrap_or_default();
        if tool.flag("strict")? == Some(true) {
            grammar::check(&parameters).map_err(|problem| {
                let message = format!("tools.{name}.input_schema: {problem}");
                Fault::invalid(tool.at("input_schema"), "", message)
            })?;
        }
        tools.functions.push(Function {
            name,
            parameters,
            custom: false,
        });
    }
    if let Some(choice) = root.object("tool_choice")? {
        objects::check(&choice, "anthropic", "tool_choice")?;
        if listed.is_empty() {
            let message = "tool_choice: may only be specified while providing tools";
            return fault("tool_choice".to_owned(), message);
        }
        tools.single = choice.flag("disable_parallel_tool_use")? == Some(true);
        tools.choice = match choice.text("type")?.unwrap_or_default() {
            "auto" => Choice::Auto,
            "any" => Choice::Any,
            "none" if choice.get("disable_parallel_tool_use").is_none() => Choice::Never,
            "none" => return Err(Fault::Unknown(choice.at("disable_parallel_tool_use"))),
            _ => Choice::One(named(&choice, 128, "")?),
        };
    }
    tools.answered = anthropic_calls(root, !listed.is_empty())?;
    checked(tools)
}

fn is_dated(kind: &str) -> bool {
    let date = kind.rsplit('_').next().unwrap_or_default();
    date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit())
}

/// Each call must be answered in the next message, and each result must belong to a call; thinking blocks must be
/// returned with their signatures, before all other parts.
fn anthropic_calls(root: &Object<'_>, tools: bool) -> Result<bool, Fault> {
    let (mut open, mut answered) = (BTreeSet::<String>::new(), false);
    for message in root.objects("messages")?.unwrap_or_default() {
        answered = false;
        let mut made = BTreeSet::new();
        let blocks = match message.get("content") {
            Some(Value::Array(_)) => message.objects("content")?.unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut spoken = false;
        for block in blocks {
            let fault = |message: String| Err(Fault::invalid(block.at("type"), "", message));
            if !(spoken && block.text("type")? == Some("thinking")) {
                objects::check(&block, "anthropic", "tool_block")?;
            }
            match block.text("type")?.unwrap_or_default() {
                "tool_use" => {
                    let id = block.text("id")?.unwrap_or_default();
                    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                    if id.is_empty() || !id.bytes().all(plain) {
                        let why = "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'";
                        return Err(Fault::invalid(block.at("id"), "", why));
                    }
                    made.insert(id.to_owned());
                }
                "tool_result" => {
                    let id = block.text("tool_use_id")?.unwrap_or_default();
                    answered = true;
                    if !open.remove(id) {
                        return fault(format!(
                            "unexpected `tool_use_id` found in `tool_result` blocks: {id}"
                        ));
                    }
                }
                "thinking" if spoken => {
                    return fault("Expected `thinking` blocks before all others".to_owned());
                }
                "thinking" | "redacted_thinking" => continue,
                _ => {}
            }
            spoken = true;
        }
        if !open.is_empty() {
            let why = "`tool_use` ids were found without `tool_result` blocks immediately after";
            return Err(Fault::invalid(message.at("content"), "", why));
        }
        if !made.is_empty() && !tools {
            let why = "Requests which have `tool_use` or `tool_result` blocks in `messages` must \
                       define tools";
            return Err(Fault::invalid("tools", "", why));
        }
        open = made;
    }
    Ok(answered)
}

/// In Gemini's format.
pub(super) fn gemini(root: &Object<'_>, model: &str) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools::default();
    for tool in root.objects("tools")?.unwrap_or_default() {
        tools.search |= tool.get("googleSearch").is_some();
        for function in tool.objects("functionDeclarations")?.unwrap_or_default() {
            objects::check(&function, "gemini", "function")?;
            let name = named(&function, 64, ".:")?;
            if function.get("parameters").is_some()
                && function.get("parametersJsonSchema").is_some()
            {
                let message = "only one of parameters and parameters_json_schema may be set";
                return Err(invalid(function.at("parametersJsonSchema"), message));
            }
            let parameters = function.get("parametersJsonSchema").cloned();
            tools.functions.push(Function {
                name,
                parameters: parameters.unwrap_or_else(|| json!({"type": "object"})),
                custom: false,
            });
        }
    }
    let config = root.object("toolConfig")?;
    if let Some(config) = &config {
        objects::check(config, "gemini", "tool_config")?;
    }
    let config = config.map(|config| config.object("functionCallingConfig"));
    if let Some(config) = config.transpose()?.flatten() {
        let allowed = config.list("allowedFunctionNames")?;
        let mode = config.text("mode")?.unwrap_or("AUTO");
        let forced = ["ANY", "VALIDATED"].contains(&mode);
        if allowed.is_some() && !forced {
            let message = "Function calling config allowed_function_names is only supported for ANY \
                           and VALIDATED mode.";
            return Err(invalid(config.at("allowedFunctionNames"), message));
        }
        tools.choice = match (mode, allowed.and_then(|names| names.first()?.as_str())) {
            ("ANY", Some(name)) => Choice::One(name.to_owned()),
            ("ANY", None) => Choice::Any,
            ("NONE", _) => Choice::Never,
            ("AUTO" | "VALIDATED", _) => Choice::Auto,
            (other, _) => {
                let message = format!("Invalid value at '{}', \"{other}\"", config.at("mode"));
                return Err(invalid(config.at("mode"), message));
            }
        };
        if tools.functions.is_empty() && forced {
            let message = "Function calling config is set without function_declarations.";
            return Err(invalid(config.at("mode"), message));
        }
    }
    tools.answered = gemini_calls(root, model)?;
    checked(tools)
}

/// As many results as calls, of the same functions; from Gemini 3 on with a signature on the first.
fn gemini_calls(root: &Object<'_>, model: &str) -> Result<bool, Fault> {
    let (mut open, mut last): (Vec<String>, _) = (Vec::new(), false);
    for content in root.objects("contents")?.unwrap_or_default() {
        let (mut made, mut answered) = (Vec::new(), Vec::new());
        for part in content.objects("parts")?.unwrap_or_default() {
            if let Some(call) = part.object("functionCall")? {
                objects::check(&call, "gemini", "call")?;
                if made.is_empty()
                    && model.contains("gemini-3")
                    && part.get("thoughtSignature").is_none()
                {
                    let message =
                        "Function call is missing a thought_signature in functionCall parts.";
                    return Err(invalid(part.at("functionCall"), message));
                }
                made.push(named(&call, 64, ".:")?);
            }
            if let Some(result) = part.object("functionResponse")? {
                objects::check(&result, "gemini", "result")?;
                answered.push(named(&result, 64, ".:")?);
            }
        }
        if answered != open {
            let message = "Please ensure that the number of function response parts is equal to the \
                           number of function call parts of the function call turn.";
            return Err(invalid(content.at("parts"), message));
        }
        last = !answered.is_empty();
        open = made;
    }
    Ok(last)
}

#[cfg(test)]
#[path = "tool_rules_tests.rs"]
mod tests;
