//! Patterns in the syntax of `.gitignore`. Patterns that would silently match nothing or everything are corrected.

use std::path::Path;

/// The patterns that are equivalent to a pattern for files below a folder. `./a.py` and an absolute path refer to
/// the folder itself, `src` also matches everything in a folder with that name, and `#` does not begin a comment.
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
        // A pattern that contains a slash applies to the folder itself; a pattern without one applies at any depth.
        let anywhere = if name.contains('/') { "" } else { "**/" };
        let within = format!("{sign}{anywhere}{name}/**");
        return vec![format!("{sign}{glob}"), within];
    }
    vec![format!("{sign}{glob}")]
}

/// The part of an absolute pattern below the folder, if the pattern begins with the folder.
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
