//! `batchwright providers`: its table agrees with the behaviour of a run.

use super::common::{Desk, Ended, RunToEnd, cases, good};

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

#[test]
fn a_provider_that_a_run_would_reject_is_not_usable() {
    let desk = Desk::with(1);
    for (provider, vars) in [
        (
            "mistral",
            &[("MISTRAL_API_KEY", "k"), ("MISTRAL_BASE_URL", "htp:/bad")][..],
        ),
        ("custom", &[("CUSTOM_LLM_BASE_URL", "example.org")]),
        ("openai", &[("OPENAI_API_KEY", "sk-ключ")]),
        ("local", &[("LOCAL_LLM_BASE_URL", "localhost:8080")]),
    ] {
        let table = table(vars);
        let row = row(&table, provider);
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words[1], "no", "{row}");
        assert!(!row.contains("ключ"), "{row}");
        let words = ["run", "in.jsonl", "--model", "m", "--provider", provider];
        let run = desk.command(words).envs(vars.iter().copied()).ended();
        let run = run.expect(1);
        let (_, why) = run.error().split_once(&format!("{provider}: ")).unwrap();
        assert!(row.ends_with(why), "{row}: {why}");
    }
}

#[test]
fn the_variable_in_use_is_named() {
    let both = [("GEMINI_API_KEY", "a"), ("GOOGLE_API_KEY", "b")];
    assert!(row(&table(&both), "gemini").contains("GOOGLE_API_KEY set"));
    assert!(row(&table(&both[..1]), "gemini").contains("GEMINI_API_KEY set"));
    let token = [("ANTHROPIC_AUTH_TOKEN", "t")];
    assert!(row(&table(&token), "anthropic").contains("ANTHROPIC_AUTH_TOKEN set"));
}

#[test]
fn the_star_marks_the_provider_that_the_environment_selects() {
    let sim = good();
    let url = sim.base_url();
    let mut vars = vec![("XAI_API_KEY", "k"), ("CUSTOM_LLM_BASE_URL", url.as_str())];
    assert!(row(&table(&vars), "xai").starts_with("* "));
    vars.push(("BATCHWRIGHT_PROVIDER", "custom"));
    let named = table(&vars);
    assert!(row(&named, "custom").starts_with("* ") && row(&named, "xai").starts_with("  "));
    for (name, said) in cases(
        "
        groq => BATCHWRIGHT_PROVIDER=groq: no key: set GROQ_API_KEY
        nobody => BATCHWRIGHT_PROVIDER=nobody: unknown provider `nobody`
    ",
    ) {
        vars.push(("BATCHWRIGHT_PROVIDER", name));
        let bad = table(&vars);
        assert!(
            !bad.stdout
                .lines()
                .rev()
                .skip(1)
                .any(|row| row.starts_with('*'))
        );
        bad.says(said);
    }
}

#[test]
fn the_table_is_complete() {
    let long = "meta-llama/llama-4-scout-17b-16e-instruct-with-a-long-name";
    let desk = Desk::new();
    let mut command = desk.command(["providers", "--model", long]);
    let shown = command.env("GROQ_API_KEY", "k").ended().expect(0);
    shown.shows(long);
    shown.shows("no key: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN");
}

/// The output of a run without a named provider, with these variables.
fn found(vars: &[(&str, &str)]) -> Ended {
    let desk = Desk::with(1);
    let mut command = desk.command(["run", "in.jsonl", "-o", "out.jsonl"]);
    command.envs(vars.iter().copied()).ended()
}

#[test]
fn the_providers_without_a_key_take_one_line() {
    let sim = good();
    let ended = found(&[("LOCAL_LLM_BASE_URL", &sim.base_url())]).expect(0);
    let lines = ended.stderr.lines();
    let lines: Vec<_> = lines
        .filter(|line| line.contains("taking local: "))
        .collect();
    assert_eq!(lines.len(), 1, "{}", ended.stderr);
    assert!(
        lines[0].ends_with("(see batchwright providers)"),
        "{}",
        lines[0]
    );
    ended.hides("not groq");
    // An incompletely configured provider keeps its line.
    let url = sim.base_url();
    found(&[("OPENAI_API_KEY", "sk-1"), ("LOCAL_LLM_BASE_URL", &url)])
        .ends(0, "not openai: a key is set, but no model is named");
}

#[test]
fn without_a_usable_provider_the_run_gives_advice() {
    found(&[])
        .ends(2, "a key and a model: set OPENAI_API_KEY")
        .says("a local model: start llama.cpp")
        .says("add --provider extract");
    let desk = Desk::with(1);
    let none = desk
        .plain("run in.jsonl -o out.jsonl --task embed")
        .expect(2);
    none.errs("no provider that makes embeddings can be used");
    let none = none.says("a key and a model: set OPENAI_API_KEY");
    none.hides("extract");
}
