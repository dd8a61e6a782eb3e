# SPDX-License-Identifier: Apache-2.0
"""What the tests of this folder ask of the host, and what they must leave as it was."""

import contextlib
import ctypes
import os
import pathlib
import unittest

import harness

ESCAPEE = harness.OUT / "security/escapee"
TRY_ESCAPE = harness.OUT / "security/try_escape"
JAILER = harness.OUT / "mayfly-jailer"

# Of the escapee's host_world.cc: the upper half of its System V keys, and its queues' names.
IPC_KEYS = 0x6D61
QUEUE_PREFIX = "mayfly-escapee-"


def landlock_version():
    """0: none. The host's, which may be newer than what we use."""
    create_ruleset, version_flag = 444, 1
    return max(0, ctypes.CDLL(None).syscall(create_ruleset, None, 0, version_flag))


def is_emulated():
    """A machine like the lab's, on which starting a process takes a tenth of a second."""
    return "QEMU TCG" in pathlib.Path("/proc/cpuinfo").read_text()


def mounts():
    """Without the numbers that change when others come and go."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(" ".join(line.split()[2:]) for line in lines)


def ipc_objects():
    found = []
    for kind in ("shm", "msg", "sem"):
        for line in pathlib.Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]:
            if (int(line.split()[0]) & 0xFFFFFFFF) >> 16 == IPC_KEYS:
                found.append(f"{kind} {line}")
    return found


def cgroups(name):
    """Groups with this in their path."""
    root = pathlib.Path("/sys/fs/cgroup")
    return sorted(str(path) for path in root.rglob(f"*{name}*") if path.is_dir())


class RootCase(harness.Case):
    """Needs root and a KVM device; leaves no mount and no IPC object."""

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root: it makes jails with ids of their own")
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise unittest.SkipTest("this host has no /dev/kvm")
        super().setUpClass()

    def setUp(self):
        # Before all others, so that it runs after them.
        before = mounts()
        self.addCleanup(lambda: self.assertEqual((mounts(), ipc_objects()), (before, []), "left behind"))
        super().setUp()
        self.dir.chmod(0o755)


def status(pid, thread=None):
    """The fields of /proc/PID/status, or of one thread's."""
    path = pathlib.Path(f"/proc/{pid}/status" if thread is None else f"/proc/{pid}/task/{thread}/status")
    fields = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = value.strip()
    return fields


def programs_in(group):
    """The processes of a cgroup but the kernel's own, which KVM of Linux 6.1 puts beside ours."""
    pids = pathlib.Path(group, "cgroup.procs").read_text().split()
    return [pid for pid in pids if "VmSize" in status(pid)]


def namespaces(pid):
    found = {}
    for path in pathlib.Path(f"/proc/{pid}/ns").iterdir():
        with contextlib.suppress(OSError):
            found[path.name] = os.readlink(path)
    return found
