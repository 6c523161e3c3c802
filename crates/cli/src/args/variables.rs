//! The environment variables of flags: six that several commands share, and that of the sandbox. Variables of settings are read with the
//! settings.

use std::env;

use batchwright::config::SettingKey;
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// The flags that have a variable, with every command that knows them.
const FLAGS: [(&str, &str); 7] = [
    ("data-dir", "BATCHWRIGHT_DATA_DIR"),
    ("base-url", "BATCHWRIGHT_BASE_URL"),
    ("store", "BATCHWRIGHT_STORE"),
    ("redis", "BATCHWRIGHT_REDIS"),
    ("log-level", "BATCHWRIGHT_LOG_LEVEL"),
    ("progress", "BATCHWRIGHT_PROGRESS"),
    ("sandbox", "BATCHWRIGHT_EXEC_SANDBOX"),
];
const PREFIX: &str = "BATCHWRIGHT_";
/// Variables of no flag and no setting; the last two are those of commands that `exec` runs.
const OTHERS: [&str; 9] = [
    "BATCHWRIGHT_HOME",
    "BATCHWRIGHT_TOKEN",
    "BATCHWRIGHT_WEBHOOK_SECRET",
    "BATCHWRIGHT_STORE_PASSWORD",
    "BATCHWRIGHT_STORE_PASSWORD_FILE",
    "BATCHWRIGHT_REDIS_PASSWORD",
    "BATCHWRIGHT_REDIS_PASSWORD_FILE",
    "BATCHWRIGHT_COMMAND",
    "BATCHWRIGHT_CONFINE",
];

/// The program's commands, whose `--help` is short; `batchwright help COMMAND` has all. If `is_set` is true for the variable of a flag, the flag gets its value unless it is given.
pub fn command(is_set: &dyn Fn(&str) -> bool) -> Command {
    with_variables(Cli::command(), is_set)
}

fn with_variables(command: Command, is_set: &dyn Fn(&str) -> bool) -> Command {
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::HelpShort)
        .help("Print help");
    let command = command.disable_help_flag(true).arg(help);
    let command = command.mut_args(|arg| match variable(&arg).filter(|name| is_set(name)) {
        Some(name) => arg.env(name).hide_env(true),
        None => arg,
    });
    command.mut_subcommands(|inner| with_variables(inner, is_set))
}

fn variable(arg: &Arg) -> Option<&'static str> {
    let mut flags = FLAGS.into_iter();
    let (_, name) = flags.find(|(flag, _)| arg.get_long() == Some(flag))?;
    Some(name)
}

/// The value of a variable. An empty one counts as unset, and so does one that Kubernetes sets for a service with the
/// name `batchwright`.
pub fn of_environment(name: &str) -> Option<String> {
    let value = env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty() && !value.starts_with("tcp://")).then_some(value)
}

/// The variables of the environment that begin like ours and have no meaning.
pub fn unknown() -> Vec<String> {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = names.filter(|name| {
        name.starts_with(PREFIX)
            && !is_of_kubernetes(name)
            && !known().any(|known| known == name)
            && of_environment(name).is_some()
    });
    unknown.collect()
}

/// The flag of this command that an unknown variable could stand for.
pub fn flag_like<'c>(name: &str, command: &'c Command) -> Option<&'c str> {
    let flag = name.strip_prefix(PREFIX)?.to_lowercase().replace('_', "-");
    let mut flags = command.get_arguments().filter_map(Arg::get_long);
    flags.find(|long| *long == flag)
}

/// The warning about an unknown variable.
pub fn warning(name: &str) -> String {
    let closest = known().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let meant = closest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
    format!("the variable {name} has no meaning{meant}")
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

fn known() -> impl Iterator<Item = &'static str> {
    let settings = SettingKey::all().iter();
    let settings = settings.flat_map(|key| key.variables().iter().copied());
    let flags = FLAGS.into_iter().map(|(_, name)| name);
    flags.chain(settings).chain(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_commands_share_have_a_variable_with_every_command() {
        let cli = command(&|_| true);
        let named = |command| {
            let flags = cli.find_subcommand(command).unwrap().get_arguments();
            flags.filter_map(Arg::get_env).collect::<Vec<_>>()
        };
        let run = [
            "BATCHWRIGHT_BASE_URL",
            "BATCHWRIGHT_DATA_DIR",
            "BATCHWRIGHT_PROGRESS",
        ];
        let mut found = named("run");
        found.sort_unstable();
        assert_eq!(found, run);
        let status = [
            "BATCHWRIGHT_DATA_DIR",
            "BATCHWRIGHT_STORE",
            "BATCHWRIGHT_REDIS",
        ];
        assert_eq!(named("status"), status);
        let of_all: Vec<_> = cli.get_arguments().filter_map(Arg::get_env).collect();
        assert_eq!(of_all, ["BATCHWRIGHT_LOG_LEVEL"]);
    }

    #[test]
    fn an_unknown_variable_is_told_from_a_known_one() {
        for (slip, meant) in [
            ("BATCHWRIGHT_MODLE", "BATCHWRIGHT_MODEL"),
            ("BATCHWRIGHT_BULK_STRATEGIES", "BATCHWRIGHT_BULK_STRATEGY"),
        ] {
            let whole = format!("the variable {slip} has no meaning; did you mean {meant}?");
            assert_eq!(warning(slip), whole);
        }
        let cli = Cli::command();
        let run = cli.find_subcommand("run").unwrap();
        assert_eq!(flag_like("BATCHWRIGHT_MAX_TOKENS", run), Some("max-tokens"));
        assert_eq!(flag_like("BATCHWRIGHT_MODLE", run), None);
    }
}
