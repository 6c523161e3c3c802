use super::*;

/// Hands out its bytes in pieces of a fixed size.
struct Wire<'a> {
    input: &'a [u8],
    piece: usize,
}

impl Read for Wire<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let size = self.piece.min(space.len()).min(self.input.len());
        let (now, later) = self.input.split_at(size);
        space[..size].copy_from_slice(now);
        self.input = later;
        Ok(size)
    }
}

fn reader(input: &[u8], piece: usize) -> Reader<Wire<'_>> {
    Reader::new(Wire { input, piece })
}

#[test]
fn requests_arrive_whole_however_they_are_cut() {
    const TWO: &[u8] =
        b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: sim\r\nContent-Length: 5\r\n\r\nhello\
        GET /health HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n";
    for piece in 1..TWO.len() {
        let mut reader = reader(TWO, piece);
        let first = reader.next().unwrap();
        assert_eq!(
            (&*first.method, &*first.path),
            ("POST", "/v1/chat/completions")
        );
        assert_eq!(
            (&*first.query, &*first.body, first.close),
            ("x=1", &b"hello"[..], false)
        );
        let second = reader.next().unwrap();
        assert_eq!((&*second.method, &*second.path), ("GET", "/health"));
        assert!(second.close && second.body.is_empty());
        assert_eq!(reader.next().unwrap_err(), Refusal::Closed);
    }
}

#[test]
fn broken_heads_are_refused() {
    let post = "POST /v1/chat/completions HTTP/1.1\r\nHost: sim\r\n";
    let long = format!("X: {}", "x".repeat(HEAD_LIMIT));
    for (start, rest, status) in [
        ("what?\r\n", "\r\n", 400),
        (post, "\r\n", 411),
        (post, "Transfer-Encoding: chunked\r\n\r\n", 411),
        (post, "Content-Length: +1\r\n\r\n", 400),
        (post, "Content-Length: 33554433\r\n\r\n", 413),
        (post, &long, 431),
    ] {
        let head = format!("{start}{rest}");
        match reader(head.as_bytes(), 1_000).next().unwrap_err() {
            Refusal::Told(found, _) => assert_eq!(found, status),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn addresses_and_keys_are_found_wherever_vendors_have_them() {
    const CHAT: &str = "/v1/chat/completions";
    for (target, path, query, groq, versioned) in [
        ("/openai/v1/chat/completions", CHAT, "", true, false),
        ("/api/v1/chat/completions", CHAT, "", false, false),
        ("/inference/v1/chat/completions", CHAT, "", false, false),
        ("/v1/openai/chat/completions", CHAT, "", false, false),
        (
            "/v1beta/models/m:sing?alt=json",
            "/v1beta/models/m:sing",
            "alt=json",
            false,
            false,
        ),
        ("/openai", "/openai", "", false, false),
        (
            "/openai/deployments/d/chat/completions?api-version=1",
            CHAT,
            "",
            false,
            true,
        ),
        (
            "/openai/batches?limit=3&api-version=1",
            "/v1/batches",
            "limit=3",
            false,
            true,
        ),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: sim\r\nX-Api-Key: k1\r\n\r\n");
        let request = reader(head.as_bytes(), 1_000).next().unwrap();
        assert_eq!((&*request.path, &*request.query), (path, query), "{target}");
        assert_eq!(
            (request.groq, request.versioned),
            (groq, versioned),
            "{target}"
        );
        assert_eq!(request.header("x-api-key"), Some("k1"));
    }
    for (line, wanted) in [
        ("Authorization: Bearer k1\r\n", Some("k1")),
        ("authorization: bearer k1 \r\n", Some("k1")),
        ("Authorization: Basic k1\r\n", Some("")),
        ("", None),
    ] {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: sim\r\n{line}\r\n");
        let request = reader(head.as_bytes(), 1_000).next().unwrap();
        assert_eq!(request.bearer(), wanted, "{line}");
    }
}
