//! Parses the command line, with tips for words from other programs.

use batchwright::unstable::Optional;
use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};
use serde::Deserialize;

use super::args::{Cli, estimate, variables};
use super::exit::{Exit, Refusal};

/// Parses the command line. Otherwise prints what is wrong with it, or the requested help, and returns the exit code.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let words = estimate::as_dry_run(words.into_iter().collect());
    let command = variables::command_for(&words, &variables::of_environment);
    let matches = command.try_get_matches_from(&words);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|mut error| {
        if !error.use_stderr() {
            let _ = error.print();
            return Exit::Success;
        }
        let words = words.iter().skip(1).map(|word| word.to_string_lossy());
        let words: Vec<String> = words.map(String::from).collect();
        add_tip(&mut error, &words);
        let flags: Vec<&str> = words.iter().map(String::as_str).collect();
        let flags = flags.split(|word| *word == "--").next().unwrap_or_default();
        let json = flags.contains(&"--json");
        if json {
            refusal(&error).print_json();
        }
        if !json || !(flags.contains(&"--quiet") || flags.contains(&"-q")) {
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

fn add_tip(error: &mut Error, words: &[String]) {
    let text = |error: &Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let (tip, similar) = match error.kind() {
        ErrorKind::UnknownArgument => {
            let flag = text(error, ContextKind::InvalidArg);
            let tip = flag.and_then(|flag| tip_for_flag(&flag, words));
            (tip, ContextKind::SuggestedArg)
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(error, ContextKind::InvalidSubcommand);
            let tip = name.and_then(|name| tip_for_command(&name));
            (tip, ContextKind::SuggestedSubcommand)
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let flag = text(error, ContextKind::InvalidArg);
            let name = flag.and_then(|flag| variables::that_sets(&flag, words));
            let tip = name.map(|name| format!("{name} in the environment sets it"));
            (tip, ContextKind::SuggestedValue)
        }
        ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument => {
            let names = [ContextKind::InvalidArg, ContextKind::PriorArg];
            let flags = names.iter().flat_map(|kind| match error.get(*kind) {
                Some(ContextValue::String(flag)) => vec![flag.as_str()],
                Some(ContextValue::Strings(flags)) => flags.iter().map(String::as_str).collect(),
                _ => Vec::new(),
            });
            let set = flags.filter_map(|flag| {
                let name = variables::that_sets(flag, words)?;
                let flag = flag.split_whitespace().next()?;
                Some(format!("{name} in the environment sets '{flag}'"))
            });
            let set: Vec<String> = set.collect();
            let tip = (!set.is_empty()).then(|| set.join(", "));
            (tip, ContextKind::Suggested)
        }
        _ => return,
    };
    if let Some(tip) = tip {
        error.remove(similar);
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

/// The tips, from a file of the source tree.
#[derive(Default, Deserialize)]
struct Tips {
    flags: Vec<FlagTip>,
    commands: Vec<CommandTip>,
}

#[derive(Deserialize)]
struct FlagTip {
    /// Names that people use for a flag.
    names: Vec<String>,
    /// Our flag. The tip applies to a command that has it.
    flag: String,
    /// The text, if the name of our flag is not enough.
    tip: Option<String>,
}

#[derive(Deserialize)]
struct CommandTip {
    /// Names that people use for a command.
    names: Vec<String>,
    tip: String,
}

impl Tips {
    /// A test checks that the file can be read.
    fn read() -> Self {
        serde_json::from_str(include_str!("../data/tips.json")).unwrap_or_default()
    }
}

/// `--Max_Tokens=5` as flags are written here: `max-tokens`.
fn plain(typed: &str) -> String {
    let name = typed.trim_start_matches('-');
    let name = name.split('=').next().unwrap_or_default();
    name.to_lowercase().replace('_', "-")
}

fn tip_for_flag(typed: &str, words: &[String]) -> Option<String> {
    let mut top = Cli::command();
    top.build();
    let command = named(&top, words);
    let name = plain(typed);
    if has(command, &name) {
        return Some(format!("it is written '--{name}'"));
    }
    let mut tips = Tips::read().flags.into_iter();
    let FlagTip { flag, tip, .. } =
        tips.find(|tip| tip.names.contains(&name) && has(command, &tip.flag))?;
    Some(tip.unwrap_or_else(|| format!("it is called '--{flag}' here")))
}

fn tip_for_command(typed: &str) -> Option<String> {
    let name = plain(typed);
    let mut tips = Tips::read().commands.into_iter();
    if let Some(found) = tips.find(|tip| tip.names.contains(&name)) {
        return Some(found.tip);
    }
    // Swapped letters count as similar here; the usual measure considers short words too different.
    let letters = |word: &str| {
        let mut letters: Vec<char> = word.chars().collect();
        letters.sort_unstable();
        letters
    };
    let top = Cli::command();
    let mut commands = top.get_subcommands().map(Command::get_name);
    let meant = commands.find(|meant| letters(meant) == letters(&name))?;
    Some(format!("it is written 'batchwright {meant}'"))
}

/// The command that the words name.
fn named<'c>(top: &'c Command, words: &[String]) -> &'c Command {
    words.iter().fold(top, |command, word| {
        command.find_subcommand(word).unwrap_or(command)
    })
}

fn has(command: &Command, flag: &str) -> bool {
    let mut flags = command.get_arguments().filter_map(|flag| flag.get_long());
    flags.any(|long| long == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_swapped_letters_gets_a_tip() {
        let tip = tip_for_command("rnu").unwrap();
        assert_eq!(tip, "it is written 'batchwright run'");
        assert_eq!(tip_for_command("xyz"), None);
    }

    #[test]
    fn every_tip_names_existing_flags() {
        let mut top = Cli::command();
        top.build();
        let commands = || top.get_subcommands();
        let tips = Tips::read();
        assert!(!tips.flags.is_empty() && !tips.commands.is_empty());
        for FlagTip { names, flag, .. } in &tips.flags {
            let used = commands().any(|command| has(command, flag));
            assert!(used, "no command has --{flag}");
            for name in names {
                let of_use = |command: &Command| has(command, flag) && !has(command, name);
                assert!(commands().any(of_use), "--{name} is a flag itself");
                for command in commands() {
                    let fits = |tip: &&FlagTip| tip.names.contains(name) && has(command, &tip.flag);
                    let fitting = tips.flags.iter().filter(fits);
                    assert!(fitting.count() <= 1, "--{name} has two tips");
                }
            }
        }
        for CommandTip { names, tip } in &tips.commands {
            let known =
                commands().find(|command| names.iter().any(|name| name == command.get_name()));
            assert!(known.is_none(), "{names:?}");
            let (_, meant) = tip.split_once("batchwright ").unwrap();
            let meant = meant.split_whitespace().next().unwrap().trim_matches('`');
            let known = commands().any(|command| command.get_name() == meant);
            assert!(known, "{meant}");
        }
    }
}
