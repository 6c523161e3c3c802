"""Tries what a sandbox has to refuse. Prints a line for each: the name, then `refused`, or what it got.

Arguments: a folder outside with the file `kept`, a process outside, ports of TCP, UDP and TCP over IPv6.
"""
import ctypes
import os
import resource
import signal
import socket
import struct
import sys
import time

outside, victim = sys.argv[1], int(sys.argv[2])
tcp, udp, tcp6 = map(int, sys.argv[3:6])
kept, new = outside + "/kept", outside + "/new"
IO_URING_SETUP, CLONE3 = 425, 435
SCHED_SETATTR, IOPRIO_SET = (314, 251) if os.uname().machine == "x86_64" else (274, 30)
CLONE_INTO_CGROUP = 0x200000000
libc = ctypes.CDLL(None, use_errno=True)


def attempt(name, act):
    try:
        got = act()
    except OSError as error:
        print(name, "refused", error.errno)
    except ValueError as error:
        print(name, "refused", error)
    else:
        print(name, "GOT", got)


def call(function, *arguments):
    got = function(*arguments)
    if got < 0:
        raise OSError(ctypes.get_errno(), "")
    return got


def datagram(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", address)


def start_in_cgroup(path):
    cgroup = os.open(path, os.O_RDONLY)
    arguments = struct.pack("11Q", CLONE_INTO_CGROUP, *[0] * 3, signal.SIGCHLD, *[0] * 5, cgroup)
    try:
        if call(libc.syscall, CLONE3, ctypes.create_string_buffer(arguments), len(arguments)) == 0:
            os._exit(0)
    finally:
        os.close(cgroup)


def move_to_cgroup(path):
    open(path + "/cgroup.procs", "w").write("0")


def signal_any_thread(pid):
    threads = os.listdir(f"/proc/{pid}/task")
    for thread in threads:
        try:
            os.kill(int(thread), 0)
            return thread
        except PermissionError:
            pass
    raise PermissionError(1, threads)


def fresh(name):
    open(name, "w").close()
    return name


os.symlink(outside, "way")
attempt("write", lambda: open(new, "w"))
attempt("append", lambda: open(kept, "a"))
attempt("truncate", lambda: os.truncate(kept, 0))
attempt("truncate_open", lambda: os.open(kept, os.O_RDONLY | os.O_TRUNC))
attempt("symbolic_link", lambda: open("way/new", "w"))
attempt("rename_out", lambda: os.rename(fresh("a"), new))
attempt("rename_in", lambda: os.rename(kept, "b"))
attempt("hard_link_in", lambda: os.link(kept, "c"))
attempt("hard_link_out", lambda: os.link(fresh("d"), new))
attempt("root_of_itself", lambda: open("/proc/self/root" + new, "w"))
attempt("root_of_another", lambda: open(f"/proc/{victim}/root{new}", "w"))
attempt("remove", lambda: os.unlink(kept))
attempt("make_folder", lambda: os.mkdir(new))
attempt("device", lambda: os.mknod("disk", 0o60600, os.makedev(8, 0)))
attempt("mount", lambda: call(libc.mount, b"none", outside.encode(), b"tmpfs", 0, None))
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", tcp), 5))
attempt("tcp6", lambda: socket.create_connection(("::1", tcp6), 5))
attempt("udp", lambda: datagram(socket.AF_INET, ("127.0.0.1", udp)))
attempt("listen", lambda: socket.create_server(("127.0.0.1", 0)))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("unix_path", lambda: socket.socket(socket.AF_UNIX).connect(outside + "/socket"))
attempt("unix_datagrams", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
attempt("unix_raw", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW))
attempt("other_pair", lambda: socket.socketpair(socket.AF_TIPC, socket.SOCK_SEQPACKET))
attempt("group_of_parent", lambda: os.setpgid(0, os.getpgid(os.getppid())))
attempt("terminal", lambda: os.open("/dev/tty", os.O_RDONLY))
attempt("io_uring", lambda: call(libc.syscall, IO_URING_SETUP, 4, ctypes.create_string_buffer(256)))
attempt("move_to_cgroup", lambda: move_to_cgroup("/sys/fs/cgroup/unified"))
attempt("move_to_only_cgroup", lambda: move_to_cgroup("/sys/fs/cgroup"))
attempt("start_in_cgroup", lambda: start_in_cgroup("/sys/fs/cgroup/unified"))
attempt("start_in_only_cgroup", lambda: start_in_cgroup("/sys/fs/cgroup"))
attempt("environment", lambda: open(f"/proc/{victim}/environ").read())
attempt("environment_of_parent", lambda: open(f"/proc/{os.getppid()}/environ").read())
attempt("memory", lambda: open(f"/proc/{victim}/mem", "rb"))
attempt("files", lambda: os.readlink(f"/proc/{victim}/fd/0"))
attempt("signal", lambda: os.kill(victim, signal.SIGUSR1))
attempt("signal_parent", lambda: os.kill(os.getppid(), 0))
attempt("signal_threads_of_parent", lambda: signal_any_thread(os.getppid()))
attempt("memory_of_parent", lambda: open(f"/proc/{os.getppid()}/mem", "rb"))
attempt("files_of_parent", lambda: os.readlink(f"/proc/{os.getppid()}/fd/0"))
attempt("limit_parent", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))
attempt("limit", lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1)))
PROCESS, USER = 0, 2
attempt("priority", lambda: os.setpriority(PROCESS, victim, 19))
attempt("priority_of_parent", lambda: os.setpriority(PROCESS, os.getppid(), 19))
attempt("priority_of_group", lambda: os.setpriority(1, os.getpgid(os.getppid()) or 1, 19))
attempt("priority_of_user", lambda: os.setpriority(USER, 0, 19))
for name, pid in ("victim", victim), ("parent", os.getppid()):
    attempt("scheduler", lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    attempt("scheduler_parameters", lambda: os.sched_setparam(pid, os.sched_param(0)))
    attempt("scheduler_attributes", lambda: call(libc.syscall, SCHED_SETATTR, pid, struct.pack("IIQiI3Q", 48, 5, 0, 0, 0, 0, 0, 0), 0))
    attempt("cpus", lambda: os.sched_setaffinity(pid, os.sched_getaffinity(0)))
    attempt("io", lambda: call(libc.syscall, IOPRIO_SET, 1, pid, 3 << 13))
attempt("io_of_user", lambda: call(libc.syscall, IOPRIO_SET, 3, 0, 3 << 13))
attempt("raise_limit", lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**40, 2**40)))
attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()))
# What a program does to itself goes on to work.
os.nice(1)
os.sched_setaffinity(0, os.sched_getaffinity(0))
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
call(libc.syscall, IOPRIO_SET, 1, 0, 2 << 13 | 5)
print("opened", sorted(int(name) for name in os.listdir("/proc/self/fd"))[3:-1])
print("keys", [name for name in os.environ if name.startswith("CARGO")])
fresh("e")
fresh(os.environ["TMPDIR"] + "/f")
fresh("/dev/null")
socket.socketpair()
socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
print("done")
