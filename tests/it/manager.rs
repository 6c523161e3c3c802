//! From settings to routes and workers: which provider is called, with which limits, and what is shared.

use std::time::Duration;

use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::provider::{ProviderStatus, inspect};
use batchwright::{Context, Error, Limits, LlmManager, ProcessId, Request, Settings};
use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, good, simulator};

fn settings(set: &[(&str, &str)]) -> Settings {
    set.iter().fold(Settings::new(), |settings, (key, value)| {
        let value = Some((*value).to_owned());
        settings.flag(key, "test", value).unwrap()
    })
}

/// A provider with this name at the simulator.
fn at(name: &str, sim: &Simulator) -> ProviderStatus {
    inspect(name, Some(&sim.base_url()), Some("sim-1"), false).unwrap()
}

fn plan(settings: &Settings, first: ProviderStatus) -> ProviderPlan {
    let options = ProviderOptions::new().provider(first);
    ProviderPlan::new(settings.clone(), options).unwrap()
}

fn with_fallback(
    settings: &Settings,
    first: ProviderStatus,
    fallback: ProviderStatus,
) -> ProviderPlan {
    let mut plan = plan(settings, first);
    plan.fallbacks.push(fallback);
    plan
}

fn prompts(n: usize) -> Vec<Request> {
    (0..n)
        .map(|n| Request::new(format!("prompt {n}")))
        .collect()
}

#[test]
fn a_given_key_makes_its_provider_usable_and_no_other() {
    let options = |whose: &str| {
        let options = ProviderOptions::new().base_url(Some("http://127.0.0.1:9/v1".to_owned()));
        options.api_key(whose, batchwright::Secret::new("sk-given"))
    };
    let plan = |provider: &str, whose: &str| {
        let settings = settings(&[("llm.provider", provider), ("llm.model", "m")]);
        ProviderPlan::new(settings, options(whose))
    };
    assert!(plan("mistral", "mistral").unwrap().client().is_ok());
    let why = plan("mistral", "openai").unwrap_err().to_string();
    assert!(why.contains("MISTRAL_API_KEY"), "{why}");
    let both = options("mistral").provider(inspect("extract", None, None, false).unwrap());
    let why = ProviderPlan::new(Settings::new(), both).unwrap_err();
    assert!(why.to_string().contains("base_url"), "{why}");
}

#[test]
fn two_managers_of_a_custom_server_share_its_limits() {
    let (desk, sim) = (Desk::new(), good());
    let settings = settings(&[("llm.requests_per_minute", "1"), ("llm.burst_size", "3")]);
    // Each like a separate program: they share only the folder.
    let manager = || {
        let options = ProviderOptions::new().provider(at("custom", &sim));
        let options = options.data_dir(desk.path("home"));
        LlmManager::of(ProviderPlan::new(settings.clone(), options).unwrap())
    };
    manager().run_bulk(ProcessId::new(), &prompts(3)).unwrap();
    let brief = Context::new().with_timeout(Duration::from_millis(300));
    let second = manager().context(&brief);
    let error = second.run_bulk(ProcessId::new(), &prompts(1)).unwrap_err();
    assert_eq!(error.outcomes.len(), 1);
    assert_eq!(sim.stats().calls, 3, "the allowance was used up");
}

#[test]
fn limits_are_shared_if_any_provider_of_the_route_has_an_allowance() {
    let (desk, sim) = (Desk::new(), good());
    let alone = |settings: &Settings, name| {
        let options = ProviderOptions::new().provider(at(name, &sim));
        let options = options.data_dir(desk.path("home"));
        ProviderPlan::new(settings.clone(), options).unwrap()
    };
    let shared = |plan: ProviderPlan| plan.route_plan().shared_in.is_some();
    let plain = settings(&[]);
    assert!(shared(alone(&plain, "custom")));
    assert!(!shared(alone(&plain, "local")), "slots are no allowance");
    let mut behind = alone(&plain, "local");
    behind.fallbacks.push(at("custom", &sim));
    assert!(shared(behind), "a fallback's is one, too");
    let limited = settings(&[("llm.tokens_per_minute", "1000")]);
    assert!(
        shared(alone(&limited, "local")),
        "it is limited by the user"
    );
    let nowhere = plan(&plain, at("custom", &sim));
    assert_eq!(nowhere.route_plan().shared_in, None);
}

#[cfg(feature = "queue")]
#[test]
fn a_worker_has_separate_limits_for_each_provider() {
    let sim = good();
    let settings = settings(&[("queue.worker_count", "50")]);
    let plan = with_fallback(&settings, at("local", &sim), at("mistral", &sim));
    let slots = u32::try_from(plan.first.default_concurrency).unwrap();
    let plan = LlmManager::of(plan).worker_plan().unwrap();
    assert_eq!(
        plan.completions.first.limits,
        Limits::default().in_flight(slots)
    );
    // No rate is assumed: it is learned from replies.
    let limits = Limits::default().in_flight(50);
    assert_eq!(plan.completions.fallbacks[0].limits, limits);
    let embeddings = plan.embeddings.unwrap();
    assert_eq!(embeddings.first, plan.completions.first);
    assert!(embeddings.fallbacks.is_empty(), "vectors of two models");
}

