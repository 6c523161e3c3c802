//! The arguments of `batchwright providers`.

use clap::Args;

use super::values::name;

/// Show each provider: usable or why not, model, address, calls
#[derive(Debug, Args)]
pub struct ProvidersArgs {
    /// Model to assume for prompts that name none
    ///
    /// [env: BATCHWRIGHT_MODEL] [config: llm.model]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,
}
