//! Flags from the environment, and the log.

use super::common::{Desk, Ended, RunToEnd};

fn ended(desk: &Desk, words: &str, variables: &[(&str, &str)]) -> Ended {
    let mut command = desk.command(words.split(' '));
    command.envs(variables.iter().copied()).ended()
}

#[test]
fn the_flags_that_say_where_the_queue_is_have_variables() {
    let desk = Desk::with(2);
    let folder = [("BATCHWRIGHT_DATA_DIR", "elsewhere")];
    ended(&desk, "work --provider extract --until-empty", &folder).expect(0);
    assert!(desk.exists("elsewhere/llm_jobs.db"));
    let submitted = ended(&desk, "submit in.jsonl", &folder).expect(0);
    let shown = ended(&desk, "status --json", &folder).expect(0);
    shown.shows(submitted.stdout.trim());
    let given = ended(&desk, "status --json --data-dir third", &folder).expect(0);
    given.hides(submitted.stdout.trim());
    // A flag that names a file overrides the variable of a server; an empty variable counts as unset.
    let server = [("BATCHWRIGHT_STORE", "mysql://nobody@127.0.0.1:9/none")];
    ended(&desk, "status --queue elsewhere/llm_jobs.db", &server)
        .expect(0)
        .shows(submitted.stdout.trim());
    ended(&desk, "status", &[("BATCHWRIGHT_STORE", "")]).expect(0);
    let wrong = ended(&desk, "run in.jsonl", &[("BATCHWRIGHT_PROGRESS", "maybe")]);
    wrong.ends(2, "maybe");
}

#[test]
fn an_unknown_variable_is_warned_about_and_a_log_line_has_its_time() {
    let desk = Desk::with(1);
    let words = "run in.jsonl -o out.jsonl --provider extract --log-level WARN";
    let slip = [("BATCHWRIGHT_MODLE", "sk-0123456789")];
    let warned = ended(&desk, words, &slip).expect(0);
    let line = warned
        .stderr
        .lines()
        .find(|line| line.contains(" warn: "))
        .unwrap();
    let text = line.strip_prefix("batchwright: ").unwrap();
    let (time, text) = text.split_once(" warn: ").unwrap();
    assert_eq!(
        text,
        "the variable BATCHWRIGHT_MODLE has no meaning; did you mean BATCHWRIGHT_MODEL?"
    );
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.contains('T'),
        "{time}"
    );
    let kubernetes = [
        ("BATCHWRIGHT_SERVICE_HOST", "10.0.0.1"),
        ("BATCHWRIGHT_SERVICE_PORT", "80"),
        ("BATCHWRIGHT_SERVICE_PORT_HTTP", "80"),
        ("BATCHWRIGHT_PORT_80_TCP_ADDR", "10.0.0.1"),
    ];
    let silent = ended(&desk, words, &kubernetes).expect(0);
    silent.hides("BATCHWRIGHT_");
    let quiet = ended(&desk, &words.replace("WARN", "Error"), &slip).expect(0);
    quiet.hides("BATCHWRIGHT_");
}
