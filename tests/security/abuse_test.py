# SPDX-License-Identifier: Apache-2.0
"""Who takes all that there is stays inside a cgroup: guests, and monitors that have been taken over and somehow got
past their filters (the escapee in the monitor's place, jailed, without filters). A neighbour goes on answering; how
fast is printed."""

import contextlib
import os
import pathlib
import statistics
import subprocess
import time

import grpc
import harness
from harness import vm_pb
from security import host

MIB = 1 << 20
# For how long an abuse is watched, in seconds.
WATCHED = 2.5
# What a neighbour's answer may take while others do their worst. Generous: the lab is slow.
BOUND = 60


def group_file(vm, *names):
    """The first of these files in the VM's cgroups, of whichever version."""
    for group in vm.jail.cgroups:
        for name in names:
            path = pathlib.Path(group, name)
            if path.exists():
                return path
    return None


def read_number(path):
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0  # The group has gone.


def median_ms(work, rounds):
    """Of `work()`; and the longest."""
    taken = []
    for _ in range(rounds):
        start = time.monotonic()
        work()
        taken.append((time.monotonic() - start) * 1000)
    return round(statistics.median(taken), 1), round(max(taken), 1)


class MonitorAbuseTest(host.RootCase):
    """The neighbour is a probe guest of another daemon, whose monitor is a real one."""

    def setUp(self):
        super().setUp()
        self.neighbour = self.start_daemon(name="n")
        self.neighbour.probe("vm", "probe.test=spin", limits=vm_pb.ResourceLimits(cpu_milli=100))
        self.daemon = self.start_daemon("--vmm", host.ESCAPEE)
        self.addCleanup(self.remove_vms)

    def remove_vms(self):
        for daemon in (self.daemon, self.neighbour):
            for vm in daemon.vms():
                daemon.delete(vm.vm_id)

    def ask_neighbour(self):
        """A call that its loop thread has to answer."""
        self.neighbour.api.PauseVm(vm_pb.PauseVmRequest(vm_id="vm"), timeout=BOUND)
        self.neighbour.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="vm"), timeout=BOUND)

    def abuse(self, what, look, ends=False, **spec):
        """Lets go, and watches with `look(vm)` while the neighbour is asked; `ends`: until the VM has. What it was, and
        became."""
        self.daemon.probe("rogue", f"escapee.policy=none escapee.abuse={what}", **spec)
        vm = self.daemon.get("rogue")
        if not vm.jail.cgroups:
            self.skipTest("this host has no cgroup that a VM could have")
        quiet = median_ms(self.ask_neighbour, 10)
        with contextlib.suppress(grpc.RpcError):
            self.daemon.api.PauseVm(vm_pb.PauseVmRequest(vm_id="rogue"))
        taken, until = [], time.monotonic() + WATCHED
        while time.monotonic() < until or ends and self.daemon.get("rogue").state != vm_pb.VM_STATE_STOPPED:
            self.assertLess(time.monotonic(), until + BOUND, "it goes on")
            look(vm)
            taken.append(median_ms(self.ask_neighbour, 1)[0])
        harness.print_figures(f"pause and resume of a neighbour, ms: median, longest; a monitor takes {what}",
                              quiet=quiet, abused=(round(statistics.median(taken), 1), max(taken)))
        after = self.daemon.get("rogue")
        self.assertTrue(harness.is_alive(self.neighbour.get("vm").monitor_pid))
        self.daemon.delete("rogue")
        harness.wait_until(lambda: not any(map(os.path.exists, vm.jail.cgroups)), "its cgroups are gone", 20)
        return vm, after

    def need(self, vm, *names):
        path = group_file(vm, *names)
        if path is None:
            self.skipTest(f"this host has no cgroup controller with {names[0]}")
        return path

    def test_a_monitor_that_takes_memory_is_ended_at_its_limit(self):
        peak = 0

        def look(vm):
            nonlocal peak
            peak = max(peak, read_number(self.need(vm, "memory.current", "memory.usage_in_bytes"))
                       if any(map(os.path.exists, vm.jail.cgroups)) else 0)

        vm, after = self.abuse("memory", look, ends=True)
        limit = vm.spec.limits.memory_mib
        self.assertGreater(limit, 0)
        self.assertLessEqual(peak, limit * MIB)
        self.assertEqual(after.state, vm_pb.VM_STATE_STOPPED)
        self.assertIn("memory", after.exit.detail.lower(), after.exit)

    def test_a_monitor_that_forks_stays_within_its_number_of_processes(self):
        most = 0

        def look(vm):
            nonlocal most
            most = max(most, read_number(self.need(vm, "pids.current")))

        self.abuse("processes", look, limits=vm_pb.ResourceLimits(pids_max=60))
        self.assertGreater(most, 30)
        self.assertLessEqual(most, 60)

    def test_a_monitor_that_spins_in_many_threads_gets_its_share_of_cpu_only(self):
        first = None
        share = throttled = 0

        def look(vm):
            nonlocal first, share, throttled
            now = time.monotonic(), harness.cpu_ticks(vm.monitor_pid) / os.sysconf("SC_CLK_TCK")
            first = first or now
            if now[0] - first[0] > WATCHED / 2:
                share = (now[1] - first[1]) / (now[0] - first[0])
            words = self.need(vm, "cpu.stat").read_text().split()
            throttled = int(words[words.index("nr_throttled") + 1])

        self.abuse("threads", look, limits=vm_pb.ResourceLimits(cpu_milli=100, pids_max=60))
        self.assertGreater(throttled, 0)
        self.assertLess(share, 0.4)

    def test_a_monitor_that_floods_its_disk_does_not_stop_its_neighbour(self):
        image = self.file("disk", size=32 * MIB)
        self.abuse("disk", lambda vm: None, disks=[vm_pb.Disk(path=str(image))])
        self.assertEqual(image.stat().st_size, 32 * MIB)


