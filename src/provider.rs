//! Providers: which can be used here and now, and local servers.
//!
//! [`LlmConfig`](crate::LlmConfig) names a provider and makes its [`Client`](crate::Client).
//!
//! | to | use |
//! |---|---|
//! | see which providers can be used, and why the others cannot | [`survey`], [`inspect`], [`ProviderStatus`] |
//! | see whose API keys are set | [`api_keys_set`] |
//! | find servers on this machine | [`LocalServer`], [`ServerState`], in [`ProviderStatus::servers`] |
//! | send headers of one's own | [`CallHeader`], by [`LlmConfig::header`](crate::LlmConfig::header) |
//! | see a call before it is made | [`CallPreview`], by [`Client::preview`](crate::Client::preview) |
//! | show an address without its credentials | [`redacted_url`] |
//! | know how much [`Extract`](crate::Extract) keeps of a text | [`EXTRACT_CHARS`] |

pub use crate::base::secret::redacted_url;
pub use crate::llm::providers::extract::EXTRACT_CHARS;
pub use crate::llm::providers::headers::CallHeader;
pub use crate::llm::providers::local::{LocalServer, ServerState};
pub use crate::llm::providers::remote::CallPreview;
pub use crate::llm::providers::survey::{ProviderStatus, api_keys_set, inspect, survey};
