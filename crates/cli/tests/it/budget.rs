//! A run stops before it costs more than its budget. The provider computes the bill independently.

use batchwright::Usd;
use batchwright_simulate::{SimConfig, Simulator};

use super::batch_runs::{SHORT, command, taking};
use super::common::{Desk, Ended, RunToEnd, Running, cases, prompt_lines, simulator, usd};
use super::queue_budget::{cost_of_one, flag, lines, times};

/// A model that costs 0.15 and 0.60 dollars per million tokens.
const MODEL: &str = "--model gpt-4o-mini --max-tokens 20 --json";

fn run(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    let words = format!("in.jsonl {MODEL} {words}");
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

    // With the same budget, nothing more is sent, and the earlier cost still counts.
    let again = run(
        &desk,
        &sim,
        &format!("-o out.jsonl -j 8 --budget {}", flag(budget)),
    );
    again.expect(4);
    assert!(times(one, sim.stats().paid) <= budget);
    run(&desk, &sim, "-o out.jsonl --budget 0.01").expect(0);
    assert_eq!(sim.stats().paid, 200);
    // Without the output, a run starts from the beginning.
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
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

/// Each call in flight counts as much as the others cost, not as the most that it could cost.
#[cfg(unix)]
#[test]
fn four_kills_leave_most_of_a_budget_usable() {
    let desk = Desk::new();
    let one = cost_of_one();
    let sim = simulator(SimConfig::default());
    desk.write("in.jsonl", lines(0..400));
    let budget = times(one, 200);
    let words = format!(
        "in.jsonl {MODEL} -o out.jsonl -j 4 --budget {}",
        flag(budget)
    );
    for round in 1..=4 {
        let running = Running::start(&mut command(&desk, &sim, &words));
        assert!(sim.wait_until(|stats| stats.paid >= 10 * round, super::common::PATIENCE));
        sim.hold();
        assert!(sim.wait_until(|stats| stats.in_flight == 4, super::common::PATIENCE));
        running.signal("KILL");
        running.wait();
        sim.release();
    }
    let ended = command(&desk, &sim, &words).ended().expect(4);
    let told = &ended.json()["budget"];
    let (spent, lost) = (usd(&told["spent"]), usd(&told["lost"]));
    assert_eq!(lost, times(one, 16));
    assert!(spent >= times(one, 160), "{spent} of {budget}");
    ended.tells(" lost with calls whose reply did not come");
    let lines: Usd = desk
        .results("out.jsonl")
        .iter()
        .map(|line| usd(&line["cost_usd"]))
        .sum();
    assert_eq!(spent, lines);
}

/// A budget applies to the output: costs of runs without a budget count too.
#[test]
fn earlier_costs_of_an_output_count_towards_its_budget() {
    let desk = Desk::new();
    let one = cost_of_one();
    let sim = simulator(SimConfig::default());
    desk.write("in.jsonl", lines(0..60));
    run(&desk, &sim, "-o out.jsonl --max-items 50").expect(0);
    let budget = flag(times(one, 55));
    run(&desk, &sim, &format!("-o out.jsonl --budget {budget}")).expect(4);
    assert!(times(one, sim.stats().paid) <= times(one, 55));
    assert!(sim.stats().paid >= 50);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("out.jsonl", desk.path("link.jsonl")).unwrap();
        let paid = sim.stats().paid;
        run(&desk, &sim, &format!("-o link.jsonl --budget {budget}")).expect(4);
        assert!(sim.stats().paid <= paid + 4);
        assert!(!desk.path("link.jsonl.budget").exists());
    }
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
        &format!("in.jsonl {MODEL} {words}"),
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
