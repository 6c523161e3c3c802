//! System calls that are forbidden to a command because no file permission controls them.

use std::collections::BTreeMap;

use libc::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use super::wire::Policy;

/// Bits that distinguish socket types (the lowest four bits) from the connection-oriented ones, `SOCK_STREAM` and
/// `SOCK_SEQPACKET`: a type that has one of these bits is not connection-oriented. Three rules cost less than one
/// for each type.
const OTHER_TYPES: [(u64, u64); 3] = [(1, 0), (2, 2), (8, 8)];

/// Forbids them permanently, to this process and all its future children.
pub fn restrict(policy: &Policy) -> Result<(), Error> {
    let filter = SeccompFilter::new(
        rules(policy)?,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EACCES.cast_unsigned()),
        std::env::consts::ARCH.try_into()?,
    )?;
    let refused: BpfProgram = filter.try_into()?;
    let program: BpfProgram = ABSENT.into_iter().chain(refused).collect();
    seccompiler::apply_filter(&program)
}

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
fn rules(policy: &Policy) -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut sockets = vec![];
    if policy.network {
        sockets.extend([AF_INET, AF_INET6, AF_NETLINK]);
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
        // Of the kernel's own sockets, only the one for addresses and routes is allowed.
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
    // One end of a pair without a connection can be connected to any socket in the file system. The kernel decides which
    // types are connectionless (SOCK_RAW is), so only connection-oriented types are allowed.
    for (mask, bits) in OTHER_TYPES {
        let other = case(1, SeccompCmpOp::MaskedEq(mask), bits)?;
        pairs.push(SeccompRule::new(vec![other])?);
    }
    refused.insert(libc::SYS_socketpair, pairs);
    // Its operations bypass this filter, including those on sockets.
    refused.insert(libc::SYS_io_uring_setup, vec![]);
    // Limits of other processes of the same user: a limit that is too low kills them.
    let of_others = case(0, SeccompCmpOp::Ne, 0)?;
    refused.insert(
        libc::SYS_prlimit64,
        vec![SeccompRule::new(vec![of_others])?],
    );
    // Keys that the kernel stores for the user's session.
    for keys in [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl] {
        refused.insert(keys, vec![]);
    }
    // Writing input to the terminal from which batchwright was started.
    let typing = [libc::TIOCSTI, libc::TIOCLINUX].map(|request| {
        let request = case(1, SeccompCmpOp::Eq, u64::from(request as u32))?;
        Ok(SeccompRule::new(vec![request])?)
    });
    let typing = typing.into_iter().collect::<Result<_, Error>>()?;
    refused.insert(libc::SYS_ioctl, typing);
    Ok(refused)
}

/// A condition on an argument; the kernel compares the lower half.
fn case(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
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
