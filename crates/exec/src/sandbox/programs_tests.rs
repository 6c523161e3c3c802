//! Which programs are found and allowed, and which variables they get.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A folder `bin` with the programs `tool` and `other`, links `link` (to `tool`) and `multi` (to `other`), and a
/// file that is not a program.
fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().unwrap();
    let bin = site.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(site.path().join("work")).unwrap();
    for (name, mode) in [("tool", 0o755), ("other", 0o755), ("text", 0o644)] {
        std::fs::write(bin.join(name), "#!/bin/sh\n").unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }
    symlink("tool", bin.join("link")).unwrap();
    symlink("other", bin.join("multi")).unwrap();
    symlink(&bin, site.path().join("way")).unwrap();
    site
}

fn programs(site: &tempfile::TempDir, allowed: Option<&[&str]>) -> Programs {
    let allowed: Option<Vec<OsString>> =
        allowed.map(|names| names.iter().map(Into::into).collect());
    let path = site.path().join("bin").into_os_string();
    Programs::new(path, allowed.as_deref(), site.path()).unwrap()
}

#[test]
fn without_an_allow_list_every_program_may_run() {
    let site = site();
    let all = programs(&site, None);
    let [work, bin] = ["work", "bin"].map(|name| site.path().join(name));
    let found = all.resolve("tool".as_ref(), &work).unwrap();
    assert_eq!(found, bin.join("tool"));
    assert!(all.resolve("../bin/tool".as_ref(), &work).is_ok());
    for missing in ["text", "none", "", "work/", "./tool", "/", ".", ".."] {
        let error = all.resolve(missing.as_ref(), &work).unwrap_err();
        assert_eq!(error.kind, FailureKind::NotFound, "{missing}: {error:?}");
    }
    // Relative folders in the path are ignored.
    let relative = Programs::new("bin::.".into(), None, site.path()).unwrap();
    assert!(relative.resolve("tool".as_ref(), site.path()).is_err());
}

/// A program is allowed however it is reached, and another one of its name elsewhere is not; nor does a link bypass the
/// list.
#[test]
fn a_name_allows_the_program_in_path_and_no_other() {
    let site = site();
    let at = |name: &str| site.path().join(name);
    std::fs::copy(at("bin/other"), at("work/tool")).unwrap();
    symlink(at("bin/other"), at("work/multi")).unwrap();
    for (allowed, named, is_allowed) in [
        ("tool", "tool", true),
        ("tool", "../bin/tool", true),
        ("tool", "../way/tool", true),
        ("tool", "other", false),
        ("tool", "./tool", false),
        ("multi", "multi", true),
        ("multi", "other", false),
        ("multi", "./multi", false),
    ] {
        let found = programs(&site, Some(&[allowed])).resolve(named.as_ref(), &at("work"));
        assert_eq!(found.is_ok(), is_allowed, "{named}");
        if let Err(error) = found {
            let why = format!("allowed are: {}", at("bin").join(allowed).display());
            assert!(error.message.contains(&why), "{error:?}");
            assert!(error.kind.is_critical());
        }
    }
}

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
    let named = ("OPENAI_API_KEY".into(), None);
    assert_eq!(of(&OURS, &[named])[1], "OPENAI_API_KEY=sk-1");
    assert_eq!(of(&OURS, &[("*".into(), None)]).len(), 4);
    // Those that are set override those that are passed, and there is always a path.
    let set = ["/sbin", "/opt"].map(|value| ("PATH".into(), Some(value.into())));
    assert_eq!(of(&OURS, &set), ["LC_ALL=C", "PATH=/opt"]);
    assert_eq!(of(&[], &[]), [format!("PATH={DEFAULT_PATH}")]);
}
