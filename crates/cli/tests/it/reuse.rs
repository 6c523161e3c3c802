//! Answers of earlier runs, stored in the data folder.

use batchwright_simulate::{SimConfig, Trouble};
use serde_json::{Value, json};

use super::common::{Desk, HOME, Has, Running, all_ids, good, id, prompt_lines, simulator};
use super::program::fed;

const WORDS: &str = "in.jsonl --temperature 0 --reuse";

#[test]
fn another_output_is_answered_without_a_call() {
    let (desk, sim) = (Desk::with(100), good());
    desk.run(&sim, &format!("{WORDS} -o a.jsonl"))
        .ends(0, "reuse: 0 answers");
    let ended = desk
        .run(&sim, &format!("{WORDS} -o b.jsonl --json"))
        .ends(0, "reuse: 100 answers")
        .says("100 answers of earlier runs (100 calls saved)");
    assert_eq!(
        (sim.stats().calls, desk.ids("b.jsonl")),
        (100, all_ids(100))
    );
    let told = ended.json();
    let told = &told["summary"];
    assert_eq!((&told["reused"], &told["calls"]), (&json!(100), &json!(0)));
    let first = desk.results("a.jsonl");
    for line in desk.results("b.jsonl") {
        let from = first.iter().find(|other| id(other) == id(&line)).unwrap();
        for same in ["text", "provider", "model", "request_hash", "finish_reason"] {
            assert_eq!(line[same], from[same], "{same}");
        }
        let free = (&line["usage"], &line["cost_usd"], &line["reused"]);
        assert_eq!(free, (&Value::Null, &json!(0.0), &json!(true)));
        assert_eq!(from.get("reused"), None);
    }
    // The store is used only where it is requested.
    desk.run(&sim, "in.jsonl --temperature 0 -o c.jsonl")
        .expect(0);
    assert_eq!(sim.stats().calls, 200);
}

#[test]
fn duplicates_get_the_reused_answer_too() {
    let (desk, sim) = (Desk::with(2), good());
    desk.run(&sim, &format!("{WORDS} -o a.jsonl")).expect(0);
    let line = |n: usize| format!("{{\"id\":\"i-{n}\",\"prompt\":\"prompt {}\"}}\n", n % 3);
    let lines: String = (0..3000).map(line).collect();
    desk.write("in.jsonl", lines);
    let ended = desk
        .run(&sim, &format!("{WORDS} -o b.jsonl --json"))
        .ends(0, "2 answers of earlier runs")
        .says("2,997 answered by equal prompts (2,999 calls saved)");
    assert_eq!((sim.stats().calls, desk.ids("b.jsonl")), (3, all_ids(3000)));
    let told = ended.json();
    assert_eq!(told["summary"]["answered_by_equals"], 2997);
    for line in desk.results("b.jsonl") {
        let n: usize = id(&line)["i-".len()..].parse().unwrap();
        let by = (n > 2).then(|| json!(format!("i-{}", n % 3)));
        assert_eq!(line.get("answered_by"), by.as_ref(), "{line}");
        assert_eq!(line.get("reused").is_some(), n % 3 < 2, "{line}");
    }
    // All answers are available by now, so tokens and rate are not reported.
    let last = desk.run(&sim, &format!("{WORDS} -o c.jsonl")).expect(0);
    last.hides("tokens");
    last.hides("items/s");
}

#[test]
fn other_requests_and_other_models_are_sent() {
    let (desk, sim) = (Desk::with(5), good());
    let mut calls = 0;
    for (flags, made) in [
        ("", 5),
        ("", 0),
        ("--model other", 5),
        ("--max-tokens 700", 5),
        ("--max-tokens 700 --samples 2", 5),
        ("--keep all", 0),
    ] {
        desk.run(&sim, &format!("{WORDS} {flags} -o out.jsonl"))
            .expect(0);
        assert_eq!(sim.stats().calls - calls, made, "{flags}");
        calls += made;
        std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    }
    let elsewhere = good();
    desk.run(&elsewhere, &format!("{WORDS} -o out.jsonl"))
        .expect(0);
    assert_eq!(elsewhere.stats().calls, 5);
    // Answers with randomness are reused only if a flag says so.
    for (flags, made) in [("", 5), ("", 5), ("--dedupe", 5), ("--dedupe", 0), ("", 5)] {
        std::fs::remove_file(desk.path("out.jsonl")).unwrap();
        desk.run(&sim, &format!("in.jsonl --reuse {flags} -o out.jsonl"))
            .expect(0);
        assert_eq!(sim.stats().calls - calls, made, "{flags}");
        calls += made;
    }
}

