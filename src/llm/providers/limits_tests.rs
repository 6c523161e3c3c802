//! Headers and times in every form.

use super::*;
use crate::llm::providers::dialect::decode;
use crate::llm::providers::dialect::testing::{failed_with, reply, vendor};

const ANSWER: &str = r#"{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}"#;

#[test]
fn limits_are_read_from_headers() {
    let headers = [
        ("x-ratelimit-limit-requests", "600"),
        ("x-ratelimit-remaining-requests", "599"),
        ("x-ratelimit-reset-requests", "100ms"),
        ("x-ratelimit-limit-tokens", "90000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    let answer = decode(vendor("openai"), &reply(200, &headers, ANSWER), false).unwrap();
    let requests = answer.rate_hints().requests.unwrap();
    assert_eq!((requests.limit, requests.remaining), (600, Some(599)));
    assert_eq!(requests.period, Duration::from_secs(60));
    assert_eq!(requests.reset, Some(Duration::from_millis(100)));
    let groq = decode(vendor("groq"), &reply(200, &headers, ANSWER), false).unwrap();
    let hints = groq.rate_hints();
    assert_eq!(hints.requests.unwrap().period, Duration::from_secs(86_400));
    assert_eq!(hints.tokens.unwrap().period, Duration::from_secs(60));
    let error = failed_with("openai", 429, &headers, "{}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(360)));
}

/// inference-docs.cerebras.ai, "Rate limits", with the numbers of its example.
#[test]
fn limits_of_cerebras_apply_per_day_and_per_minute() {
    let headers = [
        ("x-ratelimit-limit-requests-day", "1000000000"),
        ("x-ratelimit-limit-tokens-minute", "1000000000"),
        ("x-ratelimit-remaining-requests-day", "999997455"),
        ("x-ratelimit-remaining-tokens-minute", "999998298"),
        ("x-ratelimit-reset-requests-day", "33011.382867097855"),
        ("x-ratelimit-reset-tokens-minute", "11.382867097854614"),
    ];
    let hints = |name| {
        let answer = decode(vendor(name), &reply(200, &headers, ANSWER), false);
        answer.unwrap().rate_hints()
    };
    let (requests, tokens) = (hints("cerebras").requests, hints("cerebras").tokens);
    let (requests, tokens) = (requests.unwrap(), tokens.unwrap());
    assert_eq!(requests.period, Duration::from_secs(86_400));
    assert_eq!(requests.remaining, Some(999_997_455));
    assert_eq!(tokens.period, Duration::from_secs(60));
    assert_eq!(tokens.reset.unwrap().as_secs(), 11);
    assert_eq!(hints("openai").requests, None);
}

#[test]
fn a_limit_of_parallel_calls_causes_no_wait_of_a_minute() {
    let refused = |kind| {
        let headers = [("retry-after", "60"), ("rate_limit_type", kind)];
        failed_with("custom", 429, &headers, "{}").retry_after()
    };
    assert_eq!(refused("max_parallel_requests"), None);
    assert_eq!(refused("requests"), Some(Duration::from_secs(60)));
}

#[test]
fn waits_are_read_in_every_format() {
    let now = httpdate::parse_http_date("Fri, 20 Nov 2026 08:00:00 GMT").unwrap();
    let wait = |headers: &[(&str, &str)]| {
        let headers: HttpHeaders = headers.iter().copied().collect();
        retry_after(vendor("openai").tells, &headers.received_at(now))
    };
    let seconds = |s| Some(Duration::from_secs_f64(s));
    assert_eq!(wait(&[("retry-after", "2")]), seconds(2.0));
    assert_eq!(wait(&[("Retry-After", "1.5")]), seconds(1.5));
    assert_eq!(
        wait(&[("retry-after", "7"), ("retry-after-ms", "250")]),
        seconds(0.25)
    );
    let date = "Fri, 20 Nov 2026 08:00:30 GMT";
    assert_eq!(wait(&[("retry-after", date)]), seconds(30.0));
    // What LiteLLM passes on, unless it has a wait of its own.
    let passed_on = ("llm_provider-retry-after", "7");
    assert_eq!(wait(&[passed_on]), seconds(7.0));
    assert_eq!(wait(&[passed_on, ("retry-after", "2")]), seconds(2.0));
    let past = "Fri, 20 Nov 2026 07:00:30 GMT";
    assert_eq!(wait(&[("retry-after", past)]), seconds(0.0));
    for bad in ["soon", "-1", "NaN", ""] {
        assert_eq!(wait(&[("retry-after", bad)]), None, "{bad}");
    }
    assert_eq!(wait(&[]), None);
}

#[test]
fn durations_are_read() {
    for (text, seconds) in [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723.0),
        ("7", 7.0),
        ("150µs", 0.000_15),
    ] {
        let read = duration(text).unwrap().as_secs_f64();
        assert!((read - seconds).abs() < 1e-9, "{text}: {read}");
    }
    for bad in ["", "s", "1x", "1m2", "-3s", "..s", "1e400"] {
        assert_eq!(duration(bad), None, "{bad}");
    }
}

#[test]
fn no_wait_is_longer_than_the_longest() {
    let now = SystemTime::UNIX_EPOCH;
    assert_eq!(duration("999999999h"), Some(LONGEST_WAIT));
    for (name, value) in [
        ("retry-after", "1e300"),
        ("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ("retry-after-ms", "1e300"),
    ] {
        let headers: HttpHeaders = [(name, value)].into_iter().collect();
        let wait = retry_after(vendor("openai").tells, &headers.received_at(now));
        assert_eq!(wait, Some(LONGEST_WAIT), "{name}: {value}");
    }
    assert_eq!(until("9999-12-31T23:59:59Z", now), Some(LONGEST_WAIT));
}

#[test]
fn values_that_are_not_amounts_are_ignored() {
    let hints = |limit, remaining| {
        let headers = [
            ("x-ratelimit-limit-tokens", limit),
            ("x-ratelimit-remaining-tokens", remaining),
        ];
        let headers = headers.into_iter().collect();
        rate_hints(vendor("openai").tells, &headers)
    };
    for bad in ["NaN", "inf", "-1", "1e400", "", "many"] {
        assert!(hints(bad, "5").is_empty(), "{bad}");
    }
    for bad in ["NaN", "inf", "1e400", "", "many"] {
        assert_eq!(hints("60", bad).tokens.unwrap().remaining, None, "{bad}");
    }
    // More calls were let in than it wanted.
    assert_eq!(hints("60", "-1").tokens.unwrap().remaining, Some(0));
}

#[test]
fn times_of_day_are_read_as_waits() {
    let now = httpdate::parse_http_date("Fri, 20 Nov 2026 08:00:00 GMT").unwrap();
    let headers = |reset| {
        [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", reset),
            ("anthropic-ratelimit-tokens-limit", "40000"),
            ("anthropic-ratelimit-tokens-remaining", "39000"),
        ]
    };
    let read = |reset| {
        let mut reply = reply(
            200,
            &headers(reset),
            r#"{"type":"message","content":[{"type":"text","text":"x"}],"stop_reason":"end_turn"}"#,
        );
        reply.headers = reply.headers.received_at(now);
        let tells = vendor("anthropic").tells;
        let hints = decode(vendor("anthropic"), &reply, false)
            .unwrap()
            .rate_hints();
        (hints, retry_after(tells, &reply.headers))
    };
    let (hints, wait) = read("2026-11-20T08:00:42Z");
    let requests = hints.requests.unwrap();
    assert_eq!((requests.limit, requests.remaining), (50, Some(0)));
    assert_eq!(requests.reset, Some(Duration::from_secs(42)));
    assert_eq!(hints.tokens.unwrap().limit, 40_000);
    assert_eq!(wait, Some(Duration::from_secs(42)));
    let (past, _) = read("2026-11-20T07:59:59.5Z");
    assert_eq!(past.requests.unwrap().reset, Some(Duration::ZERO));
    for bad in ["soon", "", "2026-13-40T99:00:00Z"] {
        assert_eq!(read(bad).0.requests.unwrap().reset, None, "{bad}");
    }
}

#[test]
fn limit_headers_of_other_vendors_are_ignored() {
    let headers = [("x-ratelimit-limit-requests", "1")].into_iter().collect();
    let hints = rate_hints(vendor("gemini").tells, &headers);
    assert!(hints.is_empty());
}

#[test]
fn dates_refer_to_the_clock_of_the_sender() {
    let day = Duration::from_secs(86_400);
    let there = httpdate::parse_http_date("Fri, 20 Nov 2026 08:00:00 GMT").unwrap();
    let headers: HttpHeaders = [
        ("date", "Fri, 20 Nov 2026 08:00:00 GMT"),
        ("retry-after", "Fri, 20 Nov 2026 08:00:30 GMT"),
        ("anthropic-ratelimit-requests-limit", "50"),
        ("anthropic-ratelimit-requests-reset", "2026-11-20T08:00:42Z"),
    ]
    .into_iter()
    .collect();
    let tells = vendor("anthropic").tells;
    for here in [there, there - day, there + day] {
        let headers = headers.clone().received_at(here);
        let reset = rate_hints(tells, &headers).requests.unwrap().reset;
        assert_eq!(reset, Some(Duration::from_secs(42)), "{here:?}");
        let wait = retry_after(tells, &headers);
        assert_eq!(wait, Some(Duration::from_secs(30)), "{here:?}");
    }
    // A reply is read a little later than it is written.
    let here = there + Duration::from_millis(1_500);
    let wait = retry_after(tells, &headers.received_at(here));
    assert_eq!(wait, Some(Duration::from_millis(28_500)));
}

#[test]
fn resets_in_milliseconds_or_as_points_in_time_are_recognized() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    let read = |name: &str, text: &str| {
        let headers = [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "0"),
            (name, text),
        ];
        let headers: HttpHeaders = headers.into_iter().collect();
        let wait = retry_after(vendor("openai").tells, &headers.received_at(now));
        wait.map(|wait| wait.as_secs_f64())
    };
    for (text, seconds) in [
        ("42", 42.0),
        ("6m0s", 360.0),
        ("600", 600.0),
        ("30000", 30.0),
        ("1795000030", 30.0),
        ("1795000030000", 30.0),
        ("1794999970", 0.0),
        ("1e300", LONGEST_WAIT.as_secs_f64()),
    ] {
        let wait = read("x-ratelimit-reset-requests", text);
        assert_eq!(
            wait.unwrap_or(LONGEST_WAIT.as_secs_f64()),
            seconds,
            "{text}"
        );
    }
    assert_eq!(read("retry-after", "1795000030"), Some(30.0));
    assert_eq!(
        read("retry-after", "31536000"),
        Some(LONGEST_WAIT.as_secs_f64())
    );
    assert_eq!(read("retry-after", "-5"), None);
    assert_eq!(
        read("retry-after", "Fri, 20 Nov 2015 08:00:00 GMT"),
        Some(0.0)
    );
}
