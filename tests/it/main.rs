//! Behaviour through the public API and the real binary.

#![forbid(unsafe_code)]

mod accounts;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod attacks;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod batch_api;
#[cfg(all(feature = "queue", feature = "simulate"))]
mod batch_attack;
#[cfg(feature = "simulate")]
mod batch_wires;
mod bulk;
#[cfg(all(feature = "queue", feature = "simulate"))]
mod capabilities;
mod conformance;
mod decoders;
#[cfg(feature = "simulate")]
mod dialects;
mod embed_replies;
mod encoders;
mod fallback;
#[cfg(feature = "simulate")]
mod gateway;
mod hang;
mod library;
mod loading;
#[cfg(feature = "simulate")]
mod provider;
#[cfg(feature = "queue")]
mod queue;
#[cfg(feature = "queue")]
mod queue_crowd;
#[cfg(feature = "queue")]
mod queue_fixture;
#[cfg(feature = "queue")]
mod queue_regress;
mod regress_bulk;
mod regress_client;
mod regress_file;
mod replies;

#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_chaos;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_crash;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_endings;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_long;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_results;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_rotated;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod batch_site;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod cli_batch;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod cli_bought_once;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod cli_config;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_copied_output;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_disk;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_errors;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_fallback;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_first;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_format;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_help;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_input;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_kill;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_limits;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_local;
#[cfg(all(feature = "cli", feature = "simulate", target_os = "linux"))]
mod cli_memory;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_net;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_output;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_portable;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_private;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_providers;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod cli_queue;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod cli_queue_state;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_resume;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_retry;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_run_batch;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_run_killed;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_run_output;
#[cfg(all(feature = "cli", feature = "schema", feature = "simulate"))]
mod cli_schema;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_secrets;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_shared;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_shell;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_simulate;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_stdin;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_stop;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_superseded;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_tables;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod cli_terminal;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate", unix))]
mod cli_unusable;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod common;
#[cfg(all(
    feature = "cli",
    feature = "queue",
    feature = "schema",
    feature = "simulate",
    unix
))]
mod docs;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod embed;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod embed_dialects;
#[cfg(all(feature = "cli", feature = "simulate"))]
mod embed_runs;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod example_durable;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod example_overnight;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod queue_disk;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod queue_files;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod queue_halfway;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod queue_kill;
#[cfg(all(feature = "cli", feature = "queue", feature = "simulate"))]
mod queue_limits;
