//! The tools that a model may call, in the format of each API. The simulated model calls each once if the last message
//! is from the user; it answers the results of calls with a text.

use serde_json::{Value, json};

use super::rules::list;
use super::shape::Shape;

/// The tools that may be called.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tools {
    /// The name of each function, and the schema of its parameters.
    functions: Vec<(String, Value)>,
    /// Whether the last message is the result of a call.
    answered: bool,
}

/// A tool that is called.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

impl Tools {
    fn of<'v>(functions: impl Iterator<Item = (&'v Value, &'v Value)>, answered: bool) -> Tools {
        let function = |(name, parameters): (&Value, &Value)| {
            let parameters = match parameters {
                Value::Null => json!({"type": "object"}),
                parameters => parameters.clone(),
            };
            (name.as_str().unwrap_or_default().to_owned(), parameters)
        };
        Tools {
            functions: functions.map(function).collect(),
            answered,
        }
    }

    /// The calls that answer `text`.
    pub(super) fn calls(&self, text: &str) -> Vec<Call> {
        let functions = self.functions.iter().filter(|_| !self.answered);
        let call = |(name, parameters): &(String, Value)| Call {
            name: name.clone(),
            arguments: Shape::Schema(parameters.clone()).instance(text),
        };
        functions.map(call).collect()
    }
}

fn last(messages: &Value) -> &Value {
    list(messages).last().unwrap_or(&Value::Null)
}

/// Reads the tools and the calls of a request in OpenAI's format.
pub(super) fn openai(root: &Value) -> Tools {
    let functions = list(&root["tools"]).map(|tool| &tool["function"]);
    let functions = functions.map(|function| (&function["name"], &function["parameters"]));
    Tools::of(functions, last(&root["messages"])["role"] == "tool")
}

/// The same in Anthropic's format.
pub(super) fn anthropic(root: &Value) -> Tools {
    let functions = list(&root["tools"]).map(|tool| (&tool["name"], &tool["input_schema"]));
    let mut blocks = list(&last(&root["messages"])["content"]);
    Tools::of(
        functions,
        blocks.any(|block| block["type"] == "tool_result"),
    )
}

/// The same in Gemini's format.
pub(super) fn gemini(root: &Value) -> Tools {
    let declared = list(&root["tools"]).flat_map(|tool| list(&tool["functionDeclarations"]));
    let functions = declared.map(|function| (&function["name"], &function["parametersJsonSchema"]));
    let mut parts = list(&last(&root["contents"])["parts"]);
    let answered = parts.any(|part| part.get("functionResponse").is_some());
    Tools::of(functions, answered)
}
