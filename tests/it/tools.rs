//! Tools and whole replies, with the client of every provider against the strict simulator.

use batchwright::{FinishReason, Message, Request, Response, ResponseFormat};
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::every_provider::{PROVIDERS, Provider, never_malformed};

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}},
        "required": ["city"], "additionalProperties": false})
}

fn with_tools() -> Request {
    let mut request = Request::new("How warm is it in Oslo?")
        .with_tool("get_weather", "The weather in a city now", schema())
        .with_tool("get_time", "The time in a city", schema())
        .with_max_tokens(2000);
    request.extra["tools"][0]["function"]["strict"] = true.into();
    request
}

fn answered(
    provider: &Provider,
    sim: &batchwright_simulate::Simulator,
    request: Request,
) -> Response {
    let outcome = provider.run(sim, &[request]).remove(0);
    let name = provider.name;
    assert_eq!(outcome.attempts, 1, "{name}: {:?}", outcome.result);
    outcome.result.unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn tools_are_sent_to_every_provider_and_conversations_continue() {
    for provider in &PROVIDERS {
        let name = provider.name;
        let sim = provider.simulator(SimConfig::default().reasoning_tokens(5));
        // A schema does not matter before there is an answer.
        let format = ResponseFormat::json_schema(schema()).unwrap();
        let mut request = with_tools()
            .with_response_format(format)
            .with_keep_reply(true);
        let answer = answered(provider, &sim, request.clone());
        assert_eq!(answer.finish_reason, FinishReason::ToolCalls, "{name}");
        let calls = &answer.details().tool_calls;
        let names: Vec<&str> = calls.iter().map(|call| &*call.name).collect();
        assert_eq!(names, ["get_weather", "get_time"], "{name}");
        assert!(calls[0].arguments["city"].is_string(), "{name}");
        assert_ne!(calls[0].id, calls[1].id, "{name}");
        let thinks = !matches!(name, "openai" | "custom" | "azure");
        assert_eq!(answer.details().reasoning.is_some(), thinks, "{name}");
        let reply = answer.details().reply.clone().unwrap();
        let whole: Value = reply.parse().unwrap();
        assert!(whole.to_string().contains("get_weather"), "{name}");
        assert!(!reply.as_str().contains('\n'), "{name}");
        // Any provider can continue a conversation with the tool calls of another one.
        request.params.response_format = None;
        request.keep_reply = false;
        request.messages.push(answer.message());
        for call in calls {
            request
                .messages
                .push(Message::tool_result(&call.id, "{\"degrees\": 7}"));
        }
        let others = ["openai", "anthropic", "gemini", "mistral", "deepseek"];
        for other in PROVIDERS
            .iter()
            .filter(|other| others.contains(&other.name))
        {
            let sim = other.simulator(SimConfig::default());
            let answer = answered(other, &sim, request.clone());
            let ended = (
                &answer.finish_reason,
                answer.text.is_empty(),
                &answer.details().reply,
            );
            assert_eq!(
                ended,
                (&FinishReason::Stop, false, &None),
                "{name} {}",
                other.name
            );
            never_malformed(other.name, &sim.stats());
        }
        never_malformed(name, &sim.stats());
    }
}
