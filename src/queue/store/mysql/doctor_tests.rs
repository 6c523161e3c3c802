//! Findings about grants and settings, tested without a server.

use super::*;

#[test]
fn privileges_are_read_from_grants() {
    let missing = |grants: &[&str]| {
        let grants: Vec<String> = grants.iter().map(|&grant| grant.to_owned()).collect();
        missing_privileges(&grants, "my_jobs")
    };
    let usage = "GRANT USAGE ON *.* TO `me`@`%` IDENTIFIED BY PASSWORD '*0'";
    let all = "GRANT ALL PRIVILEGES ON `my\\_jobs`.* TO `me`@`%`";
    assert_eq!(missing(&[usage, all]), [""; 0]);
    let some = "GRANT SELECT, INSERT, UPDATE, DELETE ON `my\\_jobs`.* TO `me`@`%`";
    assert_eq!(missing(&[usage, some]), ["CREATE", "ALTER", "INDEX"]);
    let elsewhere = "GRANT ALL PRIVILEGES ON `other`.* TO `me`@`%`";
    assert_eq!(missing(&[usage, elsewhere]).len(), 7);
    assert_eq!(missing(&[usage, "GRANT `role` TO `me`@`%`"]), [""; 0]);
    let wide = "GRANT ALL PRIVILEGES ON *.* TO `me`@`%` WITH GRANT OPTION";
    assert_eq!(missing(&[wide]), [""; 0]);
}

#[test]
fn settings_that_do_not_suit_the_queue_are_found() {
    let suited = [
        ("max_allowed_packet", "67108864"),
        ("tx_isolation", "READ-COMMITTED"),
        ("wait_timeout", "10"),
        ("log_bin", "ON"),
        ("binlog_format", "MIXED"),
        ("innodb_flush_log_at_trx_commit", "1"),
    ];
    let verdict = |changed: Option<(&str, &str)>| {
        let all = suited.into_iter().chain(changed);
        let all = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = settings(&Variables(all.collect()));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].verdict
    };
    assert_eq!(verdict(None), Severity::Good);
    for (changed, expected) in [
        (("max_allowed_packet", "1048576"), Severity::Warning),
        (("tx_isolation", "REPEATABLE-READ"), Severity::Bad),
        (("wait_timeout", "28800"), Severity::Bad),
        (("binlog_format", "STATEMENT"), Severity::Bad),
        (("innodb_flush_log_at_trx_commit", "2"), Severity::Note),
    ] {
        assert_eq!(verdict(Some(changed)), expected, "{changed:?}");
    }
}
