//! Which programs are found and allowed.

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
    let programs = programs(&site, None);
    let work = site.path().join("work");
    let bin = site.path().join("bin");
    assert_eq!(
        programs.resolve("tool".as_ref(), &work).unwrap(),
        bin.join("tool")
    );
    assert!(programs.resolve("../bin/tool".as_ref(), &work).is_ok());
    for missing in ["text", "none", "", "work/", "./tool", "/", ".", ".."] {
        let error = programs.resolve(missing.as_ref(), &work).unwrap_err();
        assert!(
            matches!(error, Unusable::Missing(_)),
            "{missing}: {error:?}"
        );
    }
}

#[test]
fn a_name_allows_the_program_in_path_however_it_is_reached() {
    let site = site();
    let programs = programs(&site, Some(&["tool"]));
    let way = site.path().join("way/tool").into_os_string();
    for named in ["tool".into(), "bin/tool".into(), way] {
        assert!(
            programs.resolve(&named, site.path()).is_ok(),
            "{}",
            named.display()
        );
    }
    let error = Error::from(programs.resolve("other".as_ref(), site.path()).unwrap_err());
    assert!(error.message().contains("allowed are: tool"), "{error}");
    assert!(error.is_critical());
}

#[test]
fn a_program_of_the_same_name_elsewhere_is_another_program() {
    let site = site();
    let planted = site.path().join("work/tool");
    std::fs::copy(site.path().join("bin/other"), &planted).unwrap();
    let programs = programs(&site, Some(&["tool"]));
    assert!(
        programs
            .resolve("./tool".as_ref(), &site.path().join("work"))
            .is_err()
    );
}

#[test]
fn a_link_does_not_bypass_the_allow_list() {
    let site = site();
    let programs = programs(&site, Some(&["multi"]));
    assert!(programs.resolve("multi".as_ref(), site.path()).is_ok());
    assert!(programs.resolve("other".as_ref(), site.path()).is_err());
    symlink(
        site.path().join("bin/other"),
        site.path().join("work/multi"),
    )
    .unwrap();
    let work = site.path().join("work");
    assert!(programs.resolve("./multi".as_ref(), &work).is_err());
}

#[test]
fn relative_folders_in_path_are_ignored() {
    let site = site();
    let programs = Programs::new("bin::.".into(), None, site.path()).unwrap();
    assert!(programs.resolve("tool".as_ref(), site.path()).is_err());
}
