//! The environment variable of each flag: `BATCHWRIGHT_MAX_TOKENS` for `--max-tokens`.

use std::cell::Cell;
use std::env;
use std::ffi::OsString;

use batchwright::config::SettingKey;
use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// Commands whose flags all have a variable.
const COMMANDS: [&str; 4] = ["run", "estimate", "work", "serve"];
/// The flags that have one with every command: they must find the same queue.
const EVERYWHERE: [&str; 3] = ["data-dir", "store", "redis"];
const PREFIX: &str = "BATCHWRIGHT_";
/// Variables of no flag and no setting; the last two are those of commands that `exec` runs.
const OTHERS: [&str; 8] = [
    "BATCHWRIGHT_HOME",
    "BATCHWRIGHT_TOKEN",
    "BATCHWRIGHT_STORE_PASSWORD",
    "BATCHWRIGHT_STORE_PASSWORD_FILE",
    "BATCHWRIGHT_REDIS_PASSWORD",
    "BATCHWRIGHT_REDIS_PASSWORD_FILE",
    "BATCHWRIGHT_COMMAND",
    "BATCHWRIGHT_CONFINE",
];

/// The program's commands. If `value` returns a text for the variable of a flag, the flag gets that value unless it is
/// given. Variables of settings are read with the settings, which have a lower priority than flags.
pub fn command(value: &dyn Fn(&str) -> Option<String>) -> Command {
    with_variables(Cli::command(), value)
}

/// The commands for these words. A flag among the words overrides variables: a variable is ignored if the flag excludes
/// it or contradicts it, or if its own flag needs another one that is missing.
pub fn command_for(words: &[OsString], value: &dyn Fn(&str) -> Option<String>) -> Command {
    // Building the commands takes a third of the time of a small run.
    let is_any_set = Cell::new(false);
    let all = command(&|name| value(name).inspect(|_| is_any_set.set(true)));
    if !is_any_set.get() {
        return all;
    }
    let mut left_out = excluded(words);
    loop {
        let without = |names: &[String]| {
            command(&|name| value(name).filter(|_| !names.iter().any(|out| out == name)))
        };
        let needed = missing(without(&left_out), words);
        if needed == 0 {
            return without(&left_out);
        }
        let is_set = |name: &String| value(name).is_some() && !left_out.contains(name);
        let set: Vec<String> = known().into_iter().filter(is_set).collect();
        let is_useless =
            |names: &[String]| missing(without(&[&left_out[..], names].concat()), words) < needed;
        // Two may need the same flag.
        let pairs = (0..set.len()).flat_map(|i| (0..i).map(move |j| [i, j]));
        let mut pairs = pairs.map(|pair| pair.map(|i| set[i].clone()).to_vec());
        let mut names = set.iter().map(|name| vec![name.clone()]);
        let useless = names
            .find(|names| is_useless(names))
            .or_else(|| pairs.find(|names| is_useless(names)));
        match useless {
            Some(names) => left_out.extend(names),
            None => return without(&left_out),
        }
    }
}

/// The variables that flags among these words exclude.
fn excluded(words: &[OsString]) -> Vec<String> {
    let mut cli = Cli::command().ignore_errors(true);
    let Ok(matches) = cli.try_get_matches_from_mut(words) else {
        return Vec::new();
    };
    let Some((name, matches)) = matches.subcommand() else {
        return Vec::new();
    };
    let Some(command) = cli.find_subcommand(name) else {
        return Vec::new();
    };
    let is_given =
        |arg: &&Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let given: Vec<&Arg> = command.get_arguments().filter(is_given).collect();
    let conflict = |one: &Arg, other: &Arg| {
        let mut others = command.get_arg_conflicts_with(one).into_iter();
        others.any(|arg| arg.get_id() == other.get_id())
    };
    let negates = |one: &Arg, other: &Arg| {
        let positive = one.get_long().and_then(|flag| flag.strip_prefix("no-"));
        positive.is_some() && positive == other.get_long()
    };
    let excludes = |one: &Arg, other: &Arg| conflict(one, other) || negates(one, other);
    let excluded = command.get_arguments().filter(|arg| {
        let mut given = given.iter();
        given.any(|other| excludes(arg, other) || excludes(other, arg))
    });
    excluded
        .filter_map(|arg| arg.get_long())
        .map(variable)
        .collect()
}

/// Number of missing required arguments.
fn missing(command: Command, words: &[OsString]) -> usize {
    match command.try_get_matches_from(words) {
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => {
            match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(names)) => names.len(),
                _ => 1,
            }
        }
        _ => 0,
    }
}

fn with_variables(command: Command, value: &dyn Fn(&str) -> Option<String>) -> Command {
    let every_flag = COMMANDS.contains(&command.get_name());
    let command = command.mut_args(|arg| {
        if every_flag
            || arg
                .get_long()
                .is_some_and(|flag| EVERYWHERE.contains(&flag))
        {
            with_variable(arg, value)
        } else {
            arg
        }
    });
    command.mut_subcommands(|inner| with_variables(inner, value))
}

