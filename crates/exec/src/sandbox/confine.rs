//! The permissions that the kernel removes from a command: files outside of its folder, signals to others,
//! privileges of root, and system calls that no file permission controls.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};
use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX};
use rustix::process::{Resource, Rlimit, fchdir, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

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
            missing.extend(lacking());
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
        let landlock = |why: &dyn Display| format!("Landlock: {why}");
        let rules = rules.try_clone().map_err(|why| landlock(&why))?;
        let restricted = rules.restrict_self();
        restricted.map(drop).map_err(|why| landlock(&why))
    }
}

/// The part that is the same for all commands of a run. Returns what the kernel lacks.
fn confine_process(policy: &Policy) -> Result<Option<String>, String> {
    // When memory runs out, the kernel should kill commands and not batchwright. If this cannot be set, it stays as it
    // was.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    drop_privileges(policy.network).map_err(|error| format!("cannot drop privileges: {error}"))?;
    let restricted = forbid_calls(policy);
    let missing = |error| format!("no network and no local sockets (seccomp: {error})");
    Ok(restricted.err().map(missing))
}

/// The promised rights that the kernel lacks.
fn lacking() -> impl Iterator<Item = String> {
    let is_lacking = |(since, ..): &&(ABI, &str, &str)| {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let scope = Scope::from_all(*since);
        let rules = rules.handle_access(AccessFs::from_write(*since));
        match rules {
            Ok(rules) if !scope.is_empty() => rules.scope(scope).is_err(),
            rules => rules.is_err(),
        }
    };
    let lacking = PROMISED.iter().filter(is_lacking);
    lacking.map(|(_, what, since)| format!("{what} (Landlock of Linux {since})"))
}

