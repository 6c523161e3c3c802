//! The counting of calls and of requests in batches.

use std::time::Duration;

use super::dialect::{Content, Work};
use super::ledger::{Delivery, Ledger, Verdict};
use super::trouble::Form;
use super::{SimConfig, Trouble};

const NOW: Duration = Duration::ZERO;

fn work(keys: &[u64], form: Form) -> Work {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    Work {
        model: "m".to_owned(),
        keys: keys.to_vec(),
        tokens: 1,
        form,
        inputs: if form == Form::Vectors {
            keys.len() as u64
        } else {
            0
        },
        content: Content::Answer(crate::openai::parse(body, crate::vendor::row("any")).unwrap()),
    }
}

fn prompt(keys: &[u64]) -> Work {
    work(keys, Form::Text)
}

fn pack(keys: &[u64]) -> Work {
    work(keys, Form::Vectors)
}

#[test]
fn a_second_answer_to_one_prompt_is_paid_twice() {
    let config = SimConfig::default();
    let mut ledger = Ledger::new(&config);
    for key in [1, 2, 1] {
        let call = ledger.arrive(NOW, Some(&prompt(&[key])), &config);
        ledger.settle(&call, Delivery::Answered);
    }
    let stats = ledger.stats();
    assert_eq!((stats.prompts, stats.paid, stats.paid_twice), (2, 3, 1));
    assert_eq!(stats.answered, 3);
    assert_eq!((stats.in_flight, stats.max_in_flight), (0, 1));
}

#[test]
fn an_undelivered_reply_is_no_answer() {
    let config = SimConfig::default();
    let mut ledger = Ledger::new(&config);
    let call = ledger.arrive(NOW, Some(&prompt(&[1])), &config);
    ledger.settle(&call, Delivery::Answered);
    ledger.undelivered(&call, Delivery::Answered);
    assert_eq!(ledger.stats().answered, 0);
}

#[test]
fn a_pack_is_one_call_and_each_of_its_inputs_a_prompt() {
    let config = SimConfig::default();
    let mut ledger = Ledger::new(&config);
    for keys in [&[1, 2, 3][..], &[3, 4]] {
        let call = ledger.arrive(NOW, Some(&pack(keys)), &config);
        ledger.settle(&call, Delivery::Answered);
    }
    let stats = ledger.stats();
    let calls = (stats.calls, stats.embedding_calls, stats.embedded);
    assert_eq!(calls, (2, 2, 5));
    assert_eq!((stats.prompts, stats.paid, stats.paid_twice), (4, 2, 1));
}

#[test]
fn one_bad_input_goes_before_the_other_troubles_of_its_pack() {
    let config = SimConfig::default()
        .trouble(Trouble::Error500, 0.5)
        .trouble(Trouble::BadRequest, 0.5);
    let key = |wanted| {
        (0..)
            .find(|key| config.plan_key(*key) == Some(wanted))
            .unwrap()
    };
    let keys = [key(Trouble::Error500), key(Trouble::BadRequest)];
    let mut ledger = Ledger::new(&config);
    for _ in 0..3 {
        let call = ledger.arrive(NOW, Some(&pack(&keys)), &config);
        assert_eq!(call.verdict, Verdict::Trouble(Trouble::BadRequest));
        ledger.settle(&call, Delivery::Failed);
    }
    let alone = ledger.arrive(NOW, Some(&pack(&keys[..1])), &config);
    assert_eq!(alone.verdict, Verdict::Trouble(Trouble::Error500));
    ledger.settle(&alone, Delivery::Failed);
}

#[test]
fn requests_of_batches_are_paid_and_meet_troubles_as_calls_do() {
    let config = SimConfig::default().trouble(Trouble::Error500, 1.0);
    let mut ledger = Ledger::new(&config);
    let asked = [(1, Form::Text), (2, Form::Text)];
    for _ in 0..2 {
        let met = ledger.buy(&asked, &config);
        assert_eq!(met, (vec![Some(Trouble::Error500); 2], 0));
    }
    assert_eq!(ledger.stats().by_trouble["error_500"], 4);
    assert_eq!(ledger.buy(&asked, &config), (vec![None; 2], 0));
    let call = ledger.arrive(NOW, Some(&prompt(&[1])), &config);
    ledger.settle(&call, Delivery::Answered);
    assert_eq!(ledger.buy(&asked[1..], &config), (vec![None], 1));
    let stats = ledger.stats();
    assert_eq!((stats.paid, stats.paid_twice, stats.prompts), (4, 2, 2));
}
