//! All work of a data folder stays within its monthly budget, against a provider that bills by itself.

use std::time::Duration;

use batchwright::{ProcessId, Usd};
use batchwright_simulate::{BatchStats, SimConfig, Simulator};
use serde_json::{Value, json};

use super::batch_runs::{SHORT, home_queue, taking};
use super::common::{Desk, Has, PATIENCE, simulator, usd};
use super::queue_budget::{MODEL, cost_of_one, done, lines, start, work};

/// Sets the budget to the cost of this number of calls.
fn limit(desk: &Desk, sim: &Simulator, one: Usd, calls: u64) -> Usd {
    let limit = Usd::from_picos(one.picos() * calls);
    let dollars = limit.picos() as f64 / 1e12;
    done(
        desk,
        sim,
        &format!("config set llm.monthly_budget {dollars:.12}"),
    )
    .expect(0);
    limit
}

fn in_ledger(desk: &Desk, sim: &Simulator) -> Usd {
    let told = done(desk, sim, "ledger --json").expect(0).json();
    usd(&told["total"]["cost_usd"])
}

#[test]
fn runs_and_workers_of_a_data_folder_share_its_monthly_budget() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    let one = cost_of_one();
    desk.write("in.jsonl", lines(0..60));
    // What was spent before the setting existed counts.
    done(&desk, &sim, &format!("run in.jsonl -o a.jsonl {MODEL}")).expect(0);
    limit(&desk, &sim, one, 130);
    done(&desk, &sim, &format!("run in.jsonl -o b.jsonl {MODEL}")).expect(0);
    let words = format!("run in.jsonl -o c.jsonl {MODEL}");
    done(&desk, &sim, &words)
        .ends(4, "the monthly budget of")
        .says("is used up");
    let paid = sim.stats().paid;
    assert!((126..=130).contains(&paid), "{paid}");

    let submitted = done(&desk, &sim, &format!("submit in.jsonl {MODEL}")).expect(0);
    let id: ProcessId = submitted.stdout.trim().parse().unwrap();
    done(&desk, &sim, &work("--until-empty")).ends(4, "the monthly budget of");
    let counts = || home_queue(&desk).process(id).unwrap().unwrap().counts;
    assert_eq!((counts().failed, sim.stats().paid <= 130), (0, true));
    done(&desk, &sim, "status").ends(0, "the monthly budget of");

    // A worker that waits for work continues when the limit is raised.
    let worker = start(&desk, &sim, &work("-v"));
    worker.hears("the monthly budget of");
    let before = sim.stats().calls;
    limit(&desk, &sim, one, 150);
    assert!(sim.wait_until(|stats| stats.paid >= 146, super::common::PATIENCE));
    assert!(sim.stats().paid <= 150);
    assert!(sim.stats().calls - before <= 24);
    worker.signal("INT");
    worker.wait();
    assert_eq!(
        in_ledger(&desk, &sim),
        Usd::from_picos(one.picos() * sim.stats().paid)
    );
    limit(&desk, &sim, one, 1000);
    done(&desk, &sim, &work("--until-empty")).expect(0);
    done(&desk, &sim, &words).expect(0);
    assert_eq!(
        (counts().completed, desk.results("c.jsonl").len()),
        (60, 60)
    );
    assert_eq!(sim.stats().paid, 240);
}

#[test]
fn batches_count_in_the_monthly_budget() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    let one = cost_of_one();
    desk.write("in.jsonl", lines(0..20));
    let budget = limit(&desk, &sim, one, 6);
    let words = format!("run in.jsonl -o out.jsonl {MODEL} --strategy batch");
    let ended = done(&desk, &sim, &words);
    let accepted = sim.batch_stats().items_accepted;
    assert!((6..=12).contains(&accepted), "{accepted}: {}", ended.stderr);
    let spent = in_ledger(&desk, &sim);
    assert!(spent <= budget);
    assert_eq!(spent.picos() * 2, one.picos() * accepted);
    ended.ends(4, "the monthly budget of");

    // All that was reserved and not spent came back.
    limit(&desk, &sim, one, 14);
    done(&desk, &sim, &words).expect(0);
    assert_eq!(sim.batch_stats().items_accepted, 20);
}

