//! The error type: its kind determines retry, fallback and exit code.
//!
//! Clients of providers classify errors. All other code uses [`Error::kind`] and the hints next to it, never a
//! status.

mod io;
mod json;

use std::fmt;
use std::time::Duration;

use super::brief::{Bytes, FieldIf, Message, beginning};
use super::optional::Optional;
use super::secret::Secret;
use super::usage::{Charge, Paid, RateHints, Usage, Usd};
use super::verdict::{Again, Bill, Form, Likeness, Verdict, Whom};

pub use super::error_kind::ErrorKind;
pub use super::verdict::Sent;

/// A failure, with everything that later decisions need.
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    status: Option<u16>,
    retry_after: Option<Duration>,
    hints: RateHints,
    sent: Sent,
    /// What the code that saw the failure knows, where kind and status are not enough.
    whom: Option<Whom>,
    again: Option<Again>,
    is_paid: bool,
    form: Form,
    /// One bit per [`Mark`].
    marks: u8,
    category: Option<String>,
    refusal: Option<String>,
    request_id: Option<String>,
    paid: Paid,
    /// The model of the reply, if the reply names it.
    answered_model: Option<String>,
    /// What the last call was billed, until the end of its job is recorded.
    charge: Option<Box<Charge>>,
    /// The end of an earlier call, if it is not that of the last one.
    cause: Option<Error>,
    raw: Option<String>,
    /// The unusable reply, if it is not UTF-8.
    raw_bytes: Option<Vec<u8>>,
    reply_file: Option<String>,
}

/// A fact about an error that no verdict on a call contains. Those without a description have methods of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    /// The wait is the host's own: it is kept exactly, whatever its length.
    ExactWait,
    TimedOut,
    Unclassified,
    /// A store reports that another worker, or no worker, owns the record that was to be changed. After any other failure of a
    /// store, the worker still owns it.
    ClaimLost,
    Storage,
    /// The budget of the call's process did not allow it: the process is paused, and the job returns to the queue.
    ProcessPaused,
}

/// Raw replies in an error are cut to this many bytes, unless they are kept complete. A larger complete reply is
/// written to a separate file next to the results.
pub(crate) const RAW_LIMIT: usize = 16 * 1024;
/// Bytes of a message that are kept with an item that waits.
const BRIEF: usize = 300;
/// Bytes of such a reply that the error keeps in addition to the name of the file.
const RAW_HEAD: usize = 1024;

