use std::time::{Duration, SystemTime};

use super::*;
use crate::base::random::Random;
use crate::money::duration::{BindingLimit, CallLimits, DurationEstimate};
use crate::money::prices::Prices;
use crate::money::replies::MeasuredReply;
use crate::money::workload::InputSize;

/// A length whose logarithm is normally distributed.
fn length(random: &mut Random, median: f64, spread: f64) -> u64 {
    let normal = (0..12).map(|_| random.share()).sum::<f64>() - 6.0;
    (median * (spread * normal).exp()).round().max(1.0) as u64
}

fn size(tokens: u64) -> InputSize {
    InputSize {
        least: tokens * 2 / 3,
        likely: tokens,
        most: tokens * 2 + 20,
        is_counted: false,
    }
}

fn reply(likely_input: u64, input_tokens: u64, output_tokens: u64) -> MeasuredReply {
    MeasuredReply {
        likely_input,
        usage: Usage {
            input_tokens,
            output_tokens,
            ..Usage::default()
        },
        cost_usd: None,
        took: Some(Duration::from_secs(2)),
    }
}

fn replies(number: u64, one: &MeasuredReply) -> ModelReplies {
    let mut all = ModelReplies::default();
    (0..number).for_each(|_| all.add(one));
    all
}

fn work(requests: u64, tokens: u64, max_tokens: Option<u32>) -> Workload {
    let mut work = Workload::default();
    (0..requests).for_each(|_| work.add(size(tokens), max_tokens));
    work
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// A model that costs 1 dollar per million input tokens, a tenth of that if they are cached, twice that if they are
/// written to the cache, and 10 dollars per million output tokens; all of it twice above 1,000 input tokens.
fn prices() -> Prices {
    let json = r#"{"providers": {"p": {"models": [{"models": ["m"], "prices": [
        {"input": 1, "cached_input": 0.1, "cache_write": 2, "output": 10, "above": [
            {"tokens": 1000, "input": 2, "output": 20}]},
        {"tier": "batch", "input": 0.5, "output": 5}]}]}}}"#;
    Prices::none().overridden("mine", json).unwrap()
}

fn cost(estimate: &Estimate, tier: &str) -> Option<(f64, Option<f64>)> {
    let prices = prices();
    let model = prices.of_model("p", "m").unwrap();
    let cost = estimate.cost(&model, tier, now())?;
    Some((cost.low.dollars(), cost.high.map(Usd::dollars)))
}

#[test]
fn without_replies_the_size_and_the_limit_of_the_requests_bound_the_cost() {
    let none = ModelReplies::default();
    let open = Estimate::new(&work(1_000, 100, None), &none, &none);
    assert_eq!(open.input_tokens, Bounds::new(66_000, 220_000));
    assert_eq!(open.output_tokens, Bounds::from(1_000));
    assert_eq!(open.output_from, EstimateBasis::Unknown);
    assert_eq!(cost(&open, ""), Some((0.076, None)));
    let limited = Estimate::new(&work(1_000, 100, Some(50)), &none, &none);
    assert_eq!(limited.output_tokens, Bounds::new(1_000, 50_000));
    assert_eq!(limited.output_from, EstimateBasis::MaxTokens);
    assert_eq!(cost(&limited, ""), Some((0.076, Some(0.72))));
    assert_eq!(cost(&limited, "batch"), Some((0.038, Some(0.36))));
    assert_eq!(cost(&limited, "flex"), None);
    let nothing = Estimate::new(&work(0, 100, None), &none, &none);
    assert_eq!(cost(&nothing, ""), Some((0.0, Some(0.0))));
}

#[test]
fn embeddings_have_no_output_and_share_calls() {
    let none = ModelReplies::default();
    let texts = work(1_000, 100, Some(0)).requests_per_call(100);
    let estimate = Estimate::new(&texts, &none, &none);
    assert_eq!(estimate.output_tokens, Bounds::new(0, 0));
    assert_eq!(estimate.calls, 10);
    assert_eq!(cost(&estimate, ""), Some((0.066, Some(0.22))));
}

