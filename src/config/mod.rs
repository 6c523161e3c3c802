//! Settings: the list of keys, the sources of their values, and the stores.
//!
//! | to | use |
//! |---|---|
//! | read settings from flags, the environment and a store | [`Settings`](crate::Settings) |
//! | list all settings | [`SettingKey`] |
//! | see a value and where it comes from | [`Setting`], [`SettingSource`] |
//! | see where `jobs.articles` reads articles | [`ArticleSource`] |
//! | store settings | [`ConfigStore`], [`MemoryConfig`]; in a file that processes share [`FileConfig`] |
//! | follow changes of settings | [`SettingsWatch`]; [`LlmManager::follow`](crate::LlmManager::follow) applies that |
//! | see the effect of settings | the module [`plan`](crate::plan) |
//!
//! To add a setting, add a row to `table.rs`; the row also creates its getter.

pub(crate) mod choices;
#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod credential;
pub(crate) mod file;
pub(crate) mod key;
pub(crate) mod settings;
pub(crate) mod store;
mod table;
mod value;

pub use file::FileConfig;
pub use key::SettingKey;
pub use settings::{Setting, SettingSource, SettingsWatch};
pub use store::{ConfigStore, MemoryConfig};
pub use value::ArticleSource;
