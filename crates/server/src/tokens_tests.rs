use super::*;

fn made(name: &str, role: Role) -> (String, String) {
    let (token, line) = new_token(name, role).unwrap();
    (token.expose().to_owned(), line)
}

fn of(text: &str) -> Tokens {
    Tokens(parse(text).unwrap())
}

fn bearer(tokens: &Tokens, token: &str) -> Result<Role, Problem> {
    tokens.role(Some(&format!("Bearer {token}")))
}

#[test]
fn a_token_is_found_at_each_place_of_the_file_and_no_similar_one_is() {
    let roles = [("a", Role::Read), ("b", Role::Operate), ("c", Role::Read)];
    let made = roles.map(|(name, role)| (role, made(name, role)));
    let text = made.each_ref().map(|(_, (_, line))| line.clone());
    let tokens = of(&format!("# comment\n\n{}\n", text.join("\n")));
    for (role, (token, _)) in &made {
        assert_eq!(bearer(&tokens, token).unwrap(), *role);
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
    let (token, line) = made("shop", Role::Operate);
    for (wrong, told) in [
        (format!("shop operate {token}"), "line 2: write a name"),
        (format!("{line} {token}"), "line 2: write a name"),
        (line.replace("operate", &token), "line 2: write a name"),
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
