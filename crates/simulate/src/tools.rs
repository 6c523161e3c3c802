//! The tools that a model may call, in the format of each API, and which of them it calls: each once if the last message
//! is from the user; it answers the results of calls with a text. Each result must belong to a call.

use serde_json::{Value, json};

use super::fault::Fault;
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
    /// The calls without a result yet: their ids, or the names of their functions.
    open: Vec<String>,
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

    fn add(&mut self, name: &Value, parameters: &Value) -> Result<(), Fault> {
        let parameters = match parameters {
            Value::Null => json!({"type": "object"}),
            parameters => parameters.clone(),
        };
        self.functions.push((word(name, "tools")?, parameters));
        Ok(())
    }

    fn call(&mut self, id: &Value) -> Result<(), Fault> {
        self.open.push(word(id, "tool_calls")?);
        Ok(())
    }

    fn result(&mut self, id: &Value, at: String) -> Result<(), Fault> {
        self.answered = true;
        match self.open.iter().position(|open| id == open) {
            Some(place) => {
                self.open.remove(place);
                Ok(())
            }
            None => Err(Fault::invalid(
                at,
                format!("{id} is the result of no call."),
            )),
        }
    }

    /// The tools if the chosen one is there.
    fn checked(self) -> Result<Tools, Fault> {
        match &self.choice {
            Choice::One(wanted) if self.functions.iter().all(|(name, _)| name != wanted) => {
                let message = format!("Tool choice '{wanted}' not found in 'tools' parameter.");
                Err(Fault::invalid("tool_choice", message))
            }
            _ => Ok(self),
        }
    }
}

fn word(value: &Value, at: &str) -> Result<String, Fault> {
    let word = value.as_str().map(str::to_owned);
    word.ok_or_else(|| Fault::missing(format!("{at}: a name or an id")))
}

/// Reads the tools and the calls of a request in OpenAI's format; ids of calls have this length.
pub(super) fn openai(root: &Value, length: Option<(usize, usize)>) -> Result<Tools, Fault> {
    let mut tools = Tools::default();
    for tool in list(&root["tools"]) {
        let function = &tool["function"];
        tools.add(&function["name"], &function["parameters"])?;
    }
    tools.single = root["parallel_tool_calls"] == false;
    let choice = &root["tool_choice"];
    tools.choice = match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("none"), _) => Choice::Never,
        (Some("required"), _) => Choice::Any,
        (None, Some(name)) => Choice::One(name.to_owned()),
        _ => Choice::Auto,
    };
    for (nth, message) in list(&root["messages"]).enumerate() {
        tools.answered = false;
        for call in list(&message["tool_calls"]) {
            tools.call(&call["id"])?;
            let chars = call["id"].as_str().map_or(0, str::len);
            if length.is_some_and(|(least, most)| !(least..=most).contains(&chars)) {
                let message = format!("{} does not have the length of an id.", call["id"]);
                return Err(Fault::invalid(
                    format!("messages[{nth}].tool_calls"),
                    message,
                ));
            }
        }
        if message["role"] == "tool" {
            let at = format!("messages[{nth}].tool_call_id");
            tools.result(&message["tool_call_id"], at)?;
        }
    }
    tools.checked()
}

/// The same in Anthropic's format.
pub(super) fn anthropic(root: &Value) -> Result<Tools, Fault> {
    let mut tools = Tools::default();
    for tool in list(&root["tools"]) {
        tools.add(&tool["name"], &tool["input_schema"])?;
    }
    let choice = &root["tool_choice"];
    tools.single = choice["disable_parallel_tool_use"] == true;
    tools.choice = match choice["type"].as_str() {
        Some("any") => Choice::Any,
        Some("none") => Choice::Never,
        Some("tool") => Choice::One(word(&choice["name"], "tool_choice")?),
        _ => Choice::Auto,
    };
    for (nth, message) in list(&root["messages"]).enumerate() {
        tools.answered = false;
        for block in list(&message["content"]) {
            match block["type"].as_str() {
                Some("tool_use") => tools.call(&block["id"])?,
                Some("tool_result") => {
                    tools.result(
                        &block["tool_use_id"],
                        format!("messages[{nth}].tool_use_id"),
                    )?;
                }
                _ => {}
            }
        }
    }
    tools.checked()
}

/// The same in Gemini's format, in which the name of a function connects a call and its result.
pub(super) fn gemini(root: &Value) -> Result<Tools, Fault> {
    let mut tools = Tools::default();
    let declared = list(&root["tools"]).flat_map(|tool| list(&tool["functionDeclarations"]));
    for function in declared {
        tools.add(&function["name"], &function["parametersJsonSchema"])?;
    }
    let config = &root["toolConfig"]["functionCallingConfig"];
    let allowed = config["allowedFunctionNames"][0].as_str();
    tools.choice = match (config["mode"].as_str(), allowed) {
        (Some("ANY"), Some(name)) => Choice::One(name.to_owned()),
        (Some("ANY"), None) => Choice::Any,
        (Some("NONE"), _) => Choice::Never,
        _ => Choice::Auto,
    };
    for (nth, content) in list(&root["contents"]).enumerate() {
        tools.answered = false;
        for part in list(&content["parts"]) {
            if let Some(call) = part.get("functionCall") {
                tools.call(&call["name"])?;
            }
            if let Some(result) = part.get("functionResponse") {
                tools.result(&result["name"], format!("contents[{nth}].functionResponse"))?;
            }
        }
    }
    tools.checked()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(choice: Value, messages: Value) -> Value {
        let function = |name: &str| json!({"type": "function", "function": {"name": name}});
        json!({"tools": [function("a"), function("b")], "tool_choice": choice, "messages": messages})
    }

    #[test]
    fn each_tool_is_called_once_as_the_choice_wants() {
        let one = json!({"type": "function", "function": {"name": "b"}});
        for (choice, wanted) in [
            (json!("auto"), "a b"),
            (json!("none"), ""),
            (json!("required"), "a b"),
            (one, "b"),
        ] {
            let body = chat(choice, json!([{"role": "user", "content": "x"}]));
            let calls = openai(&body, None).unwrap().calls("x");
            let names: Vec<_> = calls.iter().map(|call| &*call.name).collect();
            assert_eq!(names.join(" "), wanted, "{body}");
        }
    }

    #[test]
    fn each_result_belongs_to_a_call() {
        let messages = |id: &str| {
            json!([{"role": "assistant", "tool_calls": [{"id": "123456789"}]},
                {"role": "tool", "tool_call_id": id}])
        };
        let chat = |id, length| openai(&chat(Value::Null, messages(id)), length);
        assert!(chat("123456789", Some((9, 9))).unwrap().answered);
        assert!(chat("123456789", Some((1, 8))).is_err());
        let blocks = json!({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x"}]}]});
        let parts = json!({"contents": [{"parts": [{"functionResponse": {"name": "x"}}]}]});
        for (read, at) in [
            (chat("other", None), "messages[1].tool_call_id"),
            (anthropic(&blocks), "messages[0].tool_use_id"),
            (gemini(&parts), "contents[0].functionResponse"),
        ] {
            assert_eq!(read.unwrap_err().at, at);
        }
    }
}
