//! The arguments of `work` and `serve`, which run a worker of the queue, and of `token`, for clients of a server.

use std::net::IpAddr;
use std::path::PathBuf;

use batchwright_server::{Role, Server};
use clap::{Args, Subcommand};

use super::shared::{MemoryArgs, PaceArgs, ProviderArgs, QueueFileArg, ShowArgs, StoreArgs};
use super::values::{bytes, words_for};

#[derive(Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    pub provider: ProviderArgs,

    #[command(flatten)]
    pub pace: PaceArgs,

    /// Retries of a job at each provider, unless the job sets its own number [env: JOB_QUEUE_MAX_RETRIES] [config:
    /// queue.max_retries] [default: 3]
    #[arg(help_heading = "Pace", long, value_name = "N", value_parser = words_for("queue.max_retries"),
        hide_short_help = true)]
    pub max_retries: Option<String>,

    #[command(flatten, next_help_heading = "Queue")]
    pub store: StoreArgs,

    /// Folder for podcasts, the same for all workers of a queue
    ///
    /// For jobs of the type generate_podcast; their results name the file [default: audio, in the folder of the
    /// queue]
    #[arg(help_heading = "Queue", long, value_name = "DIR")]
    #[arg(hide_short_help = true)]
    pub audio_dir: Option<PathBuf>,

    /// Sync every result to the disk, so that it survives a power failure
    #[arg(help_heading = "Queue", long, hide_short_help = true)]
    pub fsync: bool,

    #[command(flatten)]
    pub memory: MemoryArgs,
}

/// Run the queue's worker
///
/// It carries out the jobs that `batchwright submit` and other programs put on the queue, until you stop it. Ctrl-C
/// lets the calls in flight finish. Any number of workers share a queue; if one crashes, the others take over its
/// jobs at once. If a provider rejects the key or is unreachable, no job fails: the jobs wait, and the worker calls
/// the provider again. (A local server must answer when the worker starts.)
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/work.txt"))]
pub struct WorkArgs {
    /// Exit when the queue is empty, for cron and scripts
    ///
    /// Also exit early if the provider rejects every call or is unreachable.
    #[arg(long)]
    pub until_empty: bool,

    /// Exit when all batches are submitted
    ///
    /// Submit all prompts in batches and exit without waiting for the results. Run all other jobs directly. With
    /// cron: use this flag in the evening and --until-empty in the morning.
    #[arg(long, conflicts_with = "until_empty")]
    pub until_submitted: bool,

    /// Only these processes, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub processes: Vec<String>,

    #[command(flatten, next_help_heading = "Queue")]
    pub file: QueueFileArg,

    #[command(flatten)]
    pub worker: WorkerArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

impl WorkArgs {
    /// True when it ends by itself.
    pub fn ends(&self) -> bool {
        self.until_empty || self.until_submitted
    }
}

/// Serve the queue over HTTP, with a worker and a dashboard
///
/// Programs create jobs and fetch results at /api/v1, or at /v1 in the format of OpenAI's Batch API: an OpenAI
/// client works with this server if you change its base URL, with any provider. The dashboard is at /. The server
/// also runs a worker, as `batchwright work` does. Ctrl-C or SIGTERM stops it: running jobs may finish, the others
/// stay on the queue.
#[derive(Args)]
#[command(after_long_help = include_str!("../../data/help/serve.txt"))]
pub struct ServeArgs {
    /// Address; any but loopback needs a token
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = Server::DEFAULT_PORT)]
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
    #[arg(long, value_name = "N", default_value_t = Server::DEFAULT_CONNECTIONS,
        hide_short_help = true)]
    pub max_connections: usize,

    /// Disk space for uploaded files and their results
    ///
    /// In bytes, with K, M, G or T for powers of 1024.
    #[arg(long, value_name = "BYTES", default_value = "10G", value_parser = bytes,
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
    #[arg(long, value_name = "FILE", requires = "webhook")]
    #[arg(hide_short_help = true)]
    pub webhook_secret_file: Option<PathBuf>,

    #[command(flatten)]
    pub worker: WorkerArgs,

    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Subcommand)]
pub enum TokenAction {
    /// Make a token, and print its line for the file of `serve --token-file`
    ///
    /// The line goes to standard output and contains only a hash of the token. The token goes to standard error, once: give
    /// it to the client.
    #[command(after_long_help = include_str!("../../data/help/token.txt"))]
    New {
        /// Name of the client, to find its line again
        name: String,

        /// Role: read or operate
        #[arg(long, value_name = "ROLE")]
        role: Role,
    },
}
