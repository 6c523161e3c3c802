use super::*;
use crate::test_client::{self, cases};
use crate::vendor::row;

fn with(fields: &str) -> String {
    let good = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    test_client::with(good, fields).to_string()
}

#[test]
fn each_vendor_refuses_what_is_not_its_own() {
    // A vendor, fields of a request, and the place of the fault.
    for (given, at) in cases(
        r#"
        any {"max_tokens":-1} => max_tokens
        any {"stop":5} => stop
        any {"x":1} => x
        any {"messages":"x"} => messages
        any {"messages":[]} => messages
        any {"messages":[{"role":"god","content":"x"}]} => messages[0].role
        any {"messages":[{"role":"user","content":null}]} => messages[0].content
        openai {"random_seed":1} => random_seed
        groq {"logprobs":1} => logprobs
        mistral {"seed":1} => seed
        xai {"store":1} => store
        deepseek {"max_completion_tokens":1} => max_completion_tokens
        together {"service_tier":"flex"} => service_tier
        fireworks {"store":1} => store
        deepinfra {"logit_bias":1} => logit_bias
        cerebras {"top_k":1} => top_k
        groq {"messages":[{"role":"user","name":"a","content":"x"}]} => messages[0].name
        openai {"messages":[{"role":"user","mood":1,"content":"x"}]} => messages[0].mood
        xai {"messages":[{"role":"user","content":[{"type":"file","file":{}}]}]} => messages[0].content[0].type
        any {"response_format":{"type":"xml"}} => response_format.type
        any {"response_format":{"type":"text","x":1}} => response_format.x
        any {"response_format":{"type":"json_schema","json_schema":{"schema":{}}}} => response_format.json_schema.name
    "#,
    ) {
        let (vendor, fields) = given.split_once(' ').unwrap();
        let fault = parse(with(fields).as_bytes(), row(vendor)).unwrap_err();
        assert_eq!(fault.at, at, "{given}");
    }
    let named = with(r#"{"messages":[{"role":"user","name":"a","mood":1,"content":"x"}],"x":1}"#);
    assert!(parse(named.as_bytes(), row("local")).is_ok());
}

#[test]
fn formats_become_shapes() {
    let shape = |format: Value| {
        let body = with(&json!({"response_format": format}).to_string());
        parse(body.as_bytes(), row("any")).map(|prompt| prompt.shape)
    };
    assert_eq!(shape(json!({"type": "text"})), Ok(None));
    let object = shape(json!({"type": "json_object"}));
    assert_eq!(object, Ok(Some(Shape::Object)));
    let schema = json!({"type": "object", "properties": {"a": {}}});
    let format = json!({"type": "json_schema",
        "json_schema": {"name": "s", "strict": true, "schema": schema}});
    assert_eq!(shape(format), Ok(Some(Shape::Schema(schema))));
}
