//! The real program: its behaviour, output and files.

mod batch;
mod batch_chaos;
mod batch_crash;
mod batch_endings;
mod batch_headers;
mod batch_long;
mod batch_results;
mod batch_rotated;
mod batch_runs;
mod batch_site;
mod bill;
mod bills;
mod bought_once;
mod budget;
#[cfg(unix)]
mod budget_bill;
mod children;
#[path = "../../../../tests/it/common.rs"]
mod common;
mod config;
#[cfg(unix)]
mod copied_output;
#[cfg(unix)]
mod dedupe;
mod deployments;
mod disk;
#[cfg(unix)]
mod docs;
mod dry_run;
mod embed;
mod embed_runs;
mod errors;
#[path = "../../../../tests/it/every_provider.rs"]
mod every_provider;
#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod exec_ends;
#[cfg(target_os = "linux")]
mod exec_long;
mod export;
mod fake;
mod fallback;
mod field_order;
#[cfg(unix)]
mod files_in_prompts;
mod format;
mod headers;
mod help;
mod input;
mod job_types;
mod keep;
mod kill;
mod limits;
mod local;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(unix)]
mod native_lines;
mod net;
mod output;
mod pace;
mod packed;
mod podcast;
mod portable;
mod prices;
#[cfg(unix)]
mod private;
mod program;
mod prompt_caches;
mod providers;
mod queue;
mod queue_budget;
mod queue_disk;
mod queue_files;
mod queue_halfway;
mod queue_kill;
mod queue_limits;
mod queue_server;
mod queue_server_trouble;
mod queue_state;
mod queue_store;
#[cfg(unix)]
mod reference;
mod resume;
mod retry;
mod run;
#[cfg(unix)]
mod run_batch;
#[cfg(unix)]
mod run_batch_attach;
#[cfg(unix)]
mod run_batch_refused;
#[cfg(target_os = "linux")]
mod run_batch_superseded;
#[cfg(unix)]
mod run_batch_unsent;
mod run_folder;
#[cfg(unix)]
mod run_killed;
#[cfg(target_os = "linux")]
mod sandbox_exec;
#[cfg(unix)]
mod scan;
mod schema;
mod secrets;
mod serve;
mod serve_long;
mod shared;
mod shell;
mod simulate;
mod stdin;
mod stop;
mod superseded;
mod tables;
mod terminal;
#[cfg(unix)]
mod tools;
mod trip;
#[cfg(unix)]
mod unusable;
mod variables;
#[cfg(unix)]
mod whole_requests;
