//! Several runs at once that use the same quota.

use batchwright_simulate::{SimConfig, Simulator};

use super::common::{Desk, HOME, RunToEnd, Running, all_ids, good, prompt_line, simulator};

/// Three runs of 20 items each at thirty requests per second, on a server with that limit, which it does not
/// report. Returns the number of rejections. The server tolerates calls that a busy machine delays and that arrive
/// together.
fn refused(home: impl Fn(usize) -> String) -> u64 {
    let sim: Simulator = simulator(
        SimConfig::default()
            .rpm(1800)
            .burst(22)
            .hide_limits(true)
            .retry_after(std::time::Duration::ZERO),
    );
    let desk = Desk::new();
    let mut runs = Vec::new();
    for run in 0..3 {
        let lines: String = (run * 20..(run + 1) * 20).map(prompt_line).collect();
        desk.write(&format!("in-{run}.jsonl"), lines);
        let words = format!("run in-{run}.jsonl -o out-{run}.jsonl -j 8 --rpm 1800 --model m");
        let mut command = desk.command(words.split_whitespace());
        command
            .args(["--provider", "openai", "--base-url", &sim.base_url()])
            .env("OPENAI_API_KEY", "sk-shared-0123456789")
            .env("BATCHWRIGHT_HOME", desk.path(&home(run)));
        runs.push(Running::start(&mut command));
    }
    for run in runs {
        run.wait().expect(0);
    }
    let mut ids: Vec<String> = (0..3)
        .flat_map(|run| desk.ids(&format!("out-{run}.jsonl")))
        .collect();
    ids.sort();
    assert_eq!(ids, all_ids(60));
    sim.stats().refused
}

#[test]
fn runs_of_one_data_folder_share_a_quota() {
    assert_eq!(refused(|_| "home".to_owned()), 0);
    assert!(
        refused(|run| format!("home-{run}")) > 0,
        "apart they do not"
    );
}

/// Each model has a separate quota, and each quota a file.
#[cfg(unix)]
#[test]
fn there_may_be_more_models_than_files_may_be_open() {
    const MODELS: usize = 100;
    let (desk, sim) = (Desk::new(), good());
    let line = |i| format!(r#"{{"id":"p{i}","prompt":"say {i}","model":"m{i}"}}"#);
    let lines: Vec<String> = (0..MODELS).map(line).collect();
    desk.write("in.jsonl", lines.join("\n"));
    let few = "ulimit -n 48; exec \"$0\" \"$@\"";
    let words = "run in.jsonl -o out.jsonl -j 4 --provider openai --model m --base-url";
    let mut command = desk.other("bash", ["-c", few, env!("CARGO_BIN_EXE_batchwright")]);
    command
        .args(words.split_whitespace())
        .arg(sim.base_url())
        .env("OPENAI_API_KEY", "sk-shared-0123456789");
    command.ended().expect(0);
    assert_eq!(desk.results("out.jsonl").len(), MODELS);
    assert_eq!(sim.stats().calls, MODELS as u64);
    let quotas = std::fs::read_dir(desk.path(HOME).join("quotas")).unwrap();
    assert_eq!(quotas.count(), MODELS);
}
