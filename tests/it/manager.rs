//! From settings to routes and workers: who is asked, within which limits, and what is shared with whom.

use std::time::Duration;

use batchwright::client::Sent;
use batchwright::plan::ProviderChoice;
use batchwright::provider::{ProviderStatus, inspect};
use batchwright::{
    Context, Error, ErrorKind, Limits, LlmManager, ProcessId, Request, RetryPolicy, Settings,
};
use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::{Desk, good, simulator};

fn settings(set: &[(&str, &str)]) -> Settings {
    set.iter().fold(Settings::new(), |settings, (key, value)| {
        let value = Some((*value).to_owned());
        settings.flag(key, "test", value).unwrap()
    })
}

/// A provider of that name at the simulator.
fn at(name: &str, sim: &Simulator) -> ProviderStatus {
    inspect(name, Some(&sim.base_url()), Some("sim-1"), false).unwrap()
}

fn choice(settings: &Settings, first: ProviderStatus, fallback: ProviderStatus) -> ProviderChoice {
    let mut choice = ProviderChoice::of(first, settings).unwrap();
    choice.fallbacks.push(fallback);
    choice
}

fn prompts(n: usize) -> Vec<Request> {
    (0..n)
        .map(|n| Request::new(format!("prompt {n}")))
        .collect()
}

#[test]
fn two_managers_of_a_custom_server_share_its_limits() {
    let (desk, sim) = (Desk::new(), good());
    let settings = settings(&[("llm.requests_per_minute", "1"), ("llm.burst_size", "3")]);
    // Each as in a program of its own: nothing is common to them but the folder.
    let manager = || {
        LlmManager::of(settings.clone(), at("custom", &sim))
            .unwrap()
            .data_dir(&desk.path("home"))
    };
    manager().run_bulk(ProcessId::new(), &prompts(3)).unwrap();
    let brief = Context::new().with_timeout(Duration::from_millis(300));
    let second = manager().context(&brief);
    let error = second.run_bulk(ProcessId::new(), &prompts(1)).unwrap_err();
    assert_eq!(error.outcomes.len(), 1);
    assert_eq!(sim.stats().calls, 3, "the allowance was used up");
}

#[test]
fn limits_are_shared_wherever_somebody_in_the_route_has_an_allowance() {
    let (desk, sim) = (Desk::new(), good());
    let shared = |settings: &Settings, choice: ProviderChoice| {
        let manager = LlmManager::with(settings.clone(), choice).unwrap();
        let plan = manager.data_dir(&desk.path("home")).route_plan().unwrap();
        plan.shared_in.is_some()
    };
    let plain = settings(&[]);
    let alone = |name| ProviderChoice::of(at(name, &sim), &plain).unwrap();
    assert!(shared(&plain, alone("custom")));
    assert!(!shared(&plain, alone("local")), "slots are no allowance");
    let behind = choice(&plain, at("local", &sim), at("custom", &sim));
    assert!(shared(&plain, behind), "a fallback's is one, too");
    let limited = settings(&[("llm.tokens_per_minute", "1000")]);
    assert!(
        shared(&limited, alone("local")),
        "it is limited by the user"
    );
    let nowhere = LlmManager::of(plain.clone(), at("custom", &sim)).unwrap();
    assert_eq!(nowhere.route_plan().unwrap().shared_in, None);
}

#[test]
fn a_local_fallback_gets_no_more_calls_than_it_has_slots() {
    let first = simulator(SimConfig::default().trouble(Trouble::BadRequest, 1.0));
    let slow = SimConfig::default().latency(Duration::from_millis(10));
    let second = simulator(slow);
    let settings = settings(&[("llm.sync_concurrency", "8"), ("queue.max_retries", "0")]);
    let choice = choice(&settings, at("custom", &first), at("local", &second));
    let slots = u32::try_from(choice.fallbacks[0].default_concurrency).unwrap();
    let manager = LlmManager::with(settings, choice).unwrap();
    let limits = Limits::default().in_flight(slots);
    assert_eq!(manager.route_plan().unwrap().fallbacks[0].limits, limits);
    let outcomes = manager.run_bulk(ProcessId::new(), &prompts(16)).unwrap();
    for outcome in outcomes {
        assert_eq!(outcome.result.unwrap().provider, "local");
    }
    assert_eq!(second.stats().max_in_flight, u64::from(slots));
}

#[test]
fn a_fallback_without_a_model_of_its_own_is_refused() {
    let sim = good();
    let settings = settings(&[("llm.fallback", "custom")]);
    let error = LlmManager::of(settings, at("custom", &sim)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.sent(), Sent::No);
}

#[test]
fn equal_settings_make_equal_plans_and_others_do_not() {
    let sim = good();
    let plan = |set: &[(&str, &str)]| {
        let manager = LlmManager::of(settings(set), at("custom", &sim)).unwrap();
        manager.route_plan().unwrap()
    };
    let of_nothing = plan(&[]);
    assert_eq!(of_nothing, plan(&[]));
    assert_eq!(of_nothing, plan(&[("queue.batch_size", "7")]));
    assert_eq!(of_nothing.first.limits, Limits::default());
    assert_eq!(of_nothing.retry, RetryPolicy::default());
    for other in [
        ("llm.request_timeout", "5s"),
        ("llm.sync_concurrency", "9"),
        ("llm.burst_size", "2"),
        ("llm.requests_per_minute", "60"),
        ("llm.max_reply_mib", "2"),
        ("llm.max_rate_limit_wait", "2m"),
        ("queue.max_retries", "1"),
    ] {
        assert_ne!(of_nothing, plan(&[other]), "{other:?}");
    }
}

#[cfg(feature = "queue")]
#[test]
fn a_worker_holds_each_provider_to_limits_of_its_own() {
    let sim = good();
    let settings = settings(&[("queue.max_workers", "50")]);
    let choice = choice(&settings, at("local", &sim), at("custom", &sim));
    let slots = u32::try_from(choice.first.default_concurrency).unwrap();
    let manager = LlmManager::with(settings, choice).unwrap();
    let plan = manager.worker_plan().unwrap();
    assert_eq!(
        plan.completions.first.limits,
        Limits::default().in_flight(slots)
    );
    let untold = Limits::default().assume_requests_per_minute(100.0);
    assert_eq!(plan.completions.fallbacks[0].limits, untold.in_flight(5));
    let embeddings = plan.embeddings.unwrap();
    assert_eq!(embeddings.first, plan.completions.first);
    assert!(embeddings.fallbacks.is_empty(), "vectors of two models");
}

#[test]
fn nobody_is_asked_where_the_provider_that_is_named_cannot_be() {
    let named = settings(&[("llm.provider", "custom")]);
    let error: Error = LlmManager::new(named).err().unwrap();
    assert!(error.message().starts_with("custom: "), "{error}");
}
