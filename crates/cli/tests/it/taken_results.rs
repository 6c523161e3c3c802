//! Results of a run that were taken to another file come back to its output, and are not bought again.

use std::fs;
use std::path::PathBuf;

use batchwright::ProcessId;
use batchwright::files::Sidecar;

use super::batch_runs::{
    SHORT, SIDECAR, WORDS, batch, bought, clean, command, left_alone, other, queue, renamed, run,
    sidecars, submitted, taking, whole, worked,
};
use super::common::{Desk, Running, all_ids};

#[test]
fn what_was_taken_elsewhere_comes_back_from_there() {
    let (desk, sim) = left_alone(5);
    let (id, _) = worked(&desk, &sim);
    let take = format!("results {id} --take -o else.jsonl");
    other(&desk, &sim, &take)
        .expect(0)
        .says("5 results written");
    clean(&desk);
    assert!(desk.exists(SIDECAR));
    let ended = run(&desk, &sim, &format!("{WORDS} --dry-run")).expect(0);
    ended
        .says("5 done, to be collected")
        .says("taken in from there");
    assert_eq!(desk.read("out.jsonl"), "");
    let ended = run(&desk, &sim, WORDS).expect(0);
    ended.says("5 results of this output were taken to ");
    whole(&desk, &sim, "out.jsonl", 5);
    run(&desk, &sim, WORDS).expect(0).says("nothing to send");
}

/// The first result of a process goes to another file, as if the others had not come yet.
fn one_taken(desk: &Desk, id: ProcessId, to: &str) {
    let (queue, output) = (queue(desk), desk.path("out.jsonl"));
    let [delivery] = queue.peek(id, 1).unwrap().try_into().unwrap();
    desk.write(to, delivery.result.line() + "\n");
    let mut sidecar = Sidecar::read(&output).unwrap().unwrap();
    let to = desk.path(to).canonicalize().unwrap();
    sidecar.add_taken(Some(&to), 1, 0);
    sidecar.write(&output).unwrap();
    queue.ack(&[delivery.receipt]).unwrap();
}

#[test]
fn what_was_taken_elsewhere_is_known_after_the_rest_came_to_its_output() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    one_taken(&desk, id, "else.jsonl");
    other(&desk, &sim, &format!("results {id} -o out.jsonl")).expect(0);
    clean(&desk);
    assert_eq!(desk.results("out.jsonl").len(), 2);
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn what_was_taken_comes_back_to_an_output_that_was_renamed() {
    for (first, with_sidecar) in [(true, true), (true, false), (false, true), (false, false)] {
        let (desk, sim) = left_alone(3);
        let (id, _) = worked(&desk, &sim);
        if first {
            renamed(&desk, "new.jsonl", with_sidecar);
        }
        other(&desk, &sim, &format!("results {id} --take -o else.jsonl")).expect(0);
        if !first {
            renamed(&desk, "new.jsonl", with_sidecar);
        }
        assert!(!first || !desk.exists(SIDECAR));
        run(&desk, &sim, "in.jsonl -o new.jsonl").expect(0);
        whole(&desk, &sim, "new.jsonl", 3);
        clean(&desk);
    }
}

#[test]
fn a_part_that_was_taken_comes_back_to_an_output_in_another_folder() {
    for with_sidecar in [true, false] {
        let (desk, sim) = left_alone(3);
        let (id, _) = worked(&desk, &sim);
        one_taken(&desk, id, "else.jsonl");
        fs::create_dir(desk.path("there")).unwrap();
        renamed(&desk, "there/new.jsonl", with_sidecar);
        // Whoever takes the rest could not tell that output of it.
        let take = format!("results {id} --take -o else.jsonl");
        let ended = other(&desk, &sim, &take).expect(2);
        ended.says("nothing was taken").says("cancel");
        run(&desk, &sim, "in.jsonl -o there/new.jsonl").expect(0);
        whole(&desk, &sim, "there/new.jsonl", 3);
        assert!(!desk.exists("there/new.jsonl.batchwright"));
    }
}

#[test]
fn taking_leaves_the_sidecar_of_another_process_alone() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    renamed(&desk, "may.jsonl", true);
    desk.write("more.jsonl", "{\"id\":\"i-3\",\"prompt\":\"more\"}\n");
    run(&desk, &sim, "more.jsonl -o out.jsonl --no-wait").expect(0);
    let of_other = desk.read(SIDECAR);
    let beside = "may.jsonl.batchwright";
    let own = desk.read(beside);
    // Put in the place of the one that belongs there.
    desk.write(beside, &of_other);
    let take = format!("results {id} --take -o else.jsonl");
    let ended = other(&desk, &sim, &take).expect(2);
    ended.says("nothing was taken");
    assert_eq!(desk.read(beside), of_other);
    desk.write(beside, own);
    other(&desk, &sim, &take).expect(0);
    assert_eq!(desk.read(SIDECAR), of_other);
    run(&desk, &sim, "in.jsonl -o may.jsonl").expect(0);
    run(&desk, &sim, "more.jsonl -o out.jsonl").expect(0);
    bought(&sim, 4);
    assert_eq!(sidecars(&desk), Vec::<PathBuf>::new());
}

