//! Reading the command line, with tips for the words that people bring from other programs.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error, FromArgMatches};

use super::args::{Cli, variables};
use super::exit::{Exit, Refusal};

/// Reads the command line. Otherwise it says what is wrong with it, or shows the help that was asked
/// for, and tells the exit code.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    let words: Vec<OsString> = words.into_iter().collect();
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
    let refusal = Refusal::usage(message);
    let tips = parts.filter_map(|part| part.trim_start().strip_prefix("tip: "));
    match tips.map(|tip| joined(&tip.replace("\n  tip:", ";"))).next() {
        Some(tip) => refusal.hint(tip),
        None => refusal,
    }
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
        // The tip that a misspelt flag may be passed as a file name helps nobody.
        let helpful = |tip: &StyledStr| !tip.to_string().starts_with("to pass ");
        let tips: Vec<_> = tips.into_iter().filter(helpful).collect();
        if !tips.is_empty() {
            error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
        }
    }
}

/// Names that people use for a flag, the flag of ours that a command must have for the tip to apply, and the
/// text of the tip where naming that flag is not enough.
type FlagTip = (&'static [&'static str], &'static str, Option<&'static str>);

const FLAGS: &[FlagTip] = &[
    (
        &[
            "limit",
            "max",
            "max-rows",
            "max-requests",
            "max-prompts",
            "num-items",
            "items",
            "head",
            "first",
            "sample",
            "n",
        ],
        "max-items",
        None,
    ),
    (
        &[
            "workers",
            "num-workers",
            "max-workers",
            "threads",
            "parallel",
            "max-parallel",
            "parallelism",
            "concurrent",
            "max-concurrency",
            "max-concurrent",
            "jobs",
        ],
        "concurrency",
        Some("'-j N' ('--concurrency N') sets how many run at once"),
    ),
    (
        &[
            "out",
            "outfile",
            "out-file",
            "output-file",
            "output-path",
            "save",
            "dest",
        ],
        "output",
        Some("'-o FILE' ('--output FILE') names the file for the results"),
    ),
    (
        &[
            "schema",
            "response-format",
            "response-schema",
            "output-schema",
            "structured",
        ],
        "json-schema",
        None,
    ),
    (
        &[
            "key",
            "api-key",
            "apikey",
            "token",
            "auth",
            "openai-api-key",
            "anthropic-api-key",
        ],
        "provider",
        Some(
            "keys are read only from the environment, for example OPENAI_API_KEY: every user of the \
             machine can see a command line",
        ),
    ),
    (
        &["retries", "retry", "max-retry", "attempts", "max-attempts"],
        "max-retries",
        None,
    ),
    (
        &["resume", "continue", "restart", "checkpoint"],
        "output",
        Some("no flag is needed to resume: run the same command again"),
    ),
    (
        &["overwrite", "force", "clobber", "replace"],
        "output",
        Some(
            "nothing is overwritten: finished results in the output stay, and the others are added. \
             To start over, name another file with '-o'",
        ),
    ),
    (
        &["prompt", "prompts", "text", "message", "question"],
        "template",
        Some(
            "prompts come from a file or standard input: printf '%s\\n' 'Name a prime.' | \
             batchwright run -",
        ),
    ),
    (
        &[
            "input",
            "in",
            "infile",
            "input-file",
            "file",
            "prompts-file",
            "data",
        ],
        "template",
        Some("name the input without a flag: batchwright run INPUT -o OUTPUT"),
    ),
    (
        &["system-prompt", "system-message", "instructions"],
        "system",
        None,
    ),
    (&["prompt-template"], "template", None),
    (
        &[
            "url",
            "api-url",
            "api-base",
            "api-base-url",
            "endpoint",
            "host",
            "server",
        ],
        "base-url",
        None,
    ),
    (&["headers", "add-header", "http-header"], "header", None),
    (&["tier"], "service-tier", None),
    (
        &["extra-body", "body", "params", "parameters", "options"],
        "extra",
        None,
    ),
    (&["model-name", "engine", "deployment"], "model", None),
    (&["vendor", "service", "backend"], "provider", None),
    (
        &["rate", "rate-limit", "requests-per-minute", "rps", "qps"],
        "rpm",
        Some("'--rpm N' sets requests per minute"),
    ),
    (&["tokens-per-minute"], "tpm", None),
    (
        &[
            "max-output-tokens",
            "max-completion-tokens",
            "max-new-tokens",
            "num-predict",
        ],
        "max-tokens",
        None,
    ),
    (&["temp"], "temperature", None),
    (
        &["batch", "batch-api", "batches", "batch-size"],
        "strategy",
        Some(
            "'--strategy batch' submits to the Batch API, in batches as large as the provider takes",
        ),
    ),
    (
        &["embed", "embeddings", "embedding", "vectors"],
        "task",
        Some("'--task embed' requests embeddings"),
    ),
    (
        &["dry", "check", "preview", "plan", "estimate"],
        "dry-run",
        None,
    ),
    (
        &["no-progress"],
        "progress",
        Some("'--progress never' turns the bar off"),
    ),
    (&["silent"], "quiet", None),
    (
        &["debug", "trace"],
        "verbose",
        Some("'-v' prints more, '-vv' prints the most"),
    ),
    (&["request-timeout", "timeout-seconds"], "timeout", None),
    (
        &["once", "drain", "exit-when-empty", "until-done"],
        "until-empty",
        None,
    ),
    (
        &["p"],
        "joblog",
        Some("'-j N' ('--concurrency N') sets how many run at once"),
    ),
    (
        &["n", "l", "max-args", "max-lines"],
        "joblog",
        Some("the command runs once for each line, as with 'xargs -n 1'"),
    ),
    (
        &["a", "arg-file"],
        "joblog",
        Some("name the list without a flag: batchwright exec LIST -- COMMAND"),
    ),
    (
        &["i"],
        "joblog",
        Some("{} is replaced by the line: batchwright exec LIST -- COMMAND {}"),
    ),
    (
        &["halt", "halt-on-error"],
        "on-stop",
        Some(
            "'--on-error stop' starts no further command after a failure; '--on-stop kill' kills \
             running ones",
        ),
    ),
    (
        &["delay"],
        "joblog",
        Some("'--rate' spaces starts: '--rate 5/s' is one in 0.2 s"),
    ),
    (&["follow", "live"], "watch", None),
    (
        &["home", "dir", "folder", "data-folder", "db", "database"],
        "data-dir",
        None,
    ),
];

