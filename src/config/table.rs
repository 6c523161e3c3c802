//! The table of settings: getter, type, name, variables, bounds, default and documentation of each.
//!
//! A row makes a [`SettingKey`](super::SettingKey) in `key.rs` and a getter of [`Settings`](super::settings::Settings)
//! in `typed.rs`. A getter without `pub` is read by a hand-written one there, because its default or its bounds depend
//! on another setting.

/// Passes all rows to a macro.
macro_rules! with_settings {
    ($with:ident) => {
        $with! {
            pub provider: Option<String> = "llm.provider" ["BATCHWRIGHT_PROVIDER"]
                Kind::Choice(&PROVIDERS), Rule("the first usable one"),
                "Provider to use first";
            pub model: Option<String> = "llm.model" ["BATCHWRIGHT_MODEL"]
                Kind::Text, Rule("none, or the first model of a local server"),
                "Model for prompts that name none; changing it runs nothing again";
            pub bulk_strategy: Strategy = "llm.bulk_strategy" ["BATCHWRIGHT_BULK_STRATEGY"]
                Kind::Choice(&STRATEGIES), Is("sync"),
                "How to send queued prompts: as individual calls, or through the provider's Batch API";
            pub(crate) prices: Option<String> = "llm.prices" ["BATCHWRIGHT_PRICES"]
                Kind::Text, Rule("the table in the program"),
                "File with prices of models in US dollars per million tokens; they come before those of the table in the program";
            pub cache_prompt: CachePrompt = "llm.cache_prompt" ["BATCHWRIGHT_CACHE_PROMPT"]
                Kind::Choice(&CACHE_PROMPTS), Is("auto"),
                "Which prompts with a long system text use the prompt cache: those to the provider's own address (auto), all, or none";
            given_concurrency: Option<NumberOrAuto> = "llm.sync_concurrency" ["BATCHWRIGHT_SYNC_CONCURRENCY"]
                Kind::WholeOrAuto(1, MOST_CALLS), Rule("auto for run: from 5 up to 256; local its slots or 1; work 5 or a larger queue.max_workers"),
                "Maximum calls in flight at a provider; auto adapts it to throughput and rejected calls";
            given_max_concurrent_requests: Given<usize> = "llm.max_concurrent_requests" ["AI_MAX_CONCURRENT_REQUESTS"]
                Kind::Whole(1, MOST_CALLS), Is("10"),
                "Maximum calls in flight of a queue worker, for all its providers together; a larger queue.max_workers raises the default";
            pub(crate) given_fallback: Given<Vec<String>> = "llm.fallback" ["BATCHWRIGHT_FALLBACK"]
                Kind::Route(&PROVIDERS, MOST_FALLBACKS), Rule("none for prompts; groq,anthropic,extract for other job types"),
                "Providers to try when the first one fails an item permanently";
            pub fallback_enabled: bool = "llm.fallback_enabled" ["AI_FALLBACK_ENABLED"]
                Kind::Switch, Is("true"),
                "Whether llm.fallback is used; --fallback always is";
            pub request_timeout: Option<Duration> = "llm.request_timeout" ["AI_REQUEST_TIMEOUT"]
                Kind::Time, Rule("600s for prompts"),
                "Time limit of one call";
            /// The number is in bytes.
            pub max_reply_bytes: Option<u64> = "llm.max_reply_mib" []
                Kind::Mib(1, 4_096), Rule("16; 64 for vectors"),
                "Maximum size of the reply to one call, in MiB";
            /// The number is in bytes.
            pub max_replies_bytes: u64 = "llm.max_replies_mib" []
                Kind::Mib(1, 1_048_576), Is("256"),
                "Memory limit for the large replies of all calls in flight together, in MiB; above it they spill to temporary files";
            pub requests_per_minute: Option<f64> = "llm.requests_per_minute" ["RATE_LIMIT_REQUESTS_PER_MINUTE"]
                Kind::Positive, Rule("learned from the provider's replies"),
                "Requests per minute at the first provider";
            pub tokens_per_minute: Option<f64> = "llm.tokens_per_minute" ["RATE_LIMIT_TOKENS_PER_MINUTE"]
                Kind::Positive, Rule("learned from the provider's replies"),
                "Tokens per minute at the first provider";
            pub burst_size: u32 = "llm.burst_size" ["RATE_LIMIT_BURST_SIZE"]
                Kind::Whole(1, 1_000_000), Is("10"),
                "Calls that may start at once under a rate limit, and before a provider's first reply";
            pub max_rate_limit_wait: Duration = "llm.max_rate_limit_wait" []
                Kind::Time, Is("60m"),
                "Longest Retry-After of a rate limit (429) that is obeyed; if a provider requests a longer wait and answers no other call, it is not called again in this run";
            pub max_retry_after: Duration = "llm.max_retry_after" []
                Kind::Time, Is("10m"),
                "Longest Retry-After of other failures that is obeyed; if a provider requests a longer wait, the next one is called, or this one after this time";
            pub queue_redis: Option<String> = "queue.redis" []
                Kind::Redis, Rule("none"),
                "Redis or Valkey of a queue on a database server, without a password, which comes from BATCHWRIGHT_REDIS_PASSWORD or a file; --redis and BATCHWRIGHT_REDIS override it; running commands keep theirs";
            pub queue_store: Option<String> = "queue.store" []
                Kind::Store, Rule("the file llm_jobs.db in the data folder"),
                "Database server of the queue, without a password, which comes from BATCHWRIGHT_STORE_PASSWORD or a file; stored in the data folder and read when a command starts; --store and BATCHWRIGHT_STORE override it";
            given_worker_count: Given<usize> = "queue.worker_count" ["JOB_QUEUE_WORKER_COUNT"]
                Kind::Whole(1, MOST_CALLS), Is("5"),
                "Slots of a queue worker at its start; a value above queue.max_workers raises that";
            pub min_workers: usize = "queue.min_workers" []
                Kind::Whole(1, MOST_CALLS), Is("1"),
                "Minimum slots of a queue worker, on a busy machine";
            given_max_workers: Given<usize> = "queue.max_workers" []
                Kind::Whole(1, MOST_CALLS), Is("10"),
                "Maximum slots of a queue worker";
            pub max_cpu_percent: u8 = "queue.max_cpu_percent" []
                Kind::Whole(1, 100), Is("70"),
                "Processor use of the machine above which a queue worker adds no slots; it removes some while its own part is at least a tenth";
            pub max_memory_percent: u8 = "queue.max_memory_percent" []
                Kind::Whole(1, 100), Is("80"),
                "The same for memory";
            pub max_retries: u8 = "queue.max_retries" ["JOB_QUEUE_MAX_RETRIES"]
                Kind::Whole(0, 255), Is("3"),
                "Retries of a job at each provider, unless the job sets its own number";
            pub batch_size: usize = "queue.batch_size" ["JOB_QUEUE_BATCH_SIZE"]
                Kind::Whole(1, 10_000), Is("10"),
                "Jobs claimed with one access to the store";
            pub poll_interval: Duration = "queue.poll_interval" ["JOB_QUEUE_POLL_INTERVAL"]
                Kind::Time, Is("5s"),
                "How often an idle queue worker checks for jobs if nothing wakes it";
            /// Each model comes after its provider.
            pub job_models: Vec<(String, String)> = "jobs.models" ["BATCHWRIGHT_JOB_MODELS"]
                Kind::Models(&PROVIDERS), Rule("none"),
                "Models for job types such as summarize, by provider; used if llm.model and llm.fallback name none";
            pub articles: Option<ArticleSource> = "jobs.articles" ["BATCHWRIGHT_ARTICLES"]
                Kind::Articles, Rule("none: a payload brings the text as content"),
                "Source of the text of an article_id for summarize and generate_podcast: a folder, a SQLite query or a URL";
            pub private_articles: bool = "jobs.articles_private" ["BATCHWRIGHT_ARTICLES_PRIVATE"]
                Kind::Switch, Is("false"),
                "Whether the URL of jobs.articles may use private addresses and http://";
            pub batch_poll_interval: Option<Duration> = "batch.poll_interval" ["BATCHWRIGHT_BATCH_POLL_INTERVAL"]
                Kind::Time, Rule("10s for a new batch to 5m for an old one"),
                "How often the status of a batch is polled";
            pub batch_reconcile_wait: Duration = "batch.reconcile_wait" ["BATCHWRIGHT_BATCH_RECONCILE_WAIT"]
                Kind::Time, Is("300s"),
                "How long to look for a batch at the provider if its creation got no reply";
            pub batch_results_wait: Duration = "batch.results_wait" ["BATCHWRIGHT_BATCH_RESULTS_WAIT"]
                Kind::Time, Is("600s"),
                "How long --until-empty and run wait for missing results of an ended batch";
            pub batch_on_unknown: Option<OnUnknown> = "batch.on_unknown" ["BATCHWRIGHT_BATCH_ON_UNKNOWN"]
                Kind::Choice(&ON_UNKNOWN), Rule("resubmit where the input can be deleted first, else hold"),
                "What to do with a batch that was not found within batch.reconcile_wait";
            pub transfer_idle_timeout: Duration = "batch.transfer_idle_timeout" []
                Kind::Time, Is("60s"),
                "How long an upload or download may make no progress; its total time is not limited";
            pub serve_strict: bool = "serve.strict" ["BATCHWRIGHT_SERVE_STRICT"]
                Kind::Switch, Is("false"),
                "Whether /v1 of the server checks answers, as a run does: an empty answer fails, and one that does not have the requested format is requested once more; the header X-Batchwright-Strict decides for one request";
            given_exec_concurrency: Given<usize> = "exec.concurrency" ["BATCHWRIGHT_EXEC_CONCURRENCY"]
                Kind::WholeUpTo("exec.max_concurrency", "10"), Is("5"),
                "Number of commands at once, up to exec.max_concurrency";
            pub exec_max_concurrency: usize = "exec.max_concurrency" []
                Kind::Whole(1, MOST_CALLS), Is("10"),
                "Upper limit for exec.concurrency";
            /// The number is per second.
            pub exec_rate: Option<f64> = "exec.rate" []
                Kind::Rate, Rule("as fast as slots come free"),
                "Maximum start rate of commands; starts are evenly spaced";
            pub exec_on_error: String = "exec.on_error" []
                Kind::Choice(&ERROR_POLICIES), Is("continue"),
                "What to do when a command fails";
            pub exec_sandbox: String = "exec.sandbox" ["BATCHWRIGHT_EXEC_SANDBOX"]
                Kind::Choice(&SANDBOX_MODES), Is("on"),
                "How strictly the kernel must enforce the sandbox of commands";
        }
    };
}

pub(super) use with_settings;
