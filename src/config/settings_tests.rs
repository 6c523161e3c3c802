//! Precedence, sources, and the messages for bad values.

use std::time::Duration;

use super::super::choices::{OnUnknown, Strategy};
use super::super::store::MemoryConfig;
use super::*;

fn with(
    flags: &[(&str, &'static str, &str)],
    env: &[(&str, &str)],
    stored: &[(&str, &str)],
) -> Settings {
    let store = MemoryConfig::new();
    for (key, value) in stored {
        store.write(key, Some(value)).unwrap();
    }
    let variable = |name: &str| {
        let found = env.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let settings = Settings::new().environment(variable).store(&store).unwrap();
    flags.iter().fold(settings, |settings, (key, flag, value)| {
        settings.flag(key, flag, Some((*value).to_owned())).unwrap()
    })
}

#[test]
fn each_layer_overrides_those_beneath() {
    const VARIABLE: SettingSource = SettingSource::Environment("BATCHWRIGHT_MODEL");
    const STORE: (SettingSource, &str) = (SettingSource::Store, "stored");
    let stored: &[_] = &[("llm.model", "stored")];
    let env: &[_] = &[("BATCHWRIGHT_MODEL", "env")];
    let blank: &[_] = &[("BATCHWRIGHT_MODEL", " ")];
    let flag: &[_] = &[("llm.model", "--model", "flag")];
    let by_flag = (SettingSource::Flag("--model"), "flag");
    for (settings, used, overrides) in [
        (with(&[], &[], stored), STORE, vec![]),
        (with(&[], env, stored), (VARIABLE, "env"), vec![STORE]),
        (
            with(flag, env, stored),
            by_flag,
            vec![(VARIABLE, "env"), STORE],
        ),
        (with(&[], blank, stored), STORE, vec![]),
    ] {
        assert_eq!(settings.model().unwrap().as_deref(), Some(used.1));
        let setting = settings.explain("llm.model").unwrap();
        let value = setting.value.as_deref();
        assert_eq!((setting.source, value), (used.0, Some(used.1)));
        let owned = overrides
            .into_iter()
            .map(|(by, text)| (by, text.to_owned()));
        assert_eq!(setting.overrides, owned.collect::<Vec<_>>());
        assert_eq!(setting.problem, None);
    }
    let unset = Settings::new().explain("llm.model").unwrap();
    assert_eq!((unset.source, unset.value), (SettingSource::Default, None));
}

#[test]
fn a_bad_value_names_its_source_and_fails_only_its_getter() {
    let settings = with(
        &[("llm.fallback", "--fallback", "nobody")],
        &[
            ("RATE_LIMIT_BURST_SIZE", "0"),
            ("BATCHWRIGHT_PROVIDER", "nobody"),
        ],
        &[("queue.batch_size", "many")],
    );
    let batch = settings.batch_size().unwrap_err();
    for (error, begin) in [
        (
            settings.burst_size().unwrap_err(),
            "RATE_LIMIT_BURST_SIZE=0: write a whole number from 1",
        ),
        (
            settings.provider().unwrap_err(),
            "BATCHWRIGHT_PROVIDER=nobody: unknown provider `nobody`",
        ),
        (
            settings.fallback().unwrap_err(),
            "--fallback: unknown provider `nobody`",
        ),
        (
            batch.clone(),
            "stored queue.batch_size=many: write a whole number",
        ),
    ] {
        assert!(error.message().starts_with(begin), "{error}");
    }
    assert!(batch.message().contains("config unset queue.batch_size"));
    let setting = settings.explain("queue.batch_size").unwrap();
    assert_eq!(setting.problem.as_deref(), Some(batch.message()));
    assert_eq!(settings.worker_count().unwrap(), 5);
}

#[test]
fn a_valid_value_of_higher_precedence_hides_a_bad_one() {
    let bad = [("queue.batch_size", "many")];
    let settings = with(&[], &[("JOB_QUEUE_BATCH_SIZE", "7")], &bad);
    assert_eq!(settings.batch_size().unwrap(), 7);
}

#[test]
fn a_fallback_that_is_switched_off_can_still_be_named_by_a_flag() {
    let stored = [
        ("llm.fallback", "groq:m,extract"),
        ("llm.fallback_enabled", "off"),
    ];
    let fallback = |flag: Option<&str>, stored: &[(&str, &str)]| {
        let flag = flag.map(|names| ("llm.fallback", "--fallback", names));
        let settings = with(flag.as_slice(), &[], stored);
        settings.fallback().unwrap().join(" ")
    };
    assert_eq!(fallback(None, &stored), "");
    assert_eq!(fallback(None, &stored[..1]), "groq:m extract");
    assert_eq!(fallback(Some("extract"), &stored), "extract");
    assert_eq!(fallback(Some(""), &stored[..1]), "");
}

#[test]
fn a_credential_in_the_environment_is_not_shown() {
    let secret = "sk-0123456789abcdef";
    let env = [
        ("BATCHWRIGHT_MODEL", secret),
        ("JOB_QUEUE_BATCH_SIZE", secret),
    ];
    let settings = with(&[], &env, &[("llm.model", secret)]);
    for key in ["llm.model", "queue.batch_size"] {
        let setting = settings.explain(key).unwrap();
        assert_eq!(setting.value.as_deref(), Some("***"));
        assert!(!format!("{setting:?} {settings:?}").contains(secret));
    }
    let error = settings.batch_size().unwrap_err();
    assert!(!error.message().contains(secret));
}

#[test]
fn stored_keys_of_another_version_are_reported_and_ignored() {
    let settings = with(&[], &[], &[("llm.of_tomorrow", "x"), ("llm.model", "m")]);
    assert_eq!(settings.unknown().collect::<Vec<_>>(), ["llm.of_tomorrow"]);
    assert_eq!(settings.model().unwrap().as_deref(), Some("m"));
}

#[test]
fn defaults_are_those_of_the_table() {
    let none = Settings::new();
    assert_eq!(none.provider().unwrap(), None);
    assert_eq!(none.model().unwrap(), None);
    assert_eq!(none.sync_concurrency().unwrap(), None);
    assert_eq!(none.max_concurrent_requests().unwrap(), 10);
    assert!(none.fallback().unwrap().is_empty() && none.fallback_enabled().unwrap());
    assert_eq!(none.request_timeout().unwrap(), None);
    assert_eq!(none.requests_per_minute().unwrap(), None);
    assert_eq!(none.tokens_per_minute().unwrap(), None);
    assert_eq!(none.burst_size().unwrap(), 10);
    assert_eq!(none.worker_count().unwrap(), 5);
    // A larger count raises it, unless it is set.
    let count = ("queue.worker_count", "17");
    let many = with(&[], &[], &[count]);
    assert_eq!(many.max_concurrent_requests().unwrap(), 17);
    let both = with(&[], &[], &[count, ("llm.max_concurrent_requests", "9")]);
    assert_eq!(both.max_concurrent_requests().unwrap(), 9);
    assert_eq!(none.max_retries().unwrap(), 3);
    assert_eq!(none.batch_size().unwrap(), 10);
    assert_eq!(none.poll_interval().unwrap(), Duration::from_secs(5));
    assert_eq!(none.bulk_strategy().unwrap(), Strategy::Sync);
    assert_eq!(none.batch_poll_interval().unwrap(), None);
    let wait = none.batch_reconcile_wait().unwrap();
    assert_eq!(wait, Duration::from_secs(300));
    assert_eq!(none.batch_on_unknown().unwrap(), None);
}

#[test]
fn stored_values_are_read_as_numbers_choices_and_switches() {
    let stored = [
        ("llm.sync_concurrency", "11"),
        ("batch.on_unknown", "hold"),
        ("llm.fallback_enabled", "no"),
    ];
    let settings = with(&[], &[], &stored);
    assert_eq!(settings.sync_concurrency().unwrap(), Some(11));
    assert_eq!(settings.batch_on_unknown().unwrap(), Some(OnUnknown::Hold));
    assert!(!settings.fallback_enabled().unwrap());
}

/// Nobody reads a longer list; a new setting takes the place of another one.
#[test]
fn there_are_at_most_25_settings() {
    let all = SettingKey::all();
    assert!(all.len() <= 25, "{}", all.len());
    for key in all {
        assert!(!key.doc().contains(". "), "{}: one sentence", key.name());
    }
}
