//! Parses the command line.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command, CommandFactory, Error, FromArgMatches};

use super::args::Cli;
use super::exit::{Exit, Refusal};
use batchwright::unstable::Optional;

/// The program's commands, whose `--help` is short; `batchwright help COMMAND` has all.
pub fn command() -> Command {
    with_short_help(Cli::command())
}

fn with_short_help(command: Command) -> Command {
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::HelpShort)
        .help("Print help");
    let command = command.disable_help_flag(true).arg(help);
    command.mut_subcommands(with_short_help)
}

/// An empty variable counts as unset.
fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if std::env::var_os(name).is_none_or(|value| value.is_empty()) => {
            arg.env(Resettable::Reset)
        }
        _ => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Parses the command line. Otherwise prints what is wrong with it, or the requested help, and returns the exit code.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let words: Vec<OsString> = words.into_iter().collect();
    let matches = without_empty_variables(command()).try_get_matches_from(&words);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if !error.use_stderr() {
            let _ = error.print();
            return Exit::Success;
        }
        let flags = || words.iter().take_while(|word| *word != "--");
        let json = flags().any(|word| word == "--json");
        if json {
            refusal(&error).print_json();
        }
        if !json || !flags().any(|word| word == "--quiet" || word == "-q") {
            let _ = error.print();
        }
        Exit::Usage
    })
}

/// The error for scripts: without the usage.
fn refusal(error: &Error) -> Refusal {
    let text = error.render().to_string();
    let mut parts = text.trim().split("\n\n");
    let joined = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = parts.next().map(joined).unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let tips = parts.filter_map(|part| part.trim_start().strip_prefix("tip: "));
    let tip = tips.map(|tip| joined(&tip.replace("\n  tip:", ";"))).next();
    Refusal::usage(message).set(tip, Refusal::hint)
}
