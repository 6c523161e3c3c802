//! Parses the command line. A flag or command that was removed is answered with what to use instead.

use std::ffi::OsString;
use std::io::Write;

use batchwright::config::SettingKey;
use batchwright::unstable::{Optional, replacement};
use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory, Error, FromArgMatches};

use super::args::Cli;
use super::display;
use super::exit::{Exit, Refusal};
use super::sanitize::one_line;

/// Removed commands, flags of one command, and flags of any command, each with its replacement.
const REMOVED: &str = include_str!("../data/removed.txt");

/// The program's commands, whose `--help` is short; `batchwright help COMMAND` has all.
pub fn command() -> Command {
    with_short_help(Cli::command()).mut_subcommands(|command| {
        let name = command.get_name();
        let Some(long) = command.get_after_long_help().map(StyledStr::to_string) else {
            return command;
        };
        let what = if long.contains("Exit codes:") {
            "All flags, examples and exit codes"
        } else {
            "All flags and details"
        };
        let more = format!("{what}: batchwright help {name}");
        command.after_help(more)
    })
}

/// Prints a completion script, made from the same definitions as the help.
pub fn print_completions(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "batchwright", &mut script);
    // A reader may close the pipe early.
    let _ = std::io::stdout().write_all(&script);
    Exit::Success
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
    parsed.map_err(|mut error| {
        if !error.use_stderr() {
            let _ = error.print();
            return Exit::Success;
        }
        let texts = words.iter().skip(1).map(|word| word.to_string_lossy());
        let texts: Vec<String> = texts.map(String::from).collect();
        add_tip(&mut error, &texts);
        let flags = || words.iter().take_while(|word| *word != "--");
        let json = flags().any(|word| word == "--json");
        if json {
            refusal(&error).print_json();
        }
        if !json || !flags().any(|word| word == "--quiet" || word == "-q") {
            if texts.iter().all(|text| one_line(text) == *text) {
                let _ = error.print();
            } else {
                display::say(error.render().to_string().trim_end());
            }
        }
        Exit::Usage
    })
}

/// Refuses two names of a queue, and a variable with the name of a flag of this command: ignoring one could cost money.
pub fn check_words() -> Result<(), Refusal> {
    let top = Cli::command();
    let mut words = std::env::args_os().skip(1);
    let Some(command) = words.find_map(|word| top.find_subcommand(word)) else {
        return Ok(());
    };
    let given = |flag: &str| {
        let words = std::env::args_os().take_while(|word| word != "--");
        words
            .into_iter()
            .any(|word| word.to_string_lossy().split('=').next() == Some(flag))
    };
    if given("--queue") && given("--store") {
        return Err(Refusal::usage(
            "--queue and --store name two queues; leave out one of them",
        ));
    }
    let settings = SettingKey::all().iter();
    let read: Vec<&str> = settings
        .flat_map(|key| key.variables().iter().copied())
        .collect();
    let flags = command
        .get_arguments()
        .filter(|arg| arg.get_env().is_none());
    for flag in flags.filter_map(Arg::get_long) {
        let name = format!("BATCHWRIGHT_{}", flag.to_uppercase().replace('-', "_"));
        let is_set = std::env::var_os(&name).is_some_and(|value| !value.is_empty());
        if is_set && !read.contains(&&*name) {
            let why = format!("{name} in the environment is not read; write --{flag}");
            return Err(Refusal::usage(why));
        }
    }
    Ok(())
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

fn add_tip(error: &mut Error, words: &[String]) {
    let name = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        ErrorKind::InvalidValue => ContextKind::InvalidValue,
        _ => return,
    };
    let name = match error.get(name) {
        Some(ContextValue::String(name)) => name.clone(),
        _ => return,
    };
    let tip = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::InvalidValue, Some(ContextValue::String(flag))) => {
            let flag = flag.split_whitespace().next().unwrap_or_default();
            instead(&format!("{flag} {name}"), words)
        }
        _ => instead(&name, words),
    };
    if let Some(tip) = tip {
        for similar in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand] {
            error.remove(similar);
        }
        let tip = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tip);
    } else if let Some(ContextValue::StyledStrs(tips)) = error.remove(ContextKind::Suggested) {
        // The tip to pass a misspelled flag as a file name is not helpful.
        let helpful = |tip: &StyledStr| !tip.to_string().starts_with("to pass ");
        let tips: Vec<_> = tips.into_iter().filter(helpful).collect();
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}

/// What to use instead of a removed flag or command. The key of a flag may begin with its command.
fn instead(name: &str, words: &[String]) -> Option<&'static str> {
    let name = name.split('=').next().unwrap_or_default();
    let command = words
        .iter()
        .take_while(|word| !word.starts_with('-') && *word != name);
    let mut command: Vec<&str> = command.map(String::as_str).collect();
    loop {
        let key = [&command[..], &[name]].concat().join(" ");
        let found = replacement(REMOVED, &key);
        if found.is_some() || command.pop().is_none() {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_removed_name_is_gone_and_has_one_sentence() {
        let mut top = Cli::command();
        top.build();
        let mut lines: Vec<_> = REMOVED.lines().collect();
        let all = lines.len();
        for line in &lines {
            let (key, sentence) = line.split_once(" | ").unwrap();
            assert!(!sentence.trim().is_empty(), "{line}");
            let mut words = key.split(' ').peekable();
            let mut command = &top;
            while let Some(inner) = words.peek().and_then(|word| command.find_subcommand(word)) {
                command = inner;
                words.next();
            }
            let rest: Vec<_> = words.collect();
            assert!(!rest.is_empty(), "{key} is a command");
            if let ([flag], true) = (&rest[..], command.get_name() != top.get_name()) {
                let mut flags = command.get_arguments().filter_map(|arg| arg.get_long());
                assert!(
                    !flags.any(|long| flag.strip_prefix("--") == Some(long)),
                    "{key}"
                );
            }
        }
        lines.sort_unstable();
        lines.dedup_by_key(|line| line.split(" | ").next());
        assert_eq!(lines.len(), all, "a key stands twice");
    }

    #[test]
    fn a_removed_flag_is_found_with_and_without_its_command() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let tips = instead(
            "--metrics-file",
            &words("run in.jsonl --metrics-file m.prom"),
        );
        assert!(tips.unwrap().contains("/metrics"));
        assert!(instead("man", &words("man")).unwrap().contains("help"));
        assert_eq!(instead("--nonsense", &words("run --nonsense")), None);
    }
}
