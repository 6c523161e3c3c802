//! A batch is bought once, whatever is done between two runs of its output: by what `status` advises, a
//! rename, another path, another data folder, another provider, or a kill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use batchwright::JobQueue;
use batchwright::files::{QueueRun, Sidecar, file_id};
use batchwright::queue::ProcessInfo;
use batchwright_simulate::{BatchConfig, SimConfig, Simulator, Vendor};
use serde_json::Value;

use super::batch_runs::{
    LONG, SHORT, SIDECAR, WORDS, batch, bought, clean, command, left_alone, only_process, other,
    queue, run, sidecars, submitted, taking, whole, worked,
};
use super::common::{Desk, Ended, HOME, Running, all_ids, simulator};

#[test]
fn what_a_run_left_is_never_advised_to_be_bought_by_a_worker() {
    let (desk, sim) = (Desk::new(), taking(Duration::from_secs(4)));
    desk.prompts("in.jsonl", 3);
    run(&desk, &sim, &format!("{WORDS} --no-wait")).expect(0);
    let id = only_process(&desk);
    other(&desk, &sim, &format!("cancel {id}")).expect(0);
    let retried = other(&desk, &sim, &format!("retry {id}")).expect(0);
    let told = |ended: &Ended, said: &str| {
        assert!(!said.contains("batchwright work"), "{said}");
        assert!(
            said.contains("--strategy batch in.jsonl -o out.jsonl"),
            "{said}"
        );
        assert_eq!(ended.status.code(), Some(0), "{said}");
    };
    told(&retried, &retried.stderr);
    let status = other(&desk, &sim, "status");
    told(&status, &status.stderr);
    let doctor = other(&desk, &sim, "doctor");
    told(&doctor, &doctor.stdout);
    // Beside it, only what belongs to no run is named for a worker.
    let free = other(&desk, &sim, "submit in.jsonl").expect(0);
    let free = free.stdout.trim();
    other(&desk, &sim, "status").says(&format!("batchwright work --processes {free}"));
    assert_eq!(sim.stats().calls, 0);
}

#[test]
fn whatever_status_advises_the_batch_is_bought_once() {
    let (desk, sim) = left_alone(5);
    let belongs = |ended: Ended| {
        let output = desk.path("out.jsonl").canonicalize().unwrap();
        ended
            .says("belongs to a run of ")
            .says(&format!("its results go to {}, by:", output.display()))
            .says("--strategy batch in.jsonl -o out.jsonl")
    };
    let ended = belongs(other(&desk, &sim, "status").expect(0));
    assert!(
        !ended.stderr.contains("batchwright work"),
        "{}",
        ended.stderr
    );
    let told: Value =
        serde_json::from_str(&other(&desk, &sim, "status --json").expect(0).stdout).unwrap();
    let told = &told["processes"][0];
    assert_eq!(told["name"], "in.jsonl");
    assert!(told["output"].as_str().unwrap().ends_with("/out.jsonl"));
    let doctor = other(&desk, &sim, "doctor");
    assert!(
        doctor.stdout.contains("belongs to a run of"),
        "{}",
        doctor.stdout
    );
    assert!(
        !doctor.stdout.contains("batchwright work"),
        "{}",
        doctor.stdout
    );
    let (id, ended) = worked(&desk, &sim);
    assert!(
        !ended.stderr.contains("batchwright results"),
        "{}",
        ended.stderr
    );
    belongs(ended);
    let ended = belongs(other(&desk, &sim, "status").expect(0));
    assert!(
        !ended.stderr.contains("batchwright results"),
        "{}",
        ended.stderr
    );
    belongs(other(&desk, &sim, &format!("results {id} -o else.jsonl")).expect(2))
        .says("nothing was taken");
    assert!(!desk.exists("else.jsonl"));
    let shown = other(&desk, &sim, &format!("results {id}")).expect(0);
    assert_eq!(shown.stdout.lines().count(), 5);
    shown
        .says("and come there by: ")
        .says("the queue keeps them");
    other(&desk, &sim, &format!("results {id} -o copy.jsonl --keep")).expect(0);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 5);
    clean(&desk);
}

