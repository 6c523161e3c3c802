//! Settings over HTTP.

use batchwright::Settings;
use batchwright::config::{ConfigStore, FileConfig};
use batchwright_simulate::SimConfig;
use serde_json::{Value, json};

use super::common::{Desk, Has, PATIENCE, text, until_shown};
use super::events::Stream;

const COUNT: &str = "/api/v1/config/queue.worker_count";

#[test]
fn a_setting_is_read_changed_and_forgotten() {
    let desk = Desk::new();
    let all = desk.read("/api/v1/config");
    assert!(all["data"].as_array().unwrap().len() > 20);
    let before = desk.read(COUNT);
    before.has(json!({"value": "5", "source": "default", "stored": null}));
    let now = desk.put(COUNT, &json!({"value": "7"})).is(200).json();
    now.has(json!({"value": "7", "source": "store", "stored": "7", "live": true}));
    let stored = || desk.store.get("queue.worker_count").unwrap();
    assert_eq!(stored().as_deref(), Some("7"));
    let now = desk.put(COUNT, &json!({"value": 8})).is(200).json();
    assert_eq!(now["value"], "8");
    let problem = desk.put(COUNT, &json!({"value": "many"})).is(400).json();
    assert!(text(&problem, "detail").contains("a whole number from 1 to"));
    let model = "/api/v1/config/llm.model";
    let key = "sk-0123456789abcdef0123";
    for value in [key, "a\0b", "a\u{1b}[31mb", &"m".repeat(257)] {
        let refused = desk.put(model, &json!({"value": value})).is(400);
        assert!(value == key || refused.text.contains("at most 256 characters"));
    }
    assert!(desk.read(model)["stored"].is_null());
    let misspelt = "/api/v1/config/llm.modle";
    desk.put(misspelt, &json!({"value": "m"})).is(404);
    desk.get(misspelt).is(404);
    assert_eq!(desk.delete(COUNT).is(200).json()["source"], "default");
    assert_eq!(stored(), None);
}

#[test]
fn what_the_worker_cannot_go_by_is_not_kept() {
    let desk = Desk::new();
    let key = "/api/v1/config/llm.fallback";
    for value in ["openai:gpt-5-mini", "nobody:m"] {
        let problem = desk.put(key, &json!({"value": value})).is(400).json();
        assert_eq!(problem["param"], "value", "{problem}");
        assert_eq!(desk.store.get("llm.fallback").unwrap(), None, "{value}");
    }
    desk.put(key, &json!({"value": "extract"})).is(200);
    desk.put(key, &json!({"value": "openai:gpt-5-mini"}))
        .is(400);
    let kept = desk.store.get("llm.fallback").unwrap();
    assert_eq!(kept.as_deref(), Some("extract"));
}

/// What names a file or an address, or widens what may be read, is set by the owner of the machine.
#[test]
fn clients_set_what_the_table_lets_them_set_and_no_path() {
    let desk = Desk::new();
    let all = desk.read("/api/v1/config")["data"].clone();
    let all = all.as_array().unwrap();
    let local = |setting: &&Value| setting["settable"] == json!(false);
    let local: Vec<String> = all
        .iter()
        .filter(local)
        .map(|one| text(one, "key"))
        .collect();
    let expected = "llm.prices queue.store queue.redis jobs.articles jobs.articles_private";
    assert_eq!(local.join(" "), expected);
    for (key, value) in
        local
            .iter()
            .zip(["/dev/zero", "mysql://u@h/d", "redis://h", "/etc", "true"])
    {
        let place = format!("/api/v1/config/{key}");
        let refused = desk.put(&place, &json!({"value": value})).is(403).json();
        assert!(text(&refused, "detail").contains("batchwright config set"));
        desk.delete(&place).is(403);
        assert_eq!(desk.store.get(key).unwrap(), None);
    }
}

#[test]
fn every_change_is_told_also_one_made_elsewhere() {
    let desk = Desk::new();
    let mut stream = Stream::open(&desk, None);
    desk.put(COUNT, &json!({"value": "6"})).is(200);
    stream.next(&["config"]).unwrap();
    let count = || desk.read(COUNT)["value"].clone();
    assert_eq!(count(), "6");
    // As another program does it.
    let elsewhere = FileConfig::new(desk.folder.path().join("settings.json"));
    elsewhere.set("queue.worker_count", "9").unwrap();
    stream.next(&["config"]).unwrap();
    assert_eq!(count(), "9");
}

#[test]
fn what_the_environment_overrides_is_shown_as_such() {
    let desk = Desk::with(Default::default(), |server| {
        let store = std::sync::Arc::new(batchwright::config::MemoryConfig::new());
        store.set("llm.bulk_strategy", "batch").unwrap();
        let variable =
            |name: &str| (name == "BATCHWRIGHT_BULK_STRATEGY").then(|| "sync".to_owned());
        server
            .settings(Settings::new().environment(variable), store)
            .unwrap()
    });
    let shown = desk.read("/api/v1/config/llm.bulk_strategy");
    shown.has(json!({"value": "sync", "source": "environment",
        "set_by": "BATCHWRIGHT_BULK_STRATEGY", "stored": "batch"}));
}

/// One number: what is saved is what the running worker has in flight, whatever the worker began with.
#[test]
fn a_number_that_is_saved_is_the_number_of_calls_of_the_running_worker() {
    let desk = super::openai::unlimited(SimConfig::default());
    desk.sim.hold();
    let job = json!({"type": "completion", "payload": {"prompt": "Hello.", "model": "sim-1"}});
    for _ in 0..60 {
        desk.post("/api/v1/jobs", &job).is(201);
    }
    let in_flight = |n| desk.sim.wait_until(|stats| stats.in_flight == n, PATIENCE);
    // Where none is set, it starts at 5 and grows by load.
    assert!(desk.sim.wait_until(|stats| stats.in_flight >= 5, PATIENCE));
    let number = "/api/v1/config/llm.sync_concurrency";
    desk.put(number, &json!({"value": "40"})).is(200);
    assert!(in_flight(40), "{:?}", desk.sim.stats());
    let shown = |all: &Value| all["worker"]["calls_in_flight"] == 40;
    until_shown(&desk, "/api/v1/overview", shown);
    desk.sim.release();
}
