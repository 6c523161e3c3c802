//! The settings by their types, one getter a key.
//!
//! `None` stands for a default that is a rule, see [`SettingKey::default_text`](super::key::SettingKey).

use std::time::Duration;

use crate::base::error::{Error, ErrorKind};

use super::articles::ArticleSource;
use super::choices::{Dedupe, OnUnknown, Strategy};
use super::settings::{SettingSource, Settings};
use super::value::{AUTO, Value};

/// Each fails with [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when the value in use cannot be
/// used; the message names where it is set, the value, and what is accepted.
impl Settings {
    /// `llm.provider`: the provider that is asked first. Default: the first usable one.
    ///
    /// # Errors
    /// When what is set is no provider.
    pub fn provider(&self) -> Result<Option<String>, Error> {
        self.text("llm.provider")
    }

    /// `llm.model`: the model for requests that name none. Default: none.
    ///
    /// # Errors
    /// When the value is empty.
    pub fn model(&self) -> Result<Option<String>, Error> {
        self.text("llm.model")
    }

    /// `queue.redis`: the address of the Redis or Valkey of a queue on a database server. Default: none.
    ///
    /// # Errors
    /// When the value is no such address.
    pub fn queue_redis(&self) -> Result<Option<String>, Error> {
        self.text("queue.redis")
    }

    /// `queue.store`: the address of the database server that the queue is on. Default: none, the queue is a file.
    ///
    /// # Errors
    /// When the value is not such an address.
    pub fn queue_store(&self) -> Result<Option<String>, Error> {
        self.text("queue.store")
    }

    /// `llm.bulk_strategy`: how bulk work is carried out. Default: [`Strategy::Sync`].
    ///
    /// # Errors
    /// When the value is neither `sync` nor `batch`.
    pub fn bulk_strategy(&self) -> Result<Strategy, Error> {
        let name = self.text("llm.bulk_strategy")?;
        Ok(name
            .as_deref()
            .and_then(Strategy::parse)
            .unwrap_or_default())
    }

    /// `llm.dedupe`: which equal requests of a run are asked once. Default: [`Dedupe::Auto`].
    ///
    /// # Errors
    /// When the value is none of `auto`, `always` and `never`.
    pub fn dedupe(&self) -> Result<Dedupe, Error> {
        let name = self.text("llm.dedupe")?;
        Ok(name.as_deref().and_then(Dedupe::parse).unwrap_or_default())
    }

    /// `llm.sync_concurrency`: calls in flight at a provider; none while it is `auto`. Default: none.
    ///
    /// # Errors
    /// When the value is neither from 1 to 10,000 nor `auto`.
    pub fn sync_concurrency(&self) -> Result<Option<usize>, Error> {
        Ok(self.whole("llm.sync_concurrency")?.map(size))
    }

    /// Whether `llm.sync_concurrency` is `auto`: the number of calls in flight is to be found.
    ///
    /// # Errors
    /// As [`sync_concurrency`](Self::sync_concurrency).
    pub fn finds_concurrency(&self) -> Result<bool, Error> {
        Ok(self.text("llm.sync_concurrency")?.as_deref() == Some(AUTO))
    }

    /// `llm.max_concurrent_requests`: calls in flight of a queue worker, over all its providers.
    /// Default: 10, or a larger `queue.max_workers`.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000.
    pub fn max_concurrent_requests(&self) -> Result<usize, Error> {
        let most = self.size("llm.max_concurrent_requests")?;
        match self.source("llm.max_concurrent_requests") {
            SettingSource::Default => Ok(most.max(self.workers_set()?.unwrap_or(most))),
            _ => Ok(most),
        }
    }

    /// `llm.fallback`: the providers that follow the first, each as `name` or `name:model`; none
    /// while `llm.fallback_enabled` is false, unless a flag names them. Default: none.
    ///
    /// # Errors
    /// When one is no provider, when there are more than 31, or when the switch is neither true nor
    /// false.
    pub fn fallback(&self) -> Result<Vec<String>, Error> {
        let named_now = matches!(self.source("llm.fallback"), SettingSource::Flag(_));
        if !named_now && !self.fallback_enabled()? {
            return Ok(Vec::new());
        }
        Ok(match self.value("llm.fallback")? {
            Some(Value::Names(names)) => names,
            _ => Vec::new(),
        })
    }

