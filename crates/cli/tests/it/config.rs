//! `batchwright config`, and its effect on `run` and `providers`.

use batchwright::config::{ConfigStore, SqliteConfig};
use batchwright_simulate::Simulator;
use serde_json::{Value, json};

use super::common::{Desk, Ended, HOME, Has, RunToEnd, Running, good};

const FILE: &str = "home/config.db";

fn config(desk: &Desk, words: &[&str]) -> Ended {
    desk.command(["config"].iter().chain(words)).ended()
}

fn set(desk: &Desk, key: &str, value: &str) -> Ended {
    config(desk, &["set", key, value]).expect(0)
}

fn json(desk: &Desk, words: &[&str], env: &[(&str, &str)]) -> Value {
    let words = ["config", "--json"].iter().chain(words);
    let ended = desk.command(words).envs(env.iter().copied()).ended();
    serde_json::from_str(&ended.expect(0).stdout).unwrap()
}

/// The row of a setting.
fn row(list: &Ended, key: &str) -> String {
    let mut rows = list.stdout.lines();
    let row = rows.find(|row| row.starts_with(key)).unwrap();
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_value_is_stored_shown_and_deleted() {
    let desk = Desk::new();
    let none = config(&desk, &["get", "llm.model"]).ends(0, "not set; its default: none");
    assert_eq!(none.stdout, "");
    assert!(!desk.exists(HOME), "looking makes nothing");
    set(&desk, "llm.model", " gpt-x ").says("llm.model=gpt-x is stored in ");
    assert_eq!(
        config(&desk, &["get", "llm.model"]).expect(0).stdout,
        "gpt-x\n"
    );
    assert_eq!(
        config(&desk, &["get", "queue.max_retries"])
            .expect(0)
            .stdout,
        "3\n"
    );
    let list = config(&desk, &["list"]).expect(0);
    assert_eq!(row(&list, "llm.model"), "llm.model gpt-x store");
    assert_eq!(
        row(&list, "queue.batch_size"),
        "queue.batch_size 10 default"
    );
    config(&desk, &["unset", "llm.model"]).ends(
        0,
        "llm.model is deleted; the default is used: none, or the first model of a local server",
    );
    assert_eq!(config(&desk, &["get", "llm.model"]).expect(0).stdout, "");
    config(&desk, &["unset", "llm.model"]).ends(0, "llm.model was not stored; the default");
}

#[test]
fn overriding_by_the_environment_is_reported() {
    let desk = Desk::new();
    let with_env = |words: &[&str]| {
        let mut command = desk.command(["config"].iter().chain(words));
        command
            .env("BATCHWRIGHT_MODEL", "from-env")
            .ended()
            .expect(0)
    };
    let said = with_env(&["set", "llm.model", "kept"]).says("llm.model=kept is stored");
    said.says("but BATCHWRIGHT_MODEL=from-env is set here and overrides it");
    let list = with_env(&["list"]);
    assert_eq!(
        row(&list, "llm.model"),
        "llm.model from-env BATCHWRIGHT_MODEL store: kept"
    );
    let env = [("BATCHWRIGHT_MODEL", "from-env")];
    let setting = json(&desk, &["get", "llm.model"], &env);
    setting.has(json!({"value": "from-env", "source": "environment",
        "set_by": "BATCHWRIGHT_MODEL"}));
    setting["overrides"][0].has(json!({"source": "store", "value": "kept"}));
    let all = json(&desk, &["list"], &env);
    let all = all["settings"].as_array().unwrap();
    assert!(all.contains(&setting) && all.len() >= 18);
    assert!(
        all.iter()
            .all(|s| s["doc"].is_string() && s["default"].is_string() && s["accepts"].is_string())
    );
}

#[test]
fn credentials_are_refused_and_never_shown() {
    let desk = Desk::new();
    let secret = "sk-0123456789abcdef";
    for (key, variable) in [
        ("llm.model", "OPENAI_API_KEY"),
        ("queue.batch_size", "OPENAI_API_KEY"),
        ("groq.api_key", "GROQ_API_KEY"),
        ("ANTHROPIC_API_KEY", "ANTHROPIC_API_KEY"),
    ] {
        let refused = config(&desk, &["set", key, secret]).expect(2);
        refused.errs(&format!("set {variable}"));
        refused.hides("0123456789");
    }
    assert!(!desk.exists(FILE));
}

/// The model that a run requested.
fn asked_model(desk: &Desk, sim: &Simulator, words: &[&str], env: &[(&str, &str)]) -> String {
    let _ = std::fs::remove_file(desk.path("out.jsonl"));
    let url = sim.base_url();
    let mut command = desk.command(["run", "in.jsonl", "-o", "out.jsonl", "--base-url", &url]);
    command.args(words).envs(env.iter().copied());
    command.ended().expect(0);
    let results = desk.results("out.jsonl");
    results[0]["model"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_takes_the_flag_over_the_environment_over_the_store() {
    let (desk, sim) = (Desk::with(1), good());
    set(&desk, "llm.provider", "local");
    set(&desk, "llm.model", "stored");
    let env = [("BATCHWRIGHT_MODEL", "env")];
    assert_eq!(asked_model(&desk, &sim, &[], &[]), "stored");
    assert_eq!(asked_model(&desk, &sim, &[], &env), "env");
    assert_eq!(asked_model(&desk, &sim, &["--model", "flag"], &env), "flag");
    let folder = ["--data-dir", "elsewhere"];
    let other = [&folder[..], &["--provider", "local", "--model", "m"]].concat();
    config(
        &desk,
        &[&folder[..], &["set", "llm.sync_concurrency", "3"]].concat(),
    )
    .expect(0);
    assert_eq!(asked_model(&desk, &sim, &other, &[]), "m");
}

/// At whatever moment a change is killed, the file contains either the old or the new value.
#[test]
fn a_killed_change_is_atomic() {
    let desk = Desk::new();
    let store = SqliteConfig::new(desk.path(FILE));
    let mut last = 1;
    store.set("queue.batch_size", "1").unwrap();
    for n in 2..=60_u64 {
        let value = n.to_string();
        let running =
            Running::start(&mut desk.command(["config", "set", "queue.batch_size", &value]));
        std::thread::sleep(std::time::Duration::from_micros(n * 73 % 4000));
        drop(running);
        let found: u64 = store
            .get("queue.batch_size")
            .unwrap()
            .unwrap()
            .parse()
            .unwrap();
        assert!(found == last || found == n, "{found} after {last} and {n}");
        last = found;
    }
    set(&desk, "queue.batch_size", "61");
}

#[test]
fn a_file_of_prices_that_a_command_would_refuse_is_not_stored() {
    let desk = Desk::new();
    config(&desk, &["set", "llm.prices", "nowhere.json"]).ends(2, "nowhere.json");
    desk.write("prices.json", "{}");
    config(&desk, &["set", "llm.prices", "prices.json"]).expect(2);
    let none = config(&desk, &["get", "llm.prices"]).expect(0);
    assert_eq!(none.stdout, "");
}
