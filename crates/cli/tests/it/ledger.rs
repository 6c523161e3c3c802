//! The ledger, compared with the provider's bill and the result lines.

use batchwright::Usd;
use batchwright_simulate::{BatchConfig, SimConfig, Trouble};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, command, other};
#[cfg(unix)]
use super::common::Random;
use super::common::{
    Desk, Has, PATIENCE, RunToEnd, Running, all_ids, prompt_lines, simulator, usd,
};

fn ledger(desk: &Desk, words: &str) -> Value {
    let ended = desk.plain(&format!("ledger --json {words}")).expect(0);
    serde_json::from_str(&ended.stdout).unwrap()
}

/// The number of calls and their cost.
fn total(ledger: &Value) -> (u64, Usd) {
    let total = &ledger["total"];
    (total["calls"].as_u64().unwrap(), usd(&total["cost_usd"]))
}

fn sum(lines: &[Value]) -> Usd {
    lines.iter().map(|line| usd(&line["cost_usd"])).sum()
}

#[test]
fn the_ledger_equals_the_bill_for_calls_and_batches() {
    let troubled = SimConfig::default()
        .trouble(Trouble::Refusal, 0.2)
        .trouble(Trouble::RateLimit, 0.2)
        .trouble(Trouble::Error500, 0.2);
    let batches = SimConfig::default().batches(BatchConfig::default().duration(SHORT));
    for (config, words, tier, code) in [
        (troubled, "-j 8 --max-retries 9", "standard", 3),
        (batches, "--strategy batch", "batch", 0),
    ] {
        let (desk, sim) = (Desk::new(), simulator(config));
        assert_eq!(ledger(&desk, "")["total"]["calls"], 0);
        desk.write("in.jsonl", prompt_lines(10));
        let words = format!("in.jsonl -o out.jsonl --json --model gpt-4o-mini {words}");
        let run = || command(&desk, &sim, &words).ended().expect(code);
        let told = &run().json()["summary"];
        let lines = sum(&desk.results("out.jsonl"));
        let whole = ledger(&desk, "");
        assert_eq!(total(&whole), (sim.stats().paid, lines));
        assert_eq!(
            (usd(&told["cost_usd"]), &told["unpriced"]),
            (lines, &json!(0))
        );
        assert!(lines > Usd::ZERO && !desk.exists("out.jsonl.batchwright"));
        let row = &whole["rows"][0];
        row.has(json!({"tier": tier, "provider": "openai"}));
        assert_eq!(row["key"].as_str().unwrap().len(), 16);
        // Nothing is booked twice; failed items are sent again.
        run();
        assert_eq!(total(&ledger(&desk, "")).0, sim.stats().paid);
        let of_run = ledger(&desk, "out.jsonl --by run");
        assert_eq!(total(&of_run).0, sim.stats().paid);
        assert_eq!(
            usd(&of_run["lines_cost_usd"]),
            sum(&desk.results("out.jsonl"))
        );
        let shown = desk.plain("ledger out.jsonl").expect(0);
        shown.shows("its result lines cost $0.000");
        let run = of_run["rows"][0]["run"].as_str().unwrap();
        assert!(run.ends_with("/out.jsonl"), "{run}");
        desk.plain("ledger other.jsonl").ends(2, "has no calls");
        assert_eq!(ledger(&desk, "--until 2026-01-01")["total"]["calls"], 0);
    }
}

#[test]
fn calls_of_the_queue_outlive_their_jobs() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", prompt_lines(4));
    let words = "submit in.jsonl --model gpt-4o-mini --json";
    let submitted = desk.plain(words).expect(0).json();
    let process = submitted["process_id"].as_str().unwrap();
    other(&desk, &sim, "work --until-empty").expect(0);
    let before = ledger(&desk, "--by run,model,key");
    assert_eq!(total(&before).0, 4);
    assert_eq!(before["rows"][0]["run"], process);
    let fetched = desk.plain(&format!("results {process} -o out.jsonl"));
    fetched.expect(0);
    assert_eq!(total(&before).1, sum(&desk.results("out.jsonl")));
    assert_eq!(ledger(&desk, "--by run,model,key"), before);
    let checked = desk.plain("doctor").expect(0);
    checked.shows("the charges equal what the jobs have used");
    let shown = desk.plain("ledger --by model").expect(0);
    shown.shows("gpt-4o-mini");
    shown.shows("total: $0.");
    let csv = desk.plain("ledger --csv --by day,run").expect(0).stdout;
    assert!(csv.starts_with("day,run,calls,unpriced,"), "{csv}");
    let csv = csv.lines().nth(1).unwrap();
    assert!(csv.contains(&format!(",{process},4,0,")), "{csv}");
    desk.plain("ledger --csv --json").expect(2);
    desk.plain("ledger --month 2026-13")
        .ends(2, "a month is written like");
    desk.plain("ledger --by colour").ends(2, "owner");
}

