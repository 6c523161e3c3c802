//! The real program: its behaviour, output and files.

#![cfg(unix)]

mod batch;
mod batch_chaos;
mod batch_crash;
mod batch_runs;
mod batch_site;
mod bill;
mod bills;
mod bought_once;
mod budget;
mod budget_bill;
#[path = "../../../../tests/it/common.rs"]
mod common;
mod copied_output;
mod dedupe;
mod deployments;
mod disk;
mod docs;
mod embed;
#[cfg(target_os = "linux")]
mod exec;
mod export;
mod fake;
mod fallback;
mod field_order;
mod files_in_prompts;
mod format;
mod headers;
mod help;
mod input;
mod job_types;
mod keep;
mod limits;
mod memory;
mod native_lines;
mod net;
mod output;
mod podcast;
mod prices;
mod program;
mod queue;
mod queue_kill;
mod queue_server;
mod queue_server_trouble;
mod queue_state;
mod reference;
mod resume;
mod run;
mod run_batch;
mod run_killed;
mod sandbox_exec;
mod scan;
mod schema;
mod secrets;
mod serve;
mod serve_long;
mod simulate;
mod stop;
mod superseded;
mod tables;
mod terminal;
mod unusable;