#[test]
fn counted_requests_come_before_replies_to_other_inputs_but_not_before_those_to_the_same() {
    let (none, earlier) = (ModelReplies::default(), replies(100, &reply(100, 150, 40)));
    let counted = InputSize {
        least: 90,
        most: 97,
        is_counted: true,
        ..size(100)
    };
    let mut work = Workload::default();
    (0..1_000).for_each(|_| work.add(counted, None));
    let by_count = Estimate::new(&work, &none, &earlier);
    assert_eq!(by_count.input_from, EstimateBasis::Tokenizer);
    assert_eq!(by_count.input_tokens, Bounds::new(90_000, 97_000));
    let of_input = Estimate::new(&work, &replies(5, &reply(100, 110, 40)), &earlier);
    assert_eq!(of_input.input_from, EstimateBasis::SameInput);
    assert_eq!(of_input.input_tokens.low, 110_000);
    // One request that is not counted.
    work.add(size(100), None);
    let mixed = Estimate::new(&work, &none, &earlier);
    assert_eq!(mixed.input_from, EstimateBasis::EarlierReplies);
    let nothing = Estimate::new(&Workload::default(), &none, &none);
    assert_eq!(nothing.input_from, EstimateBasis::RequestSize);
}

#[test]
fn replies_to_the_same_input_come_before_those_to_others() {
    let (none, work) = (ModelReplies::default(), work(1_000, 100, None));
    let earlier = replies(100, &reply(100, 150, 40));
    let from = Estimate::new(&work, &none, &earlier);
    assert_eq!(from.input_from, EstimateBasis::EarlierReplies);
    assert_eq!(from.input_tokens, Bounds::new(127_500, 172_500));
    assert_eq!(from.output_from, EstimateBasis::EarlierReplies);
    assert!(from.output_tokens.low <= 40_000 && from.output_tokens.high >= Some(40_000));
    assert_eq!(from.call_seconds, Some(Bounds::new(1.0, 4.0)));

    let sample = replies(50, &reply(100, 120, 30));
    let from = Estimate::new(&work, &sample, &earlier);
    assert_eq!(from.input_from, EstimateBasis::SameInput);
    assert_eq!(from.input_tokens, Bounds::new(120_000, 120_000));
    assert_eq!(from.output_tokens, Bounds::new(30_000, 30_000));
    assert_eq!(from.call_seconds, Some(Bounds::new(2.0, 2.0)));
    // Four replies are too few to know how much they vary.
    let from = Estimate::new(&work, &replies(4, &reply(100, 120, 30)), &earlier);
    assert_eq!(from.input_from, EstimateBasis::EarlierReplies);
}

#[test]
fn replies_to_requests_of_another_size_do_not_narrow_the_input() {
    let earlier = replies(100, &reply(10_000, 10_000, 10));
    let none = ModelReplies::default();
    let estimate = Estimate::new(&work(1_000, 100, None), &none, &earlier);
    assert_eq!(estimate.input_tokens, Bounds::new(66_000, 220_000));
}

#[test]
fn a_limit_holds_whatever_earlier_answers_needed() {
    let earlier = replies(100, &reply(100, 100, 500));
    let work = work(1_000, 100, Some(30));
    for (of_input, earlier) in [
        (ModelReplies::default(), earlier.clone()),
        (earlier, ModelReplies::default()),
    ] {
        let estimate = Estimate::new(&work, &of_input, &earlier);
        assert_eq!(estimate.output_tokens, Bounds::new(30_000, 30_000));
    }
}

#[test]
fn only_the_lower_end_counts_cached_input_and_only_the_upper_one_writes() {
    let mut cached = reply(100, 100, 10);
    cached.usage.cached_input_tokens = 90;
    let work = work(1_000, 100, None);
    let none = ModelReplies::default();
    let estimate = Estimate::new(&work, &replies(50, &cached), &none);
    // 10,000 tokens at the full price, 90,000 at a tenth, and 10,000 of output.
    assert_eq!(cost(&estimate, ""), Some((0.119, Some(0.2))));
    cached.usage.cache_write_tokens = 5;
    let estimate = Estimate::new(&work, &replies(50, &cached), &none);
    assert_eq!(cost(&estimate, ""), Some((0.119, Some(0.3))));
}

