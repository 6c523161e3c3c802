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
        assert!(few.iter().all(|flag| all.contains(flag)), "{few:?} {all:?}");
        assert!(all.len() > few.len() + 5, "{few:?} {all:?}");
        let end = short.lines().last().unwrap();
        let whole = format!("batchwright help {command}");
        assert!(end.ends_with(&whole), "{end}");
    }
    // The last line of the short help promises what the other one has.
    for command in COMMANDS {
        let (short, long) = (help(command, "-h"), help(command, "help"));
        let end = short.lines().last().unwrap_or_default();
        let promises = end.contains("exit codes: batchwright help ");
        assert!(
            !promises || long.contains("Exit codes:"),
            "{command}: {end}"
        );
        assert!(promises || !["run", "doctor"].contains(&command), "{end}");
    }
    let (short, long) = (help("run", "-h"), help("run", "help"));
    for flag in ["--max-memory", "--ordered", "--resend", "--progress"] {
        let listed = (flags(&short).contains(&flag), flags(&long).contains(&flag));
        assert_eq!(listed, (false, true), "{flag}");
    }
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

fn ended(desk: &Desk, words: &str, (name, value): (&str, &str)) -> Ended {
    desk.command(words.split(' ')).env(name, value).ended()
}

#[test]
fn the_flags_that_say_where_the_queue_is_have_variables() {
    let desk = Desk::with(2);
    let folder = ("BATCHWRIGHT_DATA_DIR", "elsewhere");
    let submitted = ended(&desk, "submit in.jsonl", folder).expect(0);
    assert!(desk.exists("elsewhere/llm_jobs.db"));
    let given = ended(&desk, "status --json --data-dir third", folder).expect(0);
    given.hides(submitted.stdout.trim());
    // A flag that names a file overrides the variable of a server; an empty variable counts as unset.
    let server = ("BATCHWRIGHT_STORE", "mysql://nobody@127.0.0.1:9/none");
    ended(&desk, "status --queue elsewhere/llm_jobs.db", server)
        .expect(0)
        .shows(submitted.stdout.trim());
    ended(&desk, "status", ("BATCHWRIGHT_STORE", "")).expect(0);
}

#[test]
fn a_variable_with_the_name_of_another_flag_is_refused() {
    let desk = Desk::with(1);
    let set = ("BATCHWRIGHT_BUDGET", "1");
    let run = "run in.jsonl -o out.jsonl --provider extract";
    let refused = ended(&desk, &format!("{run} --json"), set);
    let why = "BATCHWRIGHT_BUDGET in the environment is not read; write --budget";
    let told = refused.ends(2, why).json();
    told.has(json!({"/error/kind": "usage"}));
    // Another command has no such flag, and a setting has a variable.
    ended(&desk, "status", set).expect(0);
    ended(&desk, run, ("BATCHWRIGHT_MODEL", "m")).expect(0);
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
    let config = |words: &str| desk.plain(&format!("config {words}")).expect(0);
    let get = |key: &str| config(&format!("get {key}"));
    let none = get("llm.model").says("not set; its default: none");
    assert_eq!(none.stdout, "");
    assert!(!desk.exists(HOME), "looking makes nothing");
    let set = desk
        .command(["config", "set", "llm.model", " gpt-x "])
        .ended();
    set.ends(0, "llm.model=gpt-x is stored in ");
    assert_eq!(get("llm.model").stdout, "gpt-x\n");
    assert_eq!(get("queue.max_retries").stdout, "3\n");
    let list = config("list");
    assert_eq!(row(&list, "llm.model"), "llm.model gpt-x store");
    let default = "queue.batch_size 10 default";
    assert_eq!(row(&list, "queue.batch_size"), default);
    config("unset llm.model").tells(
        "llm.model is deleted; the default is used: none, or the first model of a local server",
    );
    assert_eq!(get("llm.model").stdout, "");
    config("unset llm.model").tells("llm.model was not stored; the default");
    // A file of prices that a command would refuse is not stored.
    desk.write("prices.json", "{}");
    for file in ["nowhere.json", "prices.json"] {
        let set = format!("config set llm.prices {file}");
        desk.plain(&set).ends(2, file);
    }
    assert_eq!(get("llm.prices").stdout, "");
}

#[test]
fn overriding_by_the_environment_is_reported() {
    let desk = Desk::new();
    let with_env = |words: &str| {
        let variable = ("BATCHWRIGHT_MODEL", "from-env");
        ended(&desk, &format!("config {words}"), variable).expect(0)
    };
    with_env("set llm.model kept")
        .says("llm.model=kept is stored")
        .tells("but BATCHWRIGHT_MODEL=from-env is set here and overrides it");
    assert_eq!(
        row(&with_env("list"), "llm.model"),
        "llm.model from-env BATCHWRIGHT_MODEL store: kept"
    );
    let setting = with_env("--json get llm.model").json();
    setting.has(
        json!({"value": "from-env", "source": "environment", "set_by": "BATCHWRIGHT_MODEL",
        "/overrides/0/source": "store", "/overrides/0/value": "kept"}),
    );
    let all = with_env("--json list").json();
    let all = all["settings"].as_array().unwrap();
    assert!(all.contains(&setting) && all.len() >= 18);
    let is_whole = |s: &Value| {
        ["doc", "default", "accepts"]
            .iter()
            .all(|name| s[name].is_string())
    };
    assert!(all.iter().all(is_whole));
}
