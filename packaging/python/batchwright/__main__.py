"""`python -m batchwright`: starts the program that was installed with this package."""

import os
import shutil
import sys
import sysconfig


def program() -> str:
    """The program in the folder for scripts of this Python, else of the user, else in PATH."""
    user = sysconfig.get_preferred_scheme("user")
    for folder in (sysconfig.get_path("scripts"), sysconfig.get_path("scripts", user)):
        path = os.path.join(folder, "batchwright")
        if os.path.isfile(path):
            return path
    found = shutil.which("batchwright")
    if found is None:
        sys.exit("the program batchwright is not in the folder for scripts of this Python, nor in PATH")
    return found


if __name__ == "__main__":
    path = program()
    os.execv(path, [path, *sys.argv[1:]])
