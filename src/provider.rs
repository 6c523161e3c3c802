//! Providers: which can be used here and now.
//!
//! [`LlmConfig`](crate::LlmConfig) names a provider and makes its [`Client`](crate::Client).
//!
//! | to | use |
//! |---|---|
//! | see which providers are usable, and what the others lack | [`survey`], [`inspect`], [`ProviderStatus`] |
//! | see which API keys are set | [`api_keys_set`] |
//! | send your own headers | [`CallHeader`], by [`LlmConfig::header`](crate::LlmConfig::header) |
//! | show an address without its credentials | [`redacted_url`] |
//! | see what a model costs at a tier on a day, from which source | [`ModelPrices`], [`PriceEntry`], [`Price`], [`Day`], by [`Prices`](crate::Prices) |
//! | see how many characters [`Extract`](crate::Extract) returns | [`EXTRACT_CHARS`] |

pub use crate::base::Day;
pub use crate::base::secret::redacted_url;
pub use crate::llm::price_table::{Price, PriceEntry};
pub use crate::llm::prices::ModelPrices;
pub use crate::llm::providers::extract::EXTRACT_CHARS;
pub use crate::llm::providers::headers::CallHeader;
pub use crate::llm::providers::survey::{ProviderStatus, api_keys_set, inspect, survey};
