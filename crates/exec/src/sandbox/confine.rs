//! The permissions that the kernel removes from a command: files outside of its folder, signals to others,
//! privileges of root.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use fork::Fork;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, fchdir, getrlimit, setrlimit, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::system_calls;
use super::wire::Policy;

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

/// The folder of the commands, and the files that they may write. They are opened once, before the first command, so a
/// command that replaces one of them gains nothing.
pub struct Site {
    folder: File,
    /// `None` if commands are not confined.
    rules: Option<RulesetCreated>,
}

impl Site {
    /// Opens all, and takes the restrictions that all commands share. Returns also what the kernel lacks.
    pub fn new(policy: &Policy) -> Result<(Self, Vec<String>), String> {
        let opened = |path: &std::ffi::OsString| {
            open(Path::new(path)).map_err(|why| format!("cannot open {}: {why}", path.display()))
        };
        let folder = opened(&policy.folder)?;
        let mut missing = Vec::new();
        let mut rules = None;
        if policy.confine {
            let others = policy.writable.iter().map(opened);
            let others = others.collect::<Result<Vec<_>, _>>()?;
            let landlock = |why: RulesetError| format!("Landlock: {why}");
            let made = landlock_rules(policy, others.iter().chain([&folder])).map_err(landlock)?;
            missing.extend(confine_process(policy)?);
            missing.extend(lacking(&made)?);
            rules = Some(made);
        }
        Ok((Self { folder, rules }, missing))
    }

    /// Enters the folder. Forbids this process, and all that it starts, to write elsewhere and to signal others.
    pub fn enter(&self, policy: &Policy) -> Result<(), String> {
        fchdir(&self.folder)
            .map_err(|why| format!("cannot work in {}: {why}", policy.folder.display()))?;
        let Some(rules) = &self.rules else {
            return Ok(());
        };
        let restricted = rules.try_clone().map_err(|why| why.to_string());
        let restricted =
            restricted.and_then(|rules| restrict(rules).map_err(|why| why.to_string()));
        restricted
            .map(drop)
            .map_err(|why| format!("Landlock: {why}"))
    }
}

fn restrict(rules: RulesetCreated) -> Result<RestrictionStatus, RulesetError> {
    rules.restrict_self()
}

/// The part that is the same for all commands of a run. Returns what the kernel lacks.
fn confine_process(policy: &Policy) -> Result<Option<String>, String> {
    // When memory runs out, the kernel should kill commands and not batchwright. If this cannot be set, it stays as it
    // was.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    drop_privileges(policy.network).map_err(|error| format!("cannot drop privileges: {error}"))?;
    let restricted = system_calls::restrict(policy);
    let missing = |error| format!("no network and no local sockets (seccomp: {error})");
    Ok(restricted.err().map(missing))
}

/// The promised rights that the kernel lacks, tried out by a process that ends then.
fn lacking(rules: &RulesetCreated) -> Result<Vec<String>, String> {
    let failed = |why: io::Error| format!("cannot try out Landlock: {why}");
    let child = match fork::fork().map_err(failed)? {
        Fork::Parent(child) => child,
        Fork::Child => {
            // The exit code is the number of promised rights.
            let status = rules
                .try_clone()
                .ok()
                .and_then(|rules| restrict(rules).ok());
            let abi = status.map(|status| match status.landlock {
                LandlockStatus::Available { effective_abi, .. } => effective_abi,
                _ => ABI::Unsupported,
            });
            let held = |abi: ABI| PROMISED.iter().filter(|(since, ..)| abi >= *since).count();
            std::process::exit(
                abi.map_or(FAILED, |abi| i32::try_from(held(abi)).unwrap_or(FAILED)),
            );
        }
    };
    let ended = waitpid(Pid::from_raw(child), WaitOptions::empty());
    let ended = ended.map_err(|why| failed(why.into()))?;
    let code = ended.and_then(|(_, status)| status.exit_status());
    let held = code.and_then(|code| usize::try_from(code).ok());
    let lacking = held.and_then(|held| PROMISED.get(held..));
    let lacking = lacking.ok_or("Landlock cannot be enforced")?.iter();
    Ok(lacking
        .map(|(_, what, since)| format!("{what} (Landlock of Linux {since})"))
        .collect())
}

/// The exit code of a trial that failed.
const FAILED: i32 = super::launch::FAILED;

fn landlock_rules<'a>(
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
    // The privileges are dropped before a command takes the rules.
    let mut rules = rules.create()?.no_new_privs(false);
    for opened in writable {
        let is_folder = opened.metadata().is_ok_and(|about| about.is_dir());
        rules = rules.add_rule(PathBeneath::new(opened, rights(is_folder)))?;
    }
    for (device, number) in DEVICES {
        // A missing device cannot be written to.
        if let Ok(opened) = open(Path::new(device))
            && opened
                .metadata()
                .is_ok_and(|about| about.file_type().is_char_device() && about.rdev() == number)
        {
            rules = rules.add_rule(PathBeneath::new(opened, rights(false)))?;
        }
    }
    Ok(rules)
}

/// Opens it neither for reading nor for writing: this needs no permission for the file, and does not wait for the other
/// end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH).open(path)
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

/// Limits the private memory of this process and of those that it starts. An existing lower limit stays.
pub fn limit_memory(bytes: u64) -> Result<(), String> {
    // A crash would otherwise write that memory to a file.
    for (what, resource, most) in [
        ("memory", Resource::Data, bytes),
        ("core files", Resource::Core, 0),
    ] {
        let now = getrlimit(resource);
        let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
        let limit = Rlimit {
            current: lower(now.current),
            maximum: lower(now.maximum),
        };
        setrlimit(resource, limit).map_err(|error| format!("cannot limit {what}: {error}"))?;
    }
    Ok(())
}
