//! Flags from the environment.

use super::common::{Desk, Ended, RunToEnd};

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
