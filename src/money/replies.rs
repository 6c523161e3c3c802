//! What earlier replies of a model report: tokens, duration and cost. Texts are not kept.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::private;
use crate::base::{AtomicFile, Error, Usage, Usd};

/// Above this number of calls, earlier ones lose half of their weight, so that the statistics follow a model that
/// changes.
const MOST_CALLS: u64 = 20_000;

/// The reply to one request, in numbers.
#[derive(Debug, Clone, Copy)]
pub struct MeasuredReply {
    /// The likely input tokens of the request, see [`InputSize`](crate::plan::InputSize).
    pub likely_input: u64,
    /// The tokens that the reply reports.
    pub usage: Usage,
    /// The cost; `None` if it is unknown.
    pub cost_usd: Option<Usd>,
    /// The duration of the call; `None` for a request in a batch.
    pub took: Option<Duration>,
}

/// A sum, and the sum of the squares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Moments {
    pub sum: f64,
    pub squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.squares += value * value;
    }

    fn add_all(&mut self, other: Self) {
        self.sum += other.sum;
        self.squares += other.squares;
    }

    fn halve(&mut self) {
        self.sum /= 2.0;
        self.squares /= 2.0;
    }

    /// The standard deviation of `n` values.
    pub fn deviation(&self, n: u64) -> f64 {
        let n = n as f64;
        let variance = (self.squares - self.sum * self.sum / n) / (n - 1.0);
        // Rounding may make it negative.
        variance.max(0.0).sqrt()
    }
}

/// Statistics of the replies of one model.
///
/// ```
/// use std::time::Duration;
/// use batchwright::Usage;
/// use batchwright::plan::{MeasuredReply, ModelReplies};
/// let mut replies = ModelReplies::default();
/// for output_tokens in [10, 20, 90] {
///     replies.add(&MeasuredReply {
///         likely_input: 3,
///         usage: Usage { input_tokens: 4, output_tokens, ..Usage::default() },
///         cost_usd: None,
///         took: Some(Duration::from_secs(1)),
///     });
/// }
/// assert_eq!((replies.calls(), replies.mean_output_tokens()), (3, Some(40.0)));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelReplies {
    pub(super) calls: u64,
    /// The likely sizes of the requests.
    pub(super) size: Moments,
    /// The reported input tokens, and the sum of their products with the sizes.
    pub(super) input: Moments,
    pub(super) size_by_input: f64,
    pub(super) output: Moments,
    /// Number of answers by their length, rounded up by at most a quarter.
    output_lengths: BTreeMap<u64, u64>,
    /// The largest share of cached input tokens in a request.
    pub(super) most_cached: f64,
    pub(super) cache_write_tokens: u64,
    pub(super) cache_write_1h_tokens: u64,
    pub(super) seconds: Moments,
    /// The number of calls whose duration is known.
    pub(super) timed: u64,
    /// Dollars, and the number of calls of known cost.
    pub(super) cost: Moments,
    pub(super) priced: u64,
}

impl ModelReplies {
    /// Adds a reply.
    pub fn add(&mut self, reply: &MeasuredReply) {
        let (size, usage) = (reply.likely_input.max(1) as f64, &reply.usage);
        let input = usage.input_tokens as f64;
        self.calls += 1;
        self.size.add(size);
        self.input.add(input);
        self.size_by_input += size * input;
        self.output.add(usage.output_tokens as f64);
        let length = rounded_up(usage.output_tokens);
        *self.output_lengths.entry(length).or_default() += 1;
        let cached = usage.cached_input_tokens as f64 / input.max(1.0);
        self.most_cached = self.most_cached.max(cached.min(1.0));
        self.cache_write_tokens += usage.cache_write_tokens;
        self.cache_write_1h_tokens += usage.cache_write_1h_tokens;
        if let Some(took) = reply.took {
            self.seconds.add(took.as_secs_f64());
            self.timed += 1;
        }
        if let Some(cost) = reply.cost_usd {
            self.cost.add(cost.dollars());
            self.priced += 1;
        }
    }

