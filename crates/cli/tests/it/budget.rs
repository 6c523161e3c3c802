//! A run stops before it costs more than its budget. The provider computes the bill independently.

use batchwright::{ProcessId, Usd};
use batchwright_simulate::{SimConfig, Simulator};

use super::batch_runs::{SHORT, command, home_queue, other, taking, with_provider};
use super::common::{
    Desk, Ended, RunToEnd, Running, cases, eventually, prompt_lines, simulator, usd,
};

fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    let words = format!("in.jsonl {MODEL} --json {words}");
    command(desk, sim, &words).ended()
}

#[test]
fn a_run_stops_before_its_budget_is_exceeded_and_resumes_with_a_higher_one() {
    let desk = Desk::new();
    let one = cost_of_one();
    let sim = simulator(SimConfig::default());
    desk.write("in.jsonl", lines(0..200));
    let budget = times(one, 100);
    let ended = run(
        &desk,
        &sim,
        &format!("-o out.jsonl -j 8 --budget {}", flag(budget)),
    );
    let ended = ended.expect(4);
    let lines = desk.results("out.jsonl");
    let spent: Usd = lines.iter().map(|line| usd(&line["cost_usd"])).sum();
    assert_eq!(spent, times(one, sim.stats().paid));
    assert!(spent <= budget, "{spent} of {budget}");
    assert!(lines.len() >= 90, "{} lines", lines.len());
    let told = &ended.json()["budget"];
    assert_eq!(usd(&told["spent"]), spent);
    ended
        .says("stopped: the budget of")
        .says("remaining items would cost about")
        .says(" --budget 0.01");

    // With the same budget, nothing more is sent, and the earlier cost still counts, also through a link.
    std::os::unix::fs::symlink("out.jsonl", desk.path("link.jsonl")).unwrap();
    let again = run(
        &desk,
        &sim,
        &format!("-o link.jsonl -j 8 --budget {}", flag(budget)),
    );
    again.expect(4);
    assert!(times(one, sim.stats().paid) <= budget);
    run(&desk, &sim, "-o out.jsonl --budget 0.01").expect(0);
    assert_eq!(sim.stats().paid, 200);
    // Without the output, a run starts from the beginning.
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    assert!(!desk.exists("link.jsonl.budget"));
    let anew = run(&desk, &sim, "-o out.jsonl --budget 0.01").expect(0);
    assert_eq!(usd(&anew.json()["budget"]["spent"]), times(one, 200));
}

#[test]
fn a_budget_below_the_cost_of_a_call_is_reported_with_what_to_do() {
    let desk = Desk::new();
    let sim = simulator(SimConfig::default());
    desk.write("in.jsonl", lines(0..3));
    let ended = run(&desk, &sim, "-o out.jsonl --budget 0.0000001").expect(4);
    assert_eq!(sim.stats().calls, 0);
    ended.tells("allows no call that could cost");
    ended.tells("to go on, with a budget for the next call:");
    ended.hides("used up");
    run(&desk, &sim, "-o out.jsonl --budget 0.01").expect(0);
}

#[test]
fn a_run_whose_calls_have_no_upper_bound_is_refused() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", prompt_lines(3));
    for (words, missing) in cases(
        r#"
        --model new --max-tokens 9 --budget 1 => no price of "new" at openai is known
        --model new --max-tokens 9 --budget 1 --strategy batch => no price of "new" at openai is known
        --model gpt-4o-mini --budget 0 => a positive number of US dollars
    "#,
    ) {
        let words = format!("in.jsonl -o out.jsonl {words}");
        let ended = command(&desk, &sim, &words).ended();
        ended.ends(2, missing);
    }
    assert_eq!(sim.stats().calls, 0);
}

