//! The arguments of `batchwright serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::shared::{MORE, ShowArgs};
use super::worker::WorkerArgs;

/// Serve the queue over HTTP, with its worker and a dashboard
///
/// Programs create jobs and fetch results at /api/v1, or at /v1 in the shapes of OpenAI's Batch API: an
/// OpenAI client whose base URL is changed to this server works, whatever the provider behind it. The
/// dashboard is at /. A worker runs beside it, as with `batchwright work`. Ctrl-C or SIGTERM stops it:
/// jobs under way may end, the others stay on the queue.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = HELP)]
pub struct ServeArgs {
    /// Address to listen on; any but loopback needs a token
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = batchwright_server::Server::DEFAULT_PORT)]
    pub port: u16,

    /// File with the token that every client has to send
    ///
    /// As `Authorization: Bearer TOKEN`; OpenAI's clients send their API key so [env: BATCHWRIGHT_TOKEN]
    /// [default: none, on the loopback interface only]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// A name of this server, as in the URLs of its clients
    ///
    /// Behind a proxy, or in a network with names. Requests for other names are refused, so that a page
    /// of another site cannot reach this server by a name of its own. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,

    /// Connections open at once; an idle one makes room
    #[arg(long, value_name = "N", default_value_t = batchwright_server::Server::DEFAULT_CONNECTIONS,
        hide_short_help = true)]
    pub max_connections: usize,

    /// Most that uploaded files and their results take up
    ///
    /// In bytes, with K, M, G or T for powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "10G", value_parser = super::values::bytes,
        hide_short_help = true)]
    pub max_uploads: u64,

    /// Memory that the bodies of all requests may take
    ///
    /// With what is made of them, about six times their length. A large request that finds no room waits up
    /// to 30 s and is then told to come again; small ones, up to some 80 KiB of plain text, always have room. In bytes, with
    /// K, M or G for powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "512M", value_parser = super::values::bytes,
        hide_short_help = true)]
    pub max_body_memory: u64,

    /// Send webhooks to addresses that are not public, too
    ///
    /// This machine's among them, and unencrypted. Clients choose where webhooks go: only where each
    /// of them may reach all that this machine reaches.
    #[arg(long, hide_short_help = true)]
    pub allow_private_webhooks: bool,

    #[command(flatten)]
    pub worker: WorkerArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

const HELP: &str = "\
In one terminal, or as a service:
  batchwright serve --provider openai --model gpt-5-mini
In another:
  curl http://127.0.0.1:8787/api/v1/jobs -H 'content-type: application/json' \\
    -d '{\"type\":\"completion\",\"payload\":{\"prompt\":\"Say hello.\"}}'
With OpenAI's client for Python:
  OpenAI(base_url=\"http://127.0.0.1:8787/v1\", api_key=\"any\")
For other machines:
  openssl rand -hex 32 > token
  batchwright serve --host 0.0.0.0 --token-file token --allow-host ai.example.com

Settings (`batchwright config list`, or the dashboard) that change are followed at once.

Every flag has an environment variable, for example BATCHWRIGHT_DATA_DIR for --data-dir.

Exit codes: 0 stopped; 1 could not run; 2 bad usage";
