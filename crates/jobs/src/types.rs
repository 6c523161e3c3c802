//! The types by name, and the worker that runs them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use batchwright::config::ArticleSource;
use batchwright::queue::JobKinds;
use batchwright::{Context, Error, Job};

use super::articles::finder;
use super::audio::AudioFolder;
use super::fields::PayloadError;
use super::job_type::{Host, JobType};
use super::{
    batch_process, calculate_similarity, extract_content, generate_podcast, prompts, summarize,
    validate_summary,
};

/// All types: the built-in ones and those of the host.
#[derive(Clone, Default, derive_more::Debug)]
#[debug("{:?}", self.all())]
pub struct JobTypes {
    host: Host,
    own: Vec<JobType>,
}

impl JobTypes {
    /// The built-in types.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a function that finds the text of an article by its `article_id`, for `summarize` jobs without a text. It
    /// is called on the thread that makes the model call. Its errors are retried or not, like those of a call. Default:
    /// such jobs are rejected.
    pub fn articles(
        mut self,
        resolve: impl Fn(&str, &Context) -> Result<String, Error> + Send + Sync + 'static,
    ) -> Self {
        self.host.articles = Some(Arc::new(resolve));
        self
    }

    /// Finds the text of an article by its `article_id` at this source, as the setting `jobs.articles` names it; `private`
    /// allows private addresses and `http://`. It replaces [`articles`](Self::articles).
    pub fn article_source(self, source: ArticleSource, private: bool) -> Self {
        self.articles(finder(source, private))
    }

    /// Whether payloads may name files of this machine, by `path`. The files are read when the job is created. Enable
    /// this only if the authors of payloads may read everything that this program may read. Default: no.
    pub fn local_files(mut self, yes: bool) -> Self {
        self.host.local_files = yes;
        self
    }

    /// The folder for audio, created if it does not exist. A podcast is a file in it; until it is finished, its parts
    /// are in a separate hidden folder next to it. All workers of a queue must use the same folder. Default: none; then
    /// `generate_podcast` jobs are left to workers that have a folder.
    pub fn audio_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.host.audio_folder = Some(AudioFolder::new(folder.into()));
        self
    }

    /// Adds a type, or replaces the one with the same name.
    pub fn with(mut self, own: JobType) -> Self {
        self.own.push(own);
        self
    }

    /// All types, by name.
    pub fn all(&self) -> Vec<JobType> {
        let mut all = self.others();
        let others = all.values().cloned().collect();
        // Files are read when the job is created, and not by a worker.
        let running = self.clone().local_files(false).others();
        let batch = batch_process::job_type(others, running.into_values().collect());
        all.entry(batch.name.clone()).or_insert(batch);
        all.into_values().collect()
    }

    /// The types that the jobs of a `batch_process` may have, by name.
    fn others(&self) -> BTreeMap<String, JobType> {
        let built_in = [
            calculate_similarity::job_type(),
            prompts::completion(),
            prompts::embedding(),
            extract_content::job_type(&self.host),
            generate_podcast::job_type(&self.host),
            summarize::job_type(&self.host),
            validate_summary::job_type(),
        ];
        let all = built_in.into_iter().chain(self.own.iter().cloned());
        all.map(|one| (one.name.clone(), one)).collect()
    }

    /// The type with this name.
    ///
    /// # Errors
    /// If it does not exist; the message lists the existing ones.
    pub fn get(&self, name: &str) -> Result<JobType, PayloadError> {
        JobType::find(&self.all(), name).cloned()
    }

    /// A job of the type with this name, see [`JobType::job`].
    ///
    /// # Errors
    /// If the type does not exist, or the payload is invalid for it.
    pub fn job(&self, name: &str, payload: Value) -> Result<Job, PayloadError> {
        self.get(name)?.job(payload)
    }
}

/// All types for a worker, each with the code that runs it.
impl From<&JobTypes> for JobKinds {
    fn from(types: &JobTypes) -> Self {
        let all = types.all().into_iter();
        all.fold(Self::new(), |kinds, one| kinds.and(one.kinds))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use batchwright::Handler;

    #[test]
    fn a_type_of_the_host_replaces_a_built_in_one() {
        let shout = Handler::new(|job, _: &Context| Ok(job.parse::<String>()?.to_uppercase()));
        for (given, priority) in [(0, 1), (3, 3), (u8::MAX, 10)] {
            let own = JobType::handled("summarize", shout.clone()).priority(given);
            let types = JobTypes::new().with(own);
            assert_eq!(types.all().len(), JobTypes::new().all().len());
            let job = types.job("summarize", json!("abc")).unwrap();
            assert_eq!(job.priority, priority);
        }
    }

    #[test]
    fn an_article_names_the_jobs_of_built_in_types_alone() {
        let handler = Handler::new(|job, _: &Context| job.parse::<Value>());
        let types = JobTypes::new().with(JobType::handled("translate", handler));
        let id = |name: &str, payload: Value| types.job(name, payload).unwrap().item_id;
        let content = json!({"article_id": "a", "content": "It rained."});
        for name in ["summarize", "generate_podcast"] {
            assert_eq!(id(name, content.clone()).as_deref(), Some("a"));
        }
        let translated = |lang: &str| id("translate", json!({"article_id": "a", "lang": lang}));
        assert_ne!(translated("de"), translated("fr"));
    }

    #[test]
    fn every_type_has_a_description_and_the_error_of_an_unknown_one_lists_them() {
        let error = JobTypes::new().job("sumarize", json!({})).unwrap_err();
        assert_eq!(error.field, "type");
        for one in JobTypes::new().all() {
            assert!(!one.description().is_empty(), "{}", one.name());
            assert!(error.message.contains(one.name()), "{error}");
        }
    }
}
