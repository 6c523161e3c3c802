use super::*;

#[test]
fn the_error_stays_one_pointer_wide() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
}

#[test]
fn a_long_raw_reply_is_cut_at_a_character() {
    let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw(&"ä".repeat(RAW_LIMIT));
    let raw = error.raw().unwrap();
    assert!(raw.len() <= RAW_LIMIT && raw.ends_with('ä'));
}

#[test]
fn a_raw_reply_that_is_cut_within_the_key_shows_none_of_it() {
    let secret = Secret::new("key-of-nobody-0123456789");
    for kept in 4..secret.expose().len() {
        let echo = "x".repeat(RAW_LIMIT - kept) + secret.expose();
        let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw(&echo);
        let raw = error.redacted(&secret);
        assert!(raw.raw().unwrap().ends_with("x***"), "{kept}");
    }
    let error = Error::new(ErrorKind::Malformed, "not JSON").with_raw("key-of-nobody");
    assert_eq!(error.redacted(&secret).raw(), Some("***"));
}

#[test]
fn no_text_of_a_reply_keeps_a_credential() {
    let secret = "key-of-nobody-0123456789";
    let error = Error::new(ErrorKind::Blocked, secret)
        .with_category(secret)
        .with_refusal(Some(secret.to_owned()))
        .with_request_id(Some(secret))
        .with_answered_model(Some(secret.to_owned()))
        .redacted(&Secret::new(secret));
    let texts = [
        Some(error.message()),
        error.category(),
        error.refusal(),
        error.request_id(),
        error.answered_model(),
    ];
    assert_eq!(texts, [Some("***"); 5]);
}

#[test]
fn an_error_survives_serialization() {
    let error = Error::new(ErrorKind::Blocked, "no")
        .with_status(400)
        .with_category("safety")
        .with_request_id(Some("r-1"))
        .with_raw("{}");
    let unusable = Error::new(ErrorKind::Malformed, "no").with_unusable_reply("{}");
    let filed = unusable.clone().with_reply_in("r.replies/1".to_owned());
    let bytes = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(*b"a\xff\x00");
    for error in [error, unusable, filed, bytes] {
        let written = serde_json::to_string(&error).unwrap();
        let read: Error = serde_json::from_str(&written).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), written);
        assert_eq!(read.is_unusable_reply(), error.is_unusable_reply());
        assert_eq!(read.raw_bytes(), error.raw_bytes());
    }
}

#[test]
fn a_reply_that_is_not_text_is_kept_unchanged_and_without_the_key() {
    let reply = b"\xff{\xe4: key-of-nobody-0123456789}\xfe";
    let error = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(*reply);
    assert_eq!(error.raw_bytes(), Some(&reply[..]));
    assert!(error.raw().unwrap().starts_with('\u{fffd}'));
    let cleaned = error.redacted(&Secret::new("key-of-nobody-0123456789"));
    assert_eq!(cleaned.raw_bytes(), Some(&b"\xff{\xe4: ***}\xfe"[..]));
    assert!(!cleaned.raw().unwrap().contains("key-of"));
}

#[test]
fn a_billed_reply_is_kept_completely_and_is_not_retryable() {
    let whole = "x".repeat(RAW_LIMIT + 1);
    let error = Error::new(ErrorKind::Malformed, "no").with_unusable_reply(&*whole);
    assert_eq!(error.raw(), Some(&*whole));
    let line = serde_json::to_value(&error).unwrap();
    assert_eq!(line["class"], "non_retryable");
    assert_eq!(line["unusable_reply"], true);
}

#[test]
fn every_kind_has_a_class_and_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|k| k.as_str()).collect();
    assert_eq!(names.len(), ErrorKind::ALL.len());
    assert_eq!(ErrorKind::RateLimited.class(), "rate_limit");
    assert_eq!(ErrorKind::Malformed.class(), "retryable");
    assert_eq!(ErrorKind::Auth.class(), "non_retryable");
}