#[test]
fn a_queue_that_was_put_back_from_before_does_not_pass_for_an_empty_one() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 3);
    drop(queue(&desk));
    fs::create_dir(desk.path("copy")).unwrap();
    let database = |folder: &str| desk.path(folder).join("llm_jobs.db");
    fs::copy(database(HOME), database("copy")).unwrap();
    // Known with its batch.
    let mut running = Running::start(&mut batch(&desk, &sim, &format!("{WORDS} --no-wait")));
    running.child.wait().unwrap();
    let remote = sim.batch_stats().batches[0].id.clone();
    assert!(desk.read(SIDECAR).contains(&remote));
    fs::remove_dir_all(desk.path(HOME)).unwrap();
    fs::create_dir(desk.path(HOME)).unwrap();
    fs::copy(database("copy"), database(HOME)).unwrap();
    for dry in ["", "--dry-run"] {
        let ended = run(&desk, &sim, &format!("{WORDS} {dry}")).expect(2);
        ended.says(&remote).says("older copy").says("rm ");
    }
    let mut sync = command(&desk, &sim, WORDS);
    Running::start(&mut sync).wait().expect(2).says(&remote);
    bought(&sim, 3);
}

#[test]
fn a_dry_run_leaves_every_file_as_it_is() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 3);
    // Killed while it wrote a line.
    desk.write("out.jsonl", "{\"id\":\"i-");
    written(&desk);
    let before = desk.read(SIDECAR);
    let mut dry = command(&desk, &sim, &format!("{WORDS} --dry-run"));
    Running::start(&mut dry).wait().expect(0);
    assert_eq!(desk.read("out.jsonl"), "{\"id\":\"i-");
    assert_eq!(desk.read(SIDECAR), before);
    fs::remove_file(desk.path("out.jsonl")).unwrap();
    let mut dry = command(&desk, &sim, &format!("{WORDS} --dry-run"));
    Running::start(&mut dry).wait().expect(0);
    assert!(!desk.exists("out.jsonl") && desk.read(SIDECAR) == before);
}

#[test]
fn another_data_folder_is_gone_back_to() {
    let (desk, sim) = left_alone(4);
    let words = format!("{WORDS} --data-dir elsewhere");
    let ended = run(&desk, &sim, &format!("{words} --no-wait")).expect(0);
    ended.says("an earlier run of this output used the data folder ");
    assert!(!desk.exists("elsewhere/llm_jobs.db"));
    run(&desk, &sim, &words).expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
    clean(&desk);
}

#[test]
fn a_data_folder_that_was_moved_is_found_where_it_is_now() {
    let (desk, sim) = left_alone(4);
    fs::rename(desk.path(HOME), desk.path("moved")).unwrap();
    run(&desk, &sim, WORDS).expect(2).says("--data-dir FOLDER");
    run(&desk, &sim, &format!("{WORDS} --data-dir moved")).expect(0);
    whole(&desk, &sim, "out.jsonl", 4);
}

#[test]
fn without_its_data_folder_nothing_is_bought_again_by_itself() {
    let (desk, sim) = left_alone(4);
    let id = only_process(&desk).to_string();
    let remote = sim.batch_stats().batches[0].id.clone();
    fs::remove_dir_all(desk.path(HOME)).unwrap();
    let refused = |ended: Ended| {
        let ended = ended.expect(2).says("would be bought again");
        let folder = desk.path(HOME).canonicalize();
        let folder = folder.unwrap_or_else(|_| desk.path("").canonicalize().unwrap().join(HOME));
        let ended = ended.says(&folder.to_string_lossy()).says(&id);
        ended.says(&format!("{remote} at openai")).says("rm ")
    };
    refused(run(&desk, &sim, WORDS));
    refused(run(&desk, &sim, &format!("{WORDS} --dry-run")));
    refused(Running::start(&mut command(&desk, &sim, WORDS)).wait());
    // Another queue in its place is not that one.
    drop(queue(&desk));
    refused(run(&desk, &sim, WORDS));
    bought(&sim, 4);
    let ended = refused(run(&desk, &sim, WORDS));
    let (_, rm) = ended.stderr.split_once("rm ").unwrap();
    let (path, _) = rm.split_once(',').unwrap();
    fs::remove_file(path).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
    bought(&sim, 8);
}

#[test]
fn an_output_that_was_renamed_keeps_its_batch() {
    let moved = |to: &str, with_sidecar: bool, words: &str| {
        let (desk, sim) = left_alone(3);
        fs::create_dir(desk.path("there")).unwrap();
        fs::rename(desk.path("out.jsonl"), desk.path(to)).unwrap();
        if with_sidecar {
            let to = format!("{to}.batchwright");
            fs::rename(desk.path(SIDECAR), desk.path(&to)).unwrap();
        }
        let ended = run(&desk, &sim, &format!("in.jsonl -o {to} {words}")).expect(0);
        whole(&desk, &sim, to, 3);
        assert!(!desk.exists("there/new.jsonl.batchwright"));
        clean(&desk);
        ended
    };
    moved("new.jsonl", true, "");
    moved("there/new.jsonl", true, "");
    moved("new.jsonl", false, "").says("this output was ");
    moved("new.jsonl", false, "--data-dir elsewhere").says("used the data folder");
    moved("there/new.jsonl", false, "").says("this output was ");
}

