//! The tools that a model may call, in the format of each API, and which of them it calls: each once if the last message
//! is from the user; it answers the results of calls with a text.

use serde_json::{Value, json};

use super::rules::list;
use super::shape::Shape;

/// The tools that may be called, and how many.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tools {
    /// The name of each function, and the schema of its parameters.
    functions: Vec<(String, Value)>,
    choice: Choice,
    /// One at a time.
    single: bool,
    /// Whether the last message is the result of a call.
    answered: bool,
}

#[derive(Debug, Default, PartialEq)]
enum Choice {
    #[default]
    Auto,
    Never,
    Any,
    One(String),
}

/// A tool that is called.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

impl Tools {
    /// The calls that answer `text`.
    pub(super) fn calls(&self, text: &str) -> Vec<Call> {
        let called = |(name, _): &&(String, Value)| match &self.choice {
            Choice::Never => false,
            Choice::Auto => !self.answered,
            Choice::Any => true,
            Choice::One(wanted) => name == wanted,
        };
        let most = if self.single { 1 } else { usize::MAX };
        let functions = self.functions.iter().filter(called).take(most);
        let call = |(name, parameters): &(String, Value)| Call {
            name: name.clone(),
            arguments: Shape::Schema(parameters.clone()).instance(text),
        };
        functions.map(call).collect()
    }

    fn add(&mut self, name: &Value, parameters: &Value) {
        let parameters = match parameters {
            Value::Null => json!({"type": "object"}),
            parameters => parameters.clone(),
        };
        self.functions.push((word(name), parameters));
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn last(messages: &Value) -> &Value {
    let messages = messages.as_array();
    messages.and_then(|all| all.last()).unwrap_or(&Value::Null)
}

/// Reads the tools and the calls of a request in OpenAI's format.
pub(super) fn openai(root: &Value) -> Tools {
    let mut tools = Tools::default();
    for tool in list(&root["tools"]) {
        let function = &tool["function"];
        tools.add(&function["name"], &function["parameters"]);
    }
    tools.single = root["parallel_tool_calls"] == false;
    let choice = &root["tool_choice"];
    tools.choice = match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("none"), _) => Choice::Never,
        (Some("required"), _) => Choice::Any,
        (None, Some(name)) => Choice::One(name.to_owned()),
        _ => Choice::Auto,
    };
    tools.answered = last(&root["messages"])["role"] == "tool";
    tools
}

/// The same in Anthropic's format.
pub(super) fn anthropic(root: &Value) -> Tools {
    let mut tools = Tools::default();
    for tool in list(&root["tools"]) {
        tools.add(&tool["name"], &tool["input_schema"]);
    }
    let choice = &root["tool_choice"];
    tools.single = choice["disable_parallel_tool_use"] == true;
    tools.choice = match choice["type"].as_str() {
        Some("any") => Choice::Any,
        Some("none") => Choice::Never,
        Some("tool") => Choice::One(word(&choice["name"])),
        _ => Choice::Auto,
    };
    let mut blocks = list(&last(&root["messages"])["content"]);
    tools.answered = blocks.any(|block| block["type"] == "tool_result");
    tools
}

/// The same in Gemini's format.
pub(super) fn gemini(root: &Value) -> Tools {
    let mut tools = Tools::default();
    let declared = list(&root["tools"]).flat_map(|tool| list(&tool["functionDeclarations"]));
    for function in declared {
        tools.add(&function["name"], &function["parametersJsonSchema"]);
    }
    let config = &root["toolConfig"]["functionCallingConfig"];
    let allowed = config["allowedFunctionNames"][0].as_str();
    tools.choice = match (config["mode"].as_str(), allowed) {
        (Some("ANY"), Some(name)) => Choice::One(name.to_owned()),
        (Some("ANY"), None) => Choice::Any,
        (Some("NONE"), _) => Choice::Never,
        _ => Choice::Auto,
    };
    let mut parts = list(&last(&root["contents"])["parts"]);
    tools.answered = parts.any(|part| part.get("functionResponse").is_some());
    tools
}