/// What people call a command, and what to type.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["batch", "batches"],
        "batches are a strategy: batchwright run INPUT -o OUTPUT --strategy batch",
    ),
    (
        &["embed", "embeddings", "embedding"],
        "embeddings are a task: batchwright run INPUT -o OUTPUT --task embed",
    ),
    (
        &[
            "prompt", "ask", "chat", "complete", "generate", "process", "execute",
        ],
        "to run prompts: batchwright run INPUT -o OUTPUT",
    ),
    (
        &["resume", "continue", "restart"],
        "to resume, run the same `batchwright run` command again",
    ),
    (
        &["start", "worker", "daemon", "consume"],
        "to start a worker of the queue: batchwright work",
    ),
    (
        &["server", "http", "api", "dashboard"],
        "to answer over HTTP: batchwright serve",
    ),
    (
        &["jobs", "job", "list", "ls", "ps", "show", "progress"],
        "to show the queue: batchwright status",
    ),
    (
        &["enqueue", "add", "push", "send", "create"],
        "to queue prompts: batchwright submit INPUT",
    ),
    (
        &["get", "fetch", "collect", "download", "output"],
        "to fetch results from the queue: batchwright results PROCESS -o FILE",
    ),
    (
        &["stop", "kill", "abort", "delete", "remove", "rm"],
        "to cancel a process: batchwright cancel PROCESS",
    ),
    (
        &["set", "settings", "configure", "setup", "init"],
        "to store a setting: batchwright config set SETTING VALUE",
    ),
    (
        &["models", "vendors"],
        "to list the providers: batchwright providers",
    ),
    (
        &["check", "health", "diagnose"],
        "to check the queue: batchwright doctor",
    ),
    (
        &["completion", "autocomplete", "shell"],
        "to print a script for the shell: batchwright completions SHELL",
    ),
    (
        &["manual", "manpage", "manpages"],
        "to print the manual page: batchwright man",
    ),
    (
        &["mock", "fake", "sim"],
        "to run a simulated provider: batchwright simulate",
    ),
];

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
    let mut fitting = FLAGS
        .iter()
        .filter(|(names, flag, _)| names.contains(&name.as_str()) && has(command, flag));
    let (_, flag, words) = fitting.next()?;
    Some(match words {
        Some(words) => (*words).to_owned(),
        None => format!("it is called '--{flag}' here"),
    })
}

fn tip_for_command(typed: &str) -> Option<String> {
    let name = plain(typed);
    let mut tips = COMMANDS.iter();
    if let Some((_, words)) = tips.find(|(names, _)| names.contains(&name.as_str())) {
        return Some((*words).to_owned());
    }
    // Swapped letters count as similar here; the usual measure finds short words too different.
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
    fn a_command_with_its_letters_in_another_order_is_told() {
        let tip = tip_for_command("rnu").unwrap();
        assert_eq!(tip, "it is written 'batchwright run'");
        assert_eq!(tip_for_command("xyz"), None);
    }

    #[test]
    fn every_tip_names_what_there_is() {
        let mut top = Cli::command();
        top.build();
        let commands = || top.get_subcommands();
        for (names, flag, _) in FLAGS {
            let used = commands().any(|command| has(command, flag));
            assert!(used, "no command has --{flag}");
            for name in *names {
                let of_use = |command: &Command| has(command, flag) && !has(command, name);
                assert!(commands().any(of_use), "--{name} is a flag itself");
                for command in commands() {
                    let fitting = FLAGS
                        .iter()
                        .filter(|(names, flag, _)| names.contains(name) && has(command, flag));
                    assert!(fitting.count() <= 1, "--{name} has two tips");
                }
            }
        }
        for (names, words) in COMMANDS {
            for name in *names {
                assert!(
                    commands().all(|command| command.get_name() != *name),
                    "{name}"
                );
            }
            let mut meant = words
                .split_once("batchwright ")
                .unwrap()
                .1
                .split_whitespace();
            let meant = meant.next().unwrap().trim_matches('`');
            let known = commands().any(|command| command.get_name() == meant);
            assert!(known, "{meant}");
        }
    }
}
