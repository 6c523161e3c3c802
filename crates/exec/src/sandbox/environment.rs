//! The environment of commands: which variables are passed on, by name.

use std::ffi::{OsStr, OsString};

/// Variables that commands always get: where programs are, the user's files, and the language.
const PASSED: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "TERM", "TMPDIR"];

/// The folders in which programs are searched if `PATH` is not set.
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A requested variable.
#[derive(Debug, Clone)]
pub enum Variable {
    /// With the value that it has in this process; `*` means all variables.
    Passed(OsString),
    /// With this value.
    Set(OsString, OsString),
}

/// The variables of a command: those of `ours` that are passed on, and those that are set. Later requests override
/// earlier ones.
pub fn environment(
    ours: impl Iterator<Item = (OsString, OsString)>,
    wishes: &[Variable],
) -> Vec<(OsString, OsString)> {
    let passed = |name: &OsStr| {
        let by_default = PASSED.iter().any(|known| name == *known)
            || name.as_encoded_bytes().starts_with(b"LC_");
        by_default
            || wishes.iter().any(|wish| match wish {
                Variable::Passed(wished) => wished == "*" || wished == name,
                Variable::Set(..) => false,
            })
    };
    let mut variables: Vec<_> = ours.filter(|(name, _)| passed(name)).collect();
    for wish in wishes {
        if let Variable::Set(name, value) = wish {
            variables.retain(|(other, _)| other != name);
            variables.push((name.clone(), value.clone()));
        }
    }
    if !variables.iter().any(|(name, _)| name == "PATH") {
        variables.push(("PATH".into(), DEFAULT_PATH.into()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ours: &[(&str, &str)], wishes: &[Variable]) -> Vec<String> {
        let ours = ours.iter().map(|(name, value)| (name.into(), value.into()));
        let mut variables: Vec<String> = environment(ours, wishes)
            .into_iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect();
        variables.sort();
        variables
    }

    const OURS: [(&str, &str); 4] = [
        ("PATH", "/bin"),
        ("LC_ALL", "C"),
        ("OPENAI_API_KEY", "sk-1"),
        ("EDITOR", "ed"),
    ];

    #[test]
    fn no_key_reaches_a_command_unless_it_is_named() {
        assert_eq!(of(&OURS, &[]), ["LC_ALL=C", "PATH=/bin"]);
        let named = Variable::Passed("OPENAI_API_KEY".into());
        assert_eq!(of(&OURS, &[named])[1], "OPENAI_API_KEY=sk-1");
        assert_eq!(of(&OURS, &[Variable::Passed("*".into())]).len(), 4);
        // Those that are set override those that are passed, and there is always a path.
        let set = ["/sbin", "/opt"].map(|value| Variable::Set("PATH".into(), value.into()));
        assert_eq!(of(&OURS, &set), ["LC_ALL=C", "PATH=/opt"]);
        assert_eq!(of(&[], &[]), [format!("PATH={DEFAULT_PATH}")]);
    }
}
