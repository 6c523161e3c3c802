//! JSON on request: an instance that fits a schema, as an answer or as the arguments of a tool. Covers the parts that
//! structured outputs use; patterns and other rare parts are ignored. The simulated model calls each tool once if the
//! last message is from the user; it answers the results of calls with a text.

use serde_json::{Map, Value, json};

use super::rules::list;

/// The JSON that an answer is to be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// Any object.
    Object,
    Schema(Value),
}

impl Shape {
    /// An instance, with `text` in the first string without constraints.
    pub(super) fn instance(&self, text: &str) -> Value {
        match self {
            Shape::Object => json!({"echo": text}),
            Shape::Schema(schema) => {
                let mut maker = Maker {
                    root: schema,
                    text: Some(text),
                    left: 10_000,
                };
                maker.make(schema, 0)
            }
        }
    }
}

/// Below this depth only required members are generated, because schemas may contain themselves.
const DEEP: usize = 5;
const DEEPEST: usize = 40;

struct Maker<'a> {
    root: &'a Value,
    text: Option<&'a str>,
    /// Values that may still be made; a schema that branches at every level would never end.
    left: u32,
}

impl Maker<'_> {
    fn make(&mut self, schema: &Value, depth: usize) -> Value {
        if self.left == 0 || depth > DEEPEST {
            return Value::Null;
        }
        self.left -= 1;
        let deep = depth > DEEP;
        if let Some(value) = schema.get("const").or(schema["enum"].get(0)) {
            return value.clone();
        }
        let target = schema["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix('#'));
        if let Some(target) = target.and_then(|path| self.root.pointer(path)) {
            return self.make(target, depth + 1);
        }
        let choices = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
        // Where a schema contains itself, the way out is usually the last choice.
        let choice = choices.and_then(|list| if deep { list.last() } else { list.first() });
        if let Some(choice) = choice {
            return self.make(choice, depth + 1);
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => {
                let least = schema["minItems"].as_u64().unwrap_or(0);
                let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
                let count = if deep { least } else { least.max(1).min(most) };
                let any = json!({"type": "null"});
                let items = schema.get("items").unwrap_or(&any);
                (0..count)
                    .map_while(|_| (self.left > 0).then(|| self.make(items, depth + 1)))
                    .collect()
            }
            "string" => self.string(schema).into(),
            "integer" => json!(number(schema, 1.0).ceil() as i64),
            "number" => json!(number(schema, 0.5)),
            "boolean" => json!(true),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut out = Map::new();
        let required: Vec<_> = list(&schema["required"])
            .filter_map(Value::as_str)
            .collect();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            if depth <= DEEP || required.contains(&name.as_str()) {
                out.insert(name.clone(), self.make(inner, depth + 1));
            }
        }
        for name in required {
            out.entry(name).or_insert(Value::Null);
        }
        Value::Object(out)
    }

    fn string(&mut self, schema: &Value) -> String {
        let text = self.text.take().unwrap_or("text");
        let least = schema["minLength"].as_u64().unwrap_or(0).min(1 << 20) as usize;
        let most = schema["maxLength"].as_u64().unwrap_or(u64::MAX) as usize;
        let count = text.chars().count();
        let dots = std::iter::repeat_n('.', least.saturating_sub(count));
        text.chars().chain(dots).take(most).collect()
    }
}

/// The type, the first of a list of types, or the one that other keywords imply.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds.first().and_then(Value::as_str).unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

/// `wanted`, or the bound that it breaks.
fn number(schema: &Value, wanted: f64) -> f64 {
    let get = |name: &str| schema[name].as_f64();
    let least = get("minimum").or(get("exclusiveMinimum").map(|least| least + 1.0));
    let most = get("maximum").or(get("exclusiveMaximum").map(|most| most - 1.0));
    let number = wanted.max(least.unwrap_or(wanted));
    number.min(most.unwrap_or(number))
}

/// The schema that a text contains.
pub(super) fn schema_told(text: &str) -> Option<Value> {
    let (_, rest) = text.split_once("fits this JSON Schema")?;
    let rest = &rest[rest.find('{')?..];
    let mut values = serde_json::Deserializer::from_str(rest).into_iter();
    values.next()?.ok()
}

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
pub(super) fn openai_tools(root: &Value) -> Tools {
    let functions = list(&root["tools"]).map(|tool| &tool["function"]);
    let functions = functions.map(|function| (&function["name"], &function["parameters"]));
    Tools::of(functions, last(&root["messages"])["role"] == "tool")
}

/// The same in Anthropic's format.
pub(super) fn anthropic_tools(root: &Value) -> Tools {
    let functions = list(&root["tools"]).map(|tool| (&tool["name"], &tool["input_schema"]));
    let mut blocks = list(&last(&root["messages"])["content"]);
    Tools::of(
        functions,
        blocks.any(|block| block["type"] == "tool_result"),
    )
}

/// The same in Gemini's format.
pub(super) fn gemini_tools(root: &Value) -> Tools {
    let declared = list(&root["tools"]).flat_map(|tool| list(&tool["functionDeclarations"]));
    let functions = declared.map(|function| (&function["name"], &function["parametersJsonSchema"]));
    let mut parts = list(&last(&root["contents"])["parts"]);
    let answered = parts.any(|part| part.get("functionResponse").is_some());
    Tools::of(functions, answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(schema: &Value) -> Value {
        Shape::Schema(schema.clone()).instance("hi")
    }

    #[test]
    fn schemas_that_contain_themselves_come_to_an_end() {
        let list = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
            "required": ["next"], "additionalProperties": false, "properties": {
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}});
        assert!(made(&list)["next"]["next"].is_object());
        let tree = json!({"type": "object", "properties": {
            "left": {"$ref": "#"}, "right": {"$ref": "#"}, "all": {"type": "array",
                "items": {"$ref": "#"}, "minItems": 9}}});
        made(&tree);
        let endless = json!({"$ref": "#"});
        assert_eq!(made(&endless), Value::Null);
    }
}