#[test]
fn the_prices_of_long_requests_apply_to_the_upper_end_if_one_is_that_long() {
    let none = ModelReplies::default();
    let mut work = work(1_000, 100, Some(0));
    work.add(size(600), Some(0));
    let estimate = Estimate::new(&work, &none, &none);
    assert_eq!(estimate.input_tokens, Bounds::new(66_400, 221_220));
    assert_eq!(cost(&estimate, ""), Some((0.0664, Some(0.44244))));
}

#[test]
fn costs_that_replies_report_need_no_price() {
    let mut one = reply(100, 100, 10);
    one.cost_usd = Usd::from_dollars(0.001);
    let mut sample = replies(50, &one);
    let (work, none) = (work(1_000, 100, None), ModelReplies::default());
    let reported = |replies: &ModelReplies| Estimate::new(&work, replies, &none).reported_cost;
    let micros = |cost: Bounds<Usd>| (cost.low.micros(), cost.high.map(Usd::micros));
    assert_eq!(
        reported(&sample).map(micros),
        Some((1_000_000, Some(1_000_000)))
    );
    sample.add(&reply(100, 100, 10));
    assert_eq!(reported(&sample), None);
}

/// An input and its true tokens: as large and as varied as `random` wants it.
fn true_run(random: &mut Random) -> (Vec<(u64, u64, u64)>, Option<u32>) {
    let items = 200 + length(random, 1_000.0, 0.7);
    let (size, spread) = (length(random, 300.0, 1.0) as f64, 0.8 * random.share());
    let (answer, varied) = (
        length(random, 120.0, 1.0) as f64,
        0.2 + 0.5 * random.share(),
    );
    let (ratio, added) = (0.7 + 0.8 * random.share(), length(random, 8.0, 0.5));
    let limit = (random.share() < 0.5).then(|| length(random, 600.0, 0.5) as u32);
    let all = (0..items).map(|_| {
        let likely = length(random, size, spread);
        let input = (likely as f64 * ratio * (0.9 + 0.2 * random.share())) as u64 + added;
        let output = length(random, answer, varied);
        let output = limit.map_or(output, |limit| output.min(limit.into()));
        (likely, input, output)
    });
    (all.collect(), limit)
}

#[test]
fn after_a_sample_of_50_the_cost_is_in_a_range_of_at_most_twice_its_lower_end() {
    let prices = Prices::default();
    let model = prices.of_model("openai", "gpt-4o-mini").unwrap();
    let (mut contained, mut wide) = (0, 0);
    const RUNS: u64 = 1_000;
    for seed in 0..RUNS {
        let random = &mut Random(seed);
        let (items, limit) = true_run(random);
        let (mut sample, mut work) = (ModelReplies::default(), Workload::default());
        let mut true_cost = Usd::ZERO;
        let step = items.len() as f64 / 50.0;
        let chosen: Vec<usize> = (0..50)
            .map(|i| ((i as f64 + 0.5) * step) as usize)
            .collect();
        for (i, (likely, input, output)) in items.iter().enumerate() {
            let reply = reply(*likely, *input, *output);
            if chosen.contains(&i) {
                sample.add(&reply);
            } else {
                work.add(size(*likely), limit);
                true_cost += model.cost(&reply.usage, "", now()).unwrap();
            }
        }
        let estimate = Estimate::new(&work, &sample, &ModelReplies::default());
        let range = estimate.cost(&model, "", now()).unwrap();
        let high = range.high.unwrap();
        contained += u64::from(range.low <= true_cost && true_cost <= high);
        wide += u64::from(high.dollars() > 2.0 * range.low.dollars());
    }
    assert!(contained * 100 >= RUNS * 96, "{contained} of {RUNS}");
    // Where answers have very different lengths.
    assert!(wide * 200 <= RUNS, "{wide} of {RUNS}");
}

#[test]
fn the_fee_of_searches_leaves_the_upper_end_open() {
    let prices = Prices::default();
    let model = |name| prices.of_model("openai", name).unwrap();
    let none = ModelReplies::default();
    let estimate = Estimate::new(&work(10, 100, Some(50)), &none, &none);
    let plain = estimate.cost(&model("gpt-4o-mini"), "", now()).unwrap();
    let searching = estimate.cost(&model("gpt-4o-mini-search-preview"), "", now());
    assert_eq!(searching, Some(Bounds::from(plain.low)));
    assert!(plain.high.is_some());
}

