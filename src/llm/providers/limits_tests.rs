//! Headers and times in every form: the cases of `limits_cases.json`.

use std::collections::HashMap;

use super::*;
use crate::llm::providers::dialect::decode;
use crate::llm::providers::dialect::testing::{failed_with, reply, vendor};

/// The size of a limit, its period, what remains of it, and when it is full again; times in seconds.
type Window = (u64, u64, Option<u64>, Option<f64>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    vendor: String,
    headers: HashMap<String, String>,
    requests: Option<Window>,
    tokens: Option<Window>,
    wait: Option<f64>,
    /// When it is received: seconds after the time of all cases.
    #[serde(default)]
    late: f64,
}

#[test]
fn limits_and_waits_are_read_from_headers() {
    let now = httpdate::parse_http_date("Fri, 20 Nov 2026 08:00:00 GMT").unwrap();
    let cases = include_str!("limits_cases.json");
    for case in serde_json::from_str::<Vec<Case>>(cases).unwrap() {
        let headers = case.headers.iter();
        let headers: HttpHeaders = headers.map(|(name, value)| (&**name, &**value)).collect();
        let late = Duration::from_secs_f64(case.late.abs());
        let here = if case.late < 0.0 {
            now - late
        } else {
            now + late
        };
        let headers = headers.received_at(here);
        let tells = vendor(&case.vendor).tells;
        let shown = format!("{} {:?}", case.vendor, case.headers);
        let hints = rate_hints(tells, &headers);
        let window = |found: Option<RateWindow>| {
            let found = found?;
            let reset = found
                .reset
                .map(|reset| (reset.as_secs_f64() * 1e6).round() / 1e6);
            Some((found.limit, found.period.as_secs(), found.remaining, reset))
        };
        assert_eq!(window(hints.requests), case.requests, "{shown}");
        assert_eq!(window(hints.tokens), case.tokens, "{shown}");
        let wait = retry_after(tells, &headers).map(|wait| wait.as_secs_f64());
        assert_eq!(wait, case.wait, "{shown}");
    }
}

#[test]
fn answers_and_failures_have_what_their_headers_say() {
    const ANSWER: &str = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;
    let headers = [
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    let answer = decode(vendor("openai"), &reply(200, &headers, ANSWER), false).unwrap();
    assert_eq!(answer.rate_hints().tokens.unwrap().limit, 90_000);
    let error = failed_with("openai", 429, &headers, "{}");
    assert_eq!(error.rate_hints().tokens.unwrap().limit, 90_000);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(360)));
}

#[test]
fn durations_are_read() {
    let most = format!("999999999h {}", LONGEST_WAIT.as_secs_f64());
    let known = "1s 1 6m0s 360 12ms 0.012 2m59.56s 179.56 1h2m3s 3723 7 7 150µs 0.00015 119h59m59.999999999s 431999.999999999".split(' ');
    let known: Vec<_> = known.chain(most.split(' ')).collect();
    for pair in known.chunks(2) {
        let read = duration(pair[0]).unwrap().as_secs_f64();
        let seconds: f64 = pair[1].parse().unwrap();
        assert!((read - seconds).abs() < 1e-9, "{pair:?}: {read}");
    }
    let overflowing = [
        "18446744073709551615s 1000ms",
        "5124095576030431h15s1000ms",
        "30500568904943w7h15s1000ms",
    ];
    for bad in ["", "s", "1x", "1m2", "-3s", "..s", "1e400"]
        .into_iter()
        .chain(overflowing)
    {
        assert_eq!(duration(bad), None, "{bad}");
    }
}
