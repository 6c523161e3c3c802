//! Every name, number and default that programs rely on, row by row. The program's own tests have a file with the same
//! name for the rows about commands, the program and the server.

use std::sync::Arc;
use std::time::Duration;

use batchwright::config::{ConfigStore, MemoryConfig, SettingKey};
use batchwright::plan::{ProviderOptions, ProviderPlan};
use batchwright::progress::ProviderLimits;
use batchwright::testing::ScriptedClient;
use batchwright::{
    Bulk, Context, Error, ErrorKind, ErrorPolicy, Limits, LlmClient, LlmConfig, LlmManager,
    Outcome, ProcessId, Request, RetryPolicy, Route, Secret, Settings, Strategy, execute_bulk_sync,
};
use serde_json::{Value, json};

fn requests(n: usize) -> Vec<Request> {
    let request = |n| Request::new(format!("p{n}")).with_id(format!("id-{n}"));
    (0..n).map(request).collect()
}

fn settings(set: &[(&str, &str)]) -> Settings {
    set.iter().fold(Settings::new(), |settings, (key, value)| {
        settings
            .flag(key, "test", Some((*value).to_owned()))
            .unwrap()
    })
}

/// Settings show their values in their `Debug` output.
#[track_caller]
fn has(written: &str, parts: &[&str]) {
    let missing = parts.iter().find(|part| !written.contains(**part));
    assert_eq!(missing, None, "{written}");
}

fn default_of(key: &str) -> &'static str {
    SettingKey::named(key).unwrap().default_text()
}

/// 0.1, 0.2, 0.8: a list as it is given; 99 of 100 results survive; an error of its own only for cancellation or misuse.
#[test]
fn a_list_keeps_the_results_of_99_of_100() {
    let client = ScriptedClient::new();
    client.refuse("p42", Error::new(ErrorKind::Blocked, "no"));
    let outcomes = execute_bulk_sync(&Context::new(), &client, &requests(100), 5).unwrap();
    assert_eq!(outcomes.len(), 100);
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.id.as_deref(), Some(format!("id-{n}").as_str()));
        let line: Value = serde_json::to_value(outcome).unwrap();
        assert_eq!(line["success"], n != 42, "{line}");
        assert_eq!(line["error"].is_object(), n == 42, "{line}");
    }
    let error: Value = serde_json::to_value(&outcomes[42]).unwrap();
    assert_eq!(error["error"]["kind"], "blocked");
    assert_eq!(error["error"]["class"], "non_retryable");

    assert!(execute_bulk_sync(&Context::new(), &client, &requests(1), 0).is_err());
    let cancelled = Context::new();
    cancelled.cancel();
    assert!(execute_bulk_sync(&cancelled, &client, &requests(3), 5).is_err());
    let thousand = execute_bulk_sync(&Context::new(), &client, &requests(1000), 5).unwrap();
    let good = thousand.iter().filter(|one| one.result.is_ok());
    assert_eq!(good.count(), 999);
}

/// 0.3, 0.4: `llm.bulk_strategy`, and the local provider that has no Batch API.
#[test]
fn the_strategy_is_a_setting_and_local_runs_sync() {
    assert_eq!(default_of("llm.bulk_strategy"), "sync");
    let store = MemoryConfig::new();
    store.set("llm.bulk_strategy", "batch").unwrap();
    let stored = Settings::new().store(&store).unwrap();
    assert_eq!(stored.bulk_strategy().unwrap(), Strategy::Batch);
    assert!(store.set("llm.bulk_strategy", "later").is_err());

    let url = "http://127.0.0.1:9/v1";
    let manager = |provider: &str| {
        let set = [
            ("llm.bulk_strategy", "batch"),
            ("llm.provider", provider),
            ("llm.model", "m"),
        ];
        let options = ProviderOptions::new().base_url(Some(url.to_owned()));
        let options = options.api_key(provider, Secret::new("sk-test"));
        LlmManager::of(ProviderPlan::new(settings(&set), options).unwrap())
    };
    let local = manager("local");
    let effective = local.effective_strategy();
    assert_eq!(effective.strategy, Strategy::Sync);
    assert_eq!(effective.asked, Strategy::Batch);
    assert!(effective.fallback_reason.unwrap().contains("local"));
    for provider in ["gemini", "xai"] {
        let manager = manager(provider);
        assert_eq!(manager.effective_strategy().strategy, Strategy::Batch);
        assert!(manager.client().is_ok());
        assert!(manager.batch_client().unwrap().is_some(), "{provider}");
    }
    assert!(local.batch_client().unwrap().is_none());
}

