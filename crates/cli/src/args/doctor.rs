//! The arguments of `batchwright doctor`.

use clap::Args;

use super::shared::{BatchProviderArgs, DataArgs, SayArgs};

/// Check the queue and what it needs, and say what to do
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct DoctorArgs {
    /// Take over batches of a former key with the present one
    ///
    /// Such as after a key was rotated. The provider is asked whether it shows them under the key that is
    /// set now, at the address that they were made at; one that it does not show stays as it is, with the
    /// reason.
    #[arg(long)]
    pub adopt_batches: bool,

    #[command(flatten)]
    pub at: BatchProviderArgs,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub data: DataArgs,

    #[command(flatten)]
    pub say: SayArgs,
}

const HELP: &str = "\
Looked at: the data folder, room on the disk, the clock, the database (integrity, schema, \
counters, jobs of workers that died, unfinished submissions), batches that nobody attends or that \
wait for you, the settings, and which keys are set. If the queue is on a database server: its version, \
encryption, clock, connections, settings and privileges, replicas that the address names, and Redis. \
No provider is called unless batches are to be taken over, and no key is shown.

  batchwright doctor
  batchwright doctor --adopt-batches
  batchwright doctor --json | jq '.findings[] | select(.verdict == \"bad\")'

Exit codes: 0 nothing is worse than a note; 1 something is";
