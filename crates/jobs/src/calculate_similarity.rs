//! `calculate_similarity`: the similarity of texts, as the cosine of their embeddings.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Value, json};

use batchwright::queue::Children;
use batchwright::{Context, Error, ErrorKind, Handler, Job, Request, RunningJob};

use super::fields::{Fields, PayloadError};
use super::job_type::JobType;

/// Lower than the priority of interactive jobs.
const PRIORITY: u8 = 3;
const TOP_K: usize = 10;
const MOST_ITEMS: usize = 10_000;
/// Limit for comparing each text with each other one.
const MOST_PAIRED: usize = 1_000;

pub(crate) fn job_type() -> JobType {
    JobType::handled("calculate_similarity", Handler::with_children(calculate))
        .about("Similarity of texts: the texts nearest to a given one, or the nearest pairs")
        .priority(PRIORITY)
        .check(|payload| Payload::read(payload).map(drop))
}

struct Payload<'v> {
    items: Vec<(String, Source<'v>)>,
    query: Option<Source<'v>>,
    top_k: usize,
    min_score: f64,
    model: Option<&'v str>,
}

/// The source of an embedding.
enum Source<'v> {
    Text(&'v str),
    Vector(Vec<f32>),
}

impl<'v> Payload<'v> {
    fn read(payload: &'v Value) -> Result<Self, PayloadError> {
        let names = ["items", "query", "top_k", "min_score", "model"];
        let fields = Fields::of(payload, &names)?;
        let members = fields.list("items", MOST_ITEMS)?;
        let members = members.ok_or_else(|| fields.missing("items"))?;
        let mut items = Vec::with_capacity(members.len());
        let mut seen = HashSet::new();
        for (i, (path, member)) in members.into_iter().enumerate() {
            let item = Fields::at(path, member, &["id", "text", "embedding"])?;
            let id = item
                .text("id")?
                .map_or_else(|| i.to_string(), str::to_owned);
            if !seen.insert(id.clone()) {
                return Err(item.bad("id", format!("{id:?} occurs twice")));
            }
            items.push((id, source(&item)?));
        }
        let query = fields.object("query", &["text", "embedding"])?;
        let query = query.map(|query| source(&query)).transpose()?;
        if query.is_none() && !(2..=MOST_PAIRED).contains(&items.len()) {
            let why =
                format!("without a query each is compared with each: write 2 to {MOST_PAIRED}");
            return Err(fields.bad("items", why));
        }
        Ok(Self {
            items,
            query,
            top_k: fields.whole("top_k", 1..=MOST_ITEMS)?.unwrap_or(TOP_K),
            min_score: fields.number("min_score", -1.0..=1.0)?.unwrap_or(-1.0),
            model: fields.text("model")?,
        })
    }

    /// All sources; the query first, if there is one.
    fn sources(&self) -> impl Iterator<Item = &Source<'v>> {
        let items = self.items.iter().map(|(_, source)| source);
        self.query.iter().chain(items)
    }

    fn embedding(&self, text: &str) -> Job {
        let request = Request::embedding(text);
        Job::from(match self.model {
            Some(model) => request.with_model(model),
            None => request,
        })
    }
}

fn source<'v>(fields: &Fields<'v>) -> Result<Source<'v>, PayloadError> {
    if fields.get("text").is_some() == fields.get("embedding").is_some() {
        return Err(fields.bad("text", "write either text or embedding"));
    }
    if let Some(text) = fields.text("text")? {
        return Ok(Source::Text(text));
    }
    let vector = fields.get("embedding").map(Vec::<f32>::deserialize);
    match vector {
        Some(Ok(vector))
            if vector.iter().any(|x| *x != 0.0) && vector.iter().all(|x| x.is_finite()) =>
        {
            Ok(Source::Vector(vector))
        }
        _ => Err(fields.bad("embedding", "write a list of numbers that are not all 0")),
    }
}

