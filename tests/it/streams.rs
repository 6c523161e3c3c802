//! Streamed answers of every provider; the complete answer is the same as without streaming.

use std::sync::Arc;
use std::time::Duration;

use batchwright::client::{AnswerListener, AnswerPiece, NativeFormat};
use batchwright::{Context, LlmConfig, Request, Response, RetryPolicy, Route, Secret};
use batchwright_simulate::{SimConfig, Simulator, Trouble};
use crossbeam_channel::{Receiver, Sender, unbounded};
use serde_json::{Value, json};

use super::common::{Has, PATIENCE, simulator};
use super::every_provider::{PROVIDERS, never_malformed};

/// The pieces that a listener received.
#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Call,
    Text(String),
    Reasoning(String),
    ToolCall(String, String),
    Arguments(String),
    Item(Value),
}

struct Listener(Sender<Heard>);

impl AnswerListener for Listener {
    fn on_call(&self) {
        self.0.send(Heard::Call).unwrap();
    }

    fn on_piece(&self, piece: AnswerPiece<'_>) {
        let heard = match piece {
            AnswerPiece::Text(text) => Heard::Text(text.to_owned()),
            AnswerPiece::Reasoning(text) => Heard::Reasoning(text.to_owned()),
            AnswerPiece::ToolCall { id, name, .. } => {
                Heard::ToolCall(id.to_owned(), name.to_owned())
            }
            AnswerPiece::Arguments { text, .. } => Heard::Arguments(text.to_owned()),
            AnswerPiece::Item(item) => Heard::Item(item.clone()),
            _ => return,
        };
        self.0.send(heard).unwrap();
    }
}

fn listening() -> (Context, Receiver<Heard>) {
    let (sender, heard) = unbounded();
    (
        Context::new().with_listener(Arc::new(Listener(sender))),
        heard,
    )
}

fn text(heard: &[Heard]) -> String {
    let text = |piece: &Heard| match piece {
        Heard::Text(text) => Some(text.clone()),
        _ => None,
    };
    heard.iter().filter_map(text).collect()
}

fn joined(heard: &[Heard], of: impl Fn(&Heard) -> Option<&str>) -> String {
    heard.iter().filter_map(of).collect()
}

fn openai(sim: &Simulator) -> Route<'static> {
    let client = LlmConfig::new("openai")
        .base_url(sim.base_url())
        .api_key(Secret::new("k"))
        .model("m")
        .client()
        .unwrap();
    let retry = RetryPolicy::default().base_delay(Duration::from_millis(1));
    Route::new(client).retry(retry)
}

#[test]
fn streamed_answers_equal_those_without_a_stream_for_every_provider() {
    let tool = json!([{"type": "function", "function": {
        "name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
            "required": ["city"], "additionalProperties": false}}}]);
    for provider in &PROVIDERS {
        let name = provider.name;
        let sim = provider.simulator(SimConfig::default().reasoning_tokens(3));
        let route = Route::new(provider.client(&sim, "sk-right"));
        let whole = |request: &Request| route.complete(request, &Context::new()).unwrap();
        let live = |request: &Request| {
            let (ctx, heard) = listening();
            let answer = route.complete(request, &ctx).unwrap();
            (answer, heard.try_iter().collect::<Vec<_>>())
        };
        let request = Request::new("Three words here.").with_unchecked(true);
        let same = |a: &Response, b: &Response| {
            let parts = |answer: &Response| {
                (
                    answer.text.clone(),
                    answer.usage,
                    answer.finish_reason.clone(),
                    answer.model.clone(),
                    answer.cost_usd,
                )
            };
            assert_eq!(parts(a), parts(b), "{name}");
            let reasoning = |answer: &Response| {
                answer
                    .details()
                    .reasoning
                    .as_ref()
                    .map(|it| it.text.clone())
            };
            assert_eq!(reasoning(a), reasoning(b), "{name}");
        };
        let (answer, heard) = live(&request);
        same(&answer, &whole(&request));
        assert_eq!(text(&heard), answer.text, "{name}");
        assert!(
            heard.len() > 3 && heard[0] == Heard::Call,
            "{name}: {heard:?}"
        );
        let reasoning = joined(&heard, |piece| match piece {
            Heard::Reasoning(text) => Some(text),
            _ => None,
        });
        let thought = answer
            .details()
            .reasoning
            .as_ref()
            .map(|it| it.text.clone());
        assert_eq!(reasoning, thought.unwrap_or_default(), "{name}");

        let request = Request::new("Call it.")
            .with_extra("tools", tool.clone())
            .with_unchecked(true);
        let (answer, heard) = live(&request);
        same(&answer, &whole(&request));
        let [call] = &answer.details().tool_calls[..] else {
            panic!("{name}: {answer:?}");
        };
        let arguments = joined(&heard, |piece| match piece {
            Heard::Arguments(text) => Some(text),
            _ => None,
        });
        // Gemini sends a call in one piece, without an id.
        if name == "gemini" {
            assert_eq!(arguments, "");
        } else {
            let begun = Heard::ToolCall(call.id.clone(), call.name.clone());
            assert!(heard.contains(&begun), "{name}: {heard:?}");
            assert_eq!(
                serde_json::from_str::<Value>(&arguments).unwrap(),
                call.arguments,
                "{name}"
            );
        }
        never_malformed(name, &sim.stats());
    }
}