#[cfg(feature = "queue")]
#[test]
fn one_number_is_the_calls_and_the_jobs_at_once() {
    use batchwright::queue::WorkerScale;

    let sim = good();
    let of = |set: &[(&str, &str)], provider: &str| {
        let settings = settings(set);
        let plan = LlmManager::of(plan(&settings, at(provider, &sim)))
            .worker_plan()
            .unwrap();
        (plan.settings, plan.completions.first.limits)
    };
    let calls = |n| Limits::default().in_flight(n);
    let expect = |set: &[(&str, &str)], scale: WorkerScale, most| {
        let (found, limits) = of(set, "custom");
        assert_eq!(found, found.scale(scale), "{set:?}");
        assert_eq!(limits, calls(most), "{set:?}");
    };
    let by_load = |start, most| WorkerScale::default().slots(1, start, most);
    let (set, start, most) = (
        "llm.sync_concurrency",
        "queue.worker_count",
        "llm.max_concurrent_requests",
    );
    expect(&[], by_load(5, 10), 10);
    expect(&[(start, "20")], by_load(20, 20), 20);
    expect(&[(start, "20"), (most, "8")], by_load(8, 8), 8);
    expect(&[(most, "40")], by_load(5, 40), 40);
    expect(&[(set, "40")], WorkerScale::fixed(40), 40);
    // The number is exact whatever the others say.
    let all = [(set, "40"), (start, "3"), (most, "8")];
    expect(&all, WorkerScale::fixed(40), 40);
    let (_, limits) = of(&[(set, "3")], "local");
    assert_eq!(limits, calls(3), "also at a local server");
}

#[test]
fn an_unusable_named_provider_is_not_replaced_by_another() {
    let named = settings(&[("llm.provider", "custom")]);
    let error: Error = LlmManager::new(named).err().unwrap();
    assert!(error.message().starts_with("custom: "), "{error}");
}

#[cfg(feature = "queue")]
mod following {
    use std::sync::Arc;

    use crossbeam_channel::{Receiver, unbounded};

    use batchwright::config::{ConfigStore, SettingsWatch, SqliteConfig};
    use batchwright::plan::SettingsEvent;

    use batchwright::{Job, JobQueue, Progress, RunningWorker, Worker};

    use super::*;

    /// The settings file of a folder, opened again like another process does.
    fn file(desk: &Desk) -> SqliteConfig {
        SqliteConfig::new(desk.path("config.db"))
    }

    fn watch(desk: &Desk, settings: Settings) -> SettingsWatch {
        SettingsWatch::new(settings, Arc::new(file(desk))).unwrap()
    }

    /// The result of each change: the present model, or the rejection.
    type Told = Receiver<Result<Option<String>, String>>;

    /// A manager of a custom server that follows the settings file, and the changes that it reports.
    fn following(desk: &Desk, sim: &Simulator, settings: Settings) -> (LlmManager, Told) {
        let watch = watch(desk, settings);
        let (give, told) = unbounded();
        let manager = LlmManager::of(plan(watch.settings(), at("custom", sim)));
        let manager = manager.follow(watch).on_settings(move |event| {
            let _ = match event {
                SettingsEvent::Applied(now) => give.send(Ok(now.plan().first.model.clone())),
                SettingsEvent::Refused(error) => give.send(Err(error.message().to_owned())),
                _ => Ok(()),
            };
        });
        (manager, told)
    }

    fn queue(desk: &Desk) -> JobQueue {
        JobQueue::open(&desk.path("llm_jobs.db")).unwrap()
    }

    fn applied(told: &Told) -> Option<String> {
        told.recv_timeout(crate::common::PATIENCE).unwrap().unwrap()
    }

