//! Workers stop a process before it costs more than its budget, against a provider that bills by itself.

use super::batch_runs::with_provider;
use super::common::{Desk, Ended, Running, eventually, simulator, usd};
use batchwright::{ProcessId, Usd};
use batchwright_simulate::{SimConfig, Simulator};

/// A model that takes 0.15 and 0.60 dollars per million tokens, and half of it in batches.
pub const MODEL: &str = "--model gpt-4o-mini --max-tokens 20";

pub fn lines(items: std::ops::Range<usize>) -> String {
    let line = |i| format!("{{\"id\": \"{i}\", \"prompt\": \"prompt {i:04}\"}}\n");
    items.map(line).collect()
}

pub fn start(desk: &Desk, sim: &Simulator, words: &str) -> Running {
    let words = words.split_whitespace().chain(["--data-dir", "home"]);
    Running::start(&mut with_provider(desk.command(words), sim))
}

pub fn done(desk: &Desk, sim: &Simulator, words: &str) -> Ended {
    start(desk, sim, words).wait()
}

fn submit(desk: &Desk, sim: &Simulator, words: &str) -> ProcessId {
    let ended = done(desk, sim, &format!("submit in.jsonl {MODEL} {words}"));
    ended.expect(0).stdout.trim().parse().unwrap()
}

fn home(desk: &Desk) -> batchwright::JobQueue {
    batchwright::JobQueue::open(desk.path("home/llm_jobs.db")).unwrap()
}

fn completed(desk: &Desk, id: ProcessId) -> u64 {
    home(desk).process(id).unwrap().unwrap().counts.completed
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
    done(&desk, &sim, &words).expect(0);
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
    home(desk)
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
    let ended = done(&desk, &sim, &work("-j 8 --until-empty"));
    ended
        .ends(4, "the budget of")
        .says(&format!("batchwright retry {id} --budget USD"));
    let paid = sim.stats().paid;
    assert!((90..=100).contains(&paid), "{paid}");
    assert_eq!(completed(&desk, id), paid);
    assert_eq!(used(&desk, id), times(one, paid));
    let told = done(&desk, &sim, "status").expect(0);
    told.shows("paused by its budget");
    told.says("is used up");

    let waiting = start(&desk, &sim, &work("-j 8"));
    let limit = || {
        let line = done(&desk, &sim, "status --json").expect(0).json();
        line["processes"][0]["limited_by"] == "budget" && line["workers"] == 1
    };
    assert!(eventually(limit));
    drop(waiting);

    // The same worker does nothing more, and does not turn in circles.
    done(&desk, &sim, &work("--until-empty")).expect(4);
    assert_eq!(sim.stats().paid, paid);
    done(&desk, &sim, &format!("retry {id} --budget 0.01")).ends(0, "is $0.010000");
    done(&desk, &sim, &work("--until-empty")).expect(0);
    assert_eq!(sim.stats().paid, 200);
    assert_eq!(used(&desk, id), times(one, 200));
}

/// It is not sent, and its job fails.
#[test]
fn a_request_without_a_known_price_is_refused_under_a_budget() {
    let (desk, sim) = (Desk::new(), simulator(SimConfig::default()));
    desk.write("in.jsonl", lines(0..3));
    let words = "submit in.jsonl --model new --max-tokens 9 --budget 1";
    let id: ProcessId = done(&desk, &sim, words)
        .expect(0)
        .stdout
        .trim()
        .parse()
        .unwrap();
    for strategy in ["", "--strategy batch"] {
        let work = &format!("work --rpm 600000 --model new --until-empty {strategy}");
        done(&desk, &sim, work);
        let counts = home(&desk).process(id).unwrap().unwrap().counts;
        assert_eq!((counts.failed, sim.stats().calls), (3, 0), "{strategy}");
        done(&desk, &sim, &format!("retry {id}")).expect(0);
    }
    let prices = r#"{"providers": {"*": {"models": [{"models": ["new"], "prices": [{"input": 1, "output": 2}]}]}}}"#;
    desk.write("prices.json", prices);
    let work = "work --rpm 600000 --model new --until-empty --prices prices.json";
    done(&desk, &sim, work).expect(0);
    assert_eq!(completed(&desk, id), 3);
}
