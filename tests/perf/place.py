# SPDX-License-Identifier: Apache-2.0
"""Where measurements run: at a priority that a busy machine leaves alone, with a daemon and its snapshots."""

import contextlib
import functools
import json
import os
import pathlib
import re
import shutil
import sys

import harness
from harness import system_pb, template_pb
from perf import saved_guest, self_check

PROGRAMS = harness.OUT / "perf"
FLOOR = PROGRAMS / "boot_floor"
REAL_TIME_PRIORITY = 10
SHELLS = 8
# Enters at 0xfffffff0, the last 16 bytes below 4 GiB: mov $0x600, %dx; mov $0x34, %al; out %al, (%dx); hlt.
FIRMWARE = bytes(65536 - 16) + bytes.fromhex("ba0006 b034 ee f4") + bytes(9)
QEMU = "qemu-system-x86_64"
QEMU_MACHINE = ("-M microvm,acpi=off,pic=off,pit=off,rtc=off,isa-serial=off,x-option-roms=off -accel kvm -cpu host "
                f"-smp 1 -m {saved_guest.MEMORY_MIB} -nodefaults -no-user-config -display none -no-reboot "
                "-device isa-debug-exit,iobase=0x600,iosize=4")
QEMU_EXIT = 0x34 * 2 + 1
NO_QEMU = f"{QEMU} is not installed"


class Skip(Exception):
    """The host lacks what a measurement needs; says what."""


def take_priority():
    """Real time where we may: what else the machine does then takes no part. What is started inherits it; so a guest
    that computes has a CPU for itself, and there must be another."""
    if (os.cpu_count() or 1) < 2:
        return
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))


def has_priority():
    return os.sched_getscheduler(0) == os.SCHED_FIFO


def without_cpu_controller():
    """The command that runs a daemon where it sees no cpu controller of cgroup version 1.

    With CONFIG_RT_GROUP_SCHED a real-time process may not enter a new cgroup of it. The mount goes in a mount namespace
    of the daemon's own; the host keeps it."""
    mounts = re.findall(r"^\S+ (\S+) cgroup (\S+)", pathlib.Path("/proc/self/mounts").read_text(), re.MULTILINE)
    found = [path for path, options in mounts if "cpu" in options.split(",")]
    if not has_priority() or not found or self_check.kernel_setting("RT_GROUP_SCHED") == "":
        return []
    return ["unshare", "--mount", "sh", "-c", f'umount {found[0]} && exec "$0" "$@"']


def has_qemu():
    return shutil.which(QEMU) is not None


class Place:
    """What sections share. For a with statement; what is costly is made when it is first asked for."""

    def __init__(self, short, others=(), progress=lambda text: print(f"bench: {text}", file=sys.stderr, flush=True)):
        self.short = short
        self.others = list(others)  # name -> command line that ends with code 0: other monitors
        self.progress = progress
        self.work = harness.Workplace()
        self.dir = self.work.dir
        self.store = self.dir / "snapshots"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if "daemon" in self.__dict__:
            self.daemon.stop()
        left = self.work.close()
        if left:
            raise RuntimeError(f"left behind: {left}")

    def rounds(self, short, full):
        return short if self.short else full

    def need_kvm(self):
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("this host has no /dev/kvm that we may open")

    def need_root(self):
        if os.geteuid() != 0:
            raise Skip("the jail's root mode needs root")

    @functools.cached_property
    def daemon(self):
        self.need_kvm()
        return harness.Daemon(self.work, "--snapshot-dir", self.store, under=without_cpu_controller())

    def runs_linux_guests(self):
        return self.daemon.api.CheckHost(system_pb.CheckHostRequest()).runs_linux_guests

    @functools.cached_property
    def disk(self):
        return saved_guest.make_disk(self.dir)

    @functools.cached_property
    def reading(self):
        """The id of a snapshot: a guest with all devices amid its work."""
        self.progress("saving the guests that will be restored")
        saved_guest.save_reading(self.daemon, "reading", self.disk)
        return "reading"

    @functools.cached_property
    def ending(self):
        """The same, but it powers off with its next instructions."""
        shutil.copytree(self.store / self.reading, self.store / "ending")
        saved_guest.power_off_at_once(self.store / "ending")
        return "ending"

    @functools.cached_property
    def template(self):
        """Of `ending`: with shells that wait, where the daemon has them."""
        request = template_pb.PrepareTemplateRequest(template_id="ending", snapshot_id=self.ending)
        for field in ("shells", "shell_count"):
            if field in request.DESCRIPTOR.fields_by_name:
                setattr(request, field, SHELLS)
        self.daemon.api.PrepareTemplate(request)
        return "ending"

    @functools.cached_property
    def halted(self):
        """A guest that waits for ever."""
        saved_guest.save_halted(self.daemon, "halted")
        return "halted"

    @functools.cached_property
    def firmware(self):
        path = self.dir / "firmware"
        path.write_bytes(FIRMWARE)
        return path

    def run_json(self, command):
        """One of the measuring programs; what it wrote with --json."""
        path = self.dir / f"{command[0].name}.json"
        done = self.work.run([*command, "--json", path], timeout=3600)
        if done.code != 0:
            raise RuntimeError(f"{command[0].name}: {done}")
        return json.loads(path.read_text())

