//! Anthropic's message batches.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::BatchConfig;
use super::test_kit::{Kit, endless, kit, quick};
use crate::test_client::Has;

const PATH: &str = "/v1/messages/batches";

fn anthropic(batches: BatchConfig) -> Kit {
    kit(None, batches).with("x-api-key: k\r\nanthropic-version: 2023-06-01\r\n")
}

fn request(id: &str, prompt: &str) -> Value {
    json!({"custom_id": id, "params": {"model": "claude-x", "max_tokens": 50,
        "messages": [{"role": "user", "content": prompt}]}})
}

fn requests(prompts: &[&str]) -> Value {
    let prompts = prompts.iter().enumerate();
    let requests = prompts.map(|(nth, text)| request(&format!("i-{nth}"), text));
    json!({"requests": requests.collect::<Vec<_>>()})
}

fn create(kit: &mut Kit, prompts: &[&str]) -> String {
    let batch = kit.post(PATH, &requests(prompts));
    batch["id"].as_str().unwrap().to_owned()
}

fn results(kit: &mut Kit, id: &str) -> Vec<Value> {
    kit.lines(&format!("{PATH}/{id}/results"))
}

fn types(lines: &[Value]) -> Vec<String> {
    let kind = |line: &Value| line["result"]["type"].as_str().unwrap().to_owned();
    let mut kinds: Vec<String> = lines.iter().map(kind).collect();
    kinds.sort();
    kinds
}

#[test]
fn a_bad_request_fails_alone_and_late() {
    let mut kit = anthropic(quick().poison("bad"));
    let mut body = requests(&["a", "bad", "c"]);
    body["requests"][2]["params"]["stream"] = false.into();
    let batch = kit.post(PATH, &body);
    kit.wait_for_end();
    let lines = results(&mut kit, batch["id"].as_str().unwrap());
    assert_eq!(types(&lines), ["errored", "errored", "succeeded"]);
    let errored = lines.iter().find(|line| line["custom_id"] == "i-1");
    errored
        .unwrap()
        .has(json!({"/result/error/error/type": "invalid_request_error"}));
    let stats = kit.sim.stats();
    assert_eq!((stats.paid, stats.malformed), (1, 1));
}

#[test]
fn what_anthropic_refuses_is_refused() {
    let mut kit = anthropic(quick());
    let twice = json!({"requests": [request("a", "x"), request("a", "y")]});
    let spaced = json!({"requests": [request("a b", "x")]});
    let extra = json!({"requests": [request("a", "x")], "metadata": {}});
    for bad in [twice, spaced, extra, json!({"requests": []})] {
        assert_eq!(kit.refused(PATH, &bad), 400, "{bad}");
    }
    assert_eq!(kit.malformed(), 4);
    kit.headers = "x-api-key: k\r\n";
    assert_eq!(kit.refused(PATH, &requests(&["a"])), 400);
    let mut kit = anthropic(endless());
    let id = create(&mut kit, &["a"]);
    kit.call(&format!("GET {PATH}/{id}/results"), b"").is(404);
    kit.call(&format!("DELETE {PATH}/{id}"), b"").is(400);
}

#[test]
fn a_late_create_takes_effect_with_nothing_to_hold_it() {
    let late = Duration::from_millis(50);
    let mut kit = anthropic(quick().lost_creates(1).late_creates(late));
    let body = requests(&["a"]).to_string();
    let lost = kit.try_call(&format!("POST {PATH}"), body.as_bytes());
    assert_eq!(lost.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    kit.wait_for(|stats| stats.created == 1);
}

#[test]
fn cancelled_and_expired_requests_are_told() {
    let mut kit = anthropic(quick().duration(Duration::from_millis(1_000)));
    let id = create(&mut kit, &["a"; 20]);
    kit.wait_for(|stats| stats.items_finished > 0);
    let batch = kit.post(&format!("{PATH}/{id}/cancel"), &Value::Null);
    assert_eq!(batch["processing_status"], "canceling");
    kit.wait_for_end();
    let batch = kit.get(&format!("{PATH}/{id}"));
    let count = |name: &str| batch["request_counts"][name].as_u64().unwrap();
    assert_eq!(count("succeeded") + count("canceled"), 20);
    let lines = results(&mut kit, &id);
    let kinds = types(&lines);
    let cancelled = kinds.iter().filter(|kind| *kind == "canceled").count() as u64;
    assert_eq!((lines.len(), cancelled), (20, count("canceled")));

    let expired = quick().expire_first(1, 0.5);
    for (config, kinds) in [
        (expired.clone(), ["expired", "succeeded"]),
        (expired.item_failures(1.0), ["errored", "expired"]),
    ] {
        let mut kit = anthropic(config);
        let id = create(&mut kit, &["a", "b"]);
        kit.wait_for_end();
        assert_eq!(types(&results(&mut kit, &id)), kinds);
    }
}
