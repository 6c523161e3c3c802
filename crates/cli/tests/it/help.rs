//! `--help` fits a small terminal, `batchwright help COMMAND` has everything.

use serde_json::{Value, json};

use super::common::{Desk, Ended, HOME, Has, RunToEnd};

/// Two screens of 24 lines, minus the lines of the prompt.
const TWO_SCREENS: usize = 46;

const COMMANDS: [&str; 19] = [
    "",
    "run",
    "submit",
    "work",
    "status",
    "results",
    "export",
    "scan",
    "exec",
    "cancel",
    "retry",
    "doctor",
    "providers",
    "config",
    "config list",
    "token",
    "token new",
    "simulate",
    "completions",
];

fn help(command: &str, flag: &str) -> String {
    let desk = Desk::new();
    let words = command.split_whitespace();
    let words: Vec<&str> = match flag {
        "help" => ["help"].into_iter().chain(words).collect(),
        flag => words.chain([flag]).collect(),
    };
    let mut command = desk.command(words);
    let ended = command.env("COLUMNS", "80").ended().expect(0);
    ended.stdout
}

/// The flags that a help text lists.
fn flags(help: &str) -> Vec<&str> {
    let lines = help.lines().map(str::trim_start);
    let lines = lines.filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',', '.']).take(3));
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn short_help_fits_two_screens_and_a_line_a_flag() {
    for command in COMMANDS {
        let text = help(command, "-h");
        let lines = text.lines().count();
        assert!(
            lines <= TWO_SCREENS,
            "`{command} -h` takes {lines} lines: set hide_short_help on what is rare\n{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "`{command} -h`: {line:?}");
            // Continuation lines are indented more than any flag or argument.
            let indent = line.len() - line.trim_start().len();
            assert!(
                indent <= 6,
                "`{command} -h` goes on in {line:?}: begin the flag's documentation with a short \
                 paragraph of its own\n{text}"
            );
        }
    }
}

#[test]
fn long_help_has_every_flag_of_the_short_one_and_more() {
    for command in ["run", "work"] {
        let (short, long) = (help(command, "--help"), help(command, "help"));
        let (few, all) = (flags(&short), flags(&long));
        let missing: Vec<_> = few.iter().filter(|flag| !all.contains(flag)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(all.len() > few.len() + 5, "{few:?} {all:?}");
        let end = short.lines().last().unwrap();
        assert!(end.contains("batchwright help COMMAND"), "{end}");
    }
    let long = help("run", "help");
    for flag in ["--max-memory", "--ordered", "--resend", "--progress"] {
        assert!(flags(&long).contains(&flag), "{flag}");
        assert!(!flags(&help("run", "-h")).contains(&flag), "{flag}");
    }
    let short = help("run", "--help");
    assert!(short.lines().count() <= 24, "one screen\n{short}");
}

#[test]
fn every_shell_has_a_script_that_knows_the_flags() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.plain(&format!("completions {shell}")).expect(0).stdout;
        assert!(script.contains("max-items"), "{shell}");
    }
    desk.plain("completions tcsh").ends(2, "powershell");
}

fn ended(desk: &Desk, words: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = desk.command(words.split(' '));
    command.envs(variables.iter().copied()).ended()
}

#[test]
fn the_flags_that_say_where_the_queue_is_have_variables() {
    let desk = Desk::with(2);
    let folder = [("BATCHWRIGHT_DATA_DIR", "elsewhere")];
    let submitted = ended(&desk, "submit in.jsonl", &folder).expect(0);
    assert!(desk.exists("elsewhere/llm_jobs.db"));
    let given = ended(&desk, "status --json --data-dir third", &folder).expect(0);
    given.hides(submitted.stdout.trim());
    // A flag that names a file overrides the variable of a server; an empty variable counts as unset.
    let server = [("BATCHWRIGHT_STORE", "mysql://nobody@127.0.0.1:9/none")];
    ended(&desk, "status --queue elsewhere/llm_jobs.db", &server)
        .expect(0)
        .shows(submitted.stdout.trim());
    ended(&desk, "status", &[("BATCHWRIGHT_STORE", "")]).expect(0);
}

