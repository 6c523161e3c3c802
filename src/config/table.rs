//! The table of settings: getter, type, name, variables, who may set it, bounds, default and documentation of each.
//!
//! A `client` of a server may set it over HTTP. Only the `owner` of the machine may set what names files or addresses, or
//! widens what may be read.
//!
//! A row makes a [`SettingKey`](super::SettingKey) in `key.rs` and a getter of [`Settings`](super::settings::Settings)
//! in `settings.rs`. A getter without `pub` is read by a hand-written one there, because its default or its bounds depend
//! on another setting.

/// Passes all rows to a macro.
macro_rules! with_settings {
    ($with:ident) => {
        $with! {
            pub provider: Option<String> = "llm.provider" ["BATCHWRIGHT_PROVIDER"] client
                Kind::Choice(&PROVIDERS), Rule("the first usable one"),
                "The provider that is called first";
            pub model: Option<String> = "llm.model" ["BATCHWRIGHT_MODEL"] client
                Kind::Text, Rule("none, or the first model of a local server"),
                "The model for prompts that name none; answers that a run already has stay if you change it";
            pub bulk_strategy: Strategy = "llm.bulk_strategy" ["BATCHWRIGHT_BULK_STRATEGY"] client
                Kind::Choice(&STRATEGIES), Is("sync"),
                "Whether each prompt is a call of its own (sync), or many go together into the provider's Batch API (batch)";
            given_concurrency: Option<Value> = "llm.sync_concurrency" ["BATCHWRIGHT_SYNC_CONCURRENCY"] client
                Kind::WholeOrAuto(1, MOST_CALLS), Rule("run: auto; work and serve: 1 to 10, by the load of the machine; a local server: its slots or 1"),
                "How many calls or jobs run at once: exactly this number, or with auto as many as the provider answers well; batches do not use it";
            given_max_concurrent_requests: Given<usize> = "llm.max_concurrent_requests" ["AI_MAX_CONCURRENT_REQUESTS"] client
                Kind::Whole(1, MOST_CALLS), Is("10"),
                "The most jobs that a queue worker runs at once while llm.sync_concurrency is not set";
            pub requests_per_minute: Option<f64> = "llm.requests_per_minute" ["RATE_LIMIT_REQUESTS_PER_MINUTE"] client
                Kind::Positive, Rule("learned from the provider's replies"),
                "The most requests per minute at the first provider";
            pub tokens_per_minute: Option<f64> = "llm.tokens_per_minute" ["RATE_LIMIT_TOKENS_PER_MINUTE"] client
                Kind::Positive, Rule("learned from the provider's replies"),
                "The most tokens per minute at the first provider";
            pub burst_size: u32 = "llm.burst_size" ["RATE_LIMIT_BURST_SIZE"] client
                Kind::Whole(1, 1_000_000), Is("10"),
                "How many calls may start at the same moment under a limit per minute, and before a provider's first reply";
            pub request_timeout: Option<Duration> = "llm.request_timeout" ["AI_REQUEST_TIMEOUT"] client
                Kind::Time, Rule("600s for prompts"),
                "How long one call may take";
            pub(crate) given_fallback: Given<Vec<String>> = "llm.fallback" ["BATCHWRIGHT_FALLBACK"] client
                Kind::Route(&PROVIDERS, MOST_FALLBACKS), Rule("none for prompts; groq,anthropic,extract for other job types"),
                "The providers that are tried in turn for a prompt that the first one cannot answer";
            pub fallback_enabled: bool = "llm.fallback_enabled" ["AI_FALLBACK_ENABLED"] client
                Kind::Switch, Is("true"),
                "Whether llm.fallback is used; --fallback always is";
            pub(crate) prices: Option<String> = "llm.prices" ["BATCHWRIGHT_PRICES"] owner
                Kind::Text, Rule("the table in the program"),
                "A file with prices of models, which come before those that the program knows";
            pub cache_prompt: CachePrompt = "llm.cache_prompt" ["BATCHWRIGHT_CACHE_PROMPT"] client
                Kind::Choice(&CACHE_PROMPTS), Is("auto"),
                "Which prompts with a long system text use the provider's prompt cache: those to its own address (auto), all, or none";
            pub queue_store: Option<String> = "queue.store" [] owner
                Kind::Store, Rule("the file llm_jobs.db in the data folder"),
                "The database server of the queue, without a password, which comes from BATCHWRIGHT_STORE_PASSWORD or a file; read when a command starts";
            pub queue_redis: Option<String> = "queue.redis" [] owner
                Kind::Redis, Rule("none"),
                "The Redis or Valkey that wakes workers of a queue on a database server, without a password, which comes from BATCHWRIGHT_REDIS_PASSWORD or a file; read when a command starts";
            pub worker_count: usize = "queue.worker_count" ["JOB_QUEUE_WORKER_COUNT"] client
                Kind::Whole(1, MOST_CALLS), Is("5"),
                "How many jobs a queue worker runs at once when it starts, while llm.sync_concurrency is not set";
            pub max_retries: u8 = "queue.max_retries" ["JOB_QUEUE_MAX_RETRIES"] client
                Kind::Whole(0, 255), Is("3"),
                "How often a failed job is tried again at each provider, unless the job has its own number";
            pub batch_size: usize = "queue.batch_size" ["JOB_QUEUE_BATCH_SIZE"] client
                Kind::Whole(1, 10_000), Is("10"),
                "How many jobs a worker takes from the queue with one access";
            pub poll_interval: Duration = "queue.poll_interval" ["JOB_QUEUE_POLL_INTERVAL"] client
                Kind::Time, Is("5s"),
                "How often an idle worker looks for jobs if nothing wakes it";
            /// Each model comes after its provider.
            pub job_models: Vec<(String, String)> = "jobs.models" ["BATCHWRIGHT_JOB_MODELS"] client
                Kind::Models(&PROVIDERS), Rule("none"),
                "The model of each provider for job types such as summarize, if llm.model and llm.fallback name none";
            pub articles: Option<ArticleSource> = "jobs.articles" ["BATCHWRIGHT_ARTICLES"] owner
                Kind::Articles, Rule("none: a payload brings the text as content"),
                "Where the text of an article_id comes from, for summarize and generate_podcast: a folder or a URL";
            pub private_articles: bool = "jobs.articles_private" ["BATCHWRIGHT_ARTICLES_PRIVATE"] owner
                Kind::Switch, Is("false"),
                "Whether the URL of jobs.articles may use private addresses and http://";
            pub batch_poll_interval: Option<Duration> = "batch.poll_interval" ["BATCHWRIGHT_BATCH_POLL_INTERVAL"] client
                Kind::Time, Rule("10s for a new batch to 5m for an old one"),
                "How often the provider is asked whether a batch has ended";
            pub batch_reconcile_wait: Duration = "batch.reconcile_wait" ["BATCHWRIGHT_BATCH_RECONCILE_WAIT"] client
                Kind::Time, Is("300s"),
                "How long to look for a batch whose creation got no reply; missing results of an ended batch are waited for twice as long";
            pub batch_on_unknown: Option<OnUnknown> = "batch.on_unknown" ["BATCHWRIGHT_BATCH_ON_UNKNOWN"] client
                Kind::Choice(&ON_UNKNOWN), Rule("resubmit where the input can be deleted first, else hold"),
                "What to do with a batch that was not found: send its prompts again (resubmit), or wait for your decision (hold)";
        }
    };
}

pub(super) use with_settings;
