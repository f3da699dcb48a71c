"""Starts a program as a child that cannot outlive us: `python launch.py PARENT_PID [--unroot FOLDER] PROGRAM ARG…`.

Standard library only, and run as a file, so that it costs a few milliseconds. It asks the kernel to kill the program
when its parent dies (prctl(2), PR_SET_PDEATHSIG), and with --unroot makes it another user where we are root, because
PostgreSQL refuses to run as root. That is done in a user namespace (user_namespaces(7)), in which our own files stay
our own: no user is added, no file changes its owner. Where the kernel allows no namespace (some containers), the
program becomes `nobody`, who is then given the FOLDER.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
INSIDE_ID = 1000
NOBODY_ID = 65534


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGKILL when the parent ends; where there is no prctl, do without."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def unroot(folder: Path) -> None:
    """Become another user than root; nothing to do when we are one."""
    if os.geteuid() != 0:
        return
    if _namespaces_work():
        ctypes.CDLL(None).unshare(CLONE_NEWUSER)
        _map_ids()
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY_ID, NOBODY_ID)
    os.setgroups([])
    os.setgid(NOBODY_ID)
    os.setuid(NOBODY_ID)


def _namespaces_work() -> bool:
    """Try it in a child first: a namespace whose ids cannot be mapped cannot be left again."""
    child = os.fork()
    if child == 0:
        try:
            if ctypes.CDLL(None).unshare(CLONE_NEWUSER) != 0:
                os._exit(1)
            _map_ids()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _map_ids() -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_ID} 0 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_ID} 0 1")


def main(arguments: list[str]) -> None:
    """Become the program."""
    parent, *arguments = arguments
    if arguments[0] == "--unroot":
        unroot(Path(arguments[1]))
        arguments = arguments[2:]
    die_with_parent(int(parent))  # after the change of user, which would undo it
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
