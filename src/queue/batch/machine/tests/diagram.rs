//! The diagram in the file of the states, held against the code.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::Timestamp;
use crate::config::choices::OnUnknown::{Hold, Resubmit};

use super::super::apply::apply;
use super::super::event::{Effect, Effects, Event, Facts};
use super::super::state::{Record, Refusals, State};
use super::examples::{events, facts, record, refusal, states};

/// From, to, and the events that lead there.
type Arrows = BTreeMap<(String, String), BTreeSet<String>>;

/// What may be known beside a batch.
fn all_facts() -> Vec<Facts> {
    let mut all = Vec::new();
    for uploads in [true, false] {
        for policy in [Hold, Resubmit] {
            for is_stopped in [true, false] {
                let facts = facts(uploads, Some(policy), is_stopped);
                all.push(facts.clone());
                all.push(Facts {
                    is_elsewhere: true,
                    has_input: false,
                    ..facts.clone()
                });
                all.push(Facts {
                    refusals: often(false),
                    others_there: true,
                    is_reached: true,
                    ..facts
                });
            }
        }
    }
    all
}

/// Refusals in a row of a batch.
fn often(is_named: bool) -> Refusals {
    let (batch, why) = (record(State::Forming), refusal(400));
    (0..40).fold(Refusals::default(), |all, _| {
        all.and(&batch, &why, "", is_named)
    })
}

/// A batch in each state, with what else makes a difference.
fn batches() -> impl Iterator<Item = Record> {
    let one = |(state, (items, failures)): (State, (u64, u32))| {
        let mut record = record(state);
        (record.intent.items, record.failures) = (items, failures);
        record
    };
    let all = [(200, 0), (8, 0), (1, 0), (200, 3), (200, 5)];
    let pairs = move |state: State| all.map(|counts| (state.clone(), counts));
    states().into_iter().flat_map(pairs).map(one)
}

/// Applies every event to every state: the batch before and after it, and what follows.
fn every_pair(mut seen: impl FnMut(&Record, &Event, &Record, Effects)) {
    let events = events();
    for facts in all_facts() {
        for before in batches() {
            for event in &events {
                let mut after = before.clone();
                let effects = apply(&mut after, event.clone(), &facts);
                seen(&before, event, &after, effects);
            }
        }
    }
}

/// All arrows that the code has.
fn arrows_of_the_code() -> Arrows {
    let mut arrows = Arrows::new();
    let mut add = |from: &str, to: &str, event: &str| {
        if from != to {
            let events = arrows.entry((from.to_owned(), to.to_owned())).or_default();
            events.insert(event.to_owned());
        }
    };
    let some = record(State::Forming);
    let begun = Record::new(some.account, "bw-1".to_owned(), None, Timestamp(0));
    add("[*]", begun.state.name(), "");
    every_pair(|before, event, after, effects| {
        let (to, name) = (after.state.name(), event.name());
        add(before.state.name(), to, name);
        for effect in effects.list {
            if let Effect::Close = effect {
                add(to, "[*]", name);
            }
        }
    });
    arrows
}

fn arrows_of_the_diagram() -> Arrows {
    let text = include_str!("../state.rs");
    let lines = text.lines().filter_map(|line| line.strip_prefix("//!"));
    let arrows = lines.filter_map(|line| {
        let (from, rest) = line.split_once("-->")?;
        let (to, events) = rest.split_once(':').unwrap_or((rest, ""));
        let events = events.split(',').map(|event| event.trim().to_owned());
        let pair = (from.trim().to_owned(), to.trim().to_owned());
        Some((pair, events.collect()))
    });
    arrows.collect()
}

#[test]
fn the_diagram_has_every_arrow_of_the_code_and_no_other() {
    let code = arrows_of_the_code();
    let drawn: String = code
        .iter()
        .map(|((from, to), events)| {
            let events: Vec<&str> = events.iter().map(String::as_str).collect();
            let colon = if events == [""] { "" } else { ": " };
            format!("//!     {from} --> {to}{colon}{}\n", events.join(", "))
        })
        .collect();
    assert_eq!(arrows_of_the_diagram(), code, "this is the code:\n{drawn}");
}

#[test]
fn every_event_is_handled_or_refused_aloud_in_every_state() {
    let mut refused = 0;
    every_pair(|before, event, after, effects| {
        let what = format!("{} while {:?}", event.name(), before.state);
        if effects.refused {
            refused += 1;
            assert_eq!(after, before, "{what}");
            let said = matches!(effects.list[..], [Effect::Log(log::Level::Warn, _)]);
            assert!(said && !effects.reschedules, "{what}");
            return;
        }
        let is_silent = effects.list.is_empty() && !effects.reschedules && after == before;
        // A list that lags gets its time, whoever hurries it.
        let is_list = matches!(&before.state, State::Unknown(unknown) if !unknown.held);
        assert!(!is_silent || is_list && event.name() == "Recheck", "{what}");
    });
    assert!(refused > 0);
}