#[test]
fn every_path_to_an_output_leads_to_its_batch() {
    let (desk, sim) = left_alone(3);
    fs::create_dir(desk.path("there")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(desk.path("out.jsonl"), desk.path("there/link.jsonl")).unwrap();
    let absolute = desk.path("out.jsonl");
    let words = format!("../in.jsonl --no-wait -o {}", absolute.display());
    let mut there = batch(&desk, &sim, &words);
    let ended = Running::start(there.current_dir(desk.path("there"))).wait();
    ended.expect(0).says("3 under way");
    #[cfg(unix)]
    run(&desk, &sim, "in.jsonl -o there/link.jsonl").expect(0);
    run(&desk, &sim, "in.jsonl -o there/../out.jsonl").expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn an_output_that_is_gone_is_asked_for_before_its_items_are_bought_again() {
    let (desk, sim) = left_alone(3);
    let id = only_process(&desk);
    fs::remove_file(desk.path("out.jsonl")).unwrap();
    let ended = run(&desk, &sim, "in.jsonl -o new.jsonl").expect(2);
    ended
        .says("no longer there")
        .says(&format!("batchwright cancel {id} --delete"));
    bought(&sim, 3);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn another_output_in_the_place_of_a_renamed_one_has_a_process_of_its_own() {
    let (desk, sim) = left_alone(3);
    desk.write("more.jsonl", "{\"id\":\"i-3\",\"prompt\":\"more\"}\n");
    fs::rename(desk.path("out.jsonl"), desk.path("may.jsonl")).unwrap();
    // The sidecar has stayed behind, and would be taken for this output's.
    let ended = run(&desk, &sim, "more.jsonl -o out.jsonl").expect(2);
    ended.says("rename this file with it");
    fs::rename(desk.path(SIDECAR), desk.path("may.jsonl.batchwright")).unwrap();
    run(&desk, &sim, "more.jsonl -o out.jsonl").expect(0);
    assert_eq!(desk.ids("out.jsonl"), ["i-3"]);
    run(&desk, &sim, "in.jsonl -o may.jsonl").expect(0);
    assert_eq!(desk.ids("may.jsonl"), all_ids(3));
    bought(&sim, 4);
    assert_eq!(sidecars(&desk), Vec::<PathBuf>::new());
    clean(&desk);
}

/// The sidecar that a run writes first.
fn written(desk: &Desk) {
    let output = desk.path("out.jsonl");
    let id = QueueRun::process_of(&output).unwrap();
    let info = ProcessInfo::new().output(output.canonicalize().unwrap().to_string_lossy());
    let info = info.output_file(file_id(&output).unwrap());
    let sidecar = Sidecar::new(&queue(desk), id, info).unwrap();
    sidecar.write(&output).unwrap();
}

#[test]
fn a_run_that_was_killed_before_it_submitted_is_run() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 3);
    desk.write("out.jsonl", "");
    written(&desk);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);

    // Nothing is left of what that run would have handed over; calls need no queue.
    desk.write("out.jsonl", "");
    written(&desk);
    let mut sync = command(&desk, &sim, &format!("{WORDS} --on-error stop"));
    Running::start(&mut sync).wait().expect(0);
    assert_eq!((sidecars(&desk), sim.stats().calls), (Vec::new(), 3));
}

#[test]
fn a_run_that_was_killed_after_it_saved_all_is_over() {
    let (desk, sim) = left_alone(3);
    run(&desk, &sim, WORDS).expect(0);
    written(&desk);
    run(&desk, &sim, WORDS).expect(0).says("nothing to send");
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_run_that_is_killed_leaves_what_another_data_folder_finds() {
    let (desk, sim) = (Desk::new(), taking(LONG));
    desk.prompts("in.jsonl", 3);
    let mut running = Running::start(&mut batch(&desk, &sim, WORDS));
    submitted(&desk, 3);
    assert!(
        desk.exists(SIDECAR),
        "there before anything was handed over"
    );
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    run(&desk, &sim, &format!("{WORDS} --data-dir elsewhere")).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn a_sidecar_that_is_none_of_ours_stops_the_run() {
    let (desk, sim) = left_alone(2);
    let text = desk.read(SIDECAR);
    let version = text.replace("\"version\": 1", "\"version\": 7");
    for (written, says) in [
        (&text[..text.len() / 2], "cannot be understood"),
        ("", "cannot be understood"),
        ("dear diary", "cannot be understood"),
        (&version, "a newer batchwright"),
    ] {
        desk.write(SIDECAR, written);
        run(&desk, &sim, WORDS).expect(2).says(says);
        Running::start(&mut command(&desk, &sim, WORDS))
            .wait()
            .expect(2)
            .says(says);
        assert_eq!(desk.read(SIDECAR), written);
    }
    bought(&sim, 2);
    // What the queue has of the output is found without it.
    fs::remove_file(desk.path(SIDECAR)).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 2);
}

#[test]
fn nothing_is_bought_where_no_sidecar_can_be_written() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 2);
    // Its folder cannot be written to: not by the user that tests run as, and not by any.
    fs::create_dir(desk.path(&format!("{SIDECAR}.new"))).unwrap();
    let ended = run(&desk, &sim, WORDS).expect(1);
    ended.says("name an output in a folder that can be written to");
    bought(&sim, 0);
    clean(&desk);
}