impl Error {
    /// An error of `kind`; by default nothing was [sent](Self::with_sent).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            status: None,
            retry_after: None,
            hints: RateHints::default(),
            sent: Sent::No,
            whom: None,
            again: None,
            is_paid: false,
            form: Form::None,
            marks: 0,
            category: None,
            refusal: None,
            request_id: None,
            paid: Paid::default(),
            answered_model: None,
            charge: None,
            cause: None,
            raw: None,
            raw_bytes: None,
            reply_file: None,
        }))
    }

    /// The error of work that was stopped before it had an outcome.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled before it had an outcome")
    }

    /// The same with a mark.
    pub(crate) fn marked(mut self, mark: Mark) -> Self {
        self.0.marks |= 1 << mark as u8;
        self
    }

    /// Whether it has this mark.
    pub(crate) fn is_marked(&self, mark: Mark) -> bool {
        self.0.marks & (1 << mark as u8) != 0
    }

    /// Sets whom the failure concerns, if its kind and status do not say it.
    pub(crate) fn concerning(mut self, whom: Whom) -> Self {
        self.0.whom = Some(whom);
        self
    }

    /// Sets whether to try again, if its kind does not say it.
    pub(crate) fn trying(mut self, again: Again) -> Self {
        self.0.again = Some(again);
        self
    }

    /// Marks the error as one of the format of the answer alone: the same provider is called once more.
    pub(crate) fn misshapen(self) -> Self {
        self.trying(Again::Later).paid_for()
    }

    /// Marks the error as the page of a proxy, which limits requests or has no server to forward them to. While other
    /// calls are answered, it counts as a rate limit.
    pub(crate) fn by_proxy(self) -> Self {
        self.concerning(Whom::Account).trying(Again::Room)
    }

    /// Whether it is such a page.
    pub(crate) fn is_by_proxy(&self) -> bool {
        let Verdict { whom, again, .. } = self.verdict();
        self.0.kind == ErrorKind::Transient && again == Again::Room && whom == Whom::Account
    }

    /// Marks the error as that of a complete, billed reply.
    pub(crate) fn paid_for(mut self) -> Self {
        self.0.is_paid = true;
        self
    }

    /// Sets the form of the reply.
    pub(crate) fn in_form(mut self, form: Form) -> Self {
        self.0.form = form;
        self
    }

    /// Sets the HTTP status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.0.status = Some(status);
        self
    }

    /// Sets the wait that the server requests before a retry.
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Sets the limits that the reply reports.
    pub fn with_rate_hints(mut self, hints: RateHints) -> Self {
        self.0.hints = hints;
        self
    }

    /// Sets how much of the request was sent.
    pub fn with_sent(mut self, sent: Sent) -> Self {
        self.0.sent = sent;
        self
    }

    /// Marks the error as a time-out: after sending, it is retried only once.
    pub fn with_timed_out(self) -> Self {
        self.marked(Mark::TimedOut)
    }

    /// Marks the error as one of the address instead of the request: no connection (then the whole quota waits), or a
    /// server that accepts no prompts.
    pub fn with_unreachable(self) -> Self {
        self.concerning(Whom::Way)
    }

    /// Marks the error as one of the model, for example its daily allowance, so that other models of the provider are
    /// still called.
    pub fn with_model_only(self) -> Self {
        self.concerning(Whom::Model)
    }

    /// Sets the reason of a safety filter or refusal, as the provider names it.
    pub fn with_category(mut self, category: &str) -> Self {
        self.0.category = Some(category.to_owned());
        self
    }

    /// Sets the model's text of a refusal.
    pub fn with_refusal(mut self, text: Option<String>) -> Self {
        self.0.refusal = text;
        self
    }

    /// Sets the provider's id of the call, which its support asks for.
    pub fn with_request_id(mut self, id: Option<&str>) -> Self {
        self.0.request_id = id.map(str::to_owned);
        self
    }

    /// Marks the error as one of a server that is up but still loads its model. The whole quota waits up to ten
    /// minutes, without using attempts. After that, items fail at once, as [unreachable](Self::is_unreachable).
    pub fn with_not_ready(self) -> Self {
        self.concerning(Whom::Model).trying(Again::Room)
    }

    /// Marks the error as one whose [kind](Self::kind) is only the default for an error status without a known
    /// meaning.
    pub fn with_unclassified(self) -> Self {
        self.marked(Mark::Unclassified)
    }

    /// Marks the error as one of a data store, such as a damaged, full, locked or missing database: the request is
    /// not the cause, whatever the error's kind.
    pub fn with_storage(self) -> Self {
        self.marked(Mark::Storage)
    }

    /// Marks the error as one that all further work would share, whatever its kind: a missing program, a full disk.
    /// Under [`ErrorPolicy::StopOnCriticalError`] it ends the run.
    ///
    /// [`ErrorPolicy::StopOnCriticalError`]: crate::ErrorPolicy::StopOnCriticalError
    pub fn with_critical(self) -> Self {
        let known = self.0.whom.filter(|whom| *whom == Whom::Way);
        self.concerning(known.unwrap_or(Whom::Account))
            .trying(Again::Never)
    }

    /// Sets the tokens that were used without an answer.
    pub fn with_usage(mut self, usage: Usage) -> Self {
        self.0.paid.usage = Some(usage);
        self
    }

    /// Sets what was billed without an answer.
    pub fn with_cost(mut self, usd: Usd) -> Self {
        self.0.paid.cost_usd = Some(usd);
        self
    }

    /// Sets the model that the reply names, which may be another one than the request does.
    pub(crate) fn with_answered_model(mut self, model: Option<String>) -> Self {
        self.0.answered_model = model;
        self
    }

    /// The model of a reply without an answer, if the reply was billed and names it.
    pub(crate) fn answered_model(&self) -> Option<&str> {
        self.0.answered_model.as_deref()
    }

    /// Sets usage and cost if they are known.
    pub(crate) fn with_paid(mut self, paid: Paid) -> Self {
        self.0.paid = paid;
        self
    }

    /// Sets what the only call so far was billed.
    pub(crate) fn set_charge(&mut self, paid: Paid, charge: Option<Box<Charge>>) {
        self.0.paid = paid;
        self.0.charge = charge;
    }

    /// Sets what the last call was billed.
    pub(crate) fn with_charge(mut self, charge: Option<Box<Charge>>) -> Self {
        self.0.charge = charge;
        self
    }

    /// What the last call was billed.
    pub(crate) fn charge(&self) -> Option<&Charge> {
        self.0.charge.as_deref()
    }

    /// Sets the unusable reply, cut to 16 KiB.
    pub fn with_raw(mut self, raw: &str) -> Self {
        self.0.raw = Some(beginning(raw, RAW_LIMIT).to_owned());
        self
    }

    /// Marks the error as that of a complete, billed success reply that is not usable as an answer, and keeps the
    /// whole reply unchanged, also if it is not text. Its item fails: a retry or a fallback would be billed again.
    pub fn with_unusable_reply(mut self, reply: impl Into<Vec<u8>>) -> Self {
        self = self.trying(Again::Never).paid_for();
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

    /// Sets the file of the whole reply; the error keeps its beginning.
    pub(crate) fn with_reply_in(mut self, file: String) -> Self {
        if let Some(raw) = &mut self.0.raw {
            *raw = beginning(raw, RAW_HEAD).to_owned();
        }
        self.0.raw_bytes = None;
        self.0.reply_file = Some(file);
        self
    }

    /// Masks a credential in all texts.
    pub(crate) fn redacted(mut self, secret: &Secret) -> Self {
        if let Some(cleaned) = secret.redact(&self.0.message) {
            self.0.message = cleaned;
        }
        let texts = [
            &mut self.0.category,
            &mut self.0.refusal,
            &mut self.0.request_id,
            &mut self.0.answered_model,
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

    /// Keeps the end of an earlier call, which this one replaces: that call may have been billed.
    pub(crate) fn after(mut self, earlier: Error) -> Self {
        if self.0.sent != Sent::Maybe && earlier.sent() != Sent::No {
            self.0.sent = earlier.sent();
        }
        self.0.cause = Some(earlier);
        self
    }

    /// What is kept of it with an item that waits.
    pub(crate) fn briefly(&self) -> Self {
        Self::new(self.kind(), beginning(self.message(), BRIEF))
            .with_sent(self.sent())
            .set(self.status(), Self::with_status)
    }

    /// Replaces only the message.
    pub(crate) fn reworded(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// Puts a prefix before the message, for example the source of the input.
    pub fn context(mut self, prefix: impl fmt::Display) -> Self {
        self.0.message = format!("{prefix}: {}", self.0.message);
        self
    }

    /// The verdict: whom it concerns, whether to try again, and what was paid.
    pub(crate) fn verdict(&self) -> Verdict {
        let Inner {
            kind, status, sent, ..
        } = *self.0;
        let by_kind = Verdict::of(kind, status, sent);
        Verdict {
            whom: self.0.whom.unwrap_or(by_kind.whom),
            again: self.0.again.unwrap_or(by_kind.again),
            paid: if self.0.is_paid {
                Bill::Yes
            } else {
                by_kind.paid
            },
        }
    }

    /// What replies have in common that end alike: their status and their form.
    pub(crate) fn likeness(&self) -> Likeness {
        (self.0.status, self.0.form)
    }

    /// The kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The HTTP status, if a server answered.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// Whether the server does not have the requested object (404).
    pub fn is_not_found(&self) -> bool {
        self.0.status == Some(404)
    }

    /// The wait that the server requests.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The wait that is kept exactly, if there is one.
    pub(crate) fn exact_wait(&self) -> Option<Duration> {
        self.0
            .retry_after
            .filter(|_| self.is_marked(Mark::ExactWait))
    }

    /// The limits that the reply reports.
    pub fn rate_hints(&self) -> RateHints {
        self.0.hints
    }

    /// How much of the request was sent.
    pub fn sent(&self) -> Sent {
        self.0.sent
    }

    /// Whether the request was sent but no reply arrived in time.
    pub fn timed_out(&self) -> bool {
        self.is_marked(Mark::TimedOut)
    }

    /// Whether the address is the cause: no connection, a server that accepts no prompts, or a model that never
    /// loaded.
    pub fn is_unreachable(&self) -> bool {
        self.0.whom == Some(Whom::Way)
    }

    /// Whether only calls to the same model would fail in the same way.
    pub fn is_model_only(&self) -> bool {
        self.verdict().whom == Whom::Model && !self.is_not_ready()
    }

    /// Whether further work would fail in the same way: by the error's kind, or because it was
    /// [marked](Self::with_critical).
    pub fn is_critical(&self) -> bool {
        let Verdict { whom, again, .. } = self.verdict();
        again == Again::Never && matches!(whom, Whom::Account | Whom::Model)
            || self.0.again == Some(Again::Never) && whom == Whom::Way
            || self.0.kind.is_critical()
    }

    /// The reason of a safety filter or refusal, if the provider reports one.
    pub fn category(&self) -> Option<&str> {
        self.0.category.as_deref()
    }

    /// The model's text of a refusal, if there is one.
    pub fn refusal(&self) -> Option<&str> {
        self.0.refusal.as_deref()
    }

    /// The provider's id of the call, if there is one.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Whether the server is up but still loads its model.
    pub fn is_not_ready(&self) -> bool {
        // A server that limits calls has the account wait.
        let Verdict { whom, again, .. } = self.verdict();
        self.0.kind == ErrorKind::Transient && again == Again::Room && whom != Whom::Account
    }

    /// Whether its [kind](Self::kind), [`Invalid`](ErrorKind::Invalid), is only the default for an error status
    /// without a known meaning: the cause may be this request, or something that all requests to this provider share.
    pub fn is_unclassified(&self) -> bool {
        self.is_marked(Mark::Unclassified)
    }

    /// Whether a data store is the cause, and not the request. The message names its place on this machine.
    pub fn is_storage(&self) -> bool {
        self.is_marked(Mark::Storage)
    }

    /// The class of its kind. An error that would be billed again on a retry is not retryable.
    fn class(&self) -> &'static str {
        if self.is_unusable_reply() {
            "non_retryable"
        } else {
            self.0.kind.class()
        }
    }

    /// Only the format of the answer is wrong: the same provider is called once more.
    pub(crate) fn is_schema_mismatch(&self) -> bool {
        self.0.is_paid && self.0.again == Some(Again::Later)
    }

    /// Whether it is a complete reply, which is billed even if it reports no tokens.
    pub(crate) fn is_billed_reply(&self) -> bool {
        self.0.is_paid
    }

    /// Tokens that were used without an answer, if the provider reports them. In an item's last error: those of all
    /// its calls.
    pub fn usage(&self) -> Option<Usage> {
        self.0.paid.usage
    }

    /// What was billed for these tokens, if that is known for all of them.
    pub fn cost_usd(&self) -> Option<Usd> {
        self.0.paid.cost_usd
    }

    pub(crate) fn paid(&self) -> Paid {
        self.0.paid
    }

    /// Whether it is a complete, billed success reply that is not usable as an answer, for example an image without
    /// text, or an HTML page. [`raw`](Self::raw) or [`reply_file`](Self::reply_file) has all of it. Such an item is
    /// neither retried nor passed to a fallback automatically.
    pub fn is_unusable_reply(&self) -> bool {
        self.0.is_paid && self.0.again == Some(Again::Never)
    }

    /// The file of the unusable reply, if it was too large for a result line: a path relative to the folder of the
    /// results.
    pub fn reply_file(&self) -> Option<&str> {
        self.0.reply_file.as_deref()
    }

    /// The unusable reply, at most 16 KiB. It is all of a [complete](Self::is_unusable_reply) reply, or its beginning
    /// if [`reply_file`](Self::reply_file) or [`raw_bytes`](Self::raw_bytes) contains the complete one.
    pub fn raw(&self) -> Option<&str> {
        self.0.raw.as_deref()
    }

    /// All of a complete unusable reply that is not valid UTF-8, for example damaged compressed data. A result line
    /// has it as `raw_base64`.
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

/// Shows only the beginning of a long message, and no reply.
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

/// Its source is the end of an earlier call, if this one only says why there is no other.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.0.cause.as_ref();
        cause.map(|cause| cause as &dyn std::error::Error)
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
