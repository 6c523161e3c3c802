//! Reads the tools and their calls in the format of each API. Each result must belong to a call.

use serde_json::{Value, json};

use super::Vendor;
use super::prompt::Fault;
use super::tools::{Choice, Function, Tools};
use super::tree::Object;

impl Tools {
    fn add(&mut self, function: &Object<'_>, parameters: &str) -> Result<(), Fault> {
        let parameters = function.get(parameters).cloned();
        self.functions.push(Function {
            name: wanted(function, "name")?.to_owned(),
            parameters: parameters.unwrap_or_else(|| json!({"type": "object"})),
        });
        Ok(())
    }

    fn result(&mut self, object: &Object<'_>, field: &str) -> Result<(), Fault> {
        let id = wanted(object, field)?;
        self.answered = true;
        match self.open.iter().position(|open| open == id) {
            Some(place) => {
                self.open.remove(place);
                Ok(())
            }
            None => {
                let message = format!("'{id}' is the result of no call.");
                Err(Fault::invalid(object.at(field), message))
            }
        }
    }

    /// The tools, if there are any.
    fn checked(self) -> Result<Option<Tools>, Fault> {
        match &self.choice {
            Choice::One(name) if self.functions.iter().all(|f| f.name != *name) => {
                let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
                Err(Fault::invalid("tool_choice", message))
            }
            _ => Ok(Some(self).filter(|tools| !tools.functions.is_empty())),
        }
    }
}

fn wanted<'v>(object: &Object<'v>, name: &str) -> Result<&'v str, Fault> {
    object.text(name)?.ok_or_else(|| object.missing(name))
}

/// The length that ids of calls must have: OpenAI's are limited, and Mistral's have nine characters.
fn id_fits(vendor: Option<Vendor>, id: &str) -> bool {
    match vendor {
        Some(Vendor::OpenAi | Vendor::Azure) => id.len() <= 40,
        Some(Vendor::Mistral) => id.len() == 9,
        _ => true,
    }
}

/// Reads the tools and the calls of a request in OpenAI's format.
pub(super) fn openai(root: &Object<'_>, vendor: Option<Vendor>) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools::default();
    for tool in root.objects("tools")?.unwrap_or_default() {
        let function = tool.object("function")?;
        tools.add(
            &function.ok_or_else(|| tool.missing("function"))?,
            "parameters",
        )?;
    }
    tools.single = root.flag("parallel_tool_calls")? == Some(false);
    tools.choice = match root.get("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) if word == "none" => Choice::Never,
        Some(Value::String(word)) if word == "required" => Choice::Any,
        Some(Value::String(_)) => Choice::Auto,
        Some(choice) => {
            let name = choice["function"]["name"].as_str();
            Choice::One(name.unwrap_or_default().to_owned())
        }
    };
    for message in root.objects("messages")?.unwrap_or_default() {
        tools.answered = false;
        for call in message.objects("tool_calls")?.unwrap_or_default() {
            let id = wanted(&call, "id")?;
            if !id_fits(vendor, id) {
                let message = format!("'{id}' does not have the length of an id.");
                return Err(Fault::invalid(call.at("id"), message));
            }
            tools.open.push(id.to_owned());
        }
        if message.text("role")? == Some("tool") {
            tools.result(&message, "tool_call_id")?;
        }
    }
    tools.checked()
}

/// The same in Anthropic's format.
pub(super) fn anthropic(root: &Object<'_>) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools::default();
    for tool in root.objects("tools")?.unwrap_or_default() {
        tools.add(&tool, "input_schema")?;
    }
    if let Some(choice) = root.object("tool_choice")? {
        tools.single = choice.flag("disable_parallel_tool_use")? == Some(true);
        tools.choice = match wanted(&choice, "type")? {
            "any" => Choice::Any,
            "none" => Choice::Never,
            "tool" => Choice::One(wanted(&choice, "name")?.to_owned()),
            _ => Choice::Auto,
        };
    }
    for message in root.objects("messages")?.unwrap_or_default() {
        tools.answered = false;
        let content = message.get("content").filter(|content| content.is_array());
        let blocks = content.map(|_| message.objects("content"));
        for block in blocks.transpose()?.flatten().unwrap_or_default() {
            match block.text("type")? {
                Some("tool_use") => tools.open.push(wanted(&block, "id")?.to_owned()),
                Some("tool_result") => tools.result(&block, "tool_use_id")?,
                _ => {}
            }
        }
    }
    tools.checked()
}

/// The same in Gemini's format, in which the name of a function connects a call and its result.
pub(super) fn gemini(root: &Object<'_>) -> Result<Option<Tools>, Fault> {
    let mut tools = Tools::default();
    for tool in root.objects("tools")?.unwrap_or_default() {
        for function in tool.objects("functionDeclarations")?.unwrap_or_default() {
            tools.add(&function, "parametersJsonSchema")?;
        }
    }
    let config = root.object("toolConfig")?;
    let config = config.map(|config| config.object("functionCallingConfig"));
    if let Some(config) = config.transpose()?.flatten() {
        let allowed = config.list("allowedFunctionNames")?;
        let name = allowed.and_then(|names| names.first()?.as_str());
        tools.choice = match (config.text("mode")?, name) {
            (Some("ANY"), Some(name)) => Choice::One(name.to_owned()),
            (Some("ANY"), None) => Choice::Any,
            (Some("NONE"), _) => Choice::Never,
            _ => Choice::Auto,
        };
    }
    for content in root.objects("contents")?.unwrap_or_default() {
        tools.answered = false;
        for part in content.objects("parts")?.unwrap_or_default() {
            if let Some(call) = part.object("functionCall")? {
                tools.open.push(wanted(&call, "name")?.to_owned());
            }
            if let Some(result) = part.object("functionResponse")? {
                tools.result(&result, "name")?;
            }
        }
    }
    tools.checked()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Spelling;

    /// The tools of a request, or the place of its fault.
    fn read(
        body: &Value,
        read: impl Fn(&Object<'_>) -> Result<Option<Tools>, Fault>,
    ) -> Result<Option<Tools>, String> {
        let root = Object::new(body, "", Spelling::Exact).unwrap();
        read(&root).map_err(|fault| fault.at().to_owned())
    }

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
            let tools = read(&body, |root| openai(root, None)).unwrap().unwrap();
            let calls = tools.calls("x");
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
        let chat = |id, vendor| {
            read(&chat(Value::Null, messages(id)), |root| {
                openai(root, vendor)
            })
        };
        assert!(
            chat("123456789", Some(Vendor::Mistral))
                .unwrap()
                .unwrap()
                .answered
        );
        assert_eq!(
            chat("other", None),
            Err("messages[1].tool_call_id".to_owned())
        );
        let blocks = json!({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "x"}]}]});
        let at = "messages[0].content[0].tool_use_id".to_owned();
        assert_eq!(read(&blocks, anthropic), Err(at));
        let parts = json!({"contents": [{"parts": [{"functionResponse": {"name": "x"}}]}]});
        let at = "contents[0].parts[0].functionResponse.name".to_owned();
        assert_eq!(read(&parts, gemini), Err(at));
    }
}
