//! Requests of a list that share an answer: the call is made for the first of them, and its outcome is copied to the
//! others.

use std::collections::hash_map::{Entry, HashMap};

use crate::config::choices::Dedupe;
use crate::llm::hash::{digest, is_repeatable};
use crate::llm::outcome::Outcome;
use crate::llm::request::Request;
use crate::observe::tally::{Measure, Tally};

use super::lines::free;
use super::list::Item;

/// Which requests of a list are sent, and which others share their answers.
pub(super) struct SharedList<'s> {
    requests: &'s [Request],
    /// The indices of duplicates, by the index of the request that is sent for them.
    others: HashMap<usize, Vec<usize>>,
    /// True for duplicates, which are not sent. Empty if there are none.
    spared: Vec<bool>,
}

impl<'s> SharedList<'s> {
    pub(super) fn new(requests: &'s [Request], dedupe: Dedupe) -> Self {
        let mut firsts = HashMap::new();
        let mut others: HashMap<usize, Vec<usize>> = HashMap::new();
        let mut spared = Vec::new();
        let sharing = requests.iter().enumerate();
        for (at, request) in sharing.filter(|(_, r)| dedupe.shares(is_repeatable(r))) {
            match firsts.entry(digest(request)) {
                Entry::Vacant(first) => drop(first.insert(at)),
                Entry::Occupied(first) => {
                    others.entry(*first.get()).or_default().push(at);
                    spared.resize(requests.len(), false);
                    spared[at] = true;
                }
            }
        }
        Self {
            requests,
            others,
            spared,
        }
    }

    /// The requests that are sent.
    pub(super) fn asked(&self) -> Vec<Item<&'s Request>> {
        let all = self.requests.iter().enumerate();
        let asked = all.filter(|(at, _)| !self.spared.get(*at).is_some_and(|spared| *spared));
        asked
            .map(|(index, request)| Item { index, request })
            .collect()
    }

    /// The outcomes of a request's duplicates, with their indices; they are counted.
    pub(super) fn with(
        &self,
        (index, outcome): (usize, &Outcome),
        step: u8,
        tally: &mut Tally,
    ) -> Vec<(usize, Outcome)> {
        let others = self.others.get(&index).into_iter().flatten();
        let others: Vec<_> = others
            .map(|at| {
                let mut other = free(outcome).of(*at, &self.requests[*at]);
                other.id.clone_from(&self.requests[*at].id);
                (*at, other)
            })
            .collect();
        match &outcome.result {
            Ok(answer) => {
                let mut measure = Measure::default();
                others.iter().for_each(|_| measure.add_equal(answer));
                tally.answered(step, &measure);
            }
            Err(error) => tally.failed_as_equals(error, others.len() as u64),
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::base::error::{Error, ErrorKind};
    use crate::base::usd::Usd;
    use crate::bulk::run::Bulk;
    use crate::llm::client::client_fn;
    use crate::llm::response::Response;

    fn list() -> Vec<Request> {
        let ask = |i: usize| Request::new(format!("p{}", i % 3)).with_id(i.to_string());
        let list = (0..7).map(|i| ask(i).with_temperature(0.0));
        list.chain((7..11).map(ask)).collect()
    }

    #[test]
    fn equal_requests_of_a_list_are_sent_once() {
        for (dedupe, made, failed) in [
            (Dedupe::Auto, 7, 3),
            (Dedupe::Always, 6, 2),
            (Dedupe::Never, 11, 4),
        ] {
            let calls = AtomicUsize::new(0);
            let client = client_fn(|request: &Request, _: &_| {
                calls.fetch_add(1, Ordering::SeqCst);
                let text = request.messages[0].text();
                match text.as_str() {
                    "p1" => Err(Error::new(ErrorKind::Invalid, "not this one")),
                    _ => Ok(Response {
                        cost_usd: Some(Usd::from_picos(5)),
                        ..Response::new("c", text)
                    }),
                }
            });
            let outcomes = Bulk::new(client).dedupe(dedupe).collect(&list()).unwrap();
            assert_eq!(calls.load(Ordering::SeqCst), made, "{dedupe:?}");
            let mut paid = 0;
            for (i, outcome) in outcomes.iter().enumerate() {
                let first = match (dedupe, i) {
                    (Dedupe::Auto | Dedupe::Always, 3..7) => Some((i % 3).to_string()),
                    (Dedupe::Always, 10) => Some("7".to_owned()),
                    _ => None,
                };
                assert_eq!((outcome.index, &outcome.answered_by), (Some(i), &first));
                assert_eq!(outcome.id, Some(list()[i].id.clone().unwrap()));
                assert_eq!(outcome.attempts, u32::from(first.is_none()));
                match &outcome.result {
                    Ok(answer) => {
                        assert_eq!(answer.text, format!("p{}", i % 3));
                        paid += usize::from(answer.cost_usd == Some(Usd::from_picos(5)));
                    }
                    Err(error) => assert_eq!((i % 3, error.kind()), (1, ErrorKind::Invalid)),
                }
            }
            assert_eq!(paid, made - failed, "{dedupe:?}");
        }
    }

    #[test]
    fn duplicates_of_an_unsent_request_are_unsent() {
        let ctx = crate::Context::new();
        ctx.cancel();
        let client = client_fn(|_: &Request, _: &_| Ok(Response::new("c", "x")));
        let error = Bulk::new(client)
            .context(&ctx)
            .collect(&list())
            .unwrap_err();
        assert_eq!(error.outcomes.len(), 11);
        let cancelled = |outcome: &Outcome| {
            let error = outcome.result.as_ref().err();
            error.is_some_and(|error| error.kind() == ErrorKind::Cancelled)
        };
        assert!(error.outcomes.iter().all(cancelled));
    }
}