/// Once the calls in flight are recorded, only lost calls and the end change the record. The message names the file and what
/// to do, and the next run sends nothing before that is done.
#[test]
fn a_record_that_cannot_be_written_is_an_error_of_its_own() {
    let desk = Desk::new();
    let one = cost_of_one();
    let sim = simulator(SimConfig::default());
    // While its first call waits, the program changes no file.
    sim.hold();
    desk.write("in.jsonl", lines(0..100));
    let record = desk.path("out.jsonl.budget");
    let words = format!("-o out.jsonl -j 1 --budget {}", flag(times(one, 150)));
    let running = Running::start(&mut command(
        &desk,
        &sim,
        &format!("in.jsonl {MODEL} --json {words}"),
    ));
    assert!(sim.wait_until(|stats| stats.in_flight == 1, super::common::PATIENCE));
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&record).unwrap();
    sim.release();
    running
        .wait()
        .ends(0, "cannot record what is spent in ")
        .says("out.jsonl.budget")
        .says("readable and writable for this user, and give the command again");
    assert_eq!(sim.stats().paid, 100);
    desk.write("in.jsonl", lines(0..101));
    run(&desk, &sim, &words).ends(1, "cannot read ");
    assert_eq!(sim.stats().paid, 100);
    std::fs::remove_dir(&record).unwrap();
    run(&desk, &sim, &words).expect(0);
    assert_eq!(
        (sim.stats().paid, desk.results("out.jsonl").len()),
        (101, 101)
    );
}

/// Batches of a run take what the budget allows; the record beside the output counts what the queue has spent.
#[test]
fn a_run_in_batches_stops_before_its_budget_is_exceeded_and_continues_with_a_higher_one() {
    let desk = Desk::new();
    let one = cost_of_one();
    let sim = taking(SHORT);
    desk.write("in.jsonl", lines(0..20));
    let budget = times(one, 6);
    let words = "-o out.jsonl --strategy batch";
    let ended = run(&desk, &sim, &format!("{words} --budget {}", flag(budget))).expect(4);
    let told = &ended.json()["budget"];
    let done = desk.results("out.jsonl");
    let spent: Usd = done.iter().map(|line| usd(&line["cost_usd"])).sum();
    assert_eq!(usd(&told["spent"]), spent);
    assert_eq!(spent.picos() * 2, times(one, done.len() as u64).picos());
    assert!(
        spent <= budget && done.len() >= 7,
        "{spent} of {budget}: {}",
        done.len()
    );
    ended
        .says("stopped: the budget of")
        .says("remaining items would cost about")
        .says(" --budget 0.01");
    // Calls would count too.
    let ended = run(&desk, &sim, &format!("{words} --budget {}", flag(budget)));
    ended.expect(4);
    assert_eq!(sim.batch_stats().items_accepted, done.len() as u64);

    // Without the flag, the budget of the process stays.
    run(&desk, &sim, words).expect(4);
    assert_eq!(sim.batch_stats().items_accepted, done.len() as u64);
    let ended = run(&desk, &sim, &format!("{words} --budget 0.01")).expect(0);
    assert_eq!(desk.results("out.jsonl").len(), 20);
    assert_eq!(
        usd(&ended.json()["budget"]["spent"]).picos() * 2,
        times(one, 20).picos()
    );
    assert!(!desk.path("out.jsonl.batchwright").exists());
    // More items of the same output: what was spent is on record.
    desk.write("in.jsonl", lines(0..21));
    let ended = run(&desk, &sim, "-o out.jsonl --budget 0.01").expect(0);
    let spent = usd(&ended.json()["budget"]["spent"]);
    assert_eq!(spent.picos(), times(one, 10).picos() + one.picos());
}

/// A model that takes 0.15 and 0.60 dollars per million tokens, and half of it in batches.
pub const MODEL: &str = "--model gpt-4o-mini --max-tokens 20";

pub fn lines(items: std::ops::Range<usize>) -> String {
    let line = |i| format!("{{\"id\": \"{i}\", \"prompt\": \"prompt {i:04}\"}}\n");
    items.map(line).collect()
}

fn submit(desk: &Desk, sim: &Simulator, words: &str) -> ProcessId {
    let ended = other(desk, sim, &format!("submit in.jsonl {MODEL} {words}"));
    ended.expect(0).stdout.trim().parse().unwrap()
}

