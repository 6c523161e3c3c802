//! Windows with scripted rejections and answers.

use super::*;
use crate::engine::simulation::Random;

/// A wave of this many calls. The server accepts `limit` of them.
fn cut(window: &mut Window, wave: u32, limit: u32) {
    let _ = window.cut(wave - 1);
    (limit + 1..wave).for_each(|_| window.refused_before_the_cut());
}

fn answer(window: &mut Window, millis: u64, in_flight: u32) {
    let epoch = window.began(in_flight);
    window.replied(Answer {
        epoch,
        took: Duration::from_millis(millis),
        tokens: None,
    });
}

/// An answer while the window is used.
fn reply(window: &mut Window) {
    let in_flight = window.most().min(5000.0) as u32;
    answer(window, 100, in_flight);
}

#[test]
fn a_wave_of_refusals_is_one_cut_down_to_what_was_accepted() {
    for (wave, limit, then) in [(32, 2, 2.0), (32, 20, 17.0), (8, 7, 5.0), (9, 1, 1.0)] {
        let mut window = Window::default();
        assert_eq!(window.most(), f64::INFINITY);
        cut(&mut window, wave, limit);
        reply(&mut window);
        assert_eq!(window.most(), then, "{limit} of {wave}");
        (0..limit).for_each(|_| reply(&mut window));
        assert_eq!(window.most(), f64::from(limit), "{limit} of {wave}");
    }
}

#[test]
fn refusals_of_a_wave_count_also_after_its_first_reply() {
    let mut window = Window::default();
    cut(&mut window, 8, 6);
    (0..3).for_each(|_| reply(&mut window));
    assert_eq!(window.most(), 6.0);
    (0..4).for_each(|_| window.refused_before_the_cut());
    assert_eq!(window.most(), 2.0);
}

#[test]
fn rests_between_trials_grow_while_trials_are_rejected() {
    let mut window = Window::default();
    cut(&mut window, 11, 10);
    let mut rests = Vec::new();
    for round in 0..6 {
        let mut replies = 0;
        while window.most() < 11.0 {
            reply(&mut window);
            replies += 1;
        }
        rests.push(replies / 10);
        cut(&mut window, 11, 10);
        assert!(
            window.most() >= 10.0,
            "the trial in round {round} reduced the calls"
        );
    }
    assert_eq!(rests, [4, 8, 16, 32, 32, 32]);
}

#[test]
fn after_a_pause_each_full_window_of_answers_doubles_it() {
    let mut window = Window::default();
    window.pause(31);
    assert_eq!(window.most(), 16.0);
    (0..16).for_each(|_| reply(&mut window));
    assert_eq!(window.most(), 32.0);
}

#[test]
fn an_open_window_that_was_cut_reopens_without_rejections() {
    let mut window = Window::default();
    cut(&mut window, 9, 8);
    let replies = (0..100_000).take_while(|_| {
        reply(&mut window);
        window.most().is_finite()
    });
    assert!(replies.count() < 99_999);
}

#[test]
fn a_window_that_is_not_used_does_not_grow() {
    let mut window = Window::tuned(5, 256);
    (0..1000).for_each(|_| answer(&mut window, 100, 2));
    assert_eq!(window.most(), 5.0);
}

#[test]
fn calls_started_before_a_change_do_not_count_after_it() {
    let mut window = Window::tuned(10, 256);
    let before = window.began(10);
    (0..15).for_each(|_| reply(&mut window));
    assert_eq!(window.most(), 15.0);
    for _ in 0..1000 {
        window.replied(Answer {
            epoch: before,
            took: Duration::from_millis(100),
            tokens: None,
        });
    }
    assert_eq!(window.most(), 15.0);
}

#[test]
fn the_window_stays_between_one_and_its_maximum() {
    let mut random = Random::warm(7);
    let mut random = |n: u32| random.below(n.into()) as u32;
    for _ in 0..200 {
        let most = 1 + random(300);
        let mut window = match random(3) {
            0 | 1 => Window::tuned(1 + random(most), most),
            _ => Window::default(),
        };
        let bounded = window.tuned;
        for _ in 0..3000 {
            let size = window.most().min(400.0) as u32;
            match random(100) {
                0 => drop(window.cut(random(size.max(1)))),
                1 => window.refused_before_the_cut(),
                2 if random(10) == 0 => window.pause(random(size.max(1))),
                3 if random(10) == 0 => window.narrow(),
                4 if random(10) == 0 => window.pause_after_cut(),
                _ => answer(
                    &mut window,
                    50 + u64::from(random(100)),
                    random(size.max(1)) + 1,
                ),
            }
            assert!(window.most() >= 1.0);
            assert!(!bounded || window.most() <= f64::from(most));
        }
    }
}

/// A server that works on eight calls at once.
#[test]
fn rests_grow_while_more_calls_bring_no_more() {
    let mut window = Window::tuned(8, 100);
    let (mut rests, mut size, mut replies) = (Vec::new(), window.most(), 0);
    for _ in 0..3_000 {
        if window.most() != size {
            // The rest after a trial of more calls, not the one after a trial of fewer.
            if size == 8.0 && window.most() < size {
                rests.push(replies);
            }
            (size, replies) = (window.most(), 0);
        }
        replies += 1;
        answer(&mut window, 100 * (size as u64).max(8) / 8, size as u32);
    }
    assert_eq!(rests[..4], [80, 160, 320, 320]);
}

const SECOND: Duration = Duration::from_secs(1);

fn cost(calls: &[(Duration, Option<u64>)]) -> Cost {
    let mut measured = SlotCost::default();
    for (took, tokens) in calls {
        measured.add(*took, *tokens);
    }
    measured.cost()
}

#[test]
fn answers_twice_as_long_in_twice_the_time_cost_the_same() {
    let short = cost(&[(SECOND, Some(100)), (SECOND, Some(100))]);
    let mixed = cost(&[(SECOND, Some(100)), (3 * SECOND, Some(300))]);
    assert!((mixed.times(short) - 1.0).abs() < 1e-9);
    let slower = cost(&[(3 * SECOND, Some(100))]);
    assert!((slower.times(short) - 3.0).abs() < 1e-9);
}

#[test]
fn replies_without_tokens_are_counted_in_calls() {
    let calls = cost(&[(SECOND, None), (3 * SECOND, None)]);
    assert!((calls.times(cost(&[(SECOND, None)])) - 2.0).abs() < 1e-9);
    assert_eq!(calls.times(cost(&[(SECOND, Some(50))])), 1.0);
    let vectors = cost(&[(SECOND, Some(0)), (SECOND, Some(0))]);
    assert!(vectors.times(vectors) == 1.0);
    assert!(cost(&[(Duration::ZERO, None)]).times(vectors).is_finite());
}
