//! A run stops before it costs more than its budget. The provider computes the bill independently.

use batchwright::queue::ProcessState;
use batchwright::{ProcessId, Usd};
use batchwright_simulate::Simulator;
use serde_json::json;

use super::batch_runs::{SHORT, command, home_queue, other, taking, with_provider};
use super::common::{Desk, Ended, PATIENCE, RunToEnd, Running, cases, eventually, good, usd};
use super::fake::Fake;

/// A model that takes 0.15 and 0.60 dollars per million tokens, and half of it in batches.
const MODEL: &str = "--model gpt-4o-mini --max-tokens 20";
/// Enough for all.
const MORE: &str = "--budget 0.01";

/// This number of prompts of the same length.
fn prompts(desk: &Desk, items: usize) {
    let line = |i| format!("{{\"id\": \"{i}\", \"prompt\": \"prompt {i:04}\"}}\n");
    desk.input((0..items).map(line).collect::<String>());
}

fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    let words = format!("in.jsonl {MODEL} -o out.jsonl --json {words}");
    command(desk, sim, &words).ended()
}

/// What one of the prompts costs as a call.
fn cost_of_one() -> Usd {
    let desk = Desk::new();
    prompts(&desk, 1);
    run(&desk, &good(), "").expect(0);
    usd(&desk.results("out.jsonl")[0]["cost_usd"])
}

fn times(one: Usd, calls: u64) -> Usd {
    Usd::from_picos(one.picos() * calls)
}

/// The flag with this amount, without rounding.
fn limit(amount: Usd) -> String {
    format!("--budget {:.12}", amount.picos() as f64 / 1e12)
}

fn spent_by(ended: &Ended) -> Usd {
    usd(&ended.json()["budget"]["spent"])
}

fn of_lines(desk: &Desk) -> Usd {
    let lines = desk.results("out.jsonl");
    lines.iter().map(|line| usd(&line["cost_usd"])).sum()
}

#[test]
fn a_run_stops_before_its_budget_is_exceeded_and_resumes_with_a_higher_one() {
    let (desk, sim, one) = (Desk::new(), good(), cost_of_one());
    prompts(&desk, 200);
    let budget = times(one, 100);
    let few = format!("-j 8 {}", limit(budget));
    let ended = run(&desk, &sim, &few).ends(4, "stopped: the budget of");
    assert_eq!(of_lines(&desk), times(one, sim.stats().paid));
    assert_eq!(of_lines(&desk), spent_by(&ended));
    assert!(spent_by(&ended) <= budget && sim.stats().paid >= 90);
    ended.tells("give the same command with a higher --budget");

    // With the same budget, nothing more is sent, and the earlier cost still counts, also through a link.
    std::os::unix::fs::symlink("out.jsonl", desk.path("link.jsonl")).unwrap();
    let words = format!("in.jsonl {MODEL} -o link.jsonl {few}");
    command(&desk, &sim, &words).ended().expect(4);
    assert!(times(one, sim.stats().paid) <= budget);
    run(&desk, &sim, MORE).expect(0);
    assert_eq!(sim.stats().paid, 200);
    // Without the output, a run starts from the beginning.
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    assert!(!desk.exists("link.jsonl.budget"));
    let anew = run(&desk, &sim, MORE).expect(0);
    assert_eq!(spent_by(&anew), times(one, 200));
}

#[test]
fn a_budget_below_the_cost_of_a_call_is_reported_with_what_to_do() {
    let (desk, sim) = (Desk::new(), good());
    prompts(&desk, 3);
    run(&desk, &sim, "--budget 0.0000001")
        .ends(4, "allows no call that could cost")
        .says("to go on, give the same command with a higher --budget:\n    ")
        .says("--budget USD")
        .hides("used up");
    let longest = "in.jsonl --model gpt-4o-mini -o longest.jsonl --budget 0.001";
    let ended = command(&desk, &sim, longest).ended();
    ended.ends(4, "(--max-tokens 1").says(" fits)");
    assert_eq!(sim.stats().calls, 0);
    run(&desk, &sim, MORE).expect(0);
}

