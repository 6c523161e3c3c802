use serde_json::{Value, json};

use super::*;
use crate::base::Timestamp;

/// 2026-11-25.
const NOW: Timestamp = Timestamp(1_795_564_800_000);

fn usage(input: u64, cached: u64, output: u64) -> Usage {
    Usage {
        input_tokens: input,
        cached_input_tokens: cached,
        output_tokens: output,
        ..Usage::default()
    }
}

/// A provider, a model and a tier; when; input, cached input and output tokens, and other usage; the cost in picodollars.
type Case = (
    String,
    String,
    String,
    Option<i64>,
    [u64; 3],
    Value,
    Option<u64>,
);

#[test]
fn calls_cost_exactly_what_the_providers_publish_and_what_is_not_known_is_no_zero() {
    let prices = Prices::default();
    let cases: Vec<Case> = serde_json::from_str(include_str!("cost_cases.json")).unwrap();
    for (provider, model, tier, at, [input, cached, output], further, expected) in cases {
        let mut used = json!(usage(input, cached, output));
        used.as_object_mut()
            .unwrap()
            .extend(further.as_object().unwrap().clone());
        let used: Usage = serde_json::from_value(used).unwrap();
        let found = prices.of_model(&provider, &model);
        let cost = found.and_then(|found| found.cost(&used, &tier, at.map_or(NOW, Timestamp)));
        assert_eq!(
            cost.map(Usd::picos),
            expected,
            "{provider} {model} {tier:?} {used:?}"
        );
    }
}

/// A version is never taken for a date or passed over: `gpt-5` is not the price of `gpt-5.1`.
#[test]
fn a_name_means_the_model_of_that_name_only() {
    let prices = Prices::default();
    for (model, requested, expected) in [
        ("gpt-5.5-2099-01-01", None, None),
        // Dearer than gpt-4o.
        ("gpt-4o-2024-05-13", None, Some(5_000_000)),
        // A new version of the model that was requested, which is not in the table yet.
        ("gpt-4o-2099-01-01", Some("gpt-4o"), Some(2_500_000)),
        ("gpt-4o-2099-01-01", Some("gpt-4"), None),
        ("gpt-4o.1", Some("gpt-4o"), None),
        ("GPT-4o", None, Some(2_500_000)),
    ] {
        let found = prices.of_call("openai", Some(model), requested);
        let price = found.map(|found| found.entry("", NOW).unwrap().input.0);
        assert_eq!(price, expected, "{model} {requested:?}");
    }
}

/// Prices of these models in every provider, in dollars per million input tokens.
fn own(models: &[(&str, f64)]) -> String {
    let model = |(name, input): &(&str, f64)| json!({"models": [name], "prices": [{"input": input, "output": input}]});
    let models: Vec<Value> = models.iter().map(model).collect();
    json!({"providers": {"*": {"models": models}}}).to_string()
}

#[test]
fn own_prices_come_first_and_may_name_the_requested_model() {
    let json = own(&[("mine", 1.0), ("routed", 3.0)]);
    let one = Prices::default().overridden("one", &json).unwrap();
    let two = Prices::none()
        .overridden("two", &own(&[("mine", 2.0)]))
        .unwrap();
    let price = |prices: &Prices, answered| {
        let found = prices.of_call("openai", answered, Some("mine")).unwrap();
        (
            found.origin().to_owned(),
            found.entry("", NOW).unwrap().input.0,
        )
    };
    let first = ("one".to_owned(), 1_000_000);
    assert_eq!(price(&one, Some("gpt-4o")), first);
    assert_eq!(price(&one, None), first);
    // A router answers with any of its models, and the one that answered is billed.
    assert_eq!(price(&one, Some("routed")), ("one".to_owned(), 3_000_000));
    let both = two.clone().or(one.clone());
    assert_eq!(price(&both, Some("gpt-4o")), ("two".to_owned(), 2_000_000));
    assert_eq!(price(&one.or(two), Some("gpt-4o")), first);
    let json = r#"{"providers": {"*": {"models": [{"modles": []}]}}}"#;
    let error = Prices::none().overridden("f", json).unwrap_err();
    let words = "f: these are not prices: line 1 column 41 has";
    assert!(error.message().starts_with(words), "{error}");
}

/// The table has every name once for each provider.
#[test]
fn the_table_is_in_order() {
    let table = &BUILT_IN.table;
    let mut names: Vec<_> = table.names().collect();
    let all = names.len();
    assert!(all > 500, "{all}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name is there twice");
    for (provider, name) in names {
        let prices = Prices::default();
        let found = prices.of_model(provider, name).unwrap();
        let today = found
            .entry("", NOW)
            .unwrap_or_else(|| panic!("{provider} {name}"));
        assert!(
            today.input.0 > 0 || today.output.is_some(),
            "{provider} {name} is free"
        );
    }
}

#[test]
fn a_price_of_the_user_counts_also_if_the_name_of_the_model_speaks_of_searches() {
    let mine = own(&[("semantic-search-8b", 1.0)]);
    let prices = Prices::default().overridden("mine", &mine).unwrap();
    let found = prices.of_model("custom", "semantic-search-8b").unwrap();
    assert!(found.cost(&usage(1, 0, 1), "", NOW).is_some() && !found.bills_searches);
}

/// An alias of the user, such as the name of a deployment, says nothing about the model.
#[test]
fn the_name_of_the_request_speaks_of_searches_only_if_it_is_one_of_a_model() {
    let prices = Prices::default();
    for (provider, requested, searches) in [
        ("azure", "product-search", false),
        ("openai", "sonar-for-submarines", false),
        ("openai", "gpt-4o-search-preview", true),
    ] {
        let answered = Some("gpt-4o-mini-2024-07-18");
        let found = prices.of_call(provider, answered, Some(requested)).unwrap();
        assert_eq!(found.bills_searches, searches, "{requested}");
        let cost = found.cost(&usage(1, 0, 1), "", NOW);
        assert_eq!(cost.is_none(), searches, "{requested}");
    }
}
