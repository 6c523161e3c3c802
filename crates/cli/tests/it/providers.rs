//! `batchwright providers`: its table agrees with the behaviour of a run.

use super::common::{Desk, Ended, RunToEnd};

fn table(vars: &[(&str, &str)]) -> Ended {
    let desk = Desk::new();
    let mut command = desk.command(["providers", "--model", "m"]);
    command.envs(vars.iter().copied()).ended().expect(0)
}

/// The row of a provider.
fn row<'t>(table: &'t Ended, provider: &str) -> &'t str {
    let mut rows = table.stdout.lines();
    rows.find(|row| row[2..].starts_with(provider)).unwrap()
}

#[test]
fn the_table_shows_which_providers_support_embeddings_and_batches() {
    let table = table(&[]);
    let head = table.stdout.lines().next().unwrap();
    assert!(head.contains("embed") && head.contains("batch"), "{head}");
    let at = head.find("embed").unwrap();
    let embeds = |name: &str| row(&table, name)[at..].starts_with("yes");
    assert!(embeds("openai") && embeds("mistral") && embeds("local"));
    assert!(!embeds("groq") && !embeds("anthropic") && !embeds("extract"));
    let at = head.find("batch").unwrap();
    let batches = |name: &str| row(&table, name)[at..].starts_with("yes");
    for name in ["openai", "anthropic", "gemini", "groq", "xai"] {
        assert!(batches(name), "{name}");
    }
    assert!(!batches("mistral") && !batches("local") && !batches("custom") && !batches("extract"));
}