#[test]
fn failures_and_answers_that_were_cut_are_not_kept() {
    for (trouble, code) in [
        (Trouble::Length, 0),
        (Trouble::Refusal, 3),
        (Trouble::BadRequest, 3),
    ] {
        let desk = Desk::with(3);
        let sim = simulator(SimConfig::default().trouble(trouble, 1.0));
        desk.run(&sim, &format!("{WORDS} -o a.jsonl")).expect(code);
        desk.run(&sim, &format!("{WORDS} -o b.jsonl")).expect(code);
        assert_eq!(sim.stats().calls, 6, "{trouble:?}");
    }
}

#[test]
fn a_damaged_store_is_set_aside_and_costs_no_run() {
    let (desk, sim) = (Desk::with(5), good());
    std::fs::create_dir_all(desk.path(HOME)).unwrap();
    desk.write(&format!("{HOME}/reuse.db"), "damaged ".repeat(2000));
    desk.run(&sim, &format!("{WORDS} -o a.jsonl"))
        .ends(0, "it is set aside");
    desk.run(&sim, &format!("{WORDS} -o b.jsonl")).expect(0);
    assert_eq!((sim.stats().calls, desk.ids("b.jsonl")), (5, all_ids(5)));
    // If the store cannot be used at all, everything is sent.
    let store = desk.path(HOME).join("reuse.db");
    std::fs::remove_file(&store).unwrap();
    std::fs::create_dir(&store).unwrap();
    desk.run(&sim, &format!("{WORDS} -o c.jsonl"))
        .ends(0, "no answers are reused");
    assert_eq!((sim.stats().calls, desk.ids("c.jsonl")), (10, all_ids(5)));
}

#[test]
fn runs_at_the_same_time_share_it() {
    let (desk, sim) = (Desk::with(300), good());
    let start = |n: usize| desk.start(&sim, &format!("{WORDS} -o out-{n}.jsonl -j 4"));
    let running: Vec<Running> = (0..3).map(start).collect();
    running
        .into_iter()
        .for_each(|run| drop(run.wait().expect(0)));
    let calls = sim.stats().calls;
    desk.run(&sim, &format!("{WORDS} -o last.jsonl")).expect(0);
    assert_eq!(
        (sim.stats().calls, desk.ids("last.jsonl")),
        (calls, all_ids(300))
    );
}

#[test]
fn standard_input_is_read_to_its_end_and_compared() {
    let (desk, sim) = (Desk::new(), good());
    let mut lines = prompt_lines(10);
    lines.push_str("{\"id\":\"again\",\"prompt\":\"prompt 3\"}\n");
    for (words, calls) in [
        ("- -o a.jsonl --dedupe", 10),
        ("- -o b.jsonl --dedupe --reuse", 20),
        ("- -o c.jsonl --dedupe --reuse", 20),
    ] {
        fed(&mut desk.against(&sim, words), &lines).expect(0);
        assert_eq!(sim.stats().calls, calls, "{words}");
    }
    assert_eq!(desk.ids("c.jsonl").len(), 11);
}

