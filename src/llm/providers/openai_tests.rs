//! What does not fit into the recorded replies of `tests/data/replies`.

use serde_json::json;

use crate::llm::providers::dialect::testing::{decoded, line};

#[test]
fn probabilities_are_kept_whatever_their_number() {
    // More values than any other field may hold.
    let each = json!({"token": "a", "logprob": -0.1, "bytes": [1, 2, 3], "top_logprobs": []});
    let logprobs = json!({"content": vec![each; 20_000], "refusal": null});
    let choice =
        json!({"finish_reason": "stop", "message": {"content": "x"}, "logprobs": logprobs});
    let answer = decoded("xai", &json!({"choices": [choice]}).to_string()).unwrap();
    assert_eq!(line(&answer)["logprobs"], logprobs);
}

#[test]
fn a_tool_call_without_arguments_has_an_empty_object() {
    for arguments in ["", r#","ARGS":null"#, r#","ARGS":"null""#, r#","ARGS":"""#] {
        for (vendor, name, body) in [
            (
                "openai",
                "arguments",
                r#"{"choices":[{"message":{"tool_calls":[{"function":{"name":"f"ARGS}}]}}]}"#,
            ),
            (
                "anthropic",
                "input",
                r#"{"content":[{"type":"tool_use","name":"f"ARGS}]}"#,
            ),
            (
                "gemini",
                "args",
                r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"ARGS}}]}}]}"#,
            ),
        ] {
            let body = body.replace("ARGS", &arguments.replace("ARGS", name));
            let answer = decoded(vendor, &body).unwrap();
            assert_eq!(
                answer.details().tool_calls[0].arguments,
                json!({}),
                "{body}"
            );
        }
    }
}
