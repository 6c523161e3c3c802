//! The permissions that the kernel removes from a command: files outside of its folder, signals to others,
//! privileges of root.

use std::fs::File;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

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

/// Devices to which programs may write without leaving data behind.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/full"];

/// Confines this thread and all its future children permanently. Returns what the kernel lacks, or an error for that
/// if the policy is strict.
pub fn confine(policy: &Policy, folder: File) -> Result<Vec<String>, String> {
    let mut missing = confine_process(policy)?;
    missing.extend(restrict_files(policy, folder)?);
    Ok(missing)
}

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

/// Forbids this thread, and all processes that it starts, to write elsewhere than in this folder and in the places of
/// the policy, and to signal other processes.
pub fn restrict_files(policy: &Policy, folder: File) -> Result<Vec<String>, String> {
    let mut writable = vec![folder];
    for place in &policy.writable {
        writable.push(place.open()?);
    }
    let missing = apply_landlock(policy, &writable);
    tolerate(
        policy,
        missing.map_err(|error| format!("Landlock: {error}"))?,
    )
}

fn tolerate(policy: &Policy, missing: Vec<String>) -> Result<Vec<String>, String> {
    if policy.strict && !missing.is_empty() {
        Err(format!("the kernel does not offer: {}", missing.join("; ")))
    } else {
        Ok(missing)
    }
}

fn apply_landlock(policy: &Policy, writable: &[File]) -> Result<Vec<String>, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    if !policy.network {
        rules = rules.handle_access(AccessNet::from_all(WANTED))?;
    }
    let mut rules = rules.create()?;
    for opened in writable {
        let is_folder = opened.metadata().is_ok_and(|about| about.is_dir());
        rules = rules.add_rule(PathBeneath::new(opened, rights(is_folder)))?;
    }
    for device in DEVICES.map(Path::new) {
        // A missing device cannot be written to.
        if let Ok(opened) = PathFd::new(device) {
            rules = rules.add_rule(PathBeneath::new(opened, rights(false)))?;
        }
    }
    let status = rules.restrict_self()?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        _ => ABI::Unsupported,
    };
    let lacking = PROMISED.iter().filter(|(since, ..)| abi < *since);
    Ok(lacking
        .map(|(_, what, since)| format!("{what} (Landlock of Linux {since})"))
        .collect())
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