#[test]
fn calls_and_pipes_have_no_sidecar() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 2);
    run(&desk, &sim, "in.jsonl -o - --no-wait").expect(0);
    let mut sync = command(&desk, &sim, WORDS);
    sync.env("BATCHWRIGHT_HOME", desk.path("unused"));
    Running::start(&mut sync).wait().expect(0);
    assert_eq!(sidecars(&desk), Vec::<PathBuf>::new());
    assert!(!Path::new(&desk.path("unused/llm_jobs.db")).exists());
}

#[test]
fn giving_a_process_up_removes_its_sidecar() {
    let (desk, sim) = left_alone(2);
    let id = only_process(&desk);
    other(&desk, &sim, &format!("cancel {id} --delete")).expect(0);
    assert_eq!(sidecars(&desk), Vec::<PathBuf>::new());
}

fn xai() -> Simulator {
    let batches = BatchConfig::default().duration(SHORT);
    simulator(SimConfig::default().vendor(Vendor::Xai).batches(batches))
}

/// The same prompts for another provider.
fn with_xai(desk: &Desk, openai: &Simulator, xai: &Simulator, words: &str) -> Command {
    let mut command = batch(desk, openai, &format!("--provider xai {words}"));
    command
        .env("XAI_API_KEY", "x")
        .env("XAI_BASE_URL", xai.base_url());
    command
}

#[test]
fn another_provider_is_told_where_the_items_are() {
    let (desk, openai, xai) = (Desk::new(), taking(LONG), xai());
    desk.prompts("in.jsonl", 4);
    run(&desk, &openai, &format!("{WORDS} --no-wait")).expect(0);
    let remote = openai.batch_stats().batches[0].id.clone();
    let id = only_process(&desk);
    let told = |ended: Ended| {
        let ended = ended.expect(0).says(&format!(
            "4 items are in a batch at openai ({remote}, model m"
        ));
        let ended = ended.says("prompts named now go to xai");
        assert!(
            !ended.stderr.contains("prompts go to xai in batches"),
            "{}",
            ended.stderr
        );
        ended.says(&format!("batchwright cancel {id}, then this command again"))
    };
    for words in ["--dry-run", "--no-wait", ""] {
        let words = format!("{WORDS} {words}");
        told(Running::start(&mut with_xai(&desk, &openai, &xai, &words)).wait());
    }
    whole(&desk, &openai, "out.jsonl", 4);
    bought(&xai, 0);
}

#[test]
fn what_is_cancelled_goes_to_the_other_provider() {
    let (desk, openai, xai) = (Desk::new(), taking(LONG), xai());
    desk.prompts("in.jsonl", 4);
    run(&desk, &openai, &format!("{WORDS} --no-wait")).expect(0);
    let id = only_process(&desk);
    other(&desk, &openai, &format!("cancel {id}")).expect(0);
    Running::start(&mut with_xai(&desk, &openai, &xai, WORDS))
        .wait()
        .expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(4));
    assert_eq!(desk.results("out.jsonl")[0]["provider"], "xai");
    clean(&desk);
}

#[test]
fn a_library_finds_a_renamed_outputs_process() {
    let (desk, _sim) = left_alone(1);
    let id = only_process(&desk);
    for (from, to) in [
        ("out.jsonl", "new.jsonl"),
        (SIDECAR, "new.jsonl.batchwright"),
    ] {
        fs::rename(desk.path(from), desk.path(to)).unwrap();
    }
    assert_eq!(QueueRun::process_of(&desk.path("new.jsonl")).unwrap(), id);
    let queue = JobQueue::open(&desk.path(HOME).join("llm_jobs.db")).unwrap();
    assert!(queue.process(id).unwrap().is_some());
}