/// After each kill, the ledger has every answer that the output has.
#[cfg(unix)]
#[test]
fn kills_lose_no_charge_of_an_answer_and_resumed_runs_book_none_twice() {
    const CONCURRENCY: u64 = 4;
    let few = std::time::Duration::from_millis(4);
    let (desk, mut random) = (Desk::new(), Random(5));
    let sim = simulator(SimConfig::default().jitter(few).seed(5));
    let items = 300;
    desk.write("in.jsonl", prompt_lines(items));
    let words = format!("in.jsonl -o out.jsonl -q -j {CONCURRENCY} --model gpt-4o-mini");
    let mut kills = 0;
    for _ in 0..8 {
        let until = sim.stats().calls + random.below(30);
        let mut running = Running::start(&mut command(&desk, &sim, &words));
        let exit = &mut running.child;
        sim.wait_until(
            |s| s.calls > until || exit.try_wait().unwrap().is_some(),
            PATIENCE,
        );
        running.signal("KILL");
        kills += u64::from(running.wait().status.code().is_none());
        if !desk.exists("out.jsonl") {
            continue;
        }
        let text = desk.read("out.jsonl");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines: Vec<Value> = whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let booked = total(&ledger(&desk, ""));
        assert!(booked.0 >= lines.len() as u64 && booked.0 <= sim.stats().paid);
        assert!(booked.1 >= sum(&lines), "{booked:?}");
    }
    assert!(kills > 3, "{kills} kills");
    command(&desk, &sim, &words).ended().expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(items));
    let whole = ledger(&desk, "out.jsonl");
    assert!(total(&whole).1 >= usd(&whole["lines_cost_usd"]));
    let (calls, booked) = total(&whole);
    let paid = sim.stats().paid;
    assert!(calls <= paid && paid - calls <= kills * CONCURRENCY);
    // All prompts have the same length, apart from the two digits of their number.
    let lines = sum(&desk.results("out.jsonl"));
    assert!(booked >= lines);
    if calls == items as u64 {
        assert_eq!(booked, lines);
    }
}

#[test]
fn unreadable_ledgers_are_named_and_sums_are_marked_incomplete() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.path("home/ledger")).unwrap();
    desk.write("home/ledger/odd.jsonl", "{}\n");
    let ended = desk.plain("ledger --json").expect(1);
    ended.errs("the sums are incomplete");
    let told = ended.json();
    assert_eq!(told["unreadable"].as_array().unwrap().len(), 1);
}

#[test]
fn doctor_compares_the_ledgers_of_runs_with_their_lines() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", prompt_lines(4));
    for output in ["out.jsonl", "gone.jsonl"] {
        let words = format!("in.jsonl -o {output} -q --model gpt-4o-mini");
        command(&desk, &sim, &words).ended().expect(0);
    }
    std::fs::remove_file(desk.path("gone.jsonl")).unwrap();
    let checked = desk.plain("doctor");
    checked.shows("covers the cost of the result lines of 1 run");
    checked.shows("1 run not compared");
    let lines = desk.read("out.jsonl");
    desk.write("out.jsonl", lines.clone() + &lines);
    let checked = desk.plain("doctor");
    checked.shows("/out.jsonl cost $0.000079, and the ledger has only $0.000040 for them");
    checked.shows("normal if lines were copied from another output");
    desk.write("home/ledger/odd.jsonl", "{}\n");
    let checked = desk.plain("doctor").expect(1);
    checked.shows("odd.jsonl cannot be read, or only in part");
}