    /// Lets the running worker complete a job, and returns who answered.
    fn carried_out(queue: &JobQueue, done: &Receiver<ProcessId>) -> (String, String) {
        let process = ProcessId::new();
        queue
            .enqueue(process, [Job::from(Request::new("x"))])
            .unwrap();
        while done.recv_timeout(crate::common::PATIENCE).unwrap() != process {}
        let result = queue.get_results(process).next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&result.line()).unwrap();
        let word = |name: &str| line[name].as_str().unwrap().to_owned();
        (word("provider"), word("model"))
    }

    /// A worker that reports finished processes.
    fn telling(worker: Worker) -> (RunningWorker, Receiver<ProcessId>) {
        let (give, done) = unbounded();
        let notifier = Arc::new(move |progress: &Progress| {
            if progress.completed + progress.failed > 0 {
                let _ = give.send(progress.process_id.unwrap());
            }
        });
        (worker.notifier(notifier).start().unwrap(), done)
    }

    #[test]
    fn a_worker_follows_the_provider_and_the_strategy() {
        let (desk, sim) = (Desk::new(), good());
        let store = file(&desk);
        store.set("llm.provider", "extract").unwrap();
        let watch = watch(&desk, Settings::new());
        let (give, told) = unbounded();
        let options = ProviderOptions::new().base_url(Some(sim.base_url()));
        let plan = ProviderPlan::new(watch.settings().clone(), options).unwrap();
        let manager = LlmManager::of(plan);
        let manager = manager.follow(watch).on_settings(move |event| {
            if let SettingsEvent::Applied(now) = event {
                let plan = now.plan();
                let _ = give.send((plan.first.provider, plan.strategy().asked));
            }
        });
        let queue = queue(&desk);
        let (worker, done) = telling(manager.worker(&queue).unwrap());
        assert_eq!(carried_out(&queue, &done).0, "extract");
        store.set("llm.model", "sim-2").unwrap();
        store.set("llm.provider", "custom").unwrap();
        while told.recv_timeout(crate::common::PATIENCE).unwrap().0 != "custom" {}
        assert_eq!(
            carried_out(&queue, &done),
            ("custom".into(), "sim-2".into())
        );
        worker.stop().unwrap();
    }

    #[test]
    fn the_key_of_another_provider_does_not_follow_to_a_given_address() {
        let (desk, sim) = (Desk::new(), good());
        let store = file(&desk);
        store.set("llm.provider", "custom").unwrap();
        store.set("llm.model", "sim-1").unwrap();
        let watch = watch(&desk, Settings::new());
        let options = ProviderOptions::new().base_url(Some(sim.base_url()));
        let plan = ProviderPlan::new(watch.settings().clone(), options).unwrap();
        let mut manager = LlmManager::of(plan).follow(watch);
        store.set("llm.provider", "openai").unwrap();
        let why = manager.refresh().unwrap_err().to_string();
        assert!(why.contains("--base-url was given for custom"), "{why}");
        assert_eq!(manager.plan().first.provider, "custom");
    }

    #[test]
    fn unusable_settings_are_reported_once_and_the_old_ones_stay() {
        let (desk, sim) = (Desk::new(), good());
        let (manager, told) = following(&desk, &sim, Settings::new());
        let (worker, done) = telling(manager.worker(&queue(&desk)).unwrap());
        let before = worker.settings();
        let store = file(&desk);
        // Bypasses the checks of `set`, like another version of the program might.
        store.write("queue.worker_count", Some("many")).unwrap();
        let why = told
            .recv_timeout(crate::common::PATIENCE)
            .unwrap()
            .unwrap_err();
        assert!(why.contains("queue.worker_count=many"), "{why}");
        assert_eq!(worker.settings(), before);
        assert_eq!(carried_out(&queue(&desk), &done).0, "custom");
        store.write("queue.worker_count", Some("6")).unwrap();
        applied(&told);
        let six = settings(&[("queue.worker_count", "6")]);
        assert_eq!(worker.settings(), six.worker_settings().unwrap());
        // An unusable provider must not prevent other settings from being applied.
        store.write("llm.fallback", Some("openai")).unwrap();
        store.set("queue.worker_count", "5").unwrap();
        told.recv_timeout(crate::common::PATIENCE)
            .unwrap()
            .unwrap_err();
        assert!(crate::common::eventually(|| worker.settings() == before));
        assert_eq!(carried_out(&queue(&desk), &done).0, "custom");
        store.unset("llm.fallback").unwrap();
        // Now nothing is left to apply, and another change is applied.
        store.set("queue.worker_count", "8").unwrap();
        applied(&told);
        assert!(told.is_empty(), "it was tried several times, and told once");
        worker.stop().unwrap();
    }

    #[test]
    fn a_call_in_flight_ends_under_the_old_settings() {
        let desk = Desk::new();
        let sim = simulator(SimConfig::default().latency(Duration::from_secs(2)));
        let (manager, told) = following(&desk, &sim, Settings::new());
        let queue = queue(&desk);
        let process = ProcessId::new();
        queue
            .enqueue(process, [Job::from(Request::new("x"))])
            .unwrap();
        let (worker, done) = telling(manager.worker(&queue).unwrap());
        assert!(sim.wait_until(|stats| stats.in_flight == 1, crate::common::PATIENCE));
        file(&desk).set("llm.request_timeout", "1ms").unwrap();
        applied(&told);
        while done.recv_timeout(crate::common::PATIENCE).unwrap() != process {}
        let result = queue.get_results(process).next().unwrap().unwrap();
        assert_eq!(result.attempts, 1, "{}", result.line());
        worker.stop().unwrap();
    }
}
