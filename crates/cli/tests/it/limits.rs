//! Servers that accept few concurrent calls, are unreachable, or return nothing useful.

use std::time::Duration;

use batchwright_simulate::{SimConfig, Trouble};

use super::common::{Desk, NOBODY, PATIENCE, RunToEnd, all_ids, simulator};
use super::fake::{Fake, says};

#[test]
fn a_limit_on_calls_at_once_loses_no_item_and_refuses_few_calls() {
    for calls in [8, 32] {
        let few = SimConfig::default()
            .max_parallel(2)
            .latency(Duration::from_millis(30));
        let (desk, sim) = (Desk::with(100), simulator(few));
        let ended = desk.run(&sim, &format!("in.jsonl -o out.jsonl -j {calls} --json"));
        let ended = ended.expect(0);
        assert_eq!(desk.ids("out.jsonl"), all_ids(100));
        let stats = sim.stats();
        assert_eq!((stats.answered, stats.paid_twice), (100, 0));
        // The number depends on how busy the machine is; the limiter's own tests, in virtual time, are strict. If all
        // calls paused and each slot was rejected at the end of the pause, there would be more than one rejection per
        // item.
        assert!(
            (1..100).contains(&stats.refused),
            "{} refused",
            stats.refused
        );
        let value = ended.json();
        assert_eq!(value["summary"]["rate_limited"], stats.refused);
        assert_eq!(value["summary"]["retries"], stats.refused);
    }
}

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

/// A server that rejects everything with this status and message; `N` in it is replaced by an increasing number.
fn refusing(status: u16, message: &'static str) -> String {
    let server = Fake::start(move |asked| {
        let text = message.replace('N', &asked.nth.to_string());
        says(status, serde_json::json!({"error": {"message": text}}))
    });
    server.url()
}

#[test]
fn a_run_stops_after_ten_identical_rejections() {
    let asked = |words: &str| {
        let url = refusing(418, "team N may not brew today");
        let desk = Desk::with(40);
        let words = format!("run in.jsonl -o out.jsonl --provider custom --model m -j 2 {words}");
        let mut command = desk.command(words.split_whitespace());
        let ended = command.env("CUSTOM_LLM_BASE_URL", url).ended();
        (ended, desk.results("out.jsonl").len())
    };
    let (ended, lines) = asked("");
    let ended = ended.expect(4);
    let ended =
        ended.says("stopped: the first 10 requests were all rejected with the same message");
    ended.says("may not brew today");
    assert!((10..=12).contains(&lines), "{lines} results");
    let (ended, lines) = asked("--on-error continue");
    ended.expect(3);
    assert_eq!(lines, 40);
    let (ended, lines) = asked("--fallback extract");
    ended.expect(0);
    assert_eq!(lines, 40);
}

#[test]
fn a_requested_wait_of_years_is_ignored_by_this_run_and_the_next() {
    let year = Duration::from_secs(365 * 86_400);
    let forever = SimConfig::default()
        .trouble(Trouble::RateLimit, 1.0)
        .retry_after(year);
    let (desk, sim) = (Desk::with(30), simulator(forever));
    let words = "in.jsonl -o out.jsonl -j 2";
    desk.run(&sim, words)
        .ends(4, "stopped: it requests a wait of 1");
    assert!(sim.stats().calls <= 3, "{} calls", sim.stats().calls);
    // The simulator rejects each prompt once.
    let before = sim.stats().calls;
    desk.run(&sim, words).expect(4);
    assert!(sim.stats().calls > before, "the next run was held back");
    let (desk, sim) = (
        Desk::new(),
        simulator(
            SimConfig::default()
                .trouble(Trouble::Error503, 1.0)
                .trouble_times(Trouble::Error503, None)
                .retry_after(year),
        ),
    );
    desk.prompts("in.jsonl", 5);
    desk.run(&sim, "in.jsonl -o out.jsonl --fallback extract")
        .expect(0);
    assert_eq!(sim.stats().calls, 5);
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

#[test]
#[ignore = "eight seconds"]
fn an_address_without_a_server_stops_the_run() {
    let desk = Desk::with(300);
    let words = "run in.jsonl -o out.jsonl --provider custom --model m";
    let mut command = desk.command(words.split_whitespace());
    let began = std::time::Instant::now();
    let ended = command.env("CUSTOM_LLM_BASE_URL", NOBODY).ended();
    let took = began.elapsed();
    let ended = ended.ends(4, "stopped: the provider cannot be reached");
    let ended = ended.says("cannot reach http://127.0.0.1:9/v1");
    ended.says("no server has been reached there: check the address");
    assert!(took < PATIENCE, "{took:?}");
    assert!(
        desk.results("out.jsonl").is_empty(),
        "all of them are still to be done"
    );
}

/// A limit that the user did not set is shown with its source and the flag that overrides it.
#[test]
fn progress_names_the_learned_limit_that_slows_a_run() {
    let slow = SimConfig::default().rpm(60).burst(1);
    let silent = SimConfig::default().rpm(120).burst(1).hide_limits(true);
    let run = |config, prompts, flags: &str| {
        let (desk, sim) = (Desk::with(prompts), simulator(config));
        let words = format!("in.jsonl -o out.jsonl --progress always {flags}");
        desk.run(&sim, &words).expect(0)
    };
    // All runs wait for the simulator.
    std::thread::scope(|scope| {
        let told = scope.spawn(|| run(slow.clone(), 5, ""));
        let set = scope.spawn(|| run(slow.clone(), 5, "--rpm 60"));
        run(silent, 15, "")
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
