use serde_json::json;

use super::*;
use crate::base::{Paid, Timestamp, Usage};
use crate::llm::params::ResponseFormat;
use crate::llm::prices::Prices;

/// Bounds of a request to a model of 0.15 and 0.60 dollars per million tokens.
fn bound(request: &Request) -> Result<(u64, u64), String> {
    let prices = Prices::default();
    let model = prices.of_model("openai", "gpt-4o-mini").unwrap();
    let tokens = Tokens::of(request, Some(&model), &Tries::default())?;
    Ok((tokens.input, tokens.output))
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
    let with = |name: &str, value: serde_json::Value| {
        let mut request = Request::new("a").with_max_tokens(7);
        request.extra.insert(name.to_owned(), value);
        bound(&request).unwrap_err()
    };
    let search = with("tools", json!([{"type": "web_search"}]));
    assert_eq!(
        search,
        "the tool \"web_search\" of the provider has no upper bound"
    );
    let options = with("web_search_options", json!({}));
    assert_eq!(
        options,
        "what \"web_search_options\" causes has no upper bound"
    );
}

#[test]
fn the_dearest_prices_count() {
    let json = r#"{"providers": {"p": {"models": [{"models": ["m"], "prices": [
        {"input": 1, "cached_input": 0.1, "cache_write_1h": 2, "output": 3,
         "above": [{"tokens": 1000, "input": 4, "output": 5}]},
        {"tier": "priority", "input": 10, "output": 20}]}]}}}"#;
    let prices = Prices::none().overridden("mine", json).unwrap();
    let model = prices.of_model("p", "m").unwrap();
    let pricing = Pricing {
        prices: &prices,
        at: Timestamp(0),
    };
    let tokens = Tokens {
        input: 100,
        output: 10,
    };
    let at = |request: &Request| tokens.at(request, &model, &pricing).map(Usd::picos);
    // In millionths of a dollar per million tokens.
    assert_eq!(at(&Request::new("a")), Some(450_000_000));
    let mut priority = Request::new("a");
    priority
        .extra
        .insert("service_tier".to_owned(), json!("priority"));
    assert_eq!(at(&priority), Some(1_200_000_000));
    priority
        .extra
        .insert("service_tier".to_owned(), json!("unheard-of"));
    assert_eq!(at(&priority), None);
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
    let failed = |error: Error| (error.paid(), Some(error));
    let error = |sent, status: Option<u16>| {
        let error = Error::new(ErrorKind::Transient, "no").with_sent(sent);
        match status {
            Some(status) => error.with_status(status),
            None => error,
        }
    };
    let answered = |paid| (paid, None);
    let spent = |(paid, error): (Paid, Option<Error>)| spent(paid, error.as_ref());
    assert_eq!(spent(answered(paid)), Some(11));
    assert_eq!(spent(answered(unpriced)), None);
    assert_eq!(spent(answered(Paid::default())), None);
    let billed = error(Sent::Answered, Some(200)).with_paid(paid);
    assert_eq!(spent(failed(billed)), Some(11));
    assert_eq!(spent(failed(error(Sent::No, None))), Some(0));
    assert_eq!(spent(failed(error(Sent::Answered, Some(429)))), Some(0));
    assert_eq!(spent(failed(error(Sent::Maybe, None))), None);
    assert_eq!(spent(failed(error(Sent::Maybe, Some(504)))), None);
    assert_eq!(spent(failed(error(Sent::Answered, Some(200)))), None);
}

#[test]
fn a_word_of_a_model_says_that_its_calls_search_and_no_part_of_a_word() {
    for model in [
        "gpt-4o-search-preview",
        "openai/gpt-4o-mini-search-preview",
        "sonar-pro",
    ] {
        assert!(searches(model), "{model}");
    }
    for model in [
        "gpt-4o-mini",
        "my-research-model",
        "o5-research",
        "searcher-1",
    ] {
        assert!(!searches(model), "{model}");
    }
}

#[test]
fn embeddings_have_a_bound() {
    let text = Request {
        task: RequestTask::Embed,
        ..Request::new("a text")
    };
    let prices = Prices::default();
    let model = prices.of_model("openai", "text-embedding-3-small").unwrap();
    let tokens = Tokens::of(&text, Some(&model), &Tries::default()).unwrap();
    assert_eq!(tokens.output, 0);
    let pricing = Pricing {
        prices: &prices,
        at: Timestamp(1_790_000_000_000),
    };
    assert!(tokens.at(&text, &model, &pricing).unwrap() > Usd::ZERO);
}
