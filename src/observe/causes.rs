//! Why items of a run failed, each cause with its number of items.

use serde::Serialize;

use crate::base::Error;
use crate::base::brief::family;

/// Number of causes that are listed separately; further ones are combined by kind.
const MOST: usize = 100;

/// A cause of failures, see [`Summary::causes`](crate::Summary::causes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailureCause {
    /// The name of its [`ErrorKind`](crate::ErrorKind).
    pub kind: &'static str,
    /// HTTP status of the reply; `None` if there was no reply.
    pub status: Option<u16>,
    /// The message of the first item that failed for this cause.
    pub message: String,
    /// Items that failed for this cause.
    pub items: u64,
}

/// The causes of a run, in the order in which they first occurred.
#[derive(Debug, Default)]
pub(crate) struct Causes(Vec<(Option<String>, FailureCause)>);

impl Causes {
    pub(crate) fn add(&mut self, error: &Error, items: u64) {
        let (kind, status) = (error.kind().as_str(), error.status());
        let family = family(error.message());
        let same = |(known, cause): &&mut (Option<String>, FailureCause)| match known {
            Some(known) => cause.kind == kind && cause.status == status && *known == family,
            None => cause.kind == kind,
        };
        if let Some((_, cause)) = self.0.iter_mut().find(same) {
            cause.items += items;
            return;
        }
        let cause = FailureCause {
            kind,
            status,
            message: error.message().to_owned(),
            items,
        };
        let family = (self.0.len() < MOST).then_some(family);
        self.0.push((family, cause));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &FailureCause> {
        self.0.iter().map(|(_, cause)| cause)
    }

    /// The most frequent first.
    pub(crate) fn sorted(&self) -> Vec<FailureCause> {
        let mut causes: Vec<FailureCause> = self.iter().cloned().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.items));
        causes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::ErrorKind;

    #[test]
    fn messages_that_differ_in_numbers_and_quoted_text_are_one_cause() {
        let mut causes = Causes::default();
        let mut add = |kind, status, message: &str| {
            let error = Error::new(kind, message).with_status(status);
            causes.add(&error, 1);
        };
        let (short, long) = (
            "the prompt \"a b\" has 7 tokens",
            "the prompt \"c\" has 12,000 tokens",
        );
        add(ErrorKind::Invalid, 400, short);
        add(ErrorKind::Transient, 500, "the server failed");
        add(ErrorKind::Invalid, 400, long);
        add(ErrorKind::Invalid, 422, long);
        add(ErrorKind::Transient, 503, "the server failed");
        let sorted = causes.sorted();
        let counts = sorted.iter().map(|cause| (cause.status, cause.items));
        let expected = [(400, 2), (500, 1), (422, 1), (503, 1)];
        assert!(counts.eq(expected.map(|(status, items)| (Some(status), items))));
        assert_eq!((sorted[0].kind, &*sorted[0].message), ("invalid", short));
    }

    #[test]
    fn their_number_is_bounded_and_every_item_is_counted() {
        let mut causes = Causes::default();
        for n in 0..10_000 {
            let kind = [ErrorKind::Invalid, ErrorKind::Blocked][n % 2];
            let word = "x".repeat(n % 150);
            causes.add(&Error::new(kind, format!("because of {word}")), 1);
        }
        assert_eq!(causes.iter().count(), MOST + 2);
        assert_eq!(causes.iter().map(|cause| cause.items).sum::<u64>(), 10_000);
    }
}