/// 0.5: `LlmConfig::concurrency` and its defaults.
#[test]
fn calls_at_once_are_5_and_1_for_local() {
    let calls = |provider: &str| {
        let config = LlmConfig::new(provider).base_url("http://127.0.0.1:9/v1");
        let config = config.api_key(Secret::new("sk-test")).model("m");
        let given = config.clone().concurrency(7).client().unwrap();
        assert_eq!(given.concurrency(), Some(7));
        config.client().unwrap().concurrency().unwrap()
    };
    let providers = ["local", "gemini", "openai", "xai", "groq"];
    assert_eq!(providers.map(calls), [1, 5, 5, 5, 5]);
    assert!(SettingKey::named("llm.sync_concurrency").is_ok());
}

/// 0.6: one call for a list, with the strategy of the settings.
#[test]
fn the_manager_runs_a_list() {
    let manager = LlmManager::new(settings(&[("llm.provider", "extract")])).unwrap();
    let outcomes = manager.run_bulk(ProcessId::new(), &requests(3)).unwrap();
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes.iter().all(|outcome| outcome.result.is_ok()));
}

/// 0.7, 3.3: three retries after 1, 2 and 4 seconds for each call, and the classes of errors.
#[test]
fn a_call_is_retried_three_times() {
    let policy = RetryPolicy::default();
    has(
        &format!("{policy:?}"),
        &["max_retries: 3", "base_delay: 1s"],
    );
    let tries = |failures: usize| {
        let client = Arc::new(ScriptedClient::new());
        for _ in 0..failures {
            client.fail("p", Error::new(ErrorKind::Transient, "busy"));
        }
        let quick = RetryPolicy::default().base_delay(Duration::from_millis(1));
        let route = Route::new(client.clone()).retry(quick);
        let answered = route.complete(&Request::new("p"), &Context::new()).is_ok();
        (answered, client.calls().len())
    };
    assert_eq!(tries(3), (true, 4));
    assert_eq!(tries(9), (false, 4));
    assert_eq!(ErrorKind::Transient.class(), "retryable");
    assert_eq!(ErrorKind::Invalid.class(), "non_retryable");
    assert_eq!(ErrorKind::RateLimited.class(), "rate_limit");
}

/// 1.4: the policies, and that the library continues by default.
#[test]
fn the_policies_of_errors() {
    assert_eq!(ErrorPolicy::default(), ErrorPolicy::ContinueOnError);
    let ended = |policy| {
        let client = ScriptedClient::new();
        client.refuse("p0", Error::new(ErrorKind::Invalid, "no"));
        let route = Route::new(client);
        let run = Bulk::new(route).concurrency(1).on_error(policy);
        run.collect(&requests(5))
            .map(|done: Vec<Outcome>| done.len())
    };
    assert_eq!(ended(ErrorPolicy::ContinueOnError).unwrap(), 5);
    assert!(ended(ErrorPolicy::StopOnError).is_err());
    assert_eq!(ended(ErrorPolicy::StopOnCriticalError).unwrap(), 5);
}

/// 2.1 to 2.8: files processed by a function.
#[cfg(feature = "files")]
mod files {
    use std::fs;
    use std::path::Path;
    use std::thread::available_parallelism;

