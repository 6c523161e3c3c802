//! Clients of your own, and the finer parts of requests, answers and errors.
//!
//! [`LlmClient`](crate::LlmClient) is one method; [`client_fn`](crate::client_fn) makes one of a closure. What
//! its other methods and its answers speak of is here.
//!
//! | to | use |
//! |---|---|
//! | set which calls share a limit at the provider | [`QuotaKey`] |
//! | limit how many texts one call embeds | [`PackLimits`] |
//! | report the limits that a reply contained | [`RateHints`], [`RateWindow`] |
//! | report how far a failed call got, and so whether it may have been billed | [`Sent`] |
//! | see whether a request is for text, an embedding or speech | [`RequestTask`] |
//! | mark the beginning of a request for the provider's prompt cache, and for how long | [`CacheLifetime`] |
//! | put local files into a prompt | [`Part`] |
//! | send a request in the format of one provider's API | [`NativeFormat`], [`Native`] |
//! | recognise identical requests | [`request_hash`] |
//! | read more than the text of a reply | [`ReplyDetails`], [`ToolCall`], [`Reasoning`], [`RawJson`] |
//! | see which providers failed an item before | [`EarlierProvider`] |
//! | be called when a [`Context`](crate::Context) is cancelled | [`CancelHook`] |

pub use crate::base::cancel::CancelHook;
pub use crate::base::error::Sent;
pub use crate::base::usage::{RateHints, RateWindow};
pub use crate::engine::limiter::QuotaKey;
pub use crate::llm::attachment::Part;
pub use crate::llm::hash::request_hash;
pub use crate::llm::native::{Native, NativeFormat};
pub use crate::llm::outcome::EarlierProvider;
pub use crate::llm::pack::PackLimits;
pub use crate::llm::params::{CacheLifetime, RequestTask};
pub use crate::llm::reply_details::{RawJson, Reasoning, ReplyDetails, ToolCall};
