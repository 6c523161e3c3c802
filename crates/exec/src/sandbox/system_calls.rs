//! System calls that are refused to a command, because no right to a file stands in their way.

use std::collections::BTreeMap;

use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, SOCK_SEQPACKET, SOCK_STREAM};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::policy::Policy;

/// The bits of a socket's type that are no flags.
const SOCKET_TYPE: u64 = 0xf;

/// Refuses them for good, to this process and all that it starts.
pub fn restrict(policy: &Policy) -> Result<(), Error> {
    let filter = SeccompFilter::new(
        rules(policy)?,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    let program: BpfProgram = without_clone3()?.try_into()?;
    seccompiler::apply_filter(&program)
}

/// A process can be started in another cgroup by `clone3`, which hides that from a filter in a structure. The answer
/// is that of a kernel that does not know it, so that the C library uses `clone`.
fn without_clone3() -> Result<SeccompFilter, Error> {
    let mut absent = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    #[cfg(target_arch = "x86_64")]
    absent.insert(libc::SYS_clone3 | X32, vec![]);
    Ok(SeccompFilter::new(
        absent,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?)
}

/// Marks the numbers of the x32 convention, which x86-64 kernels may offer too.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// For each call the cases in which it is refused; without any, it always is.
fn rules(policy: &Policy) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut sockets = vec![];
    if policy.network {
        sockets.extend([AF_INET, AF_INET6, AF_NETLINK]);
    }
    if policy.local_sockets {
        sockets.push(AF_UNIX);
    }
    let other_families = sockets
        .iter()
        .map(|&family| case(0, SeccompCmpOp::Ne, family.cast_unsigned().into()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut refused = BTreeMap::new();
    let mut socket = Vec::new();
    if !other_families.is_empty() {
        socket.push(SeccompRule::new(other_families)?);
    }
    if policy.network {
        // Of the kernel's own sockets only the one that tells addresses and routes.
        socket.push(SeccompRule::new(vec![
            case(0, SeccompCmpOp::Eq, AF_NETLINK.cast_unsigned().into())?,
            case(
                2,
                SeccompCmpOp::Ne,
                libc::NETLINK_ROUTE.cast_unsigned().into(),
            )?,
        ])?);
    }
    refused.insert(libc::SYS_socket, socket);
    // Pairs of another family reach other machines (TIPC).
    let family = case(0, SeccompCmpOp::Ne, AF_UNIX.cast_unsigned().into())?;
    let mut pairs = vec![SeccompRule::new(vec![family])?];
    if !policy.local_sockets {
        // One half of a pair without a connection can be turned to any socket in the file system. Which
        // types are made one is the kernel's choice (SOCK_RAW is), so that only those with one are let through.
        let connected = [SOCK_STREAM, SOCK_SEQPACKET].map(|kind| u64::from(kind.cast_unsigned()));
        for other in (0..=SOCKET_TYPE).filter(|kind| !connected.contains(kind)) {
            let other = case(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE), other)?;
            pairs.push(SeccompRule::new(vec![other])?);
        }
    }
    refused.insert(libc::SYS_socketpair, pairs);
    // Its operations pass by this filter, those on sockets too.
    refused.insert(libc::SYS_io_uring_setup, vec![]);
    // Limits of other processes of the same user: too low, they kill.
    let of_others = case(0, SeccompCmpOp::Ne, 0)?;
    refused.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![of_others])?],
    );
    // Keys that the user's session keeps in the kernel.
    for keys in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl] {
        refused.insert(keys, vec![]);
    }
    // Typing into the terminal that batchwright was started from.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        let request = case(1, SeccompCmpOp::Eq, u64::from(request as u32))?;
        Ok(SeccompRule::new(vec![request])?)
    });
    let typing = typing.into_iter().collect::<Result<_, Error>>()?;
    refused.insert(libc::SYS_ioctl, typing);
    #[cfg(target_arch = "x86_64")]
    {
        // The same calls under the numbers of the x32 convention.
        const X32_IOCTL: i64 = X32 + 514;
        let mut also: BTreeMap<_, _> = refused
            .iter()
            .map(|(number, cases)| (number | X32, cases.clone()))
            .collect();
        also.insert(X32_IOCTL, refused[&libc::SYS_ioctl].clone());
        refused.extend(also);
    }
    Ok(refused)
}

/// A condition on an argument, of which the kernel looks at the lower half.
fn case(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}
