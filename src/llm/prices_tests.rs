use super::*;
use crate::base::Timestamp;
use crate::base::cases::cases;

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

fn picos(provider: &str, model: &str, usage: Usage, tier: &str) -> Option<u64> {
    let prices = Prices::default();
    let cost = prices.of_model(provider, model)?.cost(&usage, tier, NOW)?;
    Some(cost.picos())
}

#[test]
fn calls_cost_what_the_providers_publish() {
    let million = 1_000_000;
    for (case, expected) in cases(include_str!("prices_cases.txt")) {
        let mut names = case.split(' ');
        let mut name = || names.next().unwrap_or("");
        let (provider, model, tier) = (name(), name(), name());
        if expected == "unknown" {
            assert_eq!(picos(provider, model, usage(1, 0, 1), tier), None, "{case}");
            continue;
        }
        let expected = expected
            .split(' ')
            .map(|dollars| dollars.parse::<f64>().unwrap());
        let cost = |usage| picos(provider, model, usage, tier).map(|picos| picos as f64 / 1e12);
        let found = [
            cost(usage(million, 0, 0)),
            cost(usage(million, million, 0)),
            cost(usage(300_000, 0, million))
                .zip(cost(usage(300_000, 0, 0)))
                .map(|(all, input)| all - input),
        ];
        for (found, expected) in found.into_iter().zip(expected) {
            let found = found.unwrap_or(f64::NAN);
            assert!(
                (found - expected).abs() < 1e-9,
                "{model} {tier}: {found}, not {expected}"
            );
        }
    }
}

#[test]
fn a_cost_is_exact() {
    // 0.075 dollars per million tokens: 75,000 picodollars per token.
    let cost = |tokens| picos("groq", "openai/gpt-oss-20b", usage(tokens, 0, 0), "");
    assert_eq!(cost(1), Some(75_000));
    assert_eq!(cost(13), Some(975_000));
    assert_eq!(
        cost(u64::MAX),
        Some(u64::MAX),
        "too large an amount stays the largest"
    );
    let written = Usage {
        cache_write_tokens: 30,
        cache_write_5m_tokens: 10,
        cache_write_1h_tokens: 20,
        ..usage(100, 50, 1)
    };
    let expected = 20 * 800_000 + 50 * 80_000 + 10 * 1_000_000 + 20 * 1_600_000 + 4_000_000;
    let model = "claude-3-5-haiku-latest";
    assert_eq!(picos("anthropic", model, written, ""), Some(expected));
}

#[test]
fn long_requests_have_their_own_price_for_all_tokens() {
    let cost = |tokens| picos("gemini", "gemini-2.5-pro", usage(tokens, 0, 0), "").unwrap();
    assert_eq!(cost(200_000), 200_000 * 1_250_000);
    assert_eq!(cost(200_001), 200_001 * 2_500_000);
}

#[test]
fn a_price_holds_from_its_day_on() {
    let prices = Prices::default();
    let model = prices.of_model("openai", "o3").unwrap();
    let cost = |at| {
        model
            .cost(&usage(1, 0, 0), "", Timestamp(at))
            .unwrap()
            .picos()
    };
    // 2025-06-10T00:00:00Z
    assert_eq!(cost(1_749_513_599_999), 10_000_000);
    assert_eq!(cost(1_749_513_600_000), 2_000_000);
    assert_eq!(
        model.cost(&usage(1, 0, 0), "batch", Timestamp(1_749_513_600_000)),
        None
    );
}

#[test]
fn cached_input_of_sonnet_5_5_became_cheaper_on_a_day() {
    let prices = Prices::default();
    let model = prices.of_model("anthropic", "claude-sonnet-5-5").unwrap();
    let cost = |at| model.cost(&usage(1, 1, 0), "", Timestamp(at)).unwrap();
    // 2026-10-07T00:00:00Z
    assert_eq!(cost(1_791_331_199_999).picos(), 200_000);
    assert_eq!(cost(1_791_331_200_000).picos(), 100_000);
}

