//! A repeated `run --strategy batch` after an interruption or an edit: each item is billed once.

use std::time::Duration;

use batchwright::JobQueue;
use serde_json::json;

use super::batch_runs::{
    LONG, STORE, WORDS, accepted, batch, by_id, clean, command, only_process, queue, run, start,
    submitted, taking, whole, with_provider,
};
use super::common::{Desk, HOME, Has, RunToEnd, Running, all_ids, eventually, prompt_line};

#[test]
fn the_same_command_reattaches_from_another_folder_after_an_interrupt() {
    let (desk, sim) = (Desk::with(5), taking(LONG));
    std::fs::create_dir(desk.path("elsewhere")).unwrap();
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 5);
    submitted(&desk, 5);
    running.signal("INT");
    let ended = running.wait().expect(130);
    let store = desk.path("").canonicalize().unwrap().join(STORE);
    let remote = sim.batch_stats().batches[0].id.clone();
    let ended = ended.says("stopping: batches that are at their provider go on there");
    let ended = ended.says(&format!("batch {remote} at openai: "));
    let ended = ended.says("to collect the results, run the same command in this folder");
    ended.says(&format!(
        "to give it up:  batchwright cancel {} --queue {}",
        only_process(&desk),
        store.display()
    ));

    let mut again = batch(&desk, &sim, "../in.jsonl -o ../out.jsonl --json");
    let ended = again.current_dir(desk.path("elsewhere")).ended().expect(0);
    let told = ended.json();
    told.has(json!({"submitted": 0, "attached": 5}));
    ended.says("5 items: 5 under way");
    whole(&desk, &sim, "out.jsonl", 5);
}

#[test]
fn a_process_says_which_run_it_belongs_to() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in put.jsonl", 1);
    let mut command = batch(&desk, &sim, "--no-wait -o out.jsonl");
    command.arg("in put.jsonl").ended().expect(0);
    let [process] = queue(&desk).open_processes().unwrap().try_into().unwrap();
    let info = process.info;
    assert_eq!(info.name.as_deref(), Some("in put.jsonl"));
    let full = |name| desk.path(name).canonicalize().unwrap();
    assert_eq!(info.input.as_deref(), full("in put.jsonl").to_str());
    assert_eq!(info.output.as_deref(), full("out.jsonl").to_str());

    let again = info.command.unwrap();
    let mut shell = with_provider(desk.other("sh", ["-c", &again]), &sim);
    shell.current_dir("/").ended().ends(0, "1 under way");
    whole(&desk, &sim, "out.jsonl", 1);

    desk.prompts("in.jsonl", 1);
    let secret = sim.base_url().replace("http://", "http://me:secret@");
    let words = format!("{WORDS}2 --no-wait --base-url {secret}");
    run(&desk, &sim, &words).expect(0);
    let [process] = JobQueue::open(desk.path("out.jsonl2.batchwright"))
        .and_then(|queue| queue.open_processes())
        .unwrap()
        .try_into()
        .unwrap();
    assert!(!process.info.command.unwrap().contains("secret"));
}

#[test]
fn only_fifteen_of_a_thousand_stopped_and_edited_items_are_submitted() {
    let (desk, sim) = (Desk::with(1000), taking(Duration::from_secs(4)));
    let running = start(&desk, &sim, WORDS);
    accepted(&sim, 1000);
    submitted(&desk, 1000);
    running.signal("INT");
    running.wait().expect(130);

    let mut text = String::new();
    for i in 0..1005 {
        match i {
            100..110 => text.push_str(&format!("{{\"id\":\"i-{i}\",\"prompt\":\"edited {i}\"}}\n")),
            500..505 => {}
            _ => text.push_str(&prompt_line(i)),
        }
    }
    desk.write("in.jsonl", text);
    let ended = run(&desk, &sim, "in.jsonl -o out.jsonl --json").expect(0);
    let told = ended.json();
    told.has(json!({"submitted": 15, "attached": 985, "/summary/completed": 1000}));
    ended.says("1,000 items: 985 under way, 15 to send");
    let stats = sim.batch_stats();
    let sizes: Vec<u64> = stats.batches.iter().map(|batch| batch.items).collect();
    assert_eq!(sizes, [1000, 15]);
    assert_eq!((stats.bought_twice, sim.stats().calls), (0, 0));

    // The five removed items are there too, because they were billed.
    assert_eq!(desk.ids("out.jsonl"), all_ids(1005));
    let fresh = Desk::new();
    fresh.write("in.jsonl", desk.read("in.jsonl"));
    command(&fresh, &sim, WORDS).ended().expect(0);
    let (here, there) = (
        by_id(desk.results("out.jsonl")),
        by_id(fresh.results("out.jsonl")),
    );
    for (id, line) in &there {
        assert_eq!(
            here[id]["text"], line["text"],
            "{id} has the answer to an old question"
        );
        assert_eq!(here[id]["request_hash"], line["request_hash"]);
    }
    clean(&desk);
}

#[test]
fn two_runs_on_one_output_are_kept_apart_and_a_worker_may_help() {
    let (desk, sim) = (Desk::with(3), taking(Duration::from_secs(2)));
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let worker = desk.command(["work", "--until-empty", "--queue", STORE]);
    let worker = Running::start(&mut with_provider(worker, &sim));
    assert!(eventually(
        || queue(&desk).batches(None).unwrap()[0].attended
    ));
    let first = start(&desk, &sim, WORDS);
    first.hears("3 under way");
    let second = run(&desk, &sim, WORDS).expect(1);
    second.errs("another run is writing to it");
    first.wait().expect(0);
    worker.wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_dry_run_reports_items_in_progress_and_changes_nothing() {
    let (desk, sim) = (Desk::with(3), taking(LONG));
    run(&desk, &sim, &format!("{WORDS} --dry-run")).ends(0, "in batches; nothing was sent");
    assert!(!desk.path(HOME).join("llm_jobs.db").exists() && !desk.exists(STORE));
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, &format!("{WORDS} --no-wait --max-items 2")).expect(0);
    let ended = run(&desk, &sim, &format!("{WORDS} --dry-run --json")).expect(0);
    let told = ended.json();
    told.has(json!({"under_way": 2, "to_send": 1}));
    assert_eq!(sim.batch_stats().items_accepted, 2);
}

#[test]
fn results_of_a_batch_stay_in_the_queue_if_their_file_is_removed() {
    let (desk, sim) = (Desk::with(4), taking(LONG));
    let running = start(&desk, &sim, "in.jsonl -o out.jsonl");
    accepted(&sim, 4);
    submitted(&desk, 4);
    std::fs::remove_file(desk.path("out.jsonl")).unwrap();
    running.wait().ends(4, "removed or replaced");
    assert!(!desk.exists("out.jsonl"));
    run(&desk, &sim, "in.jsonl -o out.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}
