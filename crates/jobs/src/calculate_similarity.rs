//! `calculate_similarity`: the similarity of texts, as the cosine of their embeddings.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use serde::Deserialize;
use serde_json::{Value, json};

use batchwright::queue::Children;
use batchwright::{Context, Error, ErrorKind, Handler, Job, Request, RunningJob};

use super::fields::{PayloadError, Text, check_list, read};
use super::job_type::{JobType, made};

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
        .check(|payload| read::<Payload>(payload)?.check())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    items: Vec<Item>,
    query: Option<Item>,
    top_k: Option<NonZeroUsize>,
    min_score: Option<f64>,
    model: Option<Text>,
}

/// A text, or its embedding.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: Option<Text>,
    text: Option<Text>,
    embedding: Option<Vec<f32>>,
}

impl Item {
    fn check(&self, path: &str) -> Result<(), PayloadError> {
        if self.text.is_some() == self.embedding.is_some() {
            let why = "write either text or embedding";
            return Err(PayloadError::new("text", why).within(path));
        }
        if let Some(numbers) = &self.embedding
            && !(numbers.iter().any(|x| *x != 0.0) && numbers.iter().all(|x| x.is_finite()))
        {
            let why = "write a list of numbers that are not all 0";
            return Err(PayloadError::new("embedding", why).within(path));
        }
        Ok(())
    }
}

impl Payload {
    fn check(&self) -> Result<(), PayloadError> {
        check_list("items", &self.items, MOST_ITEMS)?;
        let mut seen = HashSet::new();
        for (i, item) in self.items.iter().enumerate() {
            let path = format!("items[{i}]");
            item.check(&path)?;
            let id = self.id(i);
            if !seen.insert(id.clone()) {
                let why = format!("{id:?} occurs twice");
                return Err(PayloadError::new("id", why).within(&path));
            }
        }
        if let Some(query) = &self.query {
            query.check("query")?;
        }
        if self.query.is_none() && !(2..=MOST_PAIRED).contains(&self.items.len()) {
            let why =
                format!("without a query each is compared with each: write 2 to {MOST_PAIRED}");
            return Err(PayloadError::new("items", why));
        }
        if !(-1.0..=1.0).contains(&self.min_score.unwrap_or(-1.0)) {
            let why = "write a number from -1 to 1";
            return Err(PayloadError::new("min_score", why));
        }
        Ok(())
    }

    /// The name of an item.
    fn id(&self, i: usize) -> String {
        let id = self.items[i].id.as_ref();
        id.map_or_else(|| i.to_string(), |id| id.0.clone())
    }

    /// All sources; the query first, if there is one.
    fn sources(&self) -> impl Iterator<Item = &Item> {
        self.query.iter().chain(&self.items)
    }
}

fn calculate(job: &RunningJob, children: &Children, _: &Context) -> Result<Option<Value>, Error> {
    let payload: Payload = job.parse()?;
    payload.check()?;
    let texts = payload.sources().filter_map(|source| source.text.as_ref());
    let ask = |text: &Text| {
        let mut request = Request::embedding(&text.0);
        request.model = payload.model.as_ref().map(|model| model.0.clone());
        Job::from(request)
    };
    let asked: Vec<Job> = texts.map(ask).collect();
    let Some(calls) = children.gather("embeddings", || Ok(asked))? else {
        return Ok(None);
    };
    let mut calls = calls.iter();
    let vector = |source: &Item| match &source.embedding {
        Some(vector) => Ok(vector.clone()),
        None => {
            let line = made::<Line>(calls.next(), "the embedding of a text failed")?;
            Ok(line.embedding)
        }
    };
    let vectors = payload.sources().map(vector);
    let vectors = vectors.collect::<Result<Vec<_>, Error>>()?;
    let dimensions = vectors.first().map_or(0, Vec::len);
    if let Some(other) = vectors.iter().find(|vector| vector.len() != dimensions) {
        let why = format!(
            "vectors of {dimensions} and of {} numbers cannot be compared: they are of two models",
            other.len()
        );
        return Err(Error::new(ErrorKind::Invalid, why));
    }
    let units: Vec<Vec<f32>> = vectors.iter().map(|vector| unit(vector)).collect();
    let (all, has_query) = (units.len(), payload.query.is_some());
    // The query is compared with each item; without one, each item with each later one.
    let firsts = if has_query { 1 } else { all };
    let pairs = (0..firsts).flat_map(|a| (a + 1..all).map(move |b| (a, b)));
    let least = payload.min_score.unwrap_or(-1.0);
    let scores = pairs.map(|(a, b)| ((a, b), cosine(&units[a], &units[b])));
    let scores = scores.filter(|(_, score)| *score >= least).collect();
    let best = best(scores, payload.top_k.map_or(TOP_K, NonZeroUsize::get));
    let shown = best.into_iter().map(|((a, b), score)| {
        // Embeddings of 32-bit numbers allow no higher precision.
        let score = (score * 1e6).round() / 1e6;
        if has_query {
            json!({"id": payload.id(b - 1), "score": score})
        } else {
            json!({"a": payload.id(a), "b": payload.id(b), "score": score})
        }
    });
    let name = if has_query { "matches" } else { "pairs" };
    let shown: Vec<Value> = shown.collect();
    Ok(Some(json!({name: shown, "dimensions": dimensions})))
}

/// The required fields of an embedding's result.
#[derive(Deserialize)]
struct Line {
    embedding: Vec<f32>,
}

/// The vector of length 1 in the same direction.
fn unit(vector: &[f32]) -> Vec<f32> {
    let square: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
    // A vector of zeros stays one.
    let length = square.sqrt().max(f64::MIN_POSITIVE);
    let scaled = vector.iter().map(|x| (f64::from(*x) / length) as f32);
    scaled.collect()
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