#[test]
fn a_variable_with_the_name_of_another_flag_is_refused() {
    let desk = Desk::with(1);
    let set = [("BATCHWRIGHT_BUDGET", "1")];
    let run = "run in.jsonl --provider extract --json";
    let refused = ended(&desk, run, &set);
    let refused = refused.ends(
        2,
        "BATCHWRIGHT_BUDGET in the environment is not read; write --budget",
    );
    assert_eq!(refused.json()["error"]["kind"], "usage");
    // Another command has no such flag, and a setting has a variable.
    ended(&desk, "status", &set).expect(0);
    let known = [("BATCHWRIGHT_MODEL", "m")];
    ended(
        &desk,
        "run in.jsonl -o out.jsonl --provider extract",
        &known,
    )
    .expect(0);
}

fn config(desk: &Desk, words: &[&str]) -> Ended {
    desk.command(["config"].iter().chain(words)).ended()
}

fn set(desk: &Desk, key: &str, value: &str) -> Ended {
    config(desk, &["set", key, value]).expect(0)
}

fn json(desk: &Desk, words: &[&str], env: &[(&str, &str)]) -> Value {
    let words = ["config", "--json"].iter().chain(words);
    let ended = desk.command(words).envs(env.iter().copied()).ended();
    serde_json::from_str(&ended.expect(0).stdout).unwrap()
}

/// The row of a setting.
fn row(list: &Ended, key: &str) -> String {
    let mut rows = list.stdout.lines();
    let row = rows.find(|row| row.starts_with(key)).unwrap();
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_value_is_stored_shown_and_deleted() {
    let desk = Desk::new();
    let none = config(&desk, &["get", "llm.model"]).ends(0, "not set; its default: none");
    assert_eq!(none.stdout, "");
    assert!(!desk.exists(HOME), "looking makes nothing");
    set(&desk, "llm.model", " gpt-x ").says("llm.model=gpt-x is stored in ");
    assert_eq!(
        config(&desk, &["get", "llm.model"]).expect(0).stdout,
        "gpt-x\n"
    );
    assert_eq!(
        config(&desk, &["get", "queue.max_retries"])
            .expect(0)
            .stdout,
        "3\n"
    );
    let list = config(&desk, &["list"]).expect(0);
    assert_eq!(row(&list, "llm.model"), "llm.model gpt-x store");
    assert_eq!(
        row(&list, "queue.batch_size"),
        "queue.batch_size 10 default"
    );
    config(&desk, &["unset", "llm.model"]).ends(
        0,
        "llm.model is deleted; the default is used: none, or the first model of a local server",
    );
    assert_eq!(config(&desk, &["get", "llm.model"]).expect(0).stdout, "");
    config(&desk, &["unset", "llm.model"]).ends(0, "llm.model was not stored; the default");
}

#[test]
fn overriding_by_the_environment_is_reported() {
    let desk = Desk::new();
    let with_env = |words: &[&str]| {
        let mut command = desk.command(["config"].iter().chain(words));
        command
            .env("BATCHWRIGHT_MODEL", "from-env")
            .ended()
            .expect(0)
    };
    let said = with_env(&["set", "llm.model", "kept"]).says("llm.model=kept is stored");
    said.says("but BATCHWRIGHT_MODEL=from-env is set here and overrides it");
    let list = with_env(&["list"]);
    assert_eq!(
        row(&list, "llm.model"),
        "llm.model from-env BATCHWRIGHT_MODEL store: kept"
    );
    let env = [("BATCHWRIGHT_MODEL", "from-env")];
    let setting = json(&desk, &["get", "llm.model"], &env);
    setting.has(json!({"value": "from-env", "source": "environment",
        "set_by": "BATCHWRIGHT_MODEL"}));
    setting["overrides"][0].has(json!({"source": "store", "value": "kept"}));
    let all = json(&desk, &["list"], &env);
    let all = all["settings"].as_array().unwrap();
    assert!(all.contains(&setting) && all.len() >= 18);
    assert!(
        all.iter()
            .all(|s| s["doc"].is_string() && s["default"].is_string() && s["accepts"].is_string())
    );
}

#[test]
fn a_file_of_prices_that_a_command_would_refuse_is_not_stored() {
    let desk = Desk::new();
    config(&desk, &["set", "llm.prices", "nowhere.json"]).ends(2, "nowhere.json");
    desk.write("prices.json", "{}");
    config(&desk, &["set", "llm.prices", "prices.json"]).expect(2);
    let none = config(&desk, &["get", "llm.prices"]).expect(0);
    assert_eq!(none.stdout, "");
}
