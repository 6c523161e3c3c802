//! Chat answers, and the fields that each vendor adds or omits.

use crate::Vendor;
use crate::prompt::{Answer, Finish};
use crate::reply::{put, quote};
use serde_json::{Value, json};

/// Appends a chat completion.
pub(crate) fn write(out: &mut Vec<u8>, answer: &Answer<'_>, vendor: Option<Vendor>) {
    if vendor == Some(Vendor::DeepSeek) {
        // Sent while it is busy.
        out.extend_from_slice(b"\n\n\n");
    }
    put(
        out,
        format_args!(
            r#"{{"id":"chatcmpl-sim-{}","object":"chat.completion","created":{},"model":"#,
            answer.call, answer.created
        ),
    );
    quote(out, answer.model);
    let finish = match answer.finish {
        Finish::Stop if !answer.calls.is_empty() => "tool_calls",
        Finish::Stop if vendor == Some(Vendor::Together) => "eos",
        Finish::Stop | Finish::Refused => "stop",
        Finish::Length => "length",
        Finish::Filtered | Finish::Blocked => "content_filter",
    };
    put(
        out,
        format_args!(
            r#","choices":[{{"index":0,"finish_reason":"{finish}","message":{{"role":"assistant","content":"#,
        ),
    );
    content(out, answer, vendor);
    usage(out, answer, vendor);
    if vendor == Some(Vendor::Groq) {
        put(
            out,
            format_args!(r#","x_groq":{{"id":"req_sim_{}"}}"#, answer.call),
        );
    }
    if answer.flex {
        out.extend_from_slice(br#","service_tier":"flex""#);
    }
    out.extend_from_slice(br#","system_fingerprint":"fp_sim"}"#);
}

const THOUGHTS: &str = "The simulator thinks of an answer.";

/// The message from its content on, and the end of the choices.
fn content(out: &mut Vec<u8>, answer: &Answer<'_>, vendor: Option<Vendor>) {
    let reasons = answer.tokens.reasoning > 0;
    if !answer.calls.is_empty() {
        if reasons && vendor == Some(Vendor::Mistral) {
            let thoughts = json!([{"type": "text", "text": THOUGHTS}]);
            let content = json!([{"type": "thinking", "thinking": thoughts}]);
            put(out, format_args!("{content}"));
        } else {
            out.extend_from_slice(b"null")
        }
        out.extend_from_slice(br#","refusal":null,"tool_calls":"#);
        put(out, format_args!("{}", calls(answer, vendor)));
    } else if answer.finish == Finish::Refused {
        out.extend_from_slice(br#"null,"refusal":"#);
        quote(out, answer.text);
    } else if reasons && vendor == Some(Vendor::Mistral) {
        out.extend_from_slice(br#"[{"type":"thinking","thinking":[{"type":"text","text":"#);
        quote(out, THOUGHTS);
        out.extend_from_slice(br#"}]},{"type":"text","text":"#);
        quote(out, answer.text);
        out.extend_from_slice(br#"}],"refusal":null"#);
    } else {
        quote(out, answer.text);
        out.extend_from_slice(br#","refusal":null"#);
    }
    let name = match vendor {
        Some(Vendor::Groq | Vendor::OpenRouter | Vendor::Together | Vendor::Cerebras) => {
            Some("reasoning")
        }
        None | Some(Vendor::OpenAi | Vendor::Azure | Vendor::Mistral) => None,
        Some(_) => Some("reasoning_content"),
    };
    if let Some(name) = name.filter(|_| reasons) {
        put(out, format_args!(r#","{name}":"#));
        quote(out, THOUGHTS);
    }
    out.extend_from_slice(b"}");
    out.extend_from_slice(b"}]");
}

fn calls(answer: &Answer<'_>, vendor: Option<Vendor>) -> Value {
    let calls = answer
        .calls
        .iter()
        .zip(1..)
        .map(|(call, number): (_, u32)| {
            let id = match vendor {
                Some(Vendor::Mistral) => format!("{:07}{number:02}", answer.call % 10_000_000),
                _ => format!("call_sim_{}_{number}", answer.call),
            };
            json!({"id": id, "type": "function",
            "function": {"name": call.name, "arguments": call.arguments.to_string()}})
        });
    calls.collect()
}

fn usage(out: &mut Vec<u8>, answer: &Answer<'_>, vendor: Option<Vendor>) {
    let tokens = answer.tokens;
    let completion = match vendor {
        // The total includes the reasoning all the same.
        Some(Vendor::Xai) => tokens.output,
        _ => tokens.completion(),
    };
    put(
        out,
        format_args!(
            r#","usage":{{"prompt_tokens":{},"completion_tokens":{completion},"total_tokens":{}"#,
            tokens.prompt,
            tokens.total()
        ),
    );
    let cached = tokens.cached;
    let tells_cached = !matches!(
        vendor,
        Some(
            Vendor::Local
                | Vendor::DeepSeek
                | Vendor::Together
                | Vendor::DeepInfra
                | Vendor::Nvidia
        )
    );
    if tells_cached {
        put(
            out,
            format_args!(r#","prompt_tokens_details":{{"cached_tokens":{cached}"#),
        );
        out.push(b'}');
    }
    match vendor {
        Some(
            Vendor::Local
            | Vendor::Together
            | Vendor::Fireworks
            | Vendor::DeepInfra
            | Vendor::Cerebras
            | Vendor::Nvidia,
        ) => {}
        Some(Vendor::Mistral) => put(out, format_args!(r#","num_cached_tokens":{cached}"#)),
        _ => put(
            out,
            format_args!(
                r#","completion_tokens_details":{{"reasoning_tokens":{}}}"#,
                tokens.reasoning
            ),
        ),
    }
    costs(out, answer, vendor);
    out.extend_from_slice(b"}");
}

/// Adds a vendor's own fields to the usage: times, cache and costs.
fn costs(out: &mut Vec<u8>, answer: &Answer<'_>, vendor: Option<Vendor>) {
    let tokens = answer.tokens;
    match vendor {
        Some(Vendor::Groq) => out.extend_from_slice(
            br#","queue_time":0.01,"prompt_time":0.002,"completion_time":0.03,"total_time":0.032"#,
        ),
        Some(Vendor::Xai) => {
            // At 0.2 and 1 dollar for a million tokens.
            let prompt = tokens.prompt.saturating_mul(2_000);
            let ticks = tokens
                .completion()
                .saturating_mul(10_000)
                .saturating_add(prompt);
            put(
                out,
                format_args!(r#","num_sources_used":0,"cost_in_usd_ticks":{ticks}"#),
            );
        }
        Some(Vendor::DeepSeek) => {
            let cached = tokens.cached;
            let missed = tokens.prompt.saturating_sub(cached);
            put(
                out,
                format_args!(
                    r#","prompt_cache_hit_tokens":{cached},"prompt_cache_miss_tokens":{missed}"#
                ),
            );
        }
        Some(vendor @ (Vendor::OpenRouter | Vendor::DeepInfra)) => {
            let name = match vendor {
                Vendor::OpenRouter => "cost",
                _ => "estimated_cost",
            };
            // At a dollar for a million tokens.
            let cost = tokens.total() as f64 / 1e6;
            put(out, format_args!(r#","{name}":{cost}"#));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Tokens;

    fn answer(reasoning: u64, vendor: Option<Vendor>) -> Value {
        let answer = Answer {
            calls: &[],
            flex: false,
            call: 7,
            created: 1_790_000_000,
            model: "a\"b",
            text: "line\n\"quoted\"",
            finish: Finish::Stop,
            tokens: Tokens {
                prompt: 10,
                cached: 4,
                output: 3,
                reasoning,
            },
        };
        let mut out = Vec::new();
        write(&mut out, &answer, vendor);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_answer_is_valid_json_whatever_is_in_its_text() {
        let value = answer(0, None);
        assert_eq!(value["model"], "a\"b");
        assert_eq!(
            value["choices"][0]["message"],
            json!({"role": "assistant", "content": "line\n\"quoted\"", "refusal": null})
        );
        assert_eq!(
            value["usage"],
            json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13,
                "prompt_tokens_details": {"cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 0}})
        );
    }

    #[test]
    fn each_vendor_counts_reasoning_its_own_way() {
        for vendor in Vendor::ALL {
            let value = answer(5, Some(vendor));
            let usage = &value["usage"];
            let completion = if vendor == Vendor::Xai { 3 } else { 8 };
            assert_eq!(usage["completion_tokens"], completion, "{vendor}");
            assert_eq!(usage["total_tokens"], 18, "{vendor}");
            let told = matches!(
                vendor,
                Vendor::Azure
                    | Vendor::OpenAi
                    | Vendor::Xai
                    | Vendor::Groq
                    | Vendor::OpenRouter
                    | Vendor::DeepSeek
            );
            let reasoning = &usage["completion_tokens_details"]["reasoning_tokens"];
            assert_eq!(*reasoning == 5, told, "{vendor}");
            assert_eq!(usage["num_cached_tokens"] == 4, vendor == Vendor::Mistral);
            assert_eq!(usage["cost_in_usd_ticks"] == 100_000, vendor == Vendor::Xai);
            assert_eq!(usage["total_time"].is_number(), vendor == Vendor::Groq);
            assert_eq!(value["x_groq"]["id"] == "req_sim_7", vendor == Vendor::Groq);
        }
        let chunks = &answer(5, Some(Vendor::Mistral))["choices"][0]["message"]["content"];
        assert_eq!(chunks[0]["type"], "thinking");
        assert_eq!(
            chunks[1],
            json!({"type": "text", "text": "line\n\"quoted\""})
        );
    }
}
