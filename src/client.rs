//! Clients of your own, and the finer parts of requests, answers and errors.
//!
//! [`LlmClient`](crate::LlmClient) is one method; [`client_fn`](crate::client_fn) makes one of a closure. What
//! its other methods and its answers speak of is here.
//!
//! | to | use |
//! |---|---|
//! | say which calls share a limit at the provider | [`QuotaKey`] |
//! | say how many texts one call embeds | [`PackLimits`] |
//! | pass on the limits that a reply named | [`RateHints`], [`RateWindow`] |
//! | say how far a failed call got, hence whether it may have been paid for | [`Sent`] |
//! | see whether a request asks for text or for a vector | [`RequestTask`] |
//! | put local files into a prompt | [`Part`] |
//! | ask in the words of one provider's own API | [`NativeFormat`], [`Native`] |
//! | recognise requests that ask the same | [`request_hash`] |
//! | have a value of your own travel with a request to its outcome | [`UserData`] |
//! | see what a reply held beside its text | [`ReplyDetails`], [`ToolCall`], [`Reasoning`], [`RawJson`] |
//! | see which providers an item left behind | [`EarlierProvider`] |
//! | be called when a [`Context`](crate::Context) is cancelled | [`CancelHook`] |

pub use crate::base::cancel::CancelHook;
pub use crate::base::error::Sent;
pub use crate::base::hints::{RateHints, RateWindow};
pub use crate::engine::limiter::QuotaKey;
pub use crate::engine::pack::PackLimits;
pub use crate::llm::attachment::Part;
pub use crate::llm::hash::request_hash;
pub use crate::llm::native::{Native, NativeFormat};
pub use crate::llm::outcome::EarlierProvider;
pub use crate::llm::params::RequestTask;
pub use crate::llm::reply_details::{RawJson, Reasoning, ReplyDetails, ToolCall};
pub use crate::llm::user_data::UserData;
