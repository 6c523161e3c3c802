//! The cost of calls; the provider computes its bill independently.

use batchwright::Usd;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::batch_runs::command;
use super::common::{Desk, HOME, Has, RunToEnd, simulator, usd};
use super::fake::{Fake, says};

/// A gateway may answer with another model than the requested one, also if its reply has no usable answer.
#[test]
fn a_billed_reply_without_an_answer_has_the_price_of_its_model() {
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5});
    let message = json!({"role": "assistant", "content": "an answer"});
    let choice = json!({"index": 0, "finish_reason": "stop", "message": message});
    let empty = json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ""}});
    let refused = json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "refusal": "No."}});
    let choices = json!([[choice], [], [empty], [refused]]);
    let server = Fake::start(move |asked| {
        let nth = asked.json()["messages"][0]["content"]
            .as_str()
            .and_then(|text| text.parse().ok());
        let Some(nth) = nth.map(|nth: usize| choices[nth].clone()) else {
            return says(404, "{}");
        };
        says(
            200,
            json!({"model": "another", "usage": usage, "choices": nth}),
        )
    });
    let desk = Desk::new();
    desk.write(
        "in.jsonl",
        (0..4)
            .map(|i| format!("{{\"prompt\":\"{i}\"}}\n"))
            .collect::<String>(),
    );
    let models = json!([
        {"models": ["another"], "prices": [{"input": 1, "output": 1}]},
    ]);
    desk.write(
        "prices.json",
        json!({"providers": {"*": {"models": models}}}).to_string(),
    );
    let words =
        "run in.jsonl -o out.jsonl --provider custom --model requested --prices prices.json -j 1";
    let mut command = desk.command(words.split_whitespace());
    command.env("CUSTOM_LLM_BASE_URL", server.url());
    command.ended().expect(3);
    let lines = desk.results("out.jsonl");
    assert_eq!(lines.len(), 4);
    for line in lines {
        line.has(json!({"model": "another"}));
        assert_eq!(
            usd(&line["cost_usd"]),
            Usd::from_picos(15_000_000),
            "{line}"
        );
    }
}

#[test]
fn billed_replies_without_tokens_are_calls_without_a_known_price() {
    let answer = json!({
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "x"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    });
    let server = Fake::start(move |asked| match &asked.json()["messages"][0]["content"] {
        Value::String(prompt) if prompt == "page" => says(200, "<html>hello</html>"),
        Value::String(_) => says(200, &answer),
        _ => says(404, "{}"),
    });
    let desk = Desk::new();
    desk.write(
        "in.jsonl",
        r#"{"prompt":"a"} {"prompt":"page"} {"prompt":"page"}"#.replace("} {", "}\n{"),
    );
    let models = json!([{"models": ["m"], "prices": [{"input": 1, "output": 1}]}]);
    desk.write(
        "prices.json",
        json!({"providers": {"*": {"models": models}}}).to_string(),
    );
    let words = "run in.jsonl -o out.jsonl --provider custom --model m --prices prices.json -j 1";
    let mut command = desk.command(words.split_whitespace());
    command.env("CUSTOM_LLM_BASE_URL", server.url());
    let ended = command.ended().ends(3, "2 replies were paid for");
    ended.tells("$0.000015, and 2 items without a known price");
}

#[test]
fn own_prices_override_the_table_and_unknown_ones_are_counted_separately() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let line = |id: &str, model: &str| json!({"id": id, "prompt": "p", "model": model}).to_string();
    desk.input([line("a", "gpt-4o-mini"), line("b", "new")].join("\n"));
    let run = |output: &str, words: &str| {
        let words = format!("in.jsonl -o {output} {words}");
        let ended = command(&desk, &sim, &words).ended().expect(0);
        let lines = desk.results(output);
        let of = |id: &str| lines.iter().find(|line| line["id"] == id).unwrap()["cost_usd"].clone();
        (ended, of("a"), of("b"))
    };
    let (ended, table, unknown) = run("one.jsonl", "");
    assert_eq!(unknown, Value::Null);
    ended.says(", and 1 item without a known price");
    assert!(usd(&table) > Usd::ZERO);

    let of_new = |price: f64| {
        let models = json!([{"models": ["new"], "prices": [{"input": price, "output": 0}]}]);
        json!({"providers": {"*": {"models": models}}}).to_string()
    };
    desk.write("set.json", of_new(1.0));
    desk.plain(&format!("config set llm.prices set.json --data-dir {HOME}"))
        .expect(0);
    let with_home = format!("--data-dir {HOME}");
    let (_, same, set) = run("two.jsonl", &with_home);
    assert_eq!(same, table);
    let input = &desk.results("two.jsonl")[0]["usage"]["input_tokens"];
    assert_eq!(usd(&set).picos(), input.as_u64().unwrap() * 1_000_000);

    let mine = json!({"providers": {"openai": {"models": [
        {"models": ["new", "gpt-4o-mini"], "prices": [{"input": 2, "output": 0}]}]}}});
    desk.write("mine.json", mine.to_string());
    let (_, first, second) = run("three.jsonl", &format!("{with_home} --prices mine.json"));
    assert_eq!((usd(&first), &first), (usd(&set) + usd(&set), &second));

    desk.write("bad.json", "{\"providers\": []}");
    desk.write("dear.json", of_new(-1.0));
    for (file, why) in [
        ("bad.json", "these are not prices"),
        ("dear.json", "these are not prices"),
        ("none.json", "cannot read none.json"),
    ] {
        let words = format!("in.jsonl -o four.jsonl --prices {file}");
        command(&desk, &sim, &words).ended().ends(2, why);
    }
}
