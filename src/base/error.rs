//! The one error type: its kind decides retry, fallback and exit code.
//!
//! Providers classify; everything above asks [`Error::kind`] and the hints beside it, never a
//! status number.

use std::fmt;
use std::time::Duration;

use super::brief::{Bytes, FieldIf, Message, beginning};
use super::hints::RateHints;
use super::secret::Secret;
use super::usage::{Paid, Usage};

mod io;
mod json;

pub use super::error_kind::ErrorKind;

/// How far a failed request got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The last byte of the body never reached the socket: nothing can have been bought.
    No,
    /// It may have been carried out, and paid for, although no usable reply came back.
    Maybe,
    /// The provider answered with a complete error reply.
    Answered,
}

/// A failure, with all that later decisions need to know.
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    status: Option<u16>,
    retry_after: Option<Duration>,
    exact_wait: bool,
    hints: RateHints,
    sent: Sent,
    timed_out: bool,
    unreachable: bool,
    model_only: bool,
    category: Option<String>,
    refusal: Option<String>,
    request_id: Option<String>,
    not_ready: bool,
    by_proxy: bool,
    misfit: bool,
    unclassified: bool,
    unusable_reply: bool,
    claim_lost: bool,
    storage: bool,
    critical: bool,
    usage: Option<Usage>,
    cost_usd: Option<f64>,
    raw: Option<String>,
    /// The reply that could not be used, if it is not UTF-8.
    raw_bytes: Option<Vec<u8>>,
    reply_file: Option<String>,
}

/// Raw replies kept beside an error are cut to this many bytes, unless they are kept whole. A whole
/// one beyond it goes into a file of its own where results are written to one.
pub(crate) const RAW_LIMIT: usize = 16 * 1024;
/// What is kept beside the name of such a file.
const RAW_HEAD: usize = 1024;