fn with_variable(arg: Arg, value: &dyn Fn(&str) -> Option<String>) -> Arg {
    let Some(name) = arg.get_long().map(variable) else {
        return arg;
    };
    let Some(value) = value(&name).filter(|_| !is_setting(&name)) else {
        return arg;
    };
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let off = ["false", "0", "no", "off"];
    // A switch that is off must not exclude others.
    if is_switch && off.contains(&value.to_ascii_lowercase().as_str()) {
        return arg;
    }
    let name: &'static str = name.leak();
    let arg = arg.env(name).hide_env(true);
    if is_switch {
        arg.value_parser(BoolishValueParser::new())
    } else {
        arg
    }
}

/// The variable of a flag.
fn variable(flag: &str) -> String {
    PREFIX.to_owned() + &flag.to_uppercase().replace('-', "_")
}

fn is_setting(name: &str) -> bool {
    SettingKey::all()
        .iter()
        .any(|key| key.variables().contains(&name))
}

/// The value of a variable. An empty one counts as unset, and so does one that Kubernetes sets for a service with the
/// name `batchwright`.
pub fn of_environment(name: &str) -> Option<String> {
    let value = env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty() && !value.starts_with("tcp://")).then_some(value)
}

/// The variable that set a flag, if one did. `flag` may be followed by the name of its value.
pub fn that_sets(flag: &str, words: &[String]) -> Option<String> {
    let flag = flag.split_whitespace().next()?.strip_prefix("--")?;
    let name = variable(flag);
    let long = format!("--{flag}");
    let is_given = words
        .iter()
        .any(|word| word == &long || word.starts_with(&format!("{long}=")));
    (!is_given && of_environment(&name).is_some()).then_some(name)
}

/// A warning for each variable of the environment that begins like ours and is unknown.
pub fn unknown() -> Vec<String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let ours = names.filter(|name| {
        name.starts_with(PREFIX) && !is_of_kubernetes(name) && of_environment(name).is_some()
    });
    let mut ours = ours.peekable();
    if ours.peek().is_none() {
        return Vec::new();
    }
    let known = known();
    let unknown = ours.filter(|name| !known.contains(name));
    unknown.map(|name| warning(&name, &known)).collect()
}

/// Whether Kubernetes sets it for a service called `batchwright`.
fn is_of_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    let port = rest.strip_prefix("PORT");
    let number = port.and_then(|port| port.strip_prefix('_'));
    ["SERVICE_HOST", "PORT"].contains(&rest)
        || rest.starts_with("SERVICE_PORT")
        || number.is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}

fn warning(name: &str, known: &[String]) -> String {
    let closest = known
        .iter()
        .min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let meant = closest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("the variable {name} has no meaning{meant}")
}

fn known() -> Vec<String> {
    let cli = Cli::command();
    let commands = cli.get_subcommands();
    let commands = commands.filter(|command| COMMANDS.contains(&command.get_name()));
    let flags = commands.flat_map(|command| command.get_arguments().filter_map(Arg::get_long));
    let settings = SettingKey::all()
        .iter()
        .flat_map(|key| key.variables().iter().copied());
    let others = settings.chain(OTHERS).map(str::to_owned);
    let mut known: Vec<String> = flags.map(variable).chain(others).collect();
    known.retain(|name| name.starts_with(PREFIX));
    known.sort();
    known.dedup();
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_run_work_and_serve_has_a_variable() {
        let cli = command(&|_| Some("1".to_owned()));
        for name in COMMANDS {
            let flags = cli.find_subcommand(name).unwrap().get_arguments();
            for flag in flags.filter(|flag| !flag.is_positional()) {
                let own = variable(flag.get_long().unwrap());
                let has = flag.get_env().is_some_and(|name| name == own.as_str());
                assert!(has != is_setting(&own), "{name}: {own}");
                assert!(known().contains(&own), "{own}");
            }
        }
        let status = cli.find_subcommand("status").unwrap().get_arguments();
        let named: Vec<_> = status.filter_map(Arg::get_env).collect();
        let everywhere = [
            "BATCHWRIGHT_DATA_DIR",
            "BATCHWRIGHT_STORE",
            "BATCHWRIGHT_REDIS",
        ];
        assert_eq!(named, everywhere);
    }

    #[test]
    fn an_unknown_variable_is_told_from_a_known_one() {
        let known = known();
        for (slip, meant) in [
            ("BATCHWRIGHT_MAX_TOKEN", "BATCHWRIGHT_MAX_TOKENS"),
            ("BATCHWRIGHT_MODLE", "BATCHWRIGHT_MODEL"),
            ("BATCHWRIGHT_BULK_STRATEGIES", "BATCHWRIGHT_BULK_STRATEGY"),
        ] {
            let warning = warning(slip, &known);
            let whole = format!("the variable {slip} has no meaning; did you mean {meant}?");
            assert_eq!(warning, whole);
        }
    }
}
