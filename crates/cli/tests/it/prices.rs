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
    let ledger = desk.plain("ledger --json").expect(0).json();
    ledger.has(json!({"/total/calls": 3, "/total/unpriced": 2}));
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

    let prices = |words: &str| desk.plain(&format!("prices --data-dir {HOME} {words}"));
    prices("new").ends(2, "no price of \"new\" is known");
    for price in ["1e400", "nan", "-1", "1e-13", "0.0000001", "x"] {
        let set = prices(&format!("set new --input={price} --output 0"));
        set.ends(2, "expected a number of US dollars per million tokens");
    }
    prices("set new --input 1 --output 0").expect(0);
    prices("set new --tier batch --input 0.5 --output 0").expect(0);
    let shown = prices("new --json").expect(0).json();
    shown.has(json!({"/models/0/origin": "your setting", "/models/0/prices/1/input": 0.5}));
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

    prices("unset new").expect(0);
    prices("new").expect(2);
    prices("set new --provider openai --input 1 --output 0 --cache-write 1.25 --cache-write-1h 2")
        .expect(0);
    prices("new --json")
        .expect(0)
        .shows("\"cache_write_1h\": 2.0");
    prices("unset new --provider xai").expect(2);
    prices("unset new").expect(0);
    prices("new").expect(2);
    prices("unset new").ends(2, "no price of \"new\" alone is stored");
    prices("update mine.json").expect(0);
    prices("gpt-4o-mini").expect(0);
    prices("gpt-4o").expect(0);
    prices("gpt-5").expect(2);
    desk.write("bad.json", "{\"providers\": []}");
    prices("update bad.json").ends(2, "these are not prices");
}

#[test]
fn the_price_in_force_is_shown_with_its_source_and_date() {
    let desk = Desk::new();
    let ended = desk.plain("prices gpt-4o-mini --provider openai").expect(0);
    for part in [
        "standard",
        "batch",
        "0.075",
        "table of 2026-",
        "https://developers.openai.com",
    ] {
        ended.shows(part);
    }
    let dated = desk
        .plain("prices claude-sonnet-4-5-20250929 --provider anthropic")
        .expect(0);
    dated.shows("above 200000 tokens");
}