#[test]
fn a_dry_run_says_how_many_calls_are_saved() {
    let (desk, sim) = (Desk::with(10), good());
    desk.run(&sim, &format!("{WORDS} -o a.jsonl --max-items 4"))
        .expect(0);
    let again = "{\"id\":\"again\",\"prompt\":\"prompt 1\"}\n{\"id\":\"once more\",\"prompt\":\"prompt 8\"}\n";
    desk.write("in.jsonl", prompt_lines(10) + again);
    let words = format!("{WORDS} -o b.jsonl --json");
    let dry = |more: &str| {
        let ended = desk
            .run(&sim, &format!("{words} --dry-run {more}"))
            .expect(0);
        let told = ended.json();
        let numbers =
            ["to_send", "equal", "reusable", "calls_saved"].map(|name| told[name].clone());
        (numbers.map(|n| n.as_u64().unwrap()), ended)
    };
    let (numbers, ended) = dry("");
    assert_eq!(numbers, [6, 1, 5, 6]);
    ended
        .says("would send 6 items")
        .says("equal prompts save 1 call; answers of earlier runs save 5 calls; nothing was sent");
    let (numbers, _) = dry("--max-items 2");
    assert_eq!(numbers, [2, 0, 5, 5]);
    let told = desk
        .run(&sim, &format!("{words} --max-items 2"))
        .expect(0)
        .json();
    let told = &told["summary"];
    told.has(json!({"calls": 2, "calls_saved": 5}));
    assert_eq!((sim.stats().calls, desk.results("b.jsonl").len()), (6, 7));
}

#[test]
fn a_closed_reader_is_reported_also_without_calls() {
    let (desk, sim) = (Desk::with(3), good());
    desk.run(&sim, &format!("{WORDS} -o a.jsonl")).expect(0);
    let mut running = desk.start(&sim, WORDS);
    drop(running.child.stdout.take());
    running
        .wait()
        .ends(4, "the reader of the results went away");
    assert_eq!(sim.stats().calls, 3);
}

#[test]
fn dedupe_settings_apply_to_the_answer_cache() {
    let (desk, sim) = (Desk::new(), good());
    let run = |words: &str, dedupe: &str| {
        let mut command = desk.against(&sim, words);
        command.env("BATCHWRIGHT_DEDUPE", dedupe);
        fed(
            &mut command,
            "{\"id\":\"a\",\"prompt\":\"p\"}\n{\"id\":\"b\",\"prompt\":\"p\"}\n",
        )
    };
    run("- -o a.jsonl", "auto").expect(0);
    assert_eq!(sim.stats().calls, 2);
    run("- -o b.jsonl", "always").ends(0, "1 answered with equal ones");
    assert_eq!((sim.stats().calls, desk.ids("b.jsonl").len()), (3, 2));
    run("- -o c.jsonl --reuse", "never").ends(2, "llm.dedupe is set to never");
    run("- -o c.jsonl --reuse --dedupe", "never").expect(0);
    assert_eq!(sim.stats().calls, 4);
}

#[test]
fn status_and_doctor_show_the_answer_cache() {
    let (desk, sim) = (Desk::new(), good());
    assert!(!desk.plain("doctor").stdout.contains("reuse.db"));
    desk.prompts("in.jsonl", 3);
    desk.run(&sim, &format!("{WORDS} -o a.jsonl")).expect(0);
    let path = desk.path(HOME).join("reuse.db");
    let line = format!("3 answers, 1 of 1,024 MiB in {}", path.display());
    let doctor = desk.plain("doctor");
    doctor.shows(&format!("ok       reuse        {line}"));
    desk.plain("status")
        .ends(0, &format!("answers for run --reuse: {line}"));
    let told = desk.plain("status --json").expect(0).json();
    let told = &told["reuse"];
    told.has(json!({"answers": 3, "max_bytes": 1 << 30}));
    desk.write(&format!("{HOME}/reuse.db"), "damaged ".repeat(2000));
    let doctor = desk.plain("doctor");
    doctor.shows("warning  reuse");
}

#[test]
fn queue_jobs_do_not_use_the_answer_cache() {
    let (desk, sim) = (Desk::with(2), good());
    let words = format!("{} --reuse", super::batch_runs::WORDS);
    super::batch_runs::run(&desk, &sim, &words).ends(2, "goes through the queue");
}