fn landlock_rules<'a>(
    policy: &Policy,
    writable: impl Iterator<Item = &'a File>,
) -> Result<RulesetCreated, RulesetError> {
    // Landlock knows only what is allowed: to hide a folder, all others must be readable.
    let hidden = policy.hidden.as_ref().map(Path::new);
    let reads = hidden.map_or(BitFlags::EMPTY, |_| AccessFs::ReadFile.into());
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(WANTED) | reads)?
        .scope(Scope::from_all(WANTED))?;
    if !policy.network {
        rules = rules.handle_access(AccessNet::from_all(WANTED))?;
    }
    // The privileges are dropped before a command takes the rules.
    let mut rules = rules.create()?.no_new_privs(false);
    for opened in writable {
        rules = rules.add_rule(PathBeneath::new(opened, rights() | reads))?;
    }
    let above = hidden.into_iter().flat_map(Path::ancestors);
    for (inner, outer) in above.clone().zip(above.skip(1)) {
        for entry in fs::read_dir(outer).into_iter().flatten().flatten() {
            // What a link leads to has a rule of its own.
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if entry.path() != inner
                && !is_link
                && let Ok(opened) = open(&entry.path())
            {
                rules = rules.add_rule(PathBeneath::new(opened, AccessFs::ReadFile))?;
            }
        }
    }
    for (device, number) in DEVICES {
        // A missing device cannot be written to.
        if let Ok(opened) = open(Path::new(device))
            && opened
                .metadata()
                .is_ok_and(|about| about.file_type().is_char_device() && about.rdev() == number)
        {
            rules = rules.add_rule(PathBeneath::new(opened, rights()))?;
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

/// The permitted operations; for a file, those that a file can have. Creating devices is never permitted: through its own
/// device, root could access every disk.
fn rights() -> BitFlags<AccessFs> {
    let all = AccessFs::from_write(WANTED);
    all & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
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

/// Bits that distinguish socket types (the lowest four bits) from the connection-oriented ones, `SOCK_STREAM` and
/// `SOCK_SEQPACKET`: a type that has one of these bits is not connection-oriented. Three rules cost less than one
/// for each type.
const OTHER_TYPES: [(u64, u64); 3] = [(1, 0), (2, 2), (8, 8)];

/// Forbids system calls permanently, to this process and all its future children.
fn forbid_calls(policy: &Policy) -> Result<(), seccompiler::Error> {
    let filter = SeccompFilter::new(
        call_rules(policy)?,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let refused: BpfProgram = filter.try_into()?;
    let program: BpfProgram = ABSENT.into_iter().chain(refused).collect();
    seccompiler::apply_filter(&program)
}

/// The kernel's number for all processes of a user, which `libc` does not name.
const IOPRIO_WHO_USER: u64 = 3;
/// The same for `setpriority`; its type in `libc` depends on the C library.
const PRIO_USER: u64 = 2;

/// Marks the numbers of the x32 convention, which x86-64 kernels may also support.
const X32: u32 = if cfg!(target_arch = "x86_64") {
    0x4000_0000
} else {
    0
};

/// The beginning of the filter answers some calls as an older kernel without these calls would. `clone3` can start
/// a process in another cgroup, and a filter cannot see that because the argument is a structure; the C library
/// then uses `clone`. The calls of the x32 convention are the other calls under different numbers. `seccompiler`
/// has no rule for bits of the number, and a second filter would cost each command more time.
const ABSENT: [sock_filter; 4] = {
    const fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
        let code = code as u16;
        sock_filter { code, jt, jf, k }
    }
    let number = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let jump = libc::BPF_JMP | libc::BPF_K;
    [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, number, 0, 0),
        step(jump | libc::BPF_JSET, X32, 1, 0),
        step(jump | libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, absent, 0, 0),
    ]
};

/// The cases in which each call is refused; a call without cases is always refused.
fn call_rules(policy: &Policy) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut refused = BTreeMap::new();
    let mut socket = Vec::new();
    if policy.network {
        let other = |family: i32| case(0, SeccompCmpOp::Ne, family.cast_unsigned().into());
        let others = [AF_INET, AF_INET6, AF_NETLINK].into_iter().map(other);
        socket.push(SeccompRule::new(others.collect::<Result<_, _>>()?)?);
        // Of the kernel's own sockets, only the one for addresses and routes is allowed.
        let of_kernel = case(0, SeccompCmpOp::Eq, AF_NETLINK.cast_unsigned().into())?;
        let routes = libc::NETLINK_ROUTE.cast_unsigned().into();
        let no_routes = case(2, SeccompCmpOp::Ne, routes)?;
        socket.push(SeccompRule::new(vec![of_kernel, no_routes])?);
    }
    refused.insert(libc::SYS_socket, socket);
    // Pairs of another family reach other machines (TIPC).
    let family = case(0, SeccompCmpOp::Ne, AF_UNIX.cast_unsigned().into())?;
    let mut pairs = vec![SeccompRule::new(vec![family])?];
    // One end of a pair without a connection can be connected to any socket in the file system. The kernel decides which
    // types are connectionless (SOCK_RAW is), so only connection-oriented types are allowed.
    for (mask, bits) in OTHER_TYPES {
        let other = case(1, SeccompCmpOp::MaskedEq(mask), bits)?;
        pairs.push(SeccompRule::new(vec![other])?);
    }
    refused.insert(libc::SYS_socketpair, pairs);
    // Its operations bypass this filter, including those on sockets.
    refused.insert(libc::SYS_io_uring_setup, vec![]);
    // What other processes of the same user get: a limit that is too low kills them. Numbers of threads are refused too,
    // because a filter cannot tell whose they are.
    let of_others = |argument| SeccompRule::new(vec![case(argument, SeccompCmpOp::Ne, 0)?]);
    for of_process in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
        libc::SYS_sched_setaffinity,
    ] {
        refused.insert(of_process, vec![of_others(0)?]);
    }
    // These take a process, a group or a user; the own user is all of its processes.
    for (of_any, user) in [
        (libc::SYS_setpriority, PRIO_USER),
        (libc::SYS_ioprio_set, IOPRIO_WHO_USER),
    ] {
        let of_user = SeccompRule::new(vec![case(0, SeccompCmpOp::Eq, user)?])?;
        refused.insert(of_any, vec![of_others(1)?, of_user]);
    }
    // Keys that the kernel stores for the user's session.
    for keys in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl] {
        refused.insert(keys, vec![]);
    }
    // Writing input to the terminal from which batchwright was started.
    let mut typing = Vec::new();
    for request in [libc::TIOCSTI, libc::TIOCLINUX] {
        let request = case(1, SeccompCmpOp::Eq, u64::from(request as u32))?;
        typing.push(SeccompRule::new(vec![request])?);
    }
    refused.insert(libc::SYS_ioctl, typing);
    Ok(refused)
}

/// A condition on an argument; the kernel compares the lower half.
fn case(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{SOCK_SEQPACKET, SOCK_STREAM};

    #[test]
    fn only_connection_oriented_sockets_are_allowed() {
        let other = |kind: &u64| OTHER_TYPES.iter().any(|(mask, bits)| kind & mask == *bits);
        let connected: Vec<u64> = (0..16).filter(|kind| !other(kind)).collect();
        assert_eq!(connected, [SOCK_STREAM as u64, SOCK_SEQPACKET as u64]);
    }
}
