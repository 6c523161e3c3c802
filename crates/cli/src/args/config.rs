//! The arguments of `batchwright config`.

use batchwright::config::SettingKey;
use clap::{Args, Subcommand};

use super::shared::MORE;

/// Show and change stored settings: provider, model, limits and more
///
/// Stored settings apply to every run and worker of this data folder, unless the environment or a flag overrides
/// them.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = help(), arg_required_else_help = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub action: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Show every setting: its value, and where that comes from
    ///
    /// Also shows the values that it overrides.
    List,
    /// Print the value in effect
    Get {
        /// Name of the setting, for example llm.model
        key: String,
    },
    /// Store a value
    Set {
        /// Name of the setting, for example llm.model; `batchwright help config` lists all
        key: String,
        /// The value
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Delete a stored value
    Unset {
        /// Name of the setting, for example llm.model
        key: String,
    },
}

/// The long help, with the settings that there are.
fn help() -> String {
    let mut out = include_str!("../../data/help/config.txt").to_owned();
    for key in SettingKey::all() {
        let variables = key.variables().iter().map(|name| format!(" [env: {name}]"));
        out.push_str(&format!(
            "  {}{}\n",
            key.name(),
            variables.collect::<String>()
        ));
        out.push_str(&format!(
            "      {}. Takes {}. Default: {}\n",
            key.doc(),
            key.accepts(),
            key.default_text()
        ));
    }
    out.push_str("\nExit codes:\n  0 done    1 the settings cannot be read or written    2 an unknown key or a bad value\n");
    out
}
