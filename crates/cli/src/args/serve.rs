//! The arguments of `batchwright serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::shared::{MORE, ShowArgs};
use super::worker::WorkerArgs;

/// Serve the queue over HTTP, with a worker and a dashboard
///
/// Programs create jobs and fetch results at /api/v1, or at /v1 in the format of OpenAI's Batch API: an OpenAI
/// client works with this server if you change its base URL, with any provider. The dashboard is at /. The server
/// also runs a worker, as `batchwright work` does. Ctrl-C or SIGTERM stops it: running jobs may finish, the others
/// stay on the queue.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/serve.txt"))]
pub struct ServeArgs {
    /// Address; any but loopback needs a token
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = batchwright_server::Server::DEFAULT_PORT)]
    pub port: u16,

    /// File with the tokens of the clients, read at the start
    ///
    /// Its lines come from `batchwright token new`; a file with a single word is the only token and has the role
    /// operate. Clients send a token as `Authorization: Bearer TOKEN`, as OpenAI's clients do. Only the server's user
    /// may have access to the file
    /// [env: BATCHWRIGHT_TOKEN, for a single token without a file] [default: none, only on the loopback interface]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Host name under which clients reach this server
    ///
    /// Needed behind a proxy or if clients use a DNS name. The server rejects requests for other names, which
    /// prevents DNS rebinding. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,

    /// Maximum open connections; half of them may wait for answers
    #[arg(long, value_name = "N", default_value_t = batchwright_server::Server::DEFAULT_CONNECTIONS,
        hide_short_help = true)]
    pub max_connections: usize,

    /// Disk space for uploaded files and their results
    ///
    /// In bytes, with K, M, G or T for powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "10G", value_parser = super::values::bytes,
        hide_short_help = true)]
    pub max_uploads: u64,

    /// URL that gets a message at the end of each process and batch
    ///
    /// Messages are signed according to Standard Webhooks, and sent again until they are accepted, up to 6 times within
    /// a day.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub webhook: Option<String>,

    /// File with the secret that signs the messages of --webhook
    ///
    /// It has whsec_ and the base64 of 24 to 64 random bytes [env: BATCHWRIGHT_WEBHOOK_SECRET, for the secret itself]
    #[arg(
        long,
        value_name = "FILE",
        requires = "webhook",
        hide_short_help = true
    )]
    pub webhook_secret_file: Option<PathBuf>,

    #[command(flatten)]
    pub worker: WorkerArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}