    /// `jobs.models`: the models for job types that ask a model, each with its provider. Default: none.
    ///
    /// # Errors
    /// When an entry is not `provider=model`, names no known provider, or repeats one.
    pub fn job_models(&self) -> Result<Vec<(String, String)>, Error> {
        Ok(match self.value("jobs.models")? {
            Some(Value::Models(models)) => models,
            _ => Vec::new(),
        })
    }

    /// `jobs.articles`: where the text of an article is found by its id. Default: nowhere.
    ///
    /// # Errors
    /// When it is neither a folder nor a SQLite query nor a URL, see [`ArticleSource`].
    pub fn articles(&self) -> Result<Option<ArticleSource>, Error> {
        Ok(match self.value("jobs.articles")? {
            Some(Value::Articles(source)) => Some(source),
            _ => None,
        })
    }

    /// `jobs.articles_private`: whether a URL of articles may lead to addresses that are not public, and over
    /// `http://`. Default: false.
    ///
    /// # Errors
    /// When the value is neither true nor false.
    pub fn private_articles(&self) -> Result<bool, Error> {
        let value = self.value("jobs.articles_private")?;
        Ok(matches!(value, Some(Value::Switch(true))))
    }

    /// `llm.fallback_enabled`: whether `llm.fallback` is used. Default: true.
    ///
    /// # Errors
    /// When the value is neither true nor false.
    pub fn fallback_enabled(&self) -> Result<bool, Error> {
        let value = self.value("llm.fallback_enabled")?;
        Ok(!matches!(value, Some(Value::Switch(false))))
    }