    use super::*;
    use batchwright::processing::{
        BatchProcessor, ErrorRecovery, FailedFile, ParallelConfig, ParallelExecutor, ProcessTask,
        ProcessingConfig, SourceFile, StatsCollector,
    };
    use batchwright::progress::{MemoryManager, ProgressTracker};
    use batchwright::sources::{FileInfo, FileScanner};

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.py", "a = 1\n"), ("b.py", "b = 2\n"), ("c.txt", "no")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/d.py"), "d = 3\n").unwrap();
        folder
    }

    fn length(file: &SourceFile<'_>) -> Result<usize, Error> {
        match file.text()? {
            "b = 2\n" => Err(Error::new(ErrorKind::Invalid, "b is wrong")),
            text => Ok(text.len()),
        }
    }

    #[test]
    fn a_processor_takes_python_files_50_at_a_time_and_keeps_every_other_result() {
        let written = format!("{:?} {:?}", ProcessingConfig::new(), ParallelConfig::new());
        let cores = available_parallelism().map_or(1, usize::from);
        let workers = format!("max_workers: {cores}");
        has(
            &written,
            &[
                "pattern: \"**/*.py\"",
                "chunk_size: 50",
                &workers,
                "max_memory: 524288000",
            ],
        );
        let folder = folder();
        let files: Vec<_> = ["a.py", "b.py"].map(|name| folder.path().join(name)).into();
        let processor = BatchProcessor::new(ProcessingConfig::new(), ParallelConfig::new());
        let batch = processor.process_directory(folder.path(), length).unwrap();
        assert_eq!((batch.stats.completed, batch.stats.failed), (2, 1));
        let failed: Vec<_> = batch.failures().collect();
        assert_eq!(failed[0].1.kind(), ErrorKind::Invalid);
        let batch = processor.process_files(files.clone(), length).unwrap();
        assert_eq!((batch.stats.completed, batch.stats.failed), (1, 1));
        let stream = processor.process_files_streaming(files.clone(), length);
        assert_eq!(stream.unwrap().count(), 2);

        let executor = ParallelExecutor::new(ParallelConfig::new());
        let tasks = || files.iter().map(ProcessTask::new).collect::<Vec<_>>();
        let batch = executor.execute_batch(tasks(), length);
        assert_eq!((batch.stats.completed, batch.stats.failed), (1, 1));
        let stream = executor.execute_streaming(tasks().into_iter(), length);
        assert_eq!(stream.count(), 2);
    }

    #[test]
    fn a_scanner_describes_files_and_says_why_it_skips_one() {
        let folder = folder();
        fs::write(folder.path().join(".gitignore"), "inner/\n").unwrap();
        fs::create_dir(folder.path().join(".git")).unwrap();
        let scanner = FileScanner::new().extensions(["py"]).max_file_size(1 << 20);
        let ctx = Context::new();
        let found: Vec<FileInfo> = scanner.scan_directory(folder.path(), &ctx).unwrap();
        let valid: Vec<_> = found.iter().filter(|info| info.is_valid).collect();
        assert_eq!(valid.len(), 2, "{found:?}");
        for (info, name) in valid.iter().zip(["a.py", "b.py"]) {
            assert!(info.size == 6 && info.modified_time.is_some());
            assert!(info.path.ends_with(name), "{info:?}");
        }
        let small = FileScanner::new().max_file_size(3);
        let filtered = small.filter_files([folder.path().join("a.py")], &ctx);
        let filtered: Vec<FileInfo> = filtered.unwrap();
        assert!(!filtered[0].is_valid && filtered[0].skip_reason.is_some());
    }

    #[test]
    fn progress_memory_recovery_and_statistics() {
        let mut tracker = ProgressTracker::new(Some(100));
        tracker.update(40, 10);
        let info = tracker.get_progress();
        assert_eq!((info.percent, info.success_rate), (Some(50.0), Some(0.8)));
        assert!(tracker.estimate_remaining_time().is_some());

        let memory = MemoryManager::default();
        let used = memory.check_memory();
        assert_eq!(used.ceiling, 500 << 20);
        assert!(used.used > 0);
        drop(memory.wait_for_memory(1024, &Context::new()).unwrap());
        assert!((1..=50).contains(&memory.get_optimal_batch_size(50, 1 << 20)));

        let folder = folder();
        let checkpoint = folder.path().join("checkpoint.jsonl");
        let recovery = ErrorRecovery::resume_from_checkpoint(&checkpoint).unwrap();
        let gone = Error::new(ErrorKind::NotFound, "it is gone");
        let busy = Error::new(ErrorKind::Transient, "busy");
        assert!(!recovery.handle_error(Path::new("a.py"), &gone, 1));
        assert!(recovery.handle_error(Path::new("b.py"), &busy, 1));
        let failed: Vec<FailedFile> = recovery.failed_files();
        assert_eq!((failed[0].kind, failed.len()), (ErrorKind::NotFound, 1));
        recovery.save_checkpoint().unwrap();
        drop(recovery);
        let again = ErrorRecovery::resume_from_checkpoint(&checkpoint).unwrap();
        assert_eq!(again.retry_failed(), [Path::new("a.py")]);

        let mut stats = StatsCollector::new();
        stats.record(2048, Duration::from_millis(3), true);
        stats.record(0, Duration::from_millis(1), false);
        let stats = stats.stats();
        assert_eq!((stats.completed, stats.failed, stats.bytes), (1, 1, 2048));
    }
}

