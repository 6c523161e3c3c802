//! The arguments of `batchwright token`.

use batchwright_server::Role;
use clap::{Args, Subcommand};

/// Make tokens for the clients of `batchwright serve`
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/token.txt"), arg_required_else_help = true)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub action: TokenAction,
}

#[derive(Debug, Subcommand)]
pub enum TokenAction {
    New(NewTokenArgs),
}

/// Make a token, and print its line for the file of `serve --token-file`
///
/// The line goes to standard output and contains only a hash of the token. The token goes to standard error, once: give
/// it to the client.
#[derive(Debug, Args)]
#[command(after_long_help = include_str!("../../data/help/token.txt"))]
pub struct NewTokenArgs {
    /// Name of the client, to find its line again
    pub name: String,

    /// Role: read or operate
    #[arg(long, value_name = "ROLE")]
    pub role: Role,
}
