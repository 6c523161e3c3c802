//! What does not fit into the recorded replies of `tests/data/replies` and the requests of `request_cases.json`.

use super::*;
use crate::llm::providers::dialect::testing::decoded;

#[test]
fn a_models_name_cannot_change_the_address() {
    assert_eq!(resource("gemini-x").unwrap(), "models/gemini-x");
    assert_eq!(resource("models/gemini-x").unwrap(), "models/gemini-x");
    assert_eq!(resource("tunedModels/a-1").unwrap(), "tunedModels/a-1");
    for bad in ["", "a b", "x?key=1", "x#", "../files", "x:delete"] {
        assert_eq!(resource(bad).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn older_models_get_no_signature_for_calls_of_other_models() {
    let request = json!({"messages": [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "name": "f", "arguments": {}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"}]});
    let request: Request = serde_json::from_value(request).unwrap();
    for (model, signed) in [("gemini-2.5-flash", false), ("gemini-3", true)] {
        let body = content(&request, model).unwrap();
        assert_eq!(body.to_string().contains(FOREIGN), signed, "{model}");
    }
}

#[test]
fn a_call_without_an_id_gets_one_that_depends_on_its_reply() {
    let id = |reply: &str| {
        let body = format!(
            r#"{{"candidates":[{{"finishReason":"STOP","content":{{"parts":[
            {{"functionCall":{{"name":"f"}}}}]}}}}],"responseId":"{reply}"}}"#
        );
        decoded("gemini", &body).unwrap().details().tool_calls[0]
            .id
            .clone()
    };
    assert_eq!(id("r1"), id("r1"));
    assert_ne!(id("r1"), id("r2"));
}