/// 3.4: a worker starts with 5 jobs at once and stays between 1 and 10, below 70 % CPU and 80 % memory.
#[cfg(feature = "queue")]
#[test]
fn a_worker_scales_from_5_between_1_and_10() {
    let scale = format!("{:?}", batchwright::queue::WorkerScale::default());
    let parts = [
        "least: 1",
        "start: 5",
        "most: 10",
        "cpu_percent: 70.0",
        "memory_percent: 80.0",
    ];
    has(&scale, &parts);
    assert_eq!(default_of("queue.worker_count"), "5");
    assert_eq!(default_of("llm.max_concurrent_requests"), "10");
}

/// 3.7: the limits of a route, and what an answer costs.
#[test]
fn a_route_names_its_limits_and_an_answer_its_cost() {
    let sim = super::common::good();
    let config = LlmConfig::new("openai")
        .base_url(sim.base_url())
        .model("gpt-4o-mini");
    let client = config.api_key(Secret::new("sk-test")).client().unwrap();
    let route = Route::limited(client, Limits::default().requests_per_minute(60.0));
    let request = Request::new("Hello");
    let limits: Vec<ProviderLimits> = route.limits(&request);
    assert_eq!(limits[0].provider, "openai");
    assert_eq!(limits[0].quota.requests.unwrap().limit, 60);
    let answer = route.complete(&request, &Context::new()).unwrap();
    let usage = answer.usage.unwrap();
    // 0.15 and 0.60 dollars for a million tokens.
    let picos = usage.input_tokens * 150_000 + usage.output_tokens * 600_000;
    let cost = answer.cost_usd.unwrap().dollars();
    let expected = picos as f64 / 1e12;
    assert!(picos > 0 && (cost - expected).abs() < 1e-12, "{cost}");
}

/// 3.9: the nine variables, by their settings and defaults.
#[test]
fn nine_variables_have_their_settings() {
    let learned = "learned from the provider's replies";
    for (variable, setting, default) in [
        ("JOB_QUEUE_WORKER_COUNT", "queue.worker_count", "5"),
        ("JOB_QUEUE_MAX_RETRIES", "queue.max_retries", "3"),
        ("JOB_QUEUE_BATCH_SIZE", "queue.batch_size", "10"),
        ("JOB_QUEUE_POLL_INTERVAL", "queue.poll_interval", "5s"),
        (
            "AI_REQUEST_TIMEOUT",
            "llm.request_timeout",
            "600s for prompts",
        ),
        (
            "AI_MAX_CONCURRENT_REQUESTS",
            "llm.max_concurrent_requests",
            "10",
        ),
        ("AI_FALLBACK_ENABLED", "llm.fallback_enabled", "true"),
        (
            "RATE_LIMIT_REQUESTS_PER_MINUTE",
            "llm.requests_per_minute",
            learned,
        ),
        ("RATE_LIMIT_BURST_SIZE", "llm.burst_size", "10"),
    ] {
        let found = SettingKey::named(setting).unwrap();
        assert!(found.variables().contains(&variable), "{variable}");
        assert_eq!(found.default_text(), default, "{setting}");
    }
}