#[test]
fn a_run_whose_calls_have_no_upper_bound_is_refused() {
    let (desk, sim) = (Desk::with(3), good());
    for (words, missing) in cases(
        r#"
        --model new --max-tokens 9 --budget 1 => no price of "new" at openai is known
        --model new --max-tokens 9 --budget 1 --strategy batch => no price of "new" at openai is known
        --model gpt-4o-mini --budget 0 => a positive number of US dollars
    "#,
    ) {
        let words = format!("in.jsonl -o out.jsonl {words}");
        command(&desk, &sim, &words).ended().ends(2, missing);
    }
    assert_eq!(sim.stats().calls, 0);
}

/// Once the calls in flight are recorded, only lost calls and the end change the record. The message names the file and what
/// to do, and the next run sends nothing before that is done.
#[test]
fn a_record_that_cannot_be_written_is_an_error_of_its_own() {
    let (desk, sim, one) = (Desk::new(), good(), cost_of_one());
    // While its first call waits, the program changes no file.
    sim.hold();
    prompts(&desk, 10);
    let record = desk.path("out.jsonl.budget");
    let words = format!("-j 1 {}", limit(times(one, 15)));
    let first = format!("in.jsonl {MODEL} -o out.jsonl {words}");
    let running = Running::start(&mut command(&desk, &sim, &first));
    assert!(sim.wait_until(|stats| stats.in_flight == 1, PATIENCE));
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    sim.release();
    running
        .wait()
        .ends(0, "cannot record what is spent in ")
        .says("out.jsonl.budget")
        .tells("readable and writable for this user, and give the command again");
    prompts(&desk, 11);
    run(&desk, &sim, &words).ends(1, "cannot read ");
    assert_eq!(sim.stats().paid, 10);
    std::fs::remove_dir(&record).unwrap();
    run(&desk, &sim, &words).expect(0);
    assert_eq!(sim.stats().paid, 11);
}

/// Batches of a run take what the budget allows; the record beside the output counts what the queue has spent.
#[test]
fn a_run_in_batches_stops_before_its_budget_is_exceeded_and_continues_with_a_higher_one() {
    let (desk, sim, one) = (Desk::new(), taking(SHORT), cost_of_one());
    let run = |words: &str, code| run(&desk, &sim, words).expect(code);
    let twice = |ended: &Ended| times(spent_by(ended), 2);
    prompts(&desk, 20);
    let budget = times(one, 6);
    let ended = run(&format!("--strategy batch {}", limit(budget)), 4);
    let done = desk.results("out.jsonl").len() as u64;
    assert_eq!(spent_by(&ended), of_lines(&desk));
    assert_eq!(twice(&ended), times(one, done));
    assert!(spent_by(&ended) <= budget && done >= 7, "{done}");
    ended
        .says("stopped: the budget of")
        .tells("give the same command with a higher --budget");
    // Calls would count too. Without the flag, the budget of the process stays.
    run(&format!("--strategy batch {}", limit(budget)), 4);
    run("--strategy batch", 4);
    assert_eq!(sim.batch_stats().items_accepted, done);
    let ended = run(&format!("--strategy batch {MORE}"), 0);
    assert_eq!(desk.results("out.jsonl").len(), 20);
    assert_eq!(twice(&ended), times(one, 20));
    assert!(!desk.exists("out.jsonl.batchwright"));
    // More items of the same output: what was spent is on record.
    prompts(&desk, 21);
    assert_eq!(twice(&run(MORE, 0)), times(one, 22));
}

fn state(desk: &Desk, id: ProcessId) -> ProcessState {
    home_queue(desk).process(id).unwrap().unwrap()
}