#[test]
fn what_was_taken_twice_since_it_was_killed_counts_once() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    let shown = other(&desk, &sim, &format!("results {id} --keep")).expect(0);
    // Killed before the queue could delete what was written.
    desk.write("else.jsonl", &shown.stdout);
    let output = desk.path("out.jsonl");
    let mut sidecar = Sidecar::read(&output).unwrap().unwrap();
    let to = desk.path("else.jsonl").canonicalize().unwrap();
    sidecar.add_taken(Some(&to), 0, 3);
    sidecar.write(&output).unwrap();
    other(&desk, &sim, &format!("results {id} --take -o else.jsonl")).expect(0);
    let sidecar = Sidecar::read(&output).unwrap().unwrap();
    assert_eq!((sidecar.taken[0].results, sidecar.taken[0].pending), (3, 0));
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn what_may_have_been_taken_when_it_was_killed_is_looked_for() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    other(&desk, &sim, &format!("results {id} --take -o else.jsonl")).expect(0);
    let output = desk.path("out.jsonl");
    let mut sidecar = Sidecar::read(&output).unwrap().unwrap();
    // Killed after the queue had deleted it.
    (sidecar.taken[0].results, sidecar.taken[0].pending) = (0, 3);
    sidecar.write(&output).unwrap();
    fs::rename(desk.path("else.jsonl"), desk.path("gone.jsonl")).unwrap();
    run(&desk, &sim, WORDS).expect(2).says("else.jsonl");
    fs::rename(desk.path("gone.jsonl"), desk.path("else.jsonl")).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn lines_of_others_do_not_stand_for_what_was_taken() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    other(&desk, &sim, &format!("results {id} --take -o else.jsonl")).expect(0);
    let all = desk.read("else.jsonl");
    let first = all.lines().next().unwrap();
    let foreign = first.replace("\"i-", "\"other-");
    desk.write("else.jsonl", format!("{first}\n{first}\n{foreign}\n"));
    let ended = run(&desk, &sim, WORDS).expect(2);
    ended.says("it holds 1 of 3 of them").says("rm ");
    // The input asks for no more than what is there.
    let prompts = desk.read("in.jsonl");
    let id = desk.ids("else.jsonl")[0].clone();
    let asked = prompts.lines().find(|line| line.contains(&id)).unwrap();
    desk.write("in.jsonl", asked);
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl").len(), 1);
    bought(&sim, 3);
}

#[test]
fn whoever_has_the_output_next_finds_no_sidecar_that_is_about_to_go() {
    let (desk, sim) = (Desk::new(), taking(SHORT));
    desk.prompts("in.jsonl", 3);
    let running = Running::start(&mut batch(&desk, &sim, WORDS));
    submitted(&desk, 3);
    let output = fs::File::open(desk.path("out.jsonl")).unwrap();
    let sidecar = desk.path(SIDECAR);
    while output.try_lock().is_err() {}
    assert!(!sidecar.exists());
    drop(output);
    running.wait().expect(0);
}

#[test]
fn what_was_taken_and_cannot_be_found_is_not_bought_again_by_itself() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    other(&desk, &sim, &format!("results {id} --take -o else.jsonl")).expect(0);
    let refused = |words: &str| {
        let ended = run(&desk, &sim, words).expect(2);
        ended
            .says("else.jsonl")
            .says("nothing was sent")
            .says("rm ")
    };
    let all = desk.read("else.jsonl");
    desk.write("else.jsonl", all.lines().next().unwrap());
    refused(WORDS).says("it holds 1 of 3 of them");
    fs::rename(desk.path("else.jsonl"), desk.path("gone.jsonl")).unwrap();
    refused(WORDS);
    refused(&format!("{WORDS} --dry-run"));
    let mut sync = command(&desk, &sim, WORDS);
    Running::start(&mut sync)
        .wait()
        .expect(2)
        .says("else.jsonl");
    bought(&sim, 3);
    desk.write("else.jsonl", all);
    // Asked for by calls, what is there is taken in all the same.
    let mut sync = command(&desk, &sim, WORDS);
    Running::start(&mut sync).wait().expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
}

#[test]
fn what_went_to_a_pipe_is_bought_again_only_on_purpose() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    other(&desk, &sim, &format!("results {id} --take")).expect(0);
    let ended = run(&desk, &sim, WORDS).expect(2);
    ended.says("3 results of this output were taken to standard output");
    fs::remove_file(desk.path(SIDECAR)).unwrap();
    run(&desk, &sim, WORDS).expect(0);
    assert_eq!(desk.ids("out.jsonl"), all_ids(3));
    bought(&sim, 6);
}

#[test]
fn results_may_go_to_the_output_that_they_belong_to() {
    let (desk, sim) = left_alone(3);
    let (id, _) = worked(&desk, &sim);
    other(&desk, &sim, &format!("results {id} -o ./out.jsonl")).expect(0);
    whole(&desk, &sim, "out.jsonl", 3);
    run(&desk, &sim, WORDS).expect(0).says("nothing to send");
    bought(&sim, 3);
}