class GuestAbuseTest(harness.DaemonCase):
    """Linux guests, so real KVM or the lab."""

    shared = ("neighbour",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon.need_linux_guests()
        cls.daemon.create("neighbour")
        cls.daemon.wait_ready("neighbour")

    def ask_neighbour(self):
        result = self.daemon.exec("neighbour", ["/bin/true"])
        self.assertEqual(result.code, 0, result)

    def abuse(self, name, command):
        disk = self.file("disk", size=64 * MIB)
        self.daemon.create(self.vm_id, memory_mib=192, disks=[vm_pb.Disk(path=str(disk))])
        self.daemon.wait_ready(self.vm_id)
        quiet = median_ms(self.ask_neighbour, 5)
        call = harness.ExecCall(self.api, self.vm_id, ["/bin/sh", "-c", command])
        time.sleep(1)
        vm = self.daemon.get(self.vm_id)
        used = read_number(group_file(vm, "memory.current", "memory.usage_in_bytes"))
        abused = median_ms(self.ask_neighbour, 8)
        call.call.cancel()
        harness.print_figures(f"exec in a neighbour, ms: median, longest; a guest has {name}", quiet=quiet,
                              abused=abused, ratio=round(abused[0] / quiet[0], 2))
        self.assertLess(abused[1], BOUND * 1000)
        self.assertLessEqual(used, vm.spec.limits.memory_mib * MIB)
        self.assertTrue(harness.is_alive(self.daemon.get("neighbour").monitor_pid))

    def test_a_guest_that_takes_memory(self):
        self.abuse("a memory hog", "tail /dev/zero; sleep 9")

    def test_a_guest_that_forks(self):
        self.abuse("a fork bomb", "bomb() { bomb | bomb & }; bomb; sleep 9")

    def test_a_guest_that_floods_its_disk(self):
        self.abuse("a disk flood", "while dd if=/dev/zero of=/dev/vdb bs=1M count=60 conv=fsync; do :; done")


class DiskLimitsTest(harness.DaemonCase):
    """A Linux guest's disk on a device of its own, made here: a loop device with a file system on it."""

    RATE = MIB // 2
    BYTES = 4 * MIB

    def setUp(self):
        super().setUp()
        self.daemon.need_linux_guests()
        if os.geteuid() != 0 or not pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
            self.skipTest("needs root on a host with version 2 alone: version 1 does not count late writes")
        self.backing = self.file("device", size=96 * MIB)
        self.command("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0", self.backing)
        self.mounted = self.dir / "mounted"
        self.mounted.mkdir()
        subprocess.run(["modprobe", "-q", "loop"], check=False)
        try:
            self.mount()
        except subprocess.CalledProcessError as error:
            self.skipTest(f"no loop device can be mounted here: {error.stderr.decode().strip()}")
        self.addCleanup(self.unmount)
        self.addCleanup(self._remove_vms)
        for name in ("free", "limited"):
            (self.mounted / name).write_bytes(os.urandom(self.BYTES))
        # The kernel counts a file's writes to the group that first made it dirty since it was opened: not to ours.
        self.unmount()
        self.mount()

    def command(self, *arguments):
        subprocess.run(arguments, check=True, capture_output=True)

    def mount(self):
        self.command("mount", "-o", "loop", self.backing, self.mounted)

    def unmount(self):
        def done():
            return subprocess.run(["umount", self.mounted], check=False, capture_output=True).returncode == 0

        harness.wait_until(done, "what a monitor had open is closed", 10)

    def taken(self, name, limits):
        """Seconds for reading all of a disk that the host has not cached, and for writing it so that it is there."""
        disk = vm_pb.Disk(path=str(self.mounted / name), limits=limits)
        self.daemon.create(name, disks=[disk])
        self.daemon.wait_ready(name)
        seconds = []
        for files in ("if=/dev/vdb of=/dev/null", "if=/dev/zero of=/dev/vdb conv=fsync"):
            start = time.monotonic()
            result = self.daemon.exec(name, f"dd {files} bs=64k count={self.BYTES >> 16}", timeout=120)
            self.assert_command(result, 0)
            seconds.append(time.monotonic() - start)
        return seconds

    def test_a_disk_is_as_fast_as_its_limit(self):
        free = self.taken("free", None)
        limited = self.taken("limited", vm_pb.DiskLimits(read_bytes_per_s=self.RATE, write_bytes_per_s=self.RATE))
        fair = self.BYTES / self.RATE
        harness.print_figures(f"reading and writing {self.BYTES >> 20} MiB, s; limited to {self.RATE >> 10} KiB/s",
                              free=[round(each, 1) for each in free], limited=[round(each, 1) for each in limited])
        if max(free) > 0.6 * fair:
            self.skipTest(f"this machine takes {max(free):.1f} s without a limit, too long beside {fair:.0f} s")
        for kind, seconds, without in zip(("read", "written"), limited, free):
            self.assertGreater(seconds, 0.8 * fair, kind)
            self.assertLess(seconds, 1.5 * fair + without, kind)
