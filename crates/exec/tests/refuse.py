"""Runs a program on a kernel that refuses a system call. Arguments: its number, the error, the program."""
import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
number, error = map(int, sys.argv[1:3])
# If the number of the call is that one, it fails; all else goes on.
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (0x20, 0, 0, 0),
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x00050000 | error),
        (0x06, 0, 0, 0x7FFF0000),
    ]
)
buffer = ctypes.create_string_buffer(program, len(program))
filter = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(filter), 0, 0) == 0
os.execvp(sys.argv[3], sys.argv[3:])