#[test]
fn pieces_arrive_while_the_provider_still_sends() {
    let sim = simulator(SimConfig::default());
    let route = openai(&sim);
    sim.hold_streams(1);
    let (ctx, heard) = listening();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| route.complete(&Request::new("hello"), &ctx));
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Call));
        assert_eq!(
            heard.recv_timeout(PATIENCE),
            Ok(Heard::Text("echo: ".to_owned()))
        );
        assert_eq!((sim.stats().answered, sim.stats().in_flight), (0, 1));
        sim.release_streams();
        assert_eq!(call.join().unwrap().unwrap().text, "echo: hello");
    });
    assert_eq!(
        heard.recv_timeout(PATIENCE),
        Ok(Heard::Text("hello".to_owned()))
    );
}

#[test]
fn a_provider_that_rejects_streams_is_called_once_more_without_one() {
    let sim = simulator(SimConfig::default().streams(false));
    let route = openai(&sim);
    for calls in [2, 3] {
        let (ctx, heard) = listening();
        let answer = route.complete(&Request::new("hello"), &ctx).unwrap();
        assert_eq!(answer.text, "echo: hello");
        // The second request does not try to stream.
        assert_eq!(heard.try_iter().count(), usize::from(calls == 2));
        let stats = sim.stats();
        assert_eq!(
            (stats.malformed, stats.answered),
            (1, calls - 1),
            "{stats:?}"
        );
    }
}

#[test]
fn a_broken_stream_is_retried_like_a_broken_reply() {
    for trouble in [Trouble::Truncated, Trouble::BrokenJson, Trouble::Drop] {
        let told = |ctx: &Context| {
            let sim = simulator(SimConfig::default().trouble(trouble, 1.0));
            let request = Request::new("several words that are cut");
            let answer = openai(&sim).complete(&request, ctx).unwrap();
            assert_eq!(answer.text, "echo: several words that are cut");
            let stats = sim.stats();
            (
                stats.calls,
                stats.paid,
                stats.paid_twice,
                stats.maybe_paid_resent,
            )
        };
        let (ctx, heard) = listening();
        assert_eq!(told(&ctx), told(&Context::new()), "{trouble:?}");
        let heard: Vec<Heard> = heard.try_iter().collect();
        let calls: Vec<usize> = (0..heard.len())
            .filter(|at| heard[*at] == Heard::Call)
            .collect();
        let [_, second] = calls[..] else {
            panic!("{trouble:?}: {heard:?}");
        };
        let (broken, whole) = heard.split_at(second);
        assert_eq!(text(whole), "echo: several words that are cut");
        assert!(text(whole).starts_with(&text(broken)));
        assert_eq!(
            text(broken).is_empty(),
            trouble == Trouble::Drop,
            "{broken:?}"
        );
    }
}

#[test]
fn streamed_items_of_the_responses_api_equal_those_of_the_answer() {
    let sim = simulator(SimConfig::default().reasoning_tokens(3));
    let body = json!({"model": "m", "input": "hello"});
    let request = Request::from_native(NativeFormat::OpenAiResponses, body).unwrap();
    let request = request.with_unchecked(true).with_keep_reply(true);
    let (ctx, heard) = listening();
    let answer = openai(&sim).complete(&request, &ctx).unwrap();
    let heard: Vec<Heard> = heard.try_iter().collect();
    assert_eq!(text(&heard), "echo: hello");
    let begun = heard.iter().filter_map(|piece| match piece {
        Heard::Item(item) => Some(item["id"].clone()),
        _ => None,
    });
    let items = answer.items("1").into_iter().map(|item| item["id"].clone());
    assert_eq!(begun.collect::<Vec<_>>(), items.collect::<Vec<_>>());
    // The stored reply is the same as without streaming.
    let reply: Value = answer.details().reply.as_ref().unwrap().parse().unwrap();
    reply.has(json!({"object": "response", "status": "completed"}));
}