    /// Adds other replies.
    pub fn add_all(&mut self, other: &Self) {
        self.calls += other.calls;
        self.size.add_all(other.size);
        self.input.add_all(other.input);
        self.size_by_input += other.size_by_input;
        self.output.add_all(other.output);
        for (length, answers) in &other.output_lengths {
            *self.output_lengths.entry(*length).or_default() += answers;
        }
        self.most_cached = self.most_cached.max(other.most_cached);
        self.cache_write_tokens += other.cache_write_tokens;
        self.cache_write_1h_tokens += other.cache_write_1h_tokens;
        self.seconds.add_all(other.seconds);
        self.timed += other.timed;
        self.cost.add_all(other.cost);
        self.priced += other.priced;
    }

    /// Number of replies.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// The mean number of output tokens; `None` without replies.
    pub fn mean_output_tokens(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.output.sum / self.calls as f64)
    }

    /// The length in output tokens that this share of the answers does not exceed, from 0 to 1, rounded up by at most a
    /// quarter; `None` without replies.
    pub fn output_quantile(&self, share: f64) -> Option<u64> {
        let all: u64 = self.output_lengths.values().sum();
        let wanted = (share * all as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let mut lengths = self.output_lengths.iter();
        lengths
            .find(|(_, answers)| {
                seen += **answers;
                seen >= wanted
            })
            .map(|(length, _)| *length)
    }

    fn halve(&mut self) {
        self.calls /= 2;
        self.timed /= 2;
        self.priced /= 2;
        let all = [
            &mut self.size,
            &mut self.input,
            &mut self.output,
            &mut self.seconds,
            &mut self.cost,
        ];
        all.into_iter().for_each(Moments::halve);
        self.size_by_input /= 2.0;
        self.cache_write_tokens /= 2;
        self.cache_write_1h_tokens /= 2;
        self.output_lengths.retain(|_, answers| {
            *answers /= 2;
            *answers > 0
        });
    }
}

/// The number with its first three binary digits, rounded up.
fn rounded_up(n: u64) -> u64 {
    let shift = (64 - n.leading_zeros()).saturating_sub(3);
    n.checked_next_multiple_of(1 << shift).unwrap_or(n)
}

/// Statistics of replies by provider and model, which a data folder keeps for later estimates. They contain numbers
/// only.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EarlierReplies {
    /// By provider, then by model.
    models: BTreeMap<String, BTreeMap<String, ModelReplies>>,
}

/// A model in the file.
#[derive(Serialize, Deserialize)]
struct StoredModel {
    provider: String,
    model: String,
    replies: ModelReplies,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    models: Vec<StoredModel>,
}

impl EarlierReplies {
    /// The file of a data folder.
    pub const FILE: &str = "estimates.json";

