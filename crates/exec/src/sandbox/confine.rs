//! The permissions that the kernel removes from a command: files outside of its folder, signals to others,
//! privileges of root.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::process::fchdir;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::place::{self, Place};
use super::policy::Policy;
use super::system_calls;

/// The version of Landlock whose rights are requested.
const WANTED: ABI = ABI::V6;

/// The rights that each version of Landlock adds and that a sandbox promises, with the first Linux version that has
/// them.
const PROMISED: [(ABI, &str, &str); 4] = [
    (
        ABI::V1,
        "writing only where that is allowed, no look into other processes",
        "5.13",
    ),
    (ABI::V3, "no truncation of files elsewhere", "6.2"),
    (ABI::V5, "no control of devices", "6.10"),
    (ABI::V6, "no signals to processes of others", "6.12"),
];

/// Devices to which programs may write without leaving data behind, with their numbers.
const DEVICES: [(&str, u64); 3] = [
    ("/dev/null", 0x103),
    ("/dev/zero", 0x105),
    ("/dev/full", 0x107),
];

/// The part that is the same for all commands of a run.
pub fn confine_process(policy: &Policy) -> Result<Vec<String>, String> {
    // Files that were left open by the program that started batchwright.
    close_fds::set_fds_cloexec(3, &[]);
    // When memory runs out, the kernel should kill commands and not batchwright. If this cannot be set, it stays as it
    // was.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    drop_privileges(policy.network).map_err(|error| format!("cannot drop privileges: {error}"))?;
    let restricted = system_calls::restrict(policy);
    let missing = restricted
        .err()
        .map(|error| format!("no network and no local sockets (seccomp: {error})"));
    tolerate(policy, missing.into_iter().collect())
}

/// The folder of a command, and the files that it may write. They are opened once for all commands in this folder.
pub struct Site {
    place: Place,
    folder: File,
    rules: RulesetCreated,
}

impl Site {
    /// Opens the folder and the other places to which commands may write.
    pub fn new(policy: &Policy, place: &Place) -> Result<Self, String> {
        let folder = place.open()?;
        let others = policy.writable.iter().map(Place::open);
        let others = others.collect::<Result<Vec<_>, _>>()?;
        let writable = others.iter().chain([&folder]);
        let rules = rules(policy, writable).map_err(|error| format!("Landlock: {error}"))?;
        Ok(Self {
            place: place.clone(),
            folder,
            rules,
        })
    }

    /// Whether it is the site of commands in this folder. Fails if a path refers to something else now: the rules
    /// would still permit what was there before.
    pub fn serves(&self, policy: &Policy, place: &Place) -> Result<bool, String> {
        if self.place != *place {
            return Ok(false);
        }
        for place in policy.writable.iter().chain([place]) {
            place.check()?;
        }
        Ok(true)
    }

    /// Enters the folder. Forbids this thread, and all processes that it starts, to write elsewhere, and to signal
    /// other processes. Returns what the kernel lacks.
    pub fn confine(&self, policy: &Policy) -> Result<Vec<String>, String> {
        fchdir(&self.folder).map_err(|error| self.place.unusable(&error.into()))?;
        let rules = self.rules.try_clone();
        let rules = rules.map_err(|error| format!("Landlock: {error}"))?;
        let status = rules.restrict_self();
        let status = status.map_err(|error| format!("Landlock: {error}"))?;
        tolerate(policy, lacking(&status))
    }
}

fn tolerate(policy: &Policy, missing: Vec<String>) -> Result<Vec<String>, String> {
    if policy.strict && !missing.is_empty() {
        Err(format!("the kernel does not offer: {}", missing.join("; ")))
    } else {
        Ok(missing)
    }
}

fn rules<'a>(
    policy: &Policy,
    writable: impl Iterator<Item = &'a File>,
) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    if !policy.network {
        rules = rules.handle_access(AccessNet::from_all(WANTED))?;
    }
    // The privileges were dropped before.
    let mut rules = rules.create()?.no_new_privs(false);
    for opened in writable {
        let is_folder = opened.metadata().is_ok_and(|about| about.is_dir());
        rules = rules.add_rule(PathBeneath::new(opened, rights(is_folder)))?;
    }
    for (device, number) in DEVICES {
        // A missing device cannot be written to. A command that may write to `/dev` can replace it.
        if let Ok(opened) = place::open(Path::new(device))
            && opened
                .metadata()
                .is_ok_and(|about| about.file_type().is_char_device() && about.rdev() == number)
        {
            rules = rules.add_rule(PathBeneath::new(opened, rights(false)))?;
        }
    }
    Ok(rules)
}

/// The promised rights that the kernel lacks.
fn lacking(status: &RestrictionStatus) -> Vec<String> {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        _ => ABI::Unsupported,
    };
    let lacking = PROMISED.iter().filter(|(since, ..)| abi < *since);
    lacking
        .map(|(_, what, since)| format!("{what} (Landlock of Linux {since})"))
        .collect()
}

/// The permitted operations. Creating devices is never permitted: through its own device, root could access every
/// disk.
fn rights(is_folder: bool) -> BitFlags<AccessFs> {
    let all = AccessFs::from_write(WANTED);
    let writing = all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    if is_folder {
        writing
    } else {
        writing & AccessFs::from_file(WANTED)
    }
}

/// Drops the privileges of root that go beyond files: those that reach the kernel, devices or other processes.
/// Other users have no privileges to drop. None can be regained: after `no_new_privs`, a process gains nothing by
/// executing a program.
fn drop_privileges(network: bool) -> rustix::io::Result<()> {
    let mut kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID;
    if network {
        kept |= CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_RAW;
    }
    rustix::thread::set_no_new_privs(true)?;
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: now.effective & kept,
            permitted: now.permitted & kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}
