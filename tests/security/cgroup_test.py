# SPDX-License-Identifier: Apache-2.0
"""Cgroups of version 2, on a machine that has nothing else: the limits, the parent's controllers; the daemon under
Landlock. The probe guest is enough; tests/control/jail_test.py has what version 1 can show too."""

import ctypes
import os
import pathlib
import signal
import sys
import unittest

import harness
from harness import system_pb, vm_pb

ROOT = pathlib.Path("/sys/fs/cgroup")
PARENT = ROOT / "mayfly"


def is_pure_version_2():
    return (ROOT / "cgroup.controllers").exists() and os.geteuid() == 0


def landlock_abi():
    abi = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
    return max(abi, 0)


@unittest.skipUnless(is_pure_version_2(), "needs root on a host with version 2 alone")
class VersionTwoTest(harness.DaemonCase):
    def group(self, vm):
        self.assertEqual(len(vm.jail.cgroups), 1)
        return pathlib.Path(vm.jail.cgroups[0])

    def test_limits_are_written_as_asked(self):
        limits = vm_pb.ResourceLimits(cpu_milli=250, cpu_weight=7, memory_mib=300, pids_max=50)
        self.daemon.probe(self.vm_id, "probe.test=spin", limits=limits)
        group = self.group(self.daemon.get(self.vm_id))
        wanted = {"cpu.max": "25000 100000", "cpu.weight": "7", "memory.max": str(300 << 20), "pids.max": "50"}
        self.assertEqual({name: (group / name).read_text().strip() for name in wanted}, wanted)

    def test_a_monitor_is_born_in_its_group_and_the_group_goes_with_it(self):
        self.daemon.probe(self.vm_id, "probe.test=spin")
        vm = self.daemon.get(self.vm_id)
        group = self.group(vm)
        # And a kernel thread that KVM makes for each VM on some hosts, which has no command line.
        users = [pid for pid in (group / "cgroup.procs").read_text().split()
                 if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()]
        self.assertEqual(users, [str(vm.monitor_pid)])
        self.assertEqual(pathlib.Path(f"/proc/{vm.monitor_pid}/cgroup").read_text(), f"0::/mayfly/{group.name}\n")
        self.daemon.api.StopVm(vm_pb.StopVmRequest(vm_id=self.vm_id, grace_ms=0))
        harness.wait_until(lambda: not group.exists(), "the group is gone", 10)

    def test_the_parent_gives_its_children_every_controller(self):
        self.assertLessEqual({"cpu", "memory", "pids"}, set((PARENT / "cgroup.subtree_control").read_text().split()))
        self.assertEqual((PARENT / "cgroup.procs").read_text(), "")

    def test_a_device_that_the_kernel_cannot_limit_is_refused(self):
        disk = vm_pb.Disk(path=str(self.file("disk", size=1 << 20)), limits=vm_pb.DiskLimits(read_ops_per_s=10))
        device = os.stat(self.dir).st_dev
        if os.major(device) != 0:
            self.skipTest("the test's directory is on a block device")
        self.assert_refused(lambda: self.daemon.probe(self.vm_id, "exit", disks=[disk]), "FAILED_PRECONDITION",
                            "NO_BLOCK_DEVICE", "disks[0].limits", "tmpfs")

    def test_a_guest_s_cpu_time_is_what_it_was_given(self):
        self.daemon.probe(self.vm_id, "probe.test=spin", limits=vm_pb.ResourceLimits(cpu_milli=100))
        group = self.group(self.daemon.get(self.vm_id))

        def throttled():
            words = (group / "cpu.stat").read_text().split()
            return int(words[words.index("nr_throttled") + 1])

        harness.wait_until(lambda: throttled() > 0, "a guest that spins is throttled", 60)


@unittest.skipUnless(is_pure_version_2(), "needs root on a host with version 2 alone")
class DelegationTest(harness.Case):
    """A daemon in a group of its own, as a service is, or in one with others, as in a terminal."""

    def start_in(self, group, *flags):
        runner = ("import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write('0'); "
                  "os.execv(sys.argv[2], sys.argv[2:])")
        socket = self.dir / "d.sock"
        with (self.dir / "d.log").open("wb") as log:
            child = self.work.popen([sys.executable, "-I", "-c", runner, group, harness.MAYFLYD, "--socket", socket,
                                     "--state-dir", self.dir / "d.state", *flags], stderr=log, stdout=log)
        harness.wait_until(lambda: socket.exists() or child.poll() is not None, "mayflyd is up", 60)
        self.assertIsNone(child.poll(), (self.dir / "d.log").read_text())
        api = harness.Api(f"unix:{socket}")
        self.addCleanup(api.close)
        return child, api

    def make_group(self, name):
        # As systemd does for a unit with Delegate=.
        (ROOT / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        group = ROOT / f"{name}-{os.getpid()}"
        group.mkdir()
        self.addCleanup(self.remove, group)
        return group

    def remove(self, group):
        for path in sorted(group.rglob("*/"), reverse=True):
            path.rmdir()
        group.rmdir()

    def end(self, child):
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(60), 0, (self.dir / "d.log").read_text())

    def test_a_daemon_alone_in_its_group_makes_room_for_its_vms(self):
        own = self.make_group("service")
        child, api = self.start_in(own)
        self.assertEqual((own / "cgroup.procs").read_text(), "")
        self.assertEqual((own / "mayflyd/cgroup.procs").read_text().split(), [str(child.pid)])
        spec = vm_pb.VmSpec(kernel_path=str(harness.PROBE), agent=False, cmdline="probe.test=spin", memory_mib=32,
                            replace_cmdline=True, allow_slow_kvm=True, limits=vm_pb.ResourceLimits(pids_max=30))
        vm = api.CreateVm(vm_pb.CreateVmRequest(vm_id="a", spec=spec, start=True)).vm
        group = pathlib.Path(vm.jail.cgroups[0])
        self.assertEqual(group.parent, own / "mayfly")
        self.assertEqual((group / "pids.max").read_text(), "30\n")
        self.end(child)
        self.assertFalse((own / "mayfly").exists())

    def test_a_daemon_in_a_group_with_others_moves_nobody_and_says_what_is_missing(self):
        own = self.make_group("terminal")
        other = self.work.popen(["sleep", "1000"])
        (own / "cgroup.procs").write_text(str(other.pid))
        child, api = self.start_in(own)
        self.assertEqual(sorted((own / "cgroup.procs").read_text().split()), sorted([str(other.pid), str(child.pid)]))
        info = api.GetInfo(system_pb.GetInfoRequest())
        self.assertTrue(any("memory" in warning for warning in info.warnings), info)
        self.end(child)
        other.kill()
        other.wait()


@unittest.skipUnless(os.geteuid() == 0 and landlock_abi() > 0, "needs root and Landlock")
class LandlockTest(harness.DaemonCase):
    def test_doctor_tells_the_abi(self):
        checks = {check.name: check for check in self.api.CheckHost(system_pb.CheckHostRequest()).checks}
        self.assertEqual(checks["landlock"].detail, f"ABI {landlock_abi()}")

    def test_vms_run_and_end_under_it(self):
        self.daemon.probe(self.vm_id, "exit")
        self.assert_exit(self.daemon.wait_stopped(self.vm_id), "GUEST_POWEROFF")
