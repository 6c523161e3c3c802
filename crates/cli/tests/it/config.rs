//! `batchwright config`, and its effect on `run` and `providers`.

use std::process::Command;

use batchwright::Settings;
use batchwright::config::{ConfigStore, SettingsWatch, SqliteConfig};
use batchwright_simulate::{SimConfig, Simulator};
use serde_json::{Value, json};

use super::common::{
    Desk, Ended, HOME, Has, PATIENCE, RunToEnd, Running, eventually, good, simulator,
};

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
fn unknown_settings_and_invalid_values_are_rejected_with_the_accepted_ones() {
    let desk = Desk::new();
    for (words, said) in [
        (
            &["get", "llm.modle"][..],
            "did you mean llm.model? expected one of: llm.provider,",
        ),
        (
            &["set", "BATCHWRIGHT_MODEL", "m"],
            "did you mean llm.model?",
        ),
        (
            &["set", "llm.sync_concurrency", "0"],
            "a whole number from 1 to 10000",
        ),
        (&["set", "llm.model", ""], "unset it"),
    ] {
        let refused = config(&desk, words).expect(2);
        refused.errs(said);
        assert_eq!(refused.stdout, "");
    }
    assert!(!desk.exists(HOME), "nothing was stored");
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

#[test]
fn the_help_names_every_setting_with_its_variable() {
    let help = Desk::new().plain("help config").expect(0).stdout;
    for key in batchwright::config::SettingKey::all() {
        let line = help
            .lines()
            .find(|line| line.trim_start().starts_with(key.name()));
        let line = line.unwrap_or_else(|| panic!("no {}: {help}", key.name()));
        assert!(
            key.variables()
                .iter()
                .all(|variable| line.contains(variable)),
            "{line}"
        );
    }
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

#[test]
fn rate_and_fallback_of_a_run_can_be_stored_settings() {
    let desk = Desk::with(3);
    set(&desk, "llm.sync_concurrency", "3");
    set(&desk, "llm.fallback", "extract");
    let sim = simulator(SimConfig::default());
    let run = |words: &str| {
        desk.run(&sim, &format!("in.jsonl -o out.jsonl --dry-run {words}"))
            .expect(0)
    };
    run("")
        .says("local at ")
        .says(", then extract, 3 in flight");
    run("-j 2").says(", then extract, 2 in flight");
    set(&desk, "llm.fallback", "groq:m");
    let refused = desk.run(&sim, "in.jsonl -o out.jsonl").expect(2);
    refused.errs("llm.fallback groq: no key");
    set(&desk, "llm.fallback_enabled", "false");
    assert!(!run("").stderr.contains("then extract"));
    run("--fallback extract").says(", then extract, 3 in flight");
    set(&desk, "llm.requests_per_minute", "60");
    set(&desk, "llm.burst_size", "1");
    let summary = desk
        .run(&sim, "in.jsonl -o out.jsonl --json")
        .expect(0)
        .json();
    assert_eq!(summary["limited_by"], "quota", "{summary}");
    let summary = &summary["summary"];
    let parts = [
        "queued", "quota", "cooldown", "backoff", "provider", "disk", "source",
    ];
    let parts = parts.map(|name| summary["time"][format!("{name}_ms")].as_f64().unwrap());
    let (sum, wall) = (
        parts.iter().sum::<f64>(),
        summary["elapsed_ms"].as_f64().unwrap(),
    );
    assert!(
        (sum - wall).abs() <= 0.01 * wall,
        "{sum} of {wall}: {summary}"
    );
}

#[test]
fn the_error_for_a_stored_value_names_key_value_and_accepted_values() {
    let (desk, sim) = (Desk::with(1), good());
    let store = SqliteConfig::new(desk.path(FILE));
    store.write("llm.sync_concurrency", Some("many")).unwrap();
    store.write("llm.of_tomorrow", Some("x")).unwrap();
    let run = desk.run(&sim, "in.jsonl -o out.jsonl").expect(2);
    let said = "stored llm.sync_concurrency=many: write a whole number from 1 to 10000";
    run.errs(said);
    assert_eq!(sim.stats().calls, 0);
    let list = config(&desk, &["list"]).expect(0).stdout;
    assert!(
        list.contains(&format!("! {said}")) && list.contains("! llm.of_tomorrow is stored"),
        "{list}"
    );
    config(&desk, &["unset", "llm.of_tomorrow"]).ends(0, "llm.of_tomorrow is deleted");
    config(&desk, &["unset", "llm.of_tomorrow"]).expect(2);
    config(&desk, &["unset", "llm.sync_concurrency"]).expect(0);
    desk.run(&sim, "in.jsonl -o out.jsonl").expect(0);
}

#[test]
fn settings_written_by_twenty_processes_are_read_by_another() {
    let desk = Desk::new();
    let store = SqliteConfig::new(desk.path(FILE));
    let mut watch = SettingsWatch::new(Settings::new(), std::sync::Arc::new(store)).unwrap();
    let keys = [
        "queue.worker_count",
        "queue.batch_size",
        "queue.max_retries",
        "llm.model",
    ];
    let started: Vec<Running> = (1..=20)
        .map(|n: usize| {
            let value = n.to_string();
            Running::start(&mut desk.command(["config", "set", keys[n % keys.len()], &value]))
        })
        .collect();
    // A reader waits for twenty writers at most a tenth of a second.
    assert!(
        eventually(|| watch.refresh().is_ok_and(|new| new)),
        "never seen"
    );
    for running in started {
        running.wait().expect(0);
    }
    watch.refresh().unwrap();
    let settings = watch.settings();
    // Five writers set each key, and the last value counts.
    assert_eq!(settings.max_retries().unwrap() % 4, 2);
    assert_eq!(settings.batch_size().unwrap() % 4, 1);
    assert_eq!(settings.worker_count().unwrap() % 4, 0);
    assert_eq!(
        settings.model().unwrap().unwrap().parse::<u8>().unwrap() % 4,
        3
    );
    assert!(!watch.refresh().unwrap());
    set(&desk, "queue.worker_count", "21");
    assert!(watch.refresh().unwrap());
    assert_eq!(watch.settings().worker_count().unwrap(), 21);
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
fn a_broken_file_stops_a_run_before_it_spends() {
    let (desk, sim) = (Desk::with(1), good());
    let refused = |said: &str| {
        let url = sim.base_url();
        for words in [
            &*format!("run in.jsonl --provider local --base-url {url} --model m"),
            "providers",
            "config list",
            "config set llm.model m",
        ] {
            let ended = desk.plain(words).expect(1);
            ended.errs(said);
            ended.errs("config.db");
        }
    };
    set(&desk, "llm.model", "m");
    let good = std::fs::read(desk.path(FILE)).unwrap();
    let mut newer = good.clone();
    newer[60..64].copy_from_slice(&9_u32.to_be_bytes());
    desk.write(FILE, newer);
    refused("was made by a newer batchwright (its schema is 9");
    desk.write(FILE, "nonsense ".repeat(1000));
    refused("is damaged; put a backup in its place, or move it away");
    assert_eq!(sim.stats().calls, 0);
    desk.write(FILE, good);
    assert_eq!(config(&desk, &["get", "llm.model"]).expect(0).stdout, "m\n");
}

/// A data folder that this user cannot write to; it becomes writable again when this is dropped.
#[cfg(unix)]
struct ReadOnly<'d> {
    desk: &'d Desk,
    mounted: bool,
}

#[cfg(unix)]
impl<'d> ReadOnly<'d> {
    /// `None` if this user may write anywhere and may not mount.
    fn new(desk: &'d Desk) -> Option<Self> {
        let folder = desk.path(HOME);
        Self::permit(desk, 0o444, 0o555);
        let mut made = Self {
            desk,
            mounted: false,
        };
        if std::fs::write(folder.join("probe"), "").is_err() {
            return Some(made);
        }
        // Permissions do not apply to root.
        std::fs::remove_file(folder.join("probe")).unwrap();
        let mount = |options: &[&str]| {
            let status = Command::new("mount").args(options).arg(&folder).output();
            status.is_ok_and(|output| output.status.success())
        };
        let whole = folder.to_str().unwrap().to_owned();
        made.mounted = mount(&["--bind", &whole]);
        if !made.mounted || !mount(&["-o", "remount,ro,bind"]) {
            println!("skipped: this user can write anywhere");
            return None;
        }
        Some(made)
    }

    fn permit(desk: &Desk, file: u32, folder: u32) {
        use std::os::unix::fs::PermissionsExt;
        for (path, mode) in [(FILE, file), (HOME, folder)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(desk.path(path), mode).unwrap();
        }
    }
}

#[cfg(unix)]
impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.desk.path(HOME))
                .status();
        }
        Self::permit(self.desk, 0o644, 0o755);
    }
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written() {
    let desk = Desk::new();
    set(&desk, "llm.model", "m");
    let Some(folder) = ReadOnly::new(&desk) else {
        return;
    };
    assert_eq!(config(&desk, &["get", "llm.model"]).expect(0).stdout, "m\n");
    config(&desk, &["unset", "llm.provider"]).expect(0);
    for words in [&["set", "llm.model", "other"][..], &["unset", "llm.model"]] {
        let refused = config(&desk, words).expect(1);
        refused.errs("cannot be written");
        refused.errs("check the permissions");
    }
    drop(folder);
    assert_eq!(config(&desk, &["get", "llm.model"]).expect(0).stdout, "m\n");
}

