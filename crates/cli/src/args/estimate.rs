//! The arguments of `batchwright estimate`.

use std::ffi::OsString;

use clap::Args;

use super::run::RunArgs;
use super::shared::MORE;

/// Estimate tokens, cost and duration of a run, without sending it
///
/// Replace `run` by `estimate` in a command: the flags are the same. It reports only what would be sent: items that the
/// output already answers are not included. No call is made, unless --sample asks for some.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/estimate.txt"))]
#[command(mut_arg("dry_run", |arg| arg.hide(true)))]
#[command(mut_arg("sample", |arg| arg.hide_short_help(false)
    .help("Measure with the replies to N items, which are billed")))]
#[command(mut_arg("json", |arg| arg.help("Print the estimate, or the error, as JSON")
    .long_help("Print the estimate, or the error, as JSON")))]
pub struct EstimateArgs {
    /// The run to estimate.
    #[command(flatten)]
    run: RunArgs,
}

impl EstimateArgs {
    /// The run, which is not carried out.
    pub fn run(self) -> RunArgs {
        RunArgs {
            estimates: true,
            ..self.run
        }
    }
}

/// The words of a command line, in which `estimate` is a dry run. Flags that need `--dry-run` then have it.
pub fn as_dry_run(mut words: Vec<OsString>) -> Vec<OsString> {
    let is = |word: &OsString, name: &str| word.to_str() == Some(name);
    let estimates = words.get(1).is_some_and(|word| is(word, "estimate"));
    if estimates && !words.iter().any(|word| is(word, "--dry-run")) {
        words.insert(2, "--dry-run".into());
    }
    words
}