fn completed(desk: &Desk, id: ProcessId) -> u64 {
    home_queue(desk)
        .process(id)
        .unwrap()
        .unwrap()
        .counts
        .completed
}

/// A worker that no rate limit delays.
pub fn work(more: &str) -> String {
    format!("work --rpm 600000 --tpm 99999999 --model gpt-4o-mini {more}")
}

/// What one of these prompts costs as a call.
pub fn cost_of_one() -> Usd {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", lines(0..1));
    let words = format!("run in.jsonl -o one.jsonl {MODEL}");
    other(&desk, &sim, &words).expect(0);
    usd(&desk.results("one.jsonl")[0]["cost_usd"])
}

pub fn times(one: Usd, calls: u64) -> Usd {
    Usd::from_picos(one.picos() * calls)
}

/// The amount as a value of the flag, without rounding.
pub fn flag(amount: Usd) -> String {
    format!("{:.12}", amount.picos() as f64 / 1e12)
}

fn used(desk: &Desk, id: ProcessId) -> Usd {
    home_queue(desk)
        .process(id)
        .unwrap()
        .unwrap()
        .budget
        .unwrap()
        .used
}

#[test]
fn a_process_is_paused_before_its_budget_is_exceeded_and_continues_with_a_higher_one() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let one = cost_of_one();
    desk.write("in.jsonl", lines(0..200));
    let budget = times(one, 100);
    let id = submit(&desk, &sim, &format!("--budget {}", flag(budget)));
    let ended = other(&desk, &sim, &work("-j 8 --until-empty"));
    ended
        .ends(4, "the budget of")
        .says(&format!("batchwright retry {id} --budget USD"));
    let paid = sim.stats().paid;
    assert!((90..=100).contains(&paid), "{paid}");
    assert_eq!(completed(&desk, id), paid);
    assert_eq!(used(&desk, id), times(one, paid));
    let told = other(&desk, &sim, "status").expect(0);
    told.shows("paused by its budget");
    told.says("is used up");

    let waiting = Running::start(&mut with_provider(
        desk.command(work("-j 8").split_whitespace()),
        &sim,
    ));
    let limit = || {
        let line = other(&desk, &sim, "status --json").expect(0).json();
        line["processes"][0]["limited_by"] == "budget" && line["workers"] == 1
    };
    assert!(eventually(limit));
    drop(waiting);

    // The same worker does nothing more, and does not turn in circles.
    other(&desk, &sim, &work("--until-empty")).expect(4);
    assert_eq!(sim.stats().paid, paid);
    other(&desk, &sim, &format!("retry {id} --budget 0.01")).ends(0, "is $0.010000");
    other(&desk, &sim, &work("--until-empty")).expect(0);
    assert_eq!(sim.stats().paid, 200);
    assert_eq!(used(&desk, id), times(one, 200));
}

/// It is not sent, and its job fails.
#[test]
fn a_request_without_a_known_price_is_refused_under_a_budget() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", lines(0..3));
    let words = "submit in.jsonl --model new --max-tokens 9 --budget 1";
    let id: ProcessId = other(&desk, &sim, words)
        .expect(0)
        .stdout
        .trim()
        .parse()
        .unwrap();
    for strategy in ["", "--strategy batch"] {
        let work = &format!("work --rpm 600000 --model new --until-empty {strategy}");
        other(&desk, &sim, work);
        let counts = home_queue(&desk).process(id).unwrap().unwrap().counts;
        assert_eq!((counts.failed, sim.stats().calls), (3, 0), "{strategy}");
        other(&desk, &sim, &format!("retry {id}")).expect(0);
    }
    let prices = r#"{"providers": {"*": {"models": [{"models": ["new"], "prices": [{"input": 1, "output": 2}]}]}}}"#;
    desk.write("prices.json", prices);
    let work = "work --rpm 600000 --model new --until-empty --prices prices.json";
    other(&desk, &sim, work).expect(0);
    assert_eq!(completed(&desk, id), 3);
}