    /// The statistics of a data folder. A file that is missing or cannot be read has none, because they only narrow
    /// estimates.
    pub fn of_folder(folder: &Path) -> Self {
        let path = folder.join(Self::FILE);
        let read = fs::read(&path).and_then(|json| {
            serde_json::from_slice::<Stored>(&json)
                .map_err(|error| io::Error::other(error.to_string()))
        });
        match read {
            Ok(stored) => {
                let mut all = Self::default();
                for StoredModel {
                    provider,
                    model,
                    replies,
                } in stored.models
                {
                    all.of(&provider, &model).add_all(&replies);
                }
                all
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}; it is replaced", path.display());
                }
                Self::default()
            }
        }
    }

    fn of(&mut self, provider: &str, model: &str) -> &mut ModelReplies {
        // Most replies are of a known model: no name is copied for them.
        if !self.models.contains_key(provider) {
            self.models.insert(provider.to_owned(), BTreeMap::new());
        }
        let models = self.models.get_mut(provider).expect("just inserted");
        if !models.contains_key(model) {
            models.insert(model.to_owned(), ModelReplies::default());
        }
        models.get_mut(model).expect("just inserted")
    }

    /// Adds a reply of a model, under the name that was requested.
    pub fn add(&mut self, provider: &str, model: &str, reply: &MeasuredReply) {
        self.of(provider, model).add(reply);
    }

    /// The replies of a model; none if nothing is known.
    pub fn of_model(&self, provider: &str, model: &str) -> ModelReplies {
        let models = self.models.get(provider);
        let replies = models.and_then(|models| models.get(model));
        replies.cloned().unwrap_or_default()
    }

    fn models(&self) -> impl Iterator<Item = (&str, &str, &ModelReplies)> {
        self.models.iter().flat_map(|(provider, models)| {
            let models = models.iter();
            models.map(move |(model, replies)| (provider.as_str(), model.as_str(), replies))
        })
    }

    /// Whether there are no replies.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// Adds these replies to the statistics of a data folder, and replaces its file atomically. If two OS processes do
    /// this at the same moment, the replies of one of them may be lost.
    ///
    /// # Errors
    /// If the file cannot be written, or the folder does not exist.
    pub fn add_to_folder(&self, folder: &Path) -> Result<(), Error> {
        let mut all = Self::of_folder(folder);
        for (provider, model, replies) in self.models() {
            let known = all.of(provider, model);
            known.add_all(replies);
            if known.calls > MOST_CALLS {
                known.halve();
            }
        }
        let models = all.models().map(|(provider, model, replies)| StoredModel {
            provider: provider.to_owned(),
            model: model.to_owned(),
            replies: replies.clone(),
        });
        let stored = Stored {
            models: models.collect(),
        };
        let json = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        let mut options = OpenOptions::new();
        let options = private::restrict(options.write(true));
        let new = AtomicFile::create(&folder.join(Self::FILE), options)?;
        new.file().write_all(&json)?;
        new.replace()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(input_tokens: u64, output_tokens: u64) -> MeasuredReply {
        MeasuredReply {
            likely_input: 10,
            usage: Usage {
                input_tokens,
                output_tokens,
                ..Usage::default()
            },
            cost_usd: Usd::from_dollars(0.5),
            took: Some(Duration::from_secs(2)),
        }
    }

    #[test]
    fn lengths_are_rounded_up_by_at_most_a_quarter() {
        for n in (0..5_000).chain([u64::MAX - 1, u64::MAX]) {
            let up = rounded_up(n);
            assert!(up >= n && up - n <= n / 4, "{n} {up}");
        }
        let mut replies = ModelReplies::default();
        (1..=100).for_each(|length| replies.add(&reply(10, length)));
        assert_eq!(replies.output_quantile(0.5), Some(56));
        assert_eq!(replies.output_quantile(1.0), Some(112));
        assert_eq!(ModelReplies::default().output_quantile(0.5), None);
    }

    #[test]
    fn a_folder_adds_up_the_replies_of_runs_and_replaces_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = EarlierReplies::default();
        assert!(run.is_empty());
        run.add("openai", "m", &reply(12, 34));
        run.add_to_folder(folder.path()).unwrap();
        run.add_to_folder(folder.path()).unwrap();
        let stored = EarlierReplies::of_folder(folder.path());
        let mut twice = ModelReplies::default();
        (0..2).for_each(|_| twice.add(&reply(12, 34)));
        assert_eq!(stored.of_model("openai", "m"), twice);
        assert_eq!(stored.of_model("openai", "m2"), ModelReplies::default());

        let path = folder.path().join(EarlierReplies::FILE);
        fs::write(&path, "{\"models\": 1").unwrap();
        assert!(EarlierReplies::of_folder(folder.path()).is_empty());
        run.add_to_folder(folder.path()).unwrap();
        assert_eq!(EarlierReplies::of_folder(folder.path()), run);
    }

    #[test]
    fn earlier_replies_lose_weight() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = EarlierReplies::default();
        (0..=MOST_CALLS).for_each(|_| run.add("p", "m", &reply(10, 20)));
        run.add_to_folder(folder.path()).unwrap();
        let stored = EarlierReplies::of_folder(folder.path()).of_model("p", "m");
        assert_eq!(stored.calls(), MOST_CALLS / 2);
        let mean = stored.mean_output_tokens().unwrap();
        assert!((mean - 20.0).abs() < 0.1, "{mean}");
    }
}