#[test]
fn what_is_not_known_is_no_zero() {
    let one = usage(1, 0, 1);
    assert_eq!(
        picos("openai", "gpt-4o", usage(0, 0, 0), ""),
        None,
        "no tokens"
    );
    assert_eq!(
        picos("openai", "gpt-4o", usage(1, 2, 0), ""),
        None,
        "more cached than read"
    );
    let tools = Usage {
        server_tool_calls: 2,
        web_search_calls: 1,
        ..one
    };
    assert_eq!(picos("openai", "gpt-4o", tools, ""), None);
    let searches = Usage {
        server_tool_calls: 1,
        ..tools
    };
    let expected = 2_500_000 + 10_000_000 + 10_000_000_000;
    assert_eq!(picos("openai", "gpt-4o", searches, ""), Some(expected));
    assert_eq!(picos("openai", "text-embedding-3-small", one, ""), None);
    assert_eq!(
        picos("openai", "text-embedding-3-small", usage(3, 0, 0), ""),
        Some(60_000)
    );
    let heard = Usage {
        input_audio_tokens: 1,
        ..usage(3, 1, 0)
    };
    assert_eq!(
        picos("gemini", "gemini-2.5-flash", heard, ""),
        None,
        "which of them were cached"
    );
}

/// A version is never taken for a date or passed over: `gpt-5` is not the price of `gpt-5.1`.
#[test]
fn a_name_means_the_model_of_that_name_only() {
    let prices = Prices::default();
    let found = |model, requested| {
        let found = prices.of_call("openai", Some(model), requested);
        found.map(|found| found.entries()[0].input.0)
    };
    assert_eq!(found("gpt-5.5-2099-01-01", None), None);
    assert_eq!(
        found("gpt-4o-2024-05-13", None),
        Some(5_000_000),
        "dearer than gpt-4o"
    );
    // A new version of the model that was requested, which is not in the table yet.
    assert_eq!(found("gpt-4o-2099-01-01", Some("gpt-4o")), Some(2_500_000));
    assert_eq!(found("gpt-4o-2099-01-01", Some("gpt-4")), None);
    assert_eq!(found("gpt-4o.1", Some("gpt-4o")), None);
    assert_eq!(found("GPT-4o", None), Some(2_500_000));
}

#[test]
fn own_prices_come_first_and_may_name_the_requested_model() {
    let json = |price: f64| {
        format!(
            r#"{{"providers": {{"*": {{"models": [{{"models": ["mine"], "prices": [{{"input": {price}}}]}}]}}}}}}"#
        )
    };
    let prices = Prices::default().overridden("one", &json(1.0)).unwrap();
    let two = Prices::none().overridden("two", &json(2.0)).unwrap();
    let price = |prices: &Prices| {
        let found = prices
            .of_call("openai", Some("gpt-4o"), Some("mine"))
            .unwrap();
        (found.origin().to_owned(), found.entries()[0].input.0)
    };
    assert_eq!(price(&prices), ("one".to_owned(), 1_000_000));
    assert_eq!(
        price(&two.clone().or(prices.clone())),
        ("two".to_owned(), 2_000_000)
    );
    assert_eq!(
        price(&prices.clone().or(two)),
        ("one".to_owned(), 1_000_000)
    );
    let error =
        Prices::none().overridden("f", r#"{"providers": {"*": {"models": [{"modles": []}]}}}"#);
    assert!(
        error
            .unwrap_err()
            .message()
            .starts_with("f: these are not prices: unknown field")
    );
}

/// A router answers with any of its models, and the one that answered is billed.
#[test]
fn among_own_prices_the_model_that_answered_comes_first() {
    let json = r#"{"providers": {"*": {"models": [
        {"models": ["alias"], "prices": [{"input": 1}]}, {"models": ["routed"], "prices": [{"input": 2}]}]}}}"#;
    let prices = Prices::default().overridden("mine", json).unwrap();
    let price = |answered, requested| {
        let found = prices.of_call("openai", answered, Some(requested));
        found.unwrap().entries()[0].input.0
    };
    assert_eq!(price(Some("routed"), "alias"), 2_000_000);
    assert_eq!(price(Some("gpt-4o"), "alias"), 1_000_000);
    assert_eq!(price(None, "alias"), 1_000_000);
}

/// The table has a source and a date, and every name once for each provider.
#[test]
fn the_table_is_in_order() {
    let table = &BUILT_IN.table;
    assert!(table.date.is_some() && table.source.is_some());
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
    let mine = r#"{"providers": {"*": {"models": [{"models": ["semantic-search-8b"], "prices": [{"input": 1, "output": 1}]}]}}}"#;
    let prices = Prices::default().overridden("mine", mine).unwrap();
    let found = prices.of_model("custom", "semantic-search-8b").unwrap();
    let used = Usage {
        input_tokens: 1,
        output_tokens: 1,
        ..Usage::default()
    };
    let cost = found.cost(&used, "", Timestamp(1_795_000_000_000));
    assert!(cost.is_some() && !found.bills_searches());
}
