//! Patterns as people write them, in the language of `.gitignore`, where some would silently fit nothing or everything.

use std::path::Path;

/// What a pattern about files below a folder means: `./a.py` and `/where/it/is/a.py` are in the folder itself, `src` is
/// also what is in a folder of that name, and `#` begins no comment.
pub(super) fn globs(pattern: &str, folder: &Path) -> Vec<String> {
    let (sign, pattern) = match pattern.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", pattern),
    };
    let mut glob = match (pattern.strip_prefix("./"), below(pattern, folder)) {
        (Some(rest), _) => format!("/{}", rest.trim_start_matches('/')),
        (None, Some(rest)) => rest,
        (None, None) => pattern.to_owned(),
    };
    if matches!(&*glob, "/" | ".") {
        glob = "**".to_owned();
    }
    if sign.is_empty() && glob.starts_with('#') {
        glob.insert(0, '\\');
    }
    let name = glob.trim_end_matches('/');
    let is_folder = name.len() < glob.len();
    let last = name.rsplit('/').next().unwrap_or_default();
    if is_folder || !last.contains(['*', '?', '[', '{']) {
        // A pattern with a slash within is about the folder itself, one without about any below it.
        let anywhere = if name.contains('/') { "" } else { "**/" };
        let within = format!("{sign}{anywhere}{name}/**");
        return vec![format!("{sign}{glob}"), within];
    }
    vec![format!("{sign}{glob}")]
}

/// An absolute pattern from the folder on, if that is what it begins with.
fn below(pattern: &str, folder: &Path) -> Option<String> {
    let own = [std::path::absolute(folder), folder.canonicalize()];
    own.iter().flatten().find_map(|folder| {
        let folder = folder.to_str()?.trim_end_matches('/');
        let rest = pattern.strip_prefix(folder)?;
        match rest {
            _ if folder.is_empty() => None,
            "" => Some("/".to_owned()),
            _ => rest.starts_with('/').then(|| rest.to_owned()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_people_write_them_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        let means = |pattern: &str| globs(pattern, folder.path());
        assert_eq!(means("*.py"), ["*.py"]);
        assert_eq!(means("**/*.py"), ["**/*.py"]);
        assert_eq!(means("/*"), ["/*"]);
        assert_eq!(means("./*.py"), ["/*.py"]);
        assert_eq!(means("!./*.py"), ["!/*.py"]);
        assert_eq!(means("src"), ["src", "**/src/**"]);
        assert_eq!(means("src/"), ["src/", "**/src/**"]);
        assert_eq!(means("a*/"), ["a*/", "**/a*/**"]);
        assert_eq!(means("./a/src/"), ["/a/src/", "/a/src/**"]);
        assert_eq!(means("!vendor"), ["!vendor", "!**/vendor/**"]);
        assert_eq!(means("#x#"), ["\\#x#", "**/\\#x#/**"]);
        assert_eq!(means("./"), ["**"]);
        assert_eq!(means(&format!("{at}/*.py")), ["/*.py"]);
        assert_eq!(means(&format!("!{at}/*.py")), ["!/*.py"]);
        assert_eq!(means(at), ["**"]);
        assert_eq!(means(&format!("{at}er/*.py")), [format!("{at}er/*.py")]);
    }
}
