use super::*;

fn made(name: &str, role: Role) -> (String, String) {
    let (token, line) = new_token(name, role, TokenLimits::default()).unwrap();
    (token.expose().to_owned(), line)
}

fn of(text: &str) -> Tokens {
    let tokens = Tokens::new(None, None).unwrap();
    tokens.state.write().known = Arc::new(parse(text).unwrap());
    Tokens {
        file: Some(PathBuf::new()),
        ..tokens
    }
}

fn bearer(tokens: &Tokens, token: &str) -> Result<Caller, Problem> {
    tokens.caller(Some(&format!("Bearer {token}")))
}

#[test]
fn a_token_is_found_at_each_place_of_the_file_and_no_similar_one_is() {
    let made = ["a", "b", "c"].map(|name| (name, made(name, Role::Read)));
    let text = made.each_ref().map(|(_, (_, line))| line.clone());
    let tokens = of(&format!("# comment\n\n{}\n", text.join("\n")));
    for (name, (token, _)) in &made {
        let caller = bearer(&tokens, token).unwrap();
        assert_eq!(caller.name.as_deref(), Some(*name));
        let last = if token.ends_with('A') { "B" } else { "A" };
        let (shorter, longer) = (&token[..token.len() - 1], format!("{token}A"));
        for near in [shorter, &longer, &format!("{shorter}{last}"), ""] {
            assert_eq!(bearer(&tokens, near).unwrap_err().status, 401);
        }
    }
    let hash = &text[0].split_once("sha256:").unwrap().1;
    assert_eq!(bearer(&tokens, hash).unwrap_err().status, 401);
}

#[test]
fn a_line_that_is_wrong_is_named_and_not_quoted() {
    let (token, line) = made("shop", Role::Submit);
    for (wrong, told) in [
        (format!("shop submit {token}"), "third word"),
        (format!("{line} open-jobs=0"), "after the hash"),
        (format!("{line} {token}"), "after the hash"),
        (line.replace("submit", &token), "second word"),
        (line.replace("shop", "a/b"), "a name has"),
        (format!("{line}\n{line}"), "line 3: an earlier line"),
        ("0123456789abcde".to_owned(), "16 characters"),
    ] {
        let text = if wrong.contains(' ') {
            format!("# first\n{wrong}\n")
        } else {
            wrong
        };
        let why = parse(&text).unwrap_err();
        assert!(why.contains(told) && !why.contains(&token), "{why}");
    }
    assert!(parse("# none\n").is_err());
}

#[test]
fn a_name_may_use_the_requests_of_a_minute_and_no_more() {
    let limits = TokenLimits {
        requests_per_minute: Some(3),
        ..TokenLimits::default()
    };
    let (token, line) = new_token("a", Role::Submit, limits).unwrap();
    let (other, second) = made("b", Role::Submit);
    let tokens = of(&format!("{line}\n{second}\n"));
    for _ in 0..3 {
        bearer(&tokens, token.expose()).unwrap();
    }
    let problem = bearer(&tokens, token.expose()).unwrap_err();
    assert!(problem.to_string().contains("3 requests per minute"));
    let response = problem.response("/v1/models");
    assert_eq!(response.status, 429);
    assert!(response.headers.contains(&("retry-after", "20".to_owned())));
    bearer(&tokens, &other).unwrap();
}

#[test]
fn a_request_for_more_jobs_than_a_token_may_have_is_not_to_be_repeated() {
    let caller = Caller {
        limits: TokenLimits {
            open_jobs: Some(5),
            ..TokenLimits::default()
        },
        ..Caller::default()
    };
    assert!(caller.check_open_jobs(0, 5).is_ok());
    let later = caller.check_open_jobs(1, 5).unwrap_err();
    assert_eq!(later.status, 429);
    assert!(later.response("/v1/x").has("retry-after"));
    let never = caller.check_open_jobs(0, 6).unwrap_err();
    assert_eq!(never.status, 413);
    assert!(never.to_string().contains("at most 5 jobs per request"));
    assert!(!never.response("/v1/x").has("retry-after"));
}