fn calculate(job: &RunningJob, children: &Children, _: &Context) -> Result<Option<Value>, Error> {
    let payload: Value = job.parse()?;
    let payload = Payload::read(&payload)?;
    let Some(vectors) = vectors(&payload, children)? else {
        return Ok(None);
    };
    let dimensions = vectors.first().map_or(0, Vec::len);
    if let Some(other) = vectors.iter().find(|vector| vector.len() != dimensions) {
        let why = format!(
            "vectors of {dimensions} and of {} numbers cannot be compared: they are of two models",
            other.len()
        );
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let units: Vec<Vec<f32>> = vectors.iter().map(|vector| unit(vector)).collect();
    let id = |i: usize| payload.items[i].0.as_str();
    let keep = |score: &f64| *score >= payload.min_score;
    Ok(Some(match (&payload.query, &units[..]) {
        (Some(_), [query, items @ ..]) => {
            let scores = items.iter().map(|item| cosine(query, item)).enumerate();
            let scores = scores.filter(|(_, score)| keep(score)).collect();
            let best = best(scores, payload.top_k).into_iter();
            let matches = best.map(|(i, score)| json!({"id": id(i), "score": rounded(score)}));
            json!({"matches": matches.collect::<Vec<_>>(), "dimensions": dimensions})
        }
        (_, items) => {
            let pairs = (0..items.len()).flat_map(|a| (a + 1..items.len()).map(move |b| (a, b)));
            let scores = pairs.map(|(a, b)| ((a, b), cosine(&items[a], &items[b])));
            let scores = scores.filter(|(_, score)| keep(score)).collect();
            let best = best(scores, payload.top_k).into_iter();
            let pairs = best
                .map(|((a, b), score)| json!({"a": id(a), "b": id(b), "score": rounded(score)}));
            json!({"pairs": pairs.collect::<Vec<_>>(), "dimensions": dimensions})
        }
    }))
}

/// The embeddings of all sources; `None` while some are not made yet.
fn vectors(payload: &Payload<'_>, children: &Children) -> Result<Option<Vec<Vec<f32>>>, Error> {
    let texts = payload.sources().filter_map(|source| match source {
        Source::Text(text) => Some(payload.embedding(text)),
        Source::Vector(_) => None,
    });
    let asked: Vec<Job> = texts.collect();
    let made = if asked.is_empty() {
        Vec::new()
    } else {
        match children.gather("embeddings", || Ok(asked))? {
            Some(made) => made,
            None => return Ok(None),
        }
    };
    let mut made = made.iter();
    let vector = |source: &Source<'_>| match source {
        Source::Vector(vector) => Ok(vector.clone()),
        Source::Text(_) => {
            let line = made.next().map(|result| result.parse::<Line>());
            let line = line.unwrap_or_else(|| Err(Error::cancelled()));
            line.map(|line| line.embedding).map_err(|e| missing(&e))
        }
    };
    let vectors: Result<_, Error> = payload.sources().map(vector).collect();
    vectors.map(Some)
}

/// The required fields of an embedding's result.
#[derive(Deserialize)]
struct Line {
    embedding: Vec<f32>,
}

fn missing(error: &Error) -> Error {
    let why = format!("the embedding of a text failed: {}", error.message());
    Error::new(ErrorKind::Invalid, why)
}

/// The vector of length 1 in the same direction.
fn unit(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    if square > 0.0 {
        vector
            .iter()
            .map(|x| (f64::from(*x) / square.sqrt()) as f32)
            .collect()
    } else {
        vector.to_vec()
    }
}

/// The cosine of the angle between two vectors of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    products.sum::<f64>().clamp(-1.0, 1.0)
}

/// The items with the highest scores; of equal scores the earlier ones come first.
fn best<T: Ord + Copy>(mut scores: Vec<(T, f64)>, most: usize) -> Vec<(T, f64)> {
    scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scores.truncate(most);
    scores
}

/// Embeddings of 32-bit numbers allow no higher precision.
fn rounded(score: f64) -> f64 {
    (score * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_best_come_first_and_ties_keep_their_order() {
        let scores = vec![(0, 0.1), (1, 0.9), (2, 0.9), (3, -1.0)];
        assert_eq!(best(scores, 3), [(1, 0.9), (2, 0.9), (0, 0.1)]);
    }

    proptest! {
        #[test]
        fn a_cosine_is_one(a in prop::collection::vec(-1e3_f32..1e3, 8), b in prop::collection::vec(-1e3_f32..1e3, 8), k in 0.01_f32..100.0) {
            prop_assume!(a.iter().any(|x| x.abs() > 1e-3) && b.iter().any(|x| x.abs() > 1e-3));
            let scaled: Vec<f32> = a.iter().map(|x| x * k).collect();
            let (a, b, scaled) = (unit(&a), unit(&b), unit(&scaled));
            let score = cosine(&a, &b);
            prop_assert!((-1.0..=1.0).contains(&score));
            prop_assert_eq!(score, cosine(&b, &a));
            prop_assert!((cosine(&a, &a) - 1.0).abs() < 1e-6);
            prop_assert!((cosine(&scaled, &b) - score).abs() < 1e-5);
            let opposite: Vec<f32> = a.iter().map(|x| -x).collect();
            prop_assert!((cosine(&opposite, &b) + score).abs() < 1e-6);
        }
    }
}