/// Most requests cost a small part of what they could cost. A program that is killed while its batch is at the provider
/// leaves the reservation, and the next one returns it.
#[cfg(unix)]
#[test]
fn what_batches_did_not_need_comes_back_also_after_a_kill() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(1)));
    // 20 of these requests could cost 0.0245 dollars in a batch.
    done(&desk, &sim, "config set llm.monthly_budget 0.03").expect(0);
    let model = "--model gpt-4o-mini --max-tokens 4000";
    let account = || -> Value {
        let text = std::fs::read(desk.path("home/monthly_budget.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let is_the_ledger = || {
        let spent = serde_json::from_value(account()["spent"].clone()).unwrap();
        assert_eq!(
            (Usd::from_picos(spent), account().get("batches")),
            (in_ledger(&desk, &sim), None)
        );
    };
    desk.write("a.jsonl", lines(0..20));
    desk.write("b.jsonl", lines(20..40));
    desk.write("c.jsonl", lines(40..41));
    let a = format!("run a.jsonl -o a.out.jsonl {model} --strategy batch");
    let killed = start(&desk, &sim, &a);
    assert!(super::common::eventually(|| sim
        .batch_stats()
        .items_accepted
        == 20));
    killed.signal("KILL");
    killed.wait();
    assert_eq!(account()["batches"].as_object().unwrap().len(), 1);
    let b = format!("run b.jsonl -o b.out.jsonl {model} --strategy batch");
    done(&desk, &sim, &a).expect(0);
    is_the_ledger();
    done(&desk, &sim, &b).expect(0);
    done(&desk, &sim, &format!("run c.jsonl -o c.out.jsonl {model}")).expect(0);
    is_the_ledger();
    assert_eq!(sim.batch_stats().items_accepted, 40);
}

/// The command that cancels a batch settles its bill.
#[test]
fn a_cancelled_batch_is_priced_and_returns_what_it_did_not_need() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(4)));
    done(&desk, &sim, "config set llm.monthly_budget 0.03").expect(0);
    desk.write("in.jsonl", lines(0..20));
    let run = "run in.jsonl -o out.jsonl --model gpt-4o-mini --max-tokens 4000 --strategy batch";
    done(&desk, &sim, &format!("{run} --no-wait")).expect(0);
    let some = |stats: &BatchStats| stats.batches[0].finished > 0;
    assert!(sim.wait_for_batches(some, PATIENCE));
    let cancel = "cancel --delete --queue out.jsonl.batchwright";
    // Nobody knows yet of the answers that have arrived.
    done(&desk, &sim, cancel)
        .ends(
            1,
            "results arrived from its batches meanwhile and are billed",
        )
        .says("to take their results: ");
    let answered = sim.batch_stats().items_finished;
    let account: Value =
        serde_json::from_slice(&std::fs::read(desk.path("home/monthly_budget.json")).unwrap())
            .unwrap();
    let spent = Usd::from_picos(account["spent"].as_u64().unwrap());
    assert!(
        spent > Usd::ZERO && account.get("batches").is_none(),
        "{account}"
    );
    done(&desk, &sim, cancel).expect(0);
    let told = done(&desk, &sim, "ledger --json").expect(0).json();
    told["total"].has(json!({"calls": answered, "unpriced": 0}));
    assert_eq!(usd(&told["total"]["cost_usd"]), spent);
    told["rows"][0].has(json!({"provider": "openai", "model": "gpt-4o-mini", "tier": "batch"}));
}

/// It is the first one, and needs more than is left.
#[test]
fn a_large_request_keeps_no_smaller_ones_waiting() {
    let one = cost_of_one();
    for strategy in ["", "--strategy batch"] {
        let (desk, sim) = (Desk::new(), taking(SHORT));
        let budget = limit(&desk, &sim, one, 50);
        desk.write("in.jsonl", lines(0..32));
        done(&desk, &sim, &format!("run in.jsonl -o out.jsonl {MODEL}")).expect(0);
        // 0.6 dollars per million tokens.
        let tokens = (budget.picos() - 8 * one.picos()) / 600_000;
        let large =
            format!("{{\"id\": \"large\", \"prompt\": \"large\", \"max_tokens\": {tokens}}}\n");
        desk.write("jobs.jsonl", large + &lines(0..6));
        let submitted = done(&desk, &sim, &format!("submit jobs.jsonl {MODEL}")).expect(0);
        let id: ProcessId = submitted.stdout.trim().parse().unwrap();
        let ended = done(
            &desk,
            &sim,
            &work(&format!("-j 1 --until-empty {strategy}")),
        );
        ended.ends(4, "the monthly budget of");
        let counts = home_queue(&desk).process(id).unwrap().unwrap().counts;
        assert_eq!((counts.completed, counts.pending), (6, 1), "{strategy}");
    }
}

/// The exit code differs from that of a budget that is used up, and the message names the file and what to do.
#[cfg(unix)]
#[test]
fn an_account_that_cannot_be_counted_is_an_error_of_its_own() {
    let one = cost_of_one();
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    limit(&desk, &sim, one, 130);
    desk.write("in.jsonl", lines(0..60));
    let account = desk.path("home/monthly_budget.json");
    let run = format!("run in.jsonl -o out.jsonl {MODEL} -j 1");
    let work = work("-j 1 --until-empty");
    done(&desk, &sim, &format!("submit in.jsonl {MODEL}")).expect(0);
    for words in [&run, &work] {
        // While its first call waits, the program changes no file.
        sim.hold();
        let running = start(&desk, &sim, words);
        assert!(sim.wait_until(|stats| stats.in_flight == 1, super::common::PATIENCE));
        std::fs::write(&account, "[").unwrap();
        sim.release();
        let ended = running
            .wait()
            .ends(1, "cannot count the monthly budget in ")
            .says("home/monthly_budget.json: it is not such a file")
            .says("repair it, or delete it to count from the ledger");
        ended.hides("used up");
        std::fs::remove_file(&account).unwrap();
    }
    done(&desk, &sim, &run).expect(0);
    done(&desk, &sim, &work).expect(0);
    assert_eq!(sim.stats().paid, 120);
}

#[test]
fn a_run_whose_calls_have_no_upper_bound_is_refused_and_such_a_job_fails() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", lines(0..3));
    limit(&desk, &sim, Usd::from_picos(1_000_000_000_000), 1);
    let ended = done(
        &desk,
        &sim,
        "run in.jsonl -o out.jsonl --model new --max-tokens 9",
    );
    ended.ends(2, "no price of \"new\" at openai is known");
    done(&desk, &sim, "submit in.jsonl --model new --max-tokens 9").expect(0);
    done(&desk, &sim, "work --rpm 600000 --model new --until-empty").expect(3);
    assert_eq!(sim.stats().calls, 0);
}