    /// `llm.request_timeout`: the longest wait for one call. Default: 600 s for prompts.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn request_timeout(&self) -> Result<Option<Duration>, Error> {
        self.time("llm.request_timeout")
    }

    /// `llm.max_reply_mib`, in bytes: the most that is read of one call's reply. Default: 64 MiB for
    /// vectors, 16 MiB else.
    ///
    /// # Errors
    /// When the value is not from 1 to 4,096.
    pub fn max_reply_bytes(&self) -> Result<Option<u64>, Error> {
        Ok(self.whole("llm.max_reply_mib")?.map(|mib| mib << 20))
    }

    /// `llm.max_replies_mib`, in bytes: the most that large replies of all calls in flight take in memory
    /// at once. Default: 256 MiB.
    ///
    /// # Errors
    /// When the value is not from 1 to 1,048,576.
    pub fn max_replies_bytes(&self) -> Result<u64, Error> {
        let mib = self.whole("llm.max_replies_mib")?;
        Ok(mib.unwrap_or_default() << 20)
    }

    /// `reuse.max_mib`, in bytes: the most that answers kept for later runs take. Default: 1,024 MiB.
    ///
    /// # Errors
    /// When the value is not from 1 to 1,048,576.
    pub fn reuse_max_bytes(&self) -> Result<u64, Error> {
        Ok(self.whole("reuse.max_mib")?.unwrap_or_default() << 20)
    }

    /// `llm.requests_per_minute`. Default: learned from the provider's replies.
    ///
    /// # Errors
    /// When the value is no number above 0.
    pub fn requests_per_minute(&self) -> Result<Option<f64>, Error> {
        self.number("llm.requests_per_minute")
    }

    /// `llm.tokens_per_minute`. Default: learned from the provider's replies.
    ///
    /// # Errors
    /// When the value is no number above 0.
    pub fn tokens_per_minute(&self) -> Result<Option<f64>, Error> {
        self.number("llm.tokens_per_minute")
    }

    /// `llm.burst_size`: calls that may start at once. Default: 10.
    ///
    /// # Errors
    /// When the value is not from 1 to 1,000,000.
    pub fn burst_size(&self) -> Result<u32, Error> {
        let size = self.size("llm.burst_size")?;
        Ok(u32::try_from(size).unwrap_or(u32::MAX))
    }

    /// `llm.max_rate_limit_wait`: the longest `Retry-After` of a rate limit that is obeyed. Default:
    /// 1 h.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn max_rate_limit_wait(&self) -> Result<Duration, Error> {
        let time = self.time("llm.max_rate_limit_wait")?;
        Ok(time.unwrap_or(Duration::from_secs(3600)))
    }

    /// `llm.max_retry_after`: the longest `Retry-After` of other failures that is obeyed. Default:
    /// 10 min.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn max_retry_after(&self) -> Result<Duration, Error> {
        let time = self.time("llm.max_retry_after")?;
        Ok(time.unwrap_or(Duration::from_secs(600)))
    }

    /// `queue.worker_count`: slots of a queue worker at its start. Default: 5, or a smaller `queue.max_workers`.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000, or that of `queue.max_workers` cannot be used.
    pub fn worker_count(&self) -> Result<usize, Error> {
        let count = self.size("queue.worker_count")?;
        match self.source("queue.worker_count") {
            SettingSource::Default => Ok(count.min(self.size("queue.max_workers")?)),
            _ => Ok(count),
        }
    }

    /// `queue.min_workers`: slots that a busy machine leaves a queue worker. Default: 1.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000.
    pub fn min_workers(&self) -> Result<usize, Error> {
        self.size("queue.min_workers")
    }

    /// `queue.max_workers`: slots that a queue worker grows to. Default: 10; a larger
    /// `queue.worker_count` raises it.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000, or that of `queue.worker_count` cannot be used.
    pub fn max_workers(&self) -> Result<usize, Error> {
        Ok(self.size("queue.max_workers")?.max(self.worker_count()?))
    }

    /// [`max_workers`](Self::max_workers), if somebody set that or `queue.worker_count`.
    pub(crate) fn workers_set(&self) -> Result<Option<usize>, Error> {
        let is_set = |key| self.source(key) != SettingSource::Default;
        let set = is_set("queue.max_workers") || is_set("queue.worker_count");
        set.then(|| self.max_workers()).transpose()
    }

    /// `scale.scope`: whether a worker's slots follow the load of the whole machine. Default: true.
    ///
    /// # Errors
    /// When the value is neither `machine` nor `process`.
    pub fn scales_with_machine(&self) -> Result<bool, Error> {
        Ok(self.text("scale.scope")?.as_deref() != Some("process"))
    }

    /// `queue.max_cpu_percent`: use of the processors above which a queue worker gives up slots.
    /// Default: 70.
    ///
    /// # Errors
    /// When the value is not from 1 to 100.
    pub fn max_cpu_percent(&self) -> Result<u8, Error> {
        self.small("queue.max_cpu_percent")
    }

    /// `queue.max_memory_percent`: use of memory above which a queue worker gives up slots.
    /// Default: 80.
    ///
    /// # Errors
    /// When the value is not from 1 to 100.
    pub fn max_memory_percent(&self) -> Result<u8, Error> {
        self.small("queue.max_memory_percent")
    }

    /// `queue.max_retries`: retries of a job at each provider, where it carries no number of its
    /// own. Default: 3.
    ///
    /// # Errors
    /// When the value is not from 0 to 255.
    pub fn max_retries(&self) -> Result<u8, Error> {
        self.small("queue.max_retries")
    }

    /// `queue.batch_size`: jobs claimed with one trip to the store. Default: 10.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000.
    pub fn batch_size(&self) -> Result<usize, Error> {
        self.size("queue.batch_size")
    }

    /// `queue.poll_interval`: how often an idle queue worker looks for jobs of its own accord.
    /// Default: 5 s.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn poll_interval(&self) -> Result<Duration, Error> {
        Ok(self.time("queue.poll_interval")?.unwrap_or_default())
    }

    /// `batch.poll_interval`: how often a batch is asked where it stands. Default: every 10 s at first,
    /// every 5 minutes in the end.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn batch_poll_interval(&self) -> Result<Option<Duration>, Error> {
        self.time("batch.poll_interval")
    }

    /// `batch.reconcile_wait`: how long a batch is looked for whose creation was not answered.
    /// Default: 300 s.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn batch_reconcile_wait(&self) -> Result<Duration, Error> {
        Ok(self.time("batch.reconcile_wait")?.unwrap_or_default())
    }

    /// `batch.results_wait`: how long whoever ends when all is done waits for results that a batch which
    /// has ended does not give out. Default: 600 s.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn batch_results_wait(&self) -> Result<Duration, Error> {
        Ok(self.time("batch.results_wait")?.unwrap_or_default())
    }

    /// `batch.on_unknown`: what is done about a batch that was not found by then. Default:
    /// [`OnUnknown::Resubmit`] where its input can be deleted first, else [`OnUnknown::Hold`].
    ///
    /// # Errors
    /// When the value is neither `hold` nor `resubmit`.
    pub fn batch_on_unknown(&self) -> Result<Option<OnUnknown>, Error> {
        let name = self.text("batch.on_unknown")?;
        Ok(name.as_deref().and_then(OnUnknown::parse))
    }

    /// `batch.transfer_idle_timeout`: how long an upload or download may stand still. Default: 60 s.
    ///
    /// # Errors
    /// When the value is no time above 0.
    pub fn transfer_idle_timeout(&self) -> Result<Duration, Error> {
        Ok(self
            .time("batch.transfer_idle_timeout")?
            .unwrap_or_default())
    }

    /// `exec.concurrency`: commands at once. Default: 5, or `exec.max_concurrency` if that is less.
    ///
    /// # Errors
    /// When the value is not from 1 to what `exec.max_concurrency` says.
    pub fn exec_concurrency(&self) -> Result<usize, Error> {
        let (given, most) = (self.size("exec.concurrency")?, self.exec_max_concurrency()?);
        if given <= most {
            return Ok(given);
        }
        let set = self.explain("exec.concurrency")?;
        if set.source == SettingSource::Default {
            return Ok(most);
        }
        Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{} {given}: write a whole number from 1 to {most}; more are allowed by \
                 `batchwright config set exec.max_concurrency {given}`",
                set.set_by()
            ),
        ))
    }

    /// `exec.max_concurrency`: the most commands at once that may be asked for. Default: 10.
    ///
    /// # Errors
    /// When the value is not from 1 to 10,000.
    pub fn exec_max_concurrency(&self) -> Result<usize, Error> {
        self.size("exec.max_concurrency")
    }

    /// `exec.rate`: starts of commands a second. Default: as fast as slots come free.
    ///
    /// # Errors
    /// When the value is no rate above 0.
    pub fn exec_rate(&self) -> Result<Option<f64>, Error> {
        self.number("exec.rate")
    }

    /// `exec.on_error`: what a failed command means for the others: `continue`, `stop` or `stop-critical`.
    /// Default: `continue`.
    ///
    /// # Errors
    /// When the value is none of these.
    pub fn exec_on_error(&self) -> Result<String, Error> {
        Ok(self.text("exec.on_error")?.unwrap_or_default())
    }

    /// `exec.sandbox`: how much of the sandbox of commands the kernel has to enforce: `on`, `best-effort` or `off`.
    /// Default: `on`.
    ///
    /// # Errors
    /// When the value is none of these.
    pub fn exec_sandbox(&self) -> Result<String, Error> {
        Ok(self.text("exec.sandbox")?.unwrap_or_default())
    }

    fn text(&self, key: &str) -> Result<Option<String>, Error> {
        Ok(match self.value(key)? {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        })
    }

    fn whole(&self, key: &str) -> Result<Option<u64>, Error> {
        Ok(match self.value(key)? {
            Some(Value::Whole(number)) => Some(number),
            _ => None,
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        Ok(match self.value(key)? {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        })
    }

    fn time(&self, key: &str) -> Result<Option<Duration>, Error> {
        Ok(match self.value(key)? {
            Some(Value::Time(time)) => Some(time),
            _ => None,
        })
    }

    /// Of a key whose default is a value.
    fn size(&self, key: &str) -> Result<usize, Error> {
        Ok(self.whole(key)?.map(size).unwrap_or_default())
    }

    fn small(&self, key: &str) -> Result<u8, Error> {
        Ok(u8::try_from(self.size(key)?).unwrap_or(u8::MAX))
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