#[test]
fn requests_in_batches_tell_nothing_about_the_duration_of_calls() {
    let mut in_batch = reply(100, 100, 10);
    in_batch.took = None;
    let (work, none) = (work(100, 100, Some(50)), ModelReplies::default());
    let estimate = Estimate::new(&work, &replies(50, &in_batch), &none);
    assert_eq!(
        (estimate.call_seconds, estimate.output_tokens.low),
        (None, 1_000)
    );
    let mut both = replies(50, &in_batch);
    both.add_all(&replies(50, &reply(100, 100, 10)));
    let seconds = Estimate::new(&work, &both, &none).call_seconds.unwrap();
    assert!(seconds.low > 1.9 && seconds.high < Some(2.1), "{seconds:?}");
}

#[test]
fn replies_to_other_inputs_of_the_same_kind_give_a_range_with_the_cost_in_it() {
    let prices = Prices::default();
    let model = prices.of_model("openai", "gpt-4o-mini").unwrap();
    let mut contained = 0;
    const RUNS: u64 = 200;
    for seed in 0..RUNS {
        let random = &mut Random(seed ^ 0xabcd);
        let (items, limit) = true_run(random);
        let (before, after) = items.split_at(items.len() / 2);
        let (mut earlier, mut work) = (ModelReplies::default(), Workload::default());
        for (likely, input, output) in before {
            earlier.add(&reply(*likely, *input, *output));
        }
        let mut true_cost = Usd::ZERO;
        for (likely, input, output) in after {
            work.add(size(*likely), limit);
            let usage = reply(*likely, *input, *output).usage;
            true_cost += model.cost(&usage, "", now()).unwrap();
        }
        let estimate = Estimate::new(&work, &ModelReplies::default(), &earlier);
        let range = estimate.cost(&model, "", now()).unwrap();
        contained += u64::from(range.low <= true_cost && Some(true_cost) <= range.high);
    }
    assert!(contained * 100 >= RUNS * 95, "{contained} of {RUNS}");
}

#[test]
fn the_duration_is_that_of_the_limit_that_binds() {
    let sample = replies(50, &reply(100, 100, 50));
    let none = ModelReplies::default();
    let known = Estimate::new(&work(600, 100, None), &sample, &none);
    let duration = |rpm: Option<f64>, tpm: Option<f64>, in_flight| {
        let limits = CallLimits {
            requests_per_minute: rpm,
            tokens_per_minute: tpm,
        };
        let duration = DurationEstimate::new(&[(&known, limits)], in_flight);
        let high = duration.range.high.map(|high| high.as_secs());
        (duration.range.low.as_secs(), high, duration.limited_by)
    };
    let five = Some((5, 10));
    use BindingLimit::{Concurrency, RequestsPerMinute, TokensPerMinute};
    assert_eq!(
        duration(None, None, five),
        (120, Some(240), Some(Concurrency))
    );
    let slow = duration(Some(100.0), Some(1e6), five);
    assert_eq!(slow, (360, Some(360), Some(RequestsPerMinute)));
    let slow = duration(Some(100.0), Some(9e3), five);
    assert_eq!(slow, (600, Some(600), Some(TokensPerMinute)));
    assert_eq!(duration(None, None, None), (0, None, None));
    let slow = duration(Some(100.0), None, None);
    assert_eq!(slow, (360, None, Some(RequestsPerMinute)));

    // Without replies nothing is known of the calls, and two models have limits of their own.
    let unknown = Estimate::new(&work(600, 100, None), &none, &none);
    let of = |rpm| CallLimits {
        requests_per_minute: Some(rpm),
        tokens_per_minute: None,
    };
    let both = DurationEstimate::new(&[(&unknown, of(100.0)), (&known, of(60.0))], five);
    assert_eq!(both.range, Bounds::from(Duration::from_secs(600)));
    assert_eq!(both.limited_by, Some(RequestsPerMinute));
    let nothing = DurationEstimate::new(&[], five);
    assert_eq!(nothing.range, Bounds::new(Duration::ZERO, Duration::ZERO));
}