#[test]
fn the_list_has_the_default_of_each_setting() {
    let shown = Desk::new().plain("config list").expect(0).stdout;
    for key in batchwright::config::SettingKey::all() {
        assert!(shown.contains(key.default_text()), "{shown}");
    }
}

/// One number, exact in `run` from its start and in `work` as soon as it is stored, whatever it began with.
#[test]
fn a_number_of_calls_at_once_is_exact_and_followed() {
    let desk = Desk::with(60);
    let sim = simulator(SimConfig::default());
    sim.hold();
    let in_flight = |n| sim.wait_until(|stats| stats.in_flight == n, PATIENCE);
    let start = |words: &str| {
        let mut command = desk.command(words.split_whitespace());
        command
            .args(["--provider", "custom", "--model", "sim-1"])
            .args(["--base-url", &sim.base_url()])
            .env("RATE_LIMIT_BURST_SIZE", "100");
        Running::start(&mut command)
    };
    let run = start("run in.jsonl -o out.jsonl -j 30");
    assert!(in_flight(30), "{:?}", sim.stats());
    sim.release();
    run.wait().expect(0);
    assert_eq!(sim.stats().max_in_flight, 30);

    sim.hold();
    desk.plain("submit in.jsonl").expect(0);
    let work = start("work --until-empty");
    assert!(sim.wait_until(|stats| stats.in_flight >= 5, PATIENCE));
    for n in ["40", "50"] {
        set(&desk, "llm.sync_concurrency", n);
        assert!(in_flight(n.parse().unwrap()), "{:?}", sim.stats());
    }
    sim.release();
    work.wait().expect(0);
    assert_eq!(sim.stats().max_in_flight, 50);
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
