use serde_json::json;

use super::*;
use crate::base::{Optional, Paid, Timestamp, Usage};
use crate::llm::params::ResponseFormat;
use crate::llm::prices::Prices;

/// Bounds of a request to a model of 0.15 and 0.60 dollars per million tokens.
fn bound(request: &Request) -> Result<(u64, u64), String> {
    let prices = Prices::default();
    let model = prices.of_model("openai", "gpt-4o-mini").unwrap();
    most_tokens(request, Some(&model), &Tries::default())
}

#[test]
fn every_part_of_a_text_request_is_in_its_bound() {
    let plain = Request::new("é".repeat(50)).with_max_tokens(7);
    let (input, output) = bound(&plain).unwrap();
    assert!((300..400).contains(&input), "{input}");
    assert_eq!(output, 7);
    let more = |change: fn(&mut Request)| {
        let mut request = plain.clone();
        change(&mut request);
        bound(&request).unwrap().0 - input
    };
    assert!(more(|request| request.system = Some("x".repeat(500))) >= 500);
    let schema = |request: &mut Request| {
        let schema = json!({"type": "object", "required": ["x".repeat(500)]});
        request.params.response_format = Some(ResponseFormat::json_schema(schema).unwrap());
    };
    assert!(more(schema) >= 500 + TOKENS_OF_INSTRUCTIONS);
    let tools = |request: &mut Request| {
        let tool = json!({"type": "function", "function": {"name": "x".repeat(500)}});
        request.extra.insert("tools".to_owned(), json!([tool]));
    };
    assert!(more(tools) >= 500 + TOKENS_OF_INSTRUCTIONS);
    // Without a limit in the request, that of the model counts.
    assert_eq!(bound(&Request::new("a")).unwrap().1, 16_384);
}

#[test]
fn what_has_no_bound_says_why() {
    for (name, value, why) in [
        (
            "tools",
            json!([{"type": "web_search"}]),
            "the tool \"web_search\" of the provider",
        ),
        (
            "web_search_options",
            json!({}),
            "what \"web_search_options\" causes",
        ),
    ] {
        let request = Request::new("a").with_max_tokens(7).with_extra(name, value);
        let found = bound(&request).unwrap_err();
        assert_eq!(found, format!("{why} has no upper bound"));
    }
}

#[test]
fn the_dearest_prices_count() {
    let json = r#"{"providers": {"p": {"models": [{"models": ["m"], "prices": [
        {"input": 1, "cached_input": 0.1, "cache_write_1h": 2, "output": 3,
         "above": [{"tokens": 1000, "input": 4, "output": 5}]},
        {"tier": "priority", "input": 10, "output": 20}]}]}}}"#;
    let prices = Prices::none().overridden("mine", json).unwrap();
    let pricing = Pricing {
        prices: &prices,
        at: Timestamp(0),
    };
    let most = |request: Request, is_batched| {
        let request = request.with_max_tokens(10);
        super::bound(
            &pricing,
            ["p", "m"],
            &request,
            &Tries::default(),
            is_batched,
        )
        .ok()
    };
    let tier = |tier: &str| Request::new("a").with_extra("service_tier", json!(tier));
    // In picodollars, of 211 and 235 tokens of input.
    assert_eq!(most(Request::new("a"), false), Some(894_000_000));
    assert_eq!(most(Request::new("a"), true), Some(894_000_000));
    assert_eq!(most(tier("priority"), false), Some(2_550_000_000));
    assert_eq!(most(tier("unheard-of"), false), None);
}

#[test]
fn a_call_counts_as_what_its_reply_reports_or_as_the_most_that_it_can_cost() {
    let usage = Usage {
        input_tokens: 3,
        output_tokens: 4,
        ..Usage::default()
    };
    let paid = Paid::new(Some(usage), Some(Usd::from_picos(11)));
    let unpriced = Paid {
        cost_usd: None,
        ..paid
    };
    assert_eq!(spent(paid, None), Some(11));
    assert_eq!(spent(unpriced, None), None);
    assert_eq!(spent(Paid::default(), None), None);
    for (sent, status, paid, expected) in [
        (Sent::Answered, Some(200), paid, Some(11)),
        (Sent::Answered, Some(200), Paid::default(), None),
        (Sent::Answered, Some(429), Paid::default(), Some(0)),
        (Sent::No, None, Paid::default(), Some(0)),
        (Sent::Maybe, None, Paid::default(), None),
        (Sent::Maybe, Some(504), Paid::default(), None),
    ] {
        let error = Error::new(ErrorKind::Transient, "no").with_sent(sent);
        let error = error.with_paid(paid).set(status, Error::with_status);
        assert_eq!(spent(error.paid(), Some(&error)), expected, "{error:?}");
    }
}

#[test]
fn a_word_of_a_model_says_that_its_calls_search_and_no_part_of_a_word() {
    let searching = "gpt-4o-search-preview openai/gpt-4o-mini-search-preview sonar-pro";
    assert!(searching.split(' ').all(searches));
    let others = "gpt-4o-mini my-research-model o5-research searcher-1";
    assert!(!others.split(' ').any(searches));
}

#[test]
fn embeddings_have_a_bound() {
    let (text, prices) = (Request::embedding("a text"), Prices::default());
    let model = prices.of_model("openai", "text-embedding-3-small").unwrap();
    let (_, output) = most_tokens(&text, Some(&model), &Tries::default()).unwrap();
    assert_eq!(output, 0);
    let pricing = Pricing {
        prices: &prices,
        at: Timestamp(1_790_000_000_000),
    };
    let names = ["openai", "text-embedding-3-small"];
    let most = super::bound(&pricing, names, &text, &Tries::default(), false);
    assert!(most.unwrap() > 0);
}
