use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use super::*;
use batchwright::Settings;

fn finding(setting: &str, private: bool) -> impl Fn(&str, &Context) -> Result<String, Error> {
    let settings = Settings::new()
        .flag("jobs.articles", "test", Some(setting.to_owned()))
        .unwrap();
    finder(settings.articles().unwrap().unwrap(), private)
}

fn find(setting: &str, id: &str) -> Result<String, Error> {
    finding(setting, true)(id, &Context::new())
}

fn kind(found: Result<String, Error>) -> ErrorKind {
    found.unwrap_err().kind()
}

/// Answers each connection with the next of these replies and returns the request lines.
fn server(replies: Vec<String>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let answer = |reply: String| {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while !lines.next().unwrap().unwrap().is_empty() {}
            (&stream).write_all(reply.as_bytes()).unwrap();
            first
        };
        replies.into_iter().map(answer).collect()
    };
    (url, thread::spawn(serve))
}

fn reply(head: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

#[test]
fn a_folder_has_a_file_for_each_article_and_no_id_leads_out_of_it() {
    let desk = tempfile::tempdir().unwrap();
    let folder = desk.path().join("articles");
    std::fs::create_dir(&folder).unwrap();
    let rain = "It rained all day in Bern, and the river rose by half a metre.";
    let page = format!("<html><body><nav>Home</nav><article><p>{rain}</p></article></body></html>");
    let secret = desk.path().join("secret.txt");
    for (path, text) in [
        (folder.join("a.txt"), rain),
        (folder.join("b.md"), "# Snow"),
        (folder.join("c.html"), &page),
        (secret.clone(), "secret"),
    ] {
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink(secret, folder.join("link.txt")).unwrap();
    let setting = folder.to_str().unwrap();
    for (id, text) in [("a", rain), ("b", "# Snow"), ("c", rain)] {
        assert_eq!(find(setting, id).unwrap(), text);
    }
    let missing = find(setting, "d").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(
        missing.message().starts_with("article \"d\": "),
        "{missing}"
    );
    let odd = "../secret|..|.|.a|x/../a|..\\secret|a\0|c:a|link";
    for id in odd.split('|').chain([&*"i".repeat(300)]) {
        assert_eq!(kind(find(setting, id)), ErrorKind::Invalid, "{id}");
    }
    let nowhere = desk.path().join("nowhere");
    let nowhere = find(nowhere.to_str().unwrap(), "a");
    assert_eq!(kind(nowhere), ErrorKind::NotFound);
}

#[test]
fn a_database_is_no_source_any_more() {
    let setting = "sqlite:cms.db?SELECT text FROM articles WHERE id = ?";
    let settings = Settings::new().flag("jobs.articles", "test", Some(setting.to_owned()));
    let error = settings.unwrap().articles().unwrap_err().to_string();
    assert!(error.contains("a folder or `https://"), "{error}");
}

#[test]
fn a_url_is_fetched_with_the_id_encoded_and_its_status_makes_the_kind() {
    let page = "<html><body><article><p>It rained all day in Bern.</p></article></body></html>";
    let (url, requests) = server(vec![
        reply("200 OK", "It rained."),
        reply("200 OK\r\ncontent-type: text/html; charset=utf-8", page),
        reply("302 Found\r\nlocation: /moved", ""),
        reply("200 OK", "It moved."),
        reply("404 Not Found", ""),
        reply("403 Forbidden", ""),
        reply("503 Unavailable\r\nretry-after: 7", ""),
    ]);
    let setting = format!("{url}/articles/{{article_id}}?full=1");
    for (id, text) in [
        ("a b/ü", "It rained."),
        ("page", "It rained all day in Bern."),
        ("old", "It moved."),
    ] {
        assert_eq!(find(&setting, id).unwrap(), text);
    }
    assert_eq!(kind(find(&setting, "gone")), ErrorKind::NotFound);
    assert_eq!(kind(find(&setting, "closed")), ErrorKind::PermissionDenied);
    let busy = find(&setting, "busy").unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Transient);
    assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(kind(find(&setting, "..")), ErrorKind::Invalid);
    let requests = requests.join().unwrap();
    assert_eq!(requests[0], "GET /articles/a%20b%2F%C3%BC?full=1 HTTP/1.1");
    assert_eq!(requests[3], "GET /moved HTTP/1.1");
}

#[test]
fn only_public_addresses_are_called_unless_others_are_allowed() {
    // No server would answer: invalid addresses must be rejected before a connection is made.
    for place in [
        "http://127.0.0.1",
        "https://127.0.0.1",
        "https://localhost",
        "https://[::1]",
    ] {
        let setting = format!("{place}:9/{{article_id}}");
        let error = finding(&setting, false)("a", &Context::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let fix = "batchwright config set jobs.articles_private true";
        assert!(error.message().contains(fix), "{error}");
    }
}

#[test]
fn a_key_in_the_url_is_in_no_error() {
    let key = "sk-0123456789";
    let private = format!("http://127.0.0.1:9/{{article_id}}?key={key}");
    let refused = finding(&private, false)("a", &Context::new());
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    let locations = [
        format!("http:///gone?key={key}"),
        format!("ftp://127.0.0.1/a?key={key}"),
        format!("http://[/?key={key}"),
    ];
    let moved = |location: &String| reply(&format!("302 Found\r\nlocation: {location}"), "");
    let (url, requests) = server(locations.iter().map(moved).collect());
    let setting = format!("{url}/{{article_id}}?key={key}");
    let mut errors = vec![refused];
    errors.extend(locations.map(|_| find(&setting, "a").unwrap_err()));
    requests.join().unwrap();
    for error in errors {
        assert!(!error.to_string().contains(key), "{error}");
    }
}
