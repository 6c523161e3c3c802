//! Servers that accept few concurrent calls, are unreachable, or return nothing useful.

use std::time::Duration;

use batchwright_simulate::{SimConfig, Simulator, Trouble};

use super::common::{Desk, HOME, RunToEnd, Running, all_ids, good, prompt_line, simulator};

#[test]
fn a_run_stops_after_ten_billed_unusable_replies() {
    for (trouble, words) in [
        (Trouble::Empty, ""),
        (Trouble::Empty, "--fallback extract"),
        (Trouble::BrokenJson, "--max-retries 0"),
    ] {
        let broken = SimConfig::default().trouble(trouble, 1.0);
        let desk = Desk::with(60);
        let sim = simulator(broken.trouble_times(trouble, None));
        let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl -j 2 {words}"));
        ended
            .expect(4)
            .says("stopped: the first 10 replies were all unusable, and each was billed")
            .says("the last one begins with \"{");
        let stats = sim.stats();
        assert!((10..=12).contains(&stats.calls), "{} calls", stats.calls);
        assert_eq!((stats.paid, stats.paid_twice), (stats.calls, 0));
    }
    // With `--on-error continue`, the run continues.
    let desk = Desk::new();
    let sim = simulator(SimConfig::default().trouble(Trouble::Empty, 1.0));
    desk.prompts("in.jsonl", 20);
    let words = "in.jsonl -o out.jsonl -j 2 --on-error continue";
    desk.run(&sim, words).expect(3);
    assert_eq!(sim.stats().calls, 20);
}

#[test]
fn an_address_of_another_server_stops_the_run() {
    let desk = Desk::with(300);
    let sim = simulator(SimConfig::default());
    let elsewhere = sim.base_url().replace("/v1", "/elsewhere");
    let words = format!(
        "run in.jsonl -o out.jsonl --provider openai --model m -j 3 --base-url {elsewhere}"
    );
    let mut command = desk.command(words.split_whitespace());
    let ended = command.env("OPENAI_API_KEY", "k").ended();
    ended
        .ends(4, "stopped: the address is not that of the provider's API")
        .says("answered 404");
    assert!(sim.stats().calls <= 5 + 3, "{}", sim.stats().calls);
}

/// A limit that the user did not set is shown with its source and the flag that overrides it.
#[test]
fn progress_names_the_learned_limit_that_slows_a_run() {
    let slow = SimConfig::default().rpm(60).burst(1);
    let silent = SimConfig::default().rpm(240).burst(1).hide_limits(true);
    let run = |config, prompts, flags: &str| {
        let (desk, sim) = (Desk::with(prompts), simulator(config));
        let words = format!("in.jsonl -o out.jsonl --progress always {flags}");
        desk.run(&sim, &words).expect(0)
    };
    // All runs wait for the simulator.
    std::thread::scope(|scope| {
        let told = scope.spawn(|| run(slow.clone(), 5, ""));
        let set = scope.spawn(|| run(slow.clone(), 5, "--rpm 60"));
        run(silent, 60, "")
            .says("limited by the provider's limit")
            .says(" requests/min inferred from refused calls");
        let told = told.join().unwrap();
        told.hides("--rpm");
        told.tells(
            "limited by the provider's limit · 60 requests/min by x-ratelimit-limit-requests",
        );
        let set = set.join().unwrap();
        set.tells("limited by quota (--rpm, --tpm)");
        set.hides("limited by the provider's limit");
    });
}

/// Each model has a separate quota, and each quota a file.
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

/// A run of these lines with the provider `openai`; the lines of different runs must differ.
fn start(
    desk: &Desk,
    sim: &Simulator,
    name: &str,
    items: std::ops::Range<usize>,
    words: &str,
) -> Running {
    desk.write(
        &format!("{name}.jsonl"),
        items.map(prompt_line).collect::<String>(),
    );
    let words = format!("run {name}.jsonl -o {name}.out --model m --json {words}");
    let mut command = desk.command(words.split_whitespace());
    command
        .args(["--provider", "openai", "--base-url", &sim.base_url()])
        .env("OPENAI_API_KEY", "sk-pace-0123456789")
        .env("BATCHWRIGHT_HOME", desk.path("home"));
    Running::start(&mut command)
}

fn slow() -> SimConfig {
    SimConfig::default().latency(Duration::from_millis(30))
}

#[test]
fn a_run_finds_the_useful_concurrency_and_never_exceeds_a_given_one() {
    // Slow enough that a busy machine does not look like a busy server.
    let (desk, sim) = (
        Desk::new(),
        simulator(slow().latency(Duration::from_millis(150))),
    );
    let ended = start(&desk, &sim, "a", 0..400, "").wait().expect(0);
    let summary = ended.json();
    ended
        .says("5 in flight, up to 256 while that helps")
        .says("limited by concurrency (found: 5 to ");
    assert_eq!(desk.ids("a.out"), all_ids(400));
    let most = sim.stats().max_in_flight;
    assert!((11..=256).contains(&most), "{most} at once");
    assert!(summary["summary"]["most_in_flight"].as_u64().unwrap() >= most);

    // So few items that no more calls are started than at first.
    let ended = start(&desk, &sim, "b", 0..10, "").wait().expect(0);
    ended.hides("found: 5 to 5");

    let (desk, sim) = (Desk::new(), simulator(slow()));
    start(&desk, &sim, "a", 0..60, "-j 5").wait().expect(0);
    assert!(sim.stats().max_in_flight <= 5);
    let (desk, sim) = (Desk::new(), simulator(slow()));
    let ended = start(&desk, &sim, "a", 0..10, "-j auto --rpm 60000").wait();
    ended.ends(0, "5 in flight, up to 256");
    desk.plain("run a.jsonl -o b.out -j many")
        .ends(2, "write a whole number from 1 to 10000, or auto");
}
