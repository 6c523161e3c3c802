//! From settings to routes and workers: which provider is called, with which limits, and what is shared.

use std::time::Duration;

use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::provider::{ProviderStatus, inspect};
use batchwright::{Context, Error, LlmManager, ProcessId, Request, Settings};
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
    let shared = |plan: ProviderPlan| {
        let _ = std::fs::remove_dir_all(desk.path("home"));
        let manager = LlmManager::of(plan);
        manager.run_bulk(ProcessId::new(), &prompts(1)).unwrap();
        desk.path("home").join("quotas").exists()
    };
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

    use batchwright::config::{ConfigStore, FileConfig, SettingsWatch};
    use batchwright::plan::SettingsEvent;
    use batchwright::{Job, JobQueue, Progress, RunningWorker};

    use super::*;
    use crate::common::PATIENCE;

    /// The settings file of a folder, opened again like another process does.
    fn file(desk: &Desk) -> FileConfig {
        FileConfig::new(desk.path("settings.json"))
    }

    /// A manager that follows the settings file with the simulator at the given address, and the result of each change:
    /// the present provider and model, or the rejection.
    type Told = Receiver<Result<(&'static str, Option<String>), String>>;

    fn following(desk: &Desk, sim: &Simulator, provider: &str) -> (LlmManager, Told) {
        let store = Arc::new(file(desk));
        store.set("llm.provider", provider).unwrap();
        store.set("llm.model", "sim-1").unwrap();
        let watch = SettingsWatch::new(Settings::new(), store).unwrap();
        let (give, told) = unbounded();
        let options = ProviderOptions::new().base_url(Some(sim.base_url()));
        let plan = ProviderPlan::new(watch.settings().clone(), options).unwrap();
        let manager = LlmManager::of(plan).follow(watch);
        let manager = manager.on_settings(move |event| {
            let _ = match event {
                SettingsEvent::Applied(now) => {
                    let first = &now.plan().first;
                    give.send(Ok((first.provider, first.model.clone())))
                }
                SettingsEvent::Refused(error) => give.send(Err(error.message().to_owned())),
                _ => Ok(()),
            };
        });
        (manager, told)
    }

    fn queue(desk: &Desk) -> JobQueue {
        JobQueue::open(&desk.path("llm_jobs.db")).unwrap()
    }

    fn enqueued(queue: &JobQueue) -> ProcessId {
        let process = ProcessId::new();
        let job = Job::from(Request::new("x"));
        queue.enqueue(process, [job]).unwrap();
        process
    }

    /// Lets the running worker complete a job, and returns who answered after how many attempts.
    fn carried_out(queue: &JobQueue, process: ProcessId, done: &Receiver<ProcessId>) -> String {
        while done.recv_timeout(PATIENCE).unwrap() != process {}
        let result = queue.get_results(process).next().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&result.line()).unwrap();
        let word = |name: &str| line[name].as_str().unwrap();
        format!("{} {} {}", word("provider"), word("model"), result.attempts)
    }

    /// A worker of the manager that reports finished processes.
    fn telling(manager: &LlmManager, queue: &JobQueue) -> (RunningWorker, Receiver<ProcessId>) {
        let (give, done) = unbounded();
        let notifier = Arc::new(move |progress: &Progress| {
            if progress.completed + progress.failed > 0 {
                let _ = give.send(progress.process_id.unwrap());
            }
        });
        let worker = manager.worker(queue).unwrap().notifier(notifier);
        (worker.start().unwrap(), done)
    }

    #[test]
    fn a_worker_follows_the_provider_and_calls_in_flight_end_under_the_old_settings() {
        let desk = Desk::new();
        let sim = simulator(SimConfig::default().latency(Duration::from_secs(2)));
        let (manager, told) = following(&desk, &sim, "extract");
        let (store, queue) = (file(&desk), queue(&desk));
        let (worker, done) = telling(&manager, &queue);
        let first = carried_out(&queue, enqueued(&queue), &done);
        assert!(first.starts_with("extract "), "{first}");
        store.set("llm.model", "sim-2").unwrap();
        store.set("llm.provider", "custom").unwrap();
        while told.recv_timeout(PATIENCE).unwrap().unwrap().0 != "custom" {}
        let process = enqueued(&queue);
        assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
        store.set("llm.request_timeout", "1ms").unwrap();
        told.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(carried_out(&queue, process, &done), "custom sim-2 1");
        worker.stop().unwrap();
    }

    #[test]
    fn the_key_of_another_provider_does_not_follow_to_a_given_address() {
        let (desk, sim) = (Desk::new(), good());
        let (mut manager, _told) = following(&desk, &sim, "custom");
        file(&desk).set("llm.provider", "openai").unwrap();
        let why = manager.refresh().unwrap_err().to_string();
        assert!(why.contains("--base-url was given for custom"), "{why}");
        assert_eq!(manager.plan().first.provider, "custom");
    }

    #[test]
    fn unusable_settings_are_reported_once_and_the_old_ones_stay() {
        let (desk, sim) = (Desk::new(), good());
        let (manager, told) = following(&desk, &sim, "custom");
        let (store, queue) = (file(&desk), queue(&desk));
        let (worker, done) = telling(&manager, &queue);
        let before = worker.settings();
        let works = || {
            let by = carried_out(&queue, enqueued(&queue), &done);
            assert!(by.starts_with("custom "), "{by}");
        };
        let next = || told.recv_timeout(PATIENCE).unwrap();
        // Bypasses the checks of `set`, like another version of the program might.
        store.write("queue.worker_count", Some("many")).unwrap();
        let why = next().unwrap_err();
        assert!(why.contains("queue.worker_count=many"), "{why}");
        assert_eq!(worker.settings(), before);
        works();
        store.write("queue.worker_count", Some("6")).unwrap();
        next().unwrap();
        let six = settings(&[("queue.worker_count", "6")]);
        assert_eq!(worker.settings(), six.worker_settings().unwrap());
        // While one setting cannot be used, the old ones stay.
        store.write("llm.fallback", Some("openai")).unwrap();
        store.set("queue.worker_count", "5").unwrap();
        next().unwrap_err();
        works();
        assert_eq!(worker.settings(), six.worker_settings().unwrap());
        store.unset("llm.fallback").unwrap();
        next().unwrap();
        assert_eq!(worker.settings(), before);
        assert!(told.is_empty(), "it was tried several times, and told once");
        worker.stop().unwrap();
    }
}