/// 4.1 to 4.4: the queue in a file of its own.
#[cfg(feature = "queue")]
mod queue {
    use super::*;
    use batchwright::queue::{JobResult, JobStatus};
    use batchwright::{Job, JobQueue, Progress, Worker};
    use parking_lot::Mutex;

    fn jobs(n: usize) -> Vec<Job> {
        requests(n).into_iter().map(Job::from).collect()
    }

    #[test]
    fn results_leave_the_queue_after_they_are_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("llm_jobs.db");
        let process = ProcessId::new();
        let queue = JobQueue::open(&path).unwrap();
        queue.enqueue(process, jobs(3)).unwrap();
        drop(queue);

        let file = rusqlite::Connection::open(&path).unwrap();
        let text = |sql: &str| {
            file.query_row(sql, [], |row| row.get::<_, String>(0))
                .unwrap()
        };
        assert_eq!(text("PRAGMA journal_mode"), "wal");
        let columns = text("SELECT group_concat(name) FROM pragma_table_info('jobs')");
        has(&columns, &["batch", "status"]);
        drop(file);

        // After a restart the process is there, and a worker tells its progress.
        let queue = JobQueue::open(&path).unwrap();
        assert_eq!(queue.open_processes().unwrap().len(), 1);
        assert_eq!(queue.get_results(process).count(), 0);
        let client = ScriptedClient::new();
        client.refuse("p1", Error::new(ErrorKind::Invalid, "no"));
        let told: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let heard = told.clone();
        let notifier = move |progress: &Progress| {
            heard.lock().push((progress.completed, progress.failed));
        };
        let worker = Worker::new(&queue)
            .completions(Route::new(client))
            .until_empty(true);
        worker.notifier(Arc::new(notifier)).run().unwrap();
        assert_eq!(told.lock().last(), Some(&(2, 1)));

        let ended: Vec<JobResult> = queue.get_results(process).map(Result::unwrap).collect();
        assert_eq!(ended.len(), 3);
        let failed = |result: &&JobResult| result.status == JobStatus::Failed;
        assert_eq!(ended.iter().filter(failed).count(), 1);
        // Nothing is deleted before the caller has saved it.
        let refused = queue.consume(process, |_| Err("full"));
        assert!(refused.is_err());
        assert_eq!(queue.get_results(process).count(), 3);
        let peeked = queue.peek(process, 1).unwrap();
        assert_eq!(queue.ack(&[peeked[0].receipt]).unwrap(), 1);
        let mut saved = Vec::new();
        let kept = queue.consume(process, |results| {
            saved.extend(results.iter().map(JobResult::line));
            Ok::<_, Error>(())
        });
        assert_eq!((kept.unwrap(), saved.len()), (2, 2));
        assert_eq!(queue.get_results(process).count(), 0);
    }

    #[test]
    fn the_states_of_a_job() {
        for (status, name) in [
            (JobStatus::Pending, "pending"),
            (JobStatus::InProgress, "in_progress"),
            (JobStatus::Completed, "completed"),
            (JobStatus::Failed, "failed"),
            (JobStatus::Cancelled, "cancelled"),
        ] {
            assert_eq!(status.as_str(), name);
        }
    }

    #[test]
    fn the_queue_knows_no_domain() {
        let queue = JobQueue::in_memory().unwrap();
        let process = ProcessId::new();
        let job = Job::new("my_kind", &json!({"any": ["payload"]})).unwrap();
        queue.enqueue(process, [job]).unwrap();
        let only = queue.items(process, None, 5).unwrap();
        let job = queue.job(only[0].job_id).unwrap().unwrap();
        assert_eq!(job.kind, "my_kind");
    }
}