#[test]
fn a_process_is_paused_before_its_budget_is_exceeded_and_continues_with_a_higher_one() {
    let (desk, sim, one) = (Desk::new(), good(), cost_of_one());
    let on_queue = |words: &str, code| other(&desk, &sim, words).expect(code);
    // No rate limit delays a worker.
    let work = "work --rpm 600000 --tpm 99999999 --model gpt-4o-mini -j 8 --until-empty";
    prompts(&desk, 200);
    let submit = format!("submit in.jsonl {MODEL} {}", limit(times(one, 100)));
    let id = on_queue(&submit, 0).process();
    on_queue(work, 4)
        .says("the budget of")
        .tells(&format!("batchwright retry {id} --budget USD"));
    let paid = sim.stats().paid;
    assert!((90..=100).contains(&paid), "{paid}");
    assert_eq!(state(&desk, id).counts.completed, paid);
    let used = || state(&desk, id).budget.unwrap().used;
    assert_eq!(used(), times(one, paid));
    let told = on_queue("status", 0);
    told.shows("paused by its budget");
    told.tells("is used up");

    let waits = desk.command(work.replace("--until-empty", "").split_whitespace());
    let waiting = Running::start(&mut with_provider(waits, &sim));
    assert!(eventually(|| {
        let line = on_queue("status --json", 0).json();
        line["processes"][0]["limited_by"] == "budget" && line["workers"] == 1
    }));
    drop(waiting);

    // The same worker does nothing more, and does not turn in circles.
    on_queue(work, 4);
    assert_eq!(sim.stats().paid, paid);
    on_queue(&format!("retry {id} {MORE}"), 0).tells("is $0.010000");
    on_queue(work, 0);
    assert_eq!(sim.stats().paid, 200);
    assert_eq!(used(), times(one, 200));
}

/// It is not sent, and its job fails.
#[test]
fn a_request_without_a_known_price_is_refused_under_a_budget() {
    let (desk, sim) = (Desk::with(3), good());
    let on_queue = |words: &str| other(&desk, &sim, words);
    let submit = "submit in.jsonl --model new --max-tokens 9 --budget 1";
    let id = on_queue(submit).expect(0).process();
    let work = "work --rpm 600000 --model new --until-empty";
    for strategy in ["sync", "batch"] {
        on_queue(&format!("{work} --strategy {strategy}"));
        assert_eq!(
            (state(&desk, id).counts.failed, sim.stats().calls),
            (3, 0),
            "{strategy}"
        );
        on_queue(&format!("retry {id}")).expect(0);
    }
    let prices = json!([{"models": ["new"], "prices": [{"input": 1, "output": 2}]}]);
    let prices = json!({"providers": {"*": {"models": prices}}});
    desk.write("prices.json", prices.to_string());
    on_queue(&format!("{work} --prices prices.json")).expect(0);
    assert_eq!(state(&desk, id).counts.completed, 3);
}

#[test]
fn calls_without_a_known_price_are_not_shown_as_free() {
    let (desk, sim) = (Desk::with(2), good());
    let on_queue = |words: &str| other(&desk, &sim, words).expect(0);
    on_queue("submit in.jsonl --model new");
    on_queue("work --rpm 600000 --model new --until-empty");
    let told = on_queue("status");
    told.shows("  unknown  finished");
    told.tells("known cost in this month (UTC): $0 for 2 calls, 2 of them free or of unknown cost");
    on_queue("submit in.jsonl --model gpt-4o-mini --name other");
    on_queue("work --rpm 600000 --until-empty");
    let told = on_queue("status");
    told.hides("$0 for");
    told.tells(" for 4 calls, 2 of them free or of unknown cost");
}

#[test]
fn replies_without_usage_are_not_shown_as_free_and_known_prices_of_zero_not_as_unknown() {
    let answers = json!([{"message": {"content": "x"}, "finish_reason": "stop"}]);
    let fake = Fake::answering(move |_| json!({"choices": answers}));
    let prices = json!([{"models": ["m"], "prices": [{"input": 0, "output": 0}]}]);
    let prices = json!({"providers": {"*": {"models": prices}}});
    for (is_free, cost) in [(false, "unknown"), (true, "$0")] {
        let (desk, sim) = (Desk::with(2), good());
        desk.write("prices.json", prices.to_string());
        let on_queue = |words: &str| other(&desk, &sim, words).expect(0);
        on_queue("submit in.jsonl --model m");
        if is_free {
            on_queue("work --until-empty --prices prices.json");
        } else {
            let words = format!("work --until-empty --base-url {}", fake.url());
            on_queue(&words);
        }
        let told = on_queue("status");
        told.shows(&format!("  {cost}  finished"));
        told.tells("$0 for 2 calls, 2 of them free or of unknown cost");
    }
}
