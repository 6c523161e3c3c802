//! The size of requests that are to be sent.

use std::ops::AddAssign;

/// The input of one request in tokens: estimated from its bytes, or counted if the tokenizer of the model is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InputSize {
    /// As few as any usual tokenizer, or that of the model, makes of it.
    pub least: u64,
    /// The likely number according to the bytes. Estimates compare it with the counts of earlier replies.
    pub likely: u64,
    /// As many as any usual tokenizer, or that of the model, makes of it.
    pub most: u64,
    /// Whether `least` and `most` are from the tokenizer of the model, see
    /// [`Request::input_size_for`](crate::Request::input_size_for).
    pub is_counted: bool,
}

impl InputSize {
    /// A token that is sent as its number.
    pub(crate) const TOKEN: Self = Self {
        least: 1,
        likely: 1,
        most: 1,
        is_counted: false,
    };

    /// The tokens of a text: per token 2 to 6 bytes of ASCII, likely 4; per other character a quarter of a token to 3
    /// tokens, likely three quarters.
    ///
    /// ```
    /// use batchwright::plan::InputSize;
    /// let size = InputSize::of_text("Name a prime number.....");
    /// assert_eq!((size.least, size.likely, size.most), (4, 6, 12));
    /// ```
    pub fn of_text(text: &str) -> Self {
        let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
        let others = if ascii == text.len() as u64 {
            0
        } else {
            text.chars().filter(|c| !c.is_ascii()).count() as u64
        };
        Self {
            least: ascii / 6 + others / 4,
            likely: ascii / 4 + others * 3 / 4,
            most: ascii.div_ceil(2) + others * 3,
            is_counted: false,
        }
    }
}

impl AddAssign for InputSize {
    fn add_assign(&mut self, other: Self) {
        self.least = self.least.saturating_add(other.least);
        self.likely = self.likely.saturating_add(other.likely);
        self.most = self.most.saturating_add(other.most);
        if !other.is_counted {
            self.is_counted = false;
        }
    }
}

/// Requests to one model that are to be sent: their number and their size.
///
/// ```
/// use batchwright::plan::{InputSize, Workload};
/// let mut work = Workload::default();
/// for text in ["Name a prime.", "Name a river."] {
///     work.add(InputSize::of_text(text), Some(50));
/// }
/// assert_eq!((work.requests(), work.output_limit()), (2, Some(100)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub(super) requests: u64,
    pub(super) input: InputSize,
    /// The smallest and the largest request.
    pub(super) shortest: u64,
    pub(super) longest: u64,
    output_limit: Option<u64>,
    pub(super) per_call: u64,
    /// Likely tokens of the long beginnings that several requests share.
    pub(super) shared: u64,
}

/// No requests.
impl Default for Workload {
    fn default() -> Self {
        Self {
            requests: 0,
            input: InputSize {
                is_counted: true,
                ..InputSize::default()
            },
            shortest: u64::MAX,
            longest: 0,
            output_limit: Some(0),
            per_call: 1,
            shared: 0,
        }
    }
}

impl Workload {
    /// Adds a request with the most tokens that its answer may have, if that is set.
    pub fn add(&mut self, size: InputSize, max_tokens: Option<u32>) {
        self.add_all(&Self {
            requests: 1,
            input: size,
            shortest: size.least,
            longest: size.most,
            output_limit: max_tokens.map(u64::from),
            per_call: 1,
            shared: 0,
        });
    }

    /// Adds tokens of the input that belong to a beginning which several of the requests share, and which a provider may
    /// read from its cache.
    pub(crate) fn add_shared(&mut self, tokens: u64) {
        self.shared = self.shared.saturating_add(tokens);
    }

    /// Adds other requests.
    pub fn add_all(&mut self, other: &Self) {
        self.requests += other.requests;
        self.input += other.input;
        self.shortest = self.shortest.min(other.shortest);
        self.longest = self.longest.max(other.longest);
        let limits = self.output_limit.zip(other.output_limit);
        self.output_limit = limits.map(|(one, other)| one.saturating_add(other));
        self.per_call = self.per_call.max(other.per_call);
        self.shared = self.shared.saturating_add(other.shared);
    }

    /// Sets how many requests share a call, as embeddings do. Default: 1.
    pub fn requests_per_call(mut self, requests: u64) -> Self {
        self.per_call = requests.max(1);
        self
    }

    /// Number of requests.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The most output tokens of all answers together; `None` if a request sets no limit.
    pub fn output_limit(&self) -> Option<u64> {
        self.output_limit
    }
}