impl Error {
    /// An error of `kind`; nothing was sent until [`with_sent`](Self::with_sent) says otherwise.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            status: None,
            retry_after: None,
            exact_wait: false,
            hints: RateHints::default(),
            sent: Sent::No,
            timed_out: false,
            unreachable: false,
            model_only: false,
            category: None,
            refusal: None,
            request_id: None,
            not_ready: false,
            by_proxy: false,
            misfit: false,
            unclassified: false,
            unusable_reply: false,
            claim_lost: false,
            storage: false,
            critical: false,
            usage: None,
            cost_usd: None,
            raw: None,
            raw_bytes: None,
            reply_file: None,
        }))
    }

    /// The error of work that was stopped before it had an outcome.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled before it had an outcome")
    }

    /// Sets the HTTP status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Sets how long the server asks to wait before the next try.
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Sets the limits that the reply named.
    pub fn with_rate_hints(mut self, hints: RateHints) -> Self {
        self.0.hints = hints;
        self
    }

    /// Sets how far the request got.
    pub fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    /// Marks the error as a time-out: after sending, it is tried again only once.
    pub fn with_timed_out(mut self) -> Self {
        self.0.timed_out = true;
        self
    }

    /// Marks the error as one of the address, not of the request: no connection comes about (then
    /// the whole quota waits), or nothing is there that takes prompts.
    pub fn with_unreachable(mut self) -> Self {
        self.0.unreachable = true;
        self
    }

    /// Marks the error as one of the model, such as its allowance for the day, so that other models
    /// of the same provider are still asked.
    pub fn with_model_only(mut self) -> Self {
        self.0.model_only = true;
        self
    }

    /// Names what a safety filter or refusal was about, in the provider's word.
    pub fn with_category(mut self, category: &str) -> Self {
        self.0.category = Some(category.to_owned());
        self
    }

    /// Keeps what the model said when it refused.
    pub fn with_refusal(mut self, text: Option<String>) -> Self {
        self.0.refusal = text;
        self
    }

    /// Keeps the provider's name for the call, which its support asks for.
    pub fn with_request_id(mut self, id: Option<&str>) -> Self {
        self.0.request_id = id.map(str::to_owned);
        self
    }

    /// Marks the error as one of a server that is up but still loads its model: the whole quota
    /// waits, up to ten minutes, and no item's attempts are used up by it. After that items fail
    /// at once, as [unreachable](Self::is_unreachable).
    pub fn with_not_ready(mut self) -> Self {
        self.0.not_ready = true;
        self
    }

    /// Marks the error as the page of a proxy that limits requests, or has no server to pass them to: while others are
    /// answered, it is the former.
    pub(crate) fn with_by_proxy(mut self) -> Self {
        self.0.by_proxy = true;
        self
    }

    /// Marks the error as one of the answer's shape alone: the same provider is asked once more.
    pub(crate) fn with_misfit(mut self) -> Self {
        self.0.misfit = true;
        self
    }

    /// Marks the error as one whose [kind](Self::kind) is the default for an error status that
    /// nothing more is known of.
    pub fn with_unclassified(mut self) -> Self {
        self.0.unclassified = true;
        self
    }

    /// Marks the error as a store's word that what was to be changed is with another worker, or with
    /// none.
    pub fn with_claim_lost(mut self) -> Self {
        self.0.claim_lost = true;
        self
    }

    /// Marks the error as one of what keeps data, such as a database that is damaged, full, locked or gone: nothing is
    /// wrong with what was asked for, whatever the error's kind.
    pub fn with_storage(mut self) -> Self {
        self.0.storage = true;
        self
    }

    /// Marks the error as one that further work of any kind would share, whatever the error's kind: a
    /// program that is not there, a full disk. Under [`ErrorPolicy::StopOnCriticalError`] it ends the
    /// run.
    ///
    /// [`ErrorPolicy::StopOnCriticalError`]: crate::ErrorPolicy::StopOnCriticalError
    pub fn with_critical(mut self) -> Self {
        self.0.critical = true;
        self
    }

    /// Sets the tokens that were used although no answer came of them.
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.0.usage = Some(usage);
        self
    }

    /// Sets what was paid although no answer came of it, in US dollars.
    pub fn with_cost(mut self, usd: f64) -> Self {
        self.0.cost_usd = Some(usd);
        self
    }

    /// Sets both as far as they are known.
    pub(crate) fn with_paid(mut self, paid: Paid) -> Self {
        self.0.usage = paid.usage;
        self.0.cost_usd = paid.cost_usd;
        self
    }

    /// Keeps the reply that could not be used, cut to 16 KiB.
    pub fn with_raw(mut self, raw: &str) -> Self {
        self.0.raw = Some(beginning(raw, RAW_LIMIT).to_owned());
        self
    }

    /// Marks the error as that of a complete success reply that was paid for and cannot be read as an
    /// answer, and keeps the reply whole and unchanged, whether it is text or not. It ends its item: asked
    /// again, here or at a fallback, it would be bought again.
    pub fn with_unusable_reply(mut self, reply: impl Into<Vec<u8>>) -> Self {
        self.0.unusable_reply = true;
        match String::from_utf8(reply.into()) {
            Ok(text) => self.0.raw = Some(text),
            Err(error) => {
                let bytes = error.into_bytes();
                let head = String::from_utf8_lossy(&bytes[..bytes.len().min(RAW_HEAD)]);
                self.0.raw = Some(head.into_owned());
                self.0.raw_bytes = Some(bytes);
            }
        }
        self
    }

    /// Says that the reply is in a file, of which the error keeps the beginning.
    pub(crate) fn with_reply_in(mut self, file: String) -> Self {
        if let Some(raw) = &mut self.0.raw {
            *raw = beginning(raw, RAW_HEAD).to_owned();
        }
        self.0.raw_bytes = None;
        self.0.reply_file = Some(file);
        self
    }

    /// Takes a credential out of all that is text.
    pub(crate) fn redacted(mut self, secret: &Secret) -> Self {
        if let Some(cleaned) = secret.redact(&self.0.message) {
            self.0.message = cleaned;
        }
        let texts = [
            &mut self.0.category,
            &mut self.0.refusal,
            &mut self.0.request_id,
        ];
        for text in texts {
            if let Some(cleaned) = text.as_deref().and_then(|text| secret.redact(text)) {
                *text = Some(cleaned);
            }
        }
        let raw = self.0.raw.as_deref();
        if let Some(cleaned) = raw.and_then(|raw| secret.redact_cut(raw)) {
            self.0.raw = Some(cleaned);
        }
        if let Some(bytes) = &mut self.0.raw_bytes {
            secret.redact_bytes(bytes);
        }
        self
    }

    /// Replaces the message, and nothing else.
    pub(crate) fn reworded(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Puts a sentence in front of the message, such as where the input came from.
    pub fn context(mut self, prefix: impl fmt::Display) -> Self {
        self.0.message = format!("{prefix}: {}", self.0.message);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The HTTP status, if a server answered.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// True when the server does not have what was asked about (404).
    pub fn is_not_found(&self) -> bool {
        self.0.status == Some(404)
    }

    /// True when the request was larger than the server takes (413).
    pub fn is_too_large(&self) -> bool {
        self.0.status == Some(413)
    }

    /// True when the server said no to this very request and will again (4xx), rather than to its pace.
    #[cfg(feature = "queue")]
    pub(crate) fn is_rejected(&self) -> bool {
        self.0
            .status
            .is_some_and(|status| status < 500 && status != 429)
    }

    /// How long the server asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The wait is the host's own wish and no provider's: it is kept exactly, whatever its length.
    #[cfg(feature = "queue")]
    pub(crate) fn with_exact_wait(mut self) -> Self {
        self.0.exact_wait = true;
        self
    }

    /// The wait that is kept exactly, if there is one.
    pub(crate) fn exact_wait(&self) -> Option<Duration> {
        self.0.retry_after.filter(|_| self.0.exact_wait)
    }

    /// The limits that the reply named.
    pub fn rate_hints(&self) -> RateHints {
        self.0.hints
    }

    /// How far the request got.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// True when the request was sent but no reply came in time.
    pub fn timed_out(&self) -> bool {
        self.0.timed_out
    }

    /// True when the address is to blame: no connection, nothing there that takes prompts, or
    /// a model that never loaded.
    pub fn is_unreachable(&self) -> bool {
        self.0.unreachable
    }

    /// True when the failure would be shared by calls to the same model alone.
    pub fn is_model_only(&self) -> bool {
        self.0.model_only || self.0.kind == ErrorKind::UnknownModel
    }

    /// True when further work would fail in the same way: by the error's kind, or as it was
    /// [marked](Self::with_critical).
    pub fn is_critical(&self) -> bool {
        self.0.critical || self.0.kind.is_critical()
    }

    /// What a safety filter or refusal was about, if the provider said so.
    pub fn category(&self) -> Option<&str> {
        self.0.category.as_deref()
    }

    /// What the model said when it refused, if it said something.
    pub fn refusal(&self) -> Option<&str> {
        self.0.refusal.as_deref()
    }

    /// The provider's name for the call, if it gave one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// True when the server is up but still loads its model.
    pub fn is_not_ready(&self) -> bool {
        self.0.not_ready
    }

    pub(crate) fn is_by_proxy(&self) -> bool {
        self.0.by_proxy
    }

    /// True when its [kind](Self::kind), [`Invalid`](ErrorKind::Invalid), is the default for an
    /// error status that nothing more is known of: it may be the fault of the one request, or of
    /// something that all requests to this provider share.
    pub fn is_unclassified(&self) -> bool {
        self.0.unclassified
    }

    /// True when a store says so itself: what was to be changed is not this worker's (any more). After
    /// any other failure of a store it still is.
    pub fn is_claim_lost(&self) -> bool {
        self.0.claim_lost
    }

    /// True when what keeps data is to blame, and not what was asked for. The message names its place on this machine.
    pub fn is_storage(&self) -> bool {
        self.0.storage
    }

    /// The coarse class: that of its kind, unless asking again would buy a reply twice.
    fn class(&self) -> &'static str {
        if self.0.unusable_reply {
            "non_retryable"
        } else {
            self.0.kind.class()
        }
    }

    pub(crate) fn is_misfit(&self) -> bool {
        self.0.misfit
    }

    /// Tokens that were used although no answer came of them, as far as the provider said so. Of an
    /// item's last error, those of all its calls.
    pub fn usage(&self) -> Option<Usage> {
        self.0.usage
    }

    /// What was paid for these tokens in US dollars, where the provider states it for all of them.
    pub fn cost_usd(&self) -> Option<f64> {
        self.0.cost_usd
    }

    pub(crate) fn paid(&self) -> Paid {
        Paid {
            usage: self.0.usage,
            cost_usd: self.0.cost_usd,
        }
    }

    /// True for a complete success reply that was paid for and cannot be read as an answer: a
    /// picture without a text, say, or a web page. [`raw`](Self::raw) or [`reply_file`](Self::reply_file) has
    /// all of it. Such an item is neither tried again nor passed on to a fallback by itself.
    pub fn is_unusable_reply(&self) -> bool {
        self.0.unusable_reply
    }

    /// Where the reply is that could not be used, if it was too large for a result line: a path
    /// relative to the folder of the results.
    pub fn reply_file(&self) -> Option<&str> {
        self.0.reply_file.as_deref()
    }

    /// The reply that could not be used: at most 16 KiB of it; all of it if it was
    /// [complete](Self::is_unusable_reply), or its beginning if [`reply_file`](Self::reply_file) or
    /// [`raw_bytes`](Self::raw_bytes) has all.
    pub fn raw(&self) -> Option<&str> {
        self.0.raw.as_deref()
    }

    /// All of a complete reply that could not be used and is not valid UTF-8, such as compressed data that is
    /// damaged. In a result line they are `raw_base64`.
    pub fn raw_bytes(&self) -> Option<&[u8]> {
        self.0.raw_bytes.as_deref()
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// Without the reply itself, and with no more than the beginning of a long message.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind)
            .field("message", &Message(&self.0.message))
            .field_if("status", self.0.status)
            .field_if("retry_after", self.0.retry_after)
            .field_if("raw", self.raw().map(|raw| Bytes(raw.len())))
            .field("sent", &self.0.sent)
            .finish()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_stays_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_long_raw_reply_is_cut_at_a_character() {
        let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw(&"ä".repeat(RAW_LIMIT));
        let raw = error.raw().unwrap();
        assert!(raw.len() <= RAW_LIMIT && raw.ends_with('ä'));
    }

    #[test]
    fn a_raw_reply_that_is_cut_within_the_key_shows_none_of_it() {
        let secret = Secret::new("key-of-nobody-0123456789");
        for kept in 4..secret.expose().len() {
            let echo = "x".repeat(RAW_LIMIT - kept) + secret.expose();
            let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw(&echo);
            let raw = error.redacted(&secret);
            assert!(raw.raw().unwrap().ends_with("x***"), "{kept}");
        }
        let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw("key-of-nobody");
        assert_eq!(error.redacted(&secret).raw(), Some("***"));
    }

    #[test]
    fn an_error_that_was_written_down_is_read_back() {
        let error = Error::new(ErrorKind::Blocked, "no")
            .with_status(400)
            .with_category("safety")
            .with_request_id(Some("r-1"))
            .with_raw("{}");
        let unusable = Error::new(ErrorKind::Malformed, "no").with_unusable_reply("{}");
        let filed = unusable.clone().with_reply_in("r.replies/1".to_owned());
        let bytes = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(*b"a\xff\x00");
        for error in [error, unusable, filed, bytes] {
            let written = serde_json::to_string(&error).unwrap();
            let read: Error = serde_json::from_str(&written).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), written);
            assert_eq!(read.is_unusable_reply(), error.is_unusable_reply());
            assert_eq!(read.raw_bytes(), error.raw_bytes());
        }
    }

    #[test]
    fn a_reply_that_is_not_text_is_kept_unchanged_and_without_the_key() {
        let reply = b"\xff{\xe4: key-of-nobody-0123456789}\xfe";
        let error = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(*reply);
        assert_eq!(error.raw_bytes(), Some(&reply[..]));
        assert!(error.raw().unwrap().starts_with('\u{fffd}'));
        let cleaned = error.redacted(&Secret::new("key-of-nobody-0123456789"));
        assert_eq!(cleaned.raw_bytes(), Some(&b"\xff{\xe4: ***}\xfe"[..]));
        assert!(!cleaned.raw().unwrap().contains("key-of"));
    }

    #[test]
    fn a_reply_that_was_paid_for_is_kept_whole_and_not_called_retryable() {
        let whole = "x".repeat(RAW_LIMIT + 1);
        let error = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(&*whole);
        assert_eq!(error.raw(), Some(&*whole));
        let line = serde_json::to_value(&error).unwrap();
        assert_eq!(line["class"], "non_retryable");
        assert_eq!(line["unusable_reply"], true);
    }

    #[test]
    fn every_kind_has_a_class_and_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            ErrorKind::ALL.iter().map(|k| k.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        assert_eq!(ErrorKind::RateLimited.class(), "rate_limit");
        assert_eq!(ErrorKind::Malformed.class(), "retryable");
        assert_eq!(ErrorKind::Auth.class(), "non_retryable");
    }
}
