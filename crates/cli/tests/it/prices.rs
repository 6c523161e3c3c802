//! The cost of calls; the provider computes its bill independently.

use batchwright::Usd;
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::batch_runs::command;
use super::common::{Desk, HOME, RunToEnd, simulator, usd};

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
