# SPDX-License-Identifier: Apache-2.0
"""Monitors in their jails, on this host's own cgroups: who they are, what bounds them, and that nothing stays."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import unittest

import grpc
import harness
from harness import system_pb, vm_pb

FIRST, LAST = 910_000, 910_003
NOBODY = 65534


def status(pid):
    """/proc/PID/status as a dictionary of lists of words."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {key: value.split() for key, _, value in (line.partition(":") for line in text.splitlines())}


def namespaces(pid):
    return {path.name: os.readlink(path) for path in pathlib.Path(f"/proc/{pid}/ns").iterdir()}


def first_line(path):
    return pathlib.Path(path).read_text().splitlines()[0]


def checks(daemon):
    return {check.name: check for check in daemon.api.CheckHost(system_pb.CheckHostRequest(refresh=True)).checks}


def has_controller(daemon, name):
    return checks(daemon)[f"cgroup-{name}"].status == system_pb.CHECK_STATUS_OK


def as_root(test):
    return unittest.skipUnless(os.geteuid() == 0, "only root gives VMs ids of their own")(test)


class JailCase(harness.Case):
    """Daemons whose VMs have groups below one of this test's own, which goes with them."""

    parent = f"/mayfly-test-{os.getpid()}"

    def setUp(self):
        self.addCleanup(self.assert_no_groups)  # Done last, after the daemons have ended.
        super().setUp()

    def start_jailed(self, *flags, **options):
        return self.start_daemon("--cgroup-parent", self.parent, *flags, **options)

    def assert_no_groups(self):
        # Other daemons' groups come and go meanwhile, which os.walk() passes over.
        left = [root for root, names, _ in os.walk("/sys/fs/cgroup") if self.parent[1:] in names]
        self.assertEqual(left, [], "groups were left behind")


@as_root
class RootTest(JailCase):
    def test_a_monitor_is_nobody_in_empty_namespaces_and_a_group_of_its_own(self):
        daemon = self.start_jailed("--uid-range", f"{FIRST}-{LAST}")
        self.assertEqual(daemon.get_info().jail_mode, vm_pb.JAIL_MODE_ROOT)
        for vm_id in ("a", "b"):
            daemon.probe(vm_id, "probe.test=spin")
        vms = [daemon.get(vm_id) for vm_id in ("a", "b")]
        self.assertEqual(len({vm.jail.uid for vm in vms}), 2)
        for vm in vms:
            pid, jail = vm.monitor_pid, vm.jail
            self.assertEqual((jail.mode, jail.uid), (vm_pb.JAIL_MODE_ROOT, jail.gid))
            self.assertIn(jail.uid, range(FIRST, LAST + 1))
            now = status(pid)
            self.assertEqual((now["Uid"], now["Gid"], now["Groups"]), ([str(jail.uid)] * 4, [str(jail.gid)] * 4, []))
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(int(now[kind][0], 16), 0, kind)
            self.assertEqual((now["NoNewPrivs"], now["NSpid"][1:]), (["1"], ["1"]))
            ours = namespaces(os.getpid())
            shared = {name for name, value in namespaces(pid).items() if ours.get(name) == value}
            allowed = {"time", "time_for_children"} | (set() if self.nests(daemon) else {"user"})
            self.assertLessEqual(shared, allowed)
            self.assertEqual(os.listdir(f"/proc/{pid}/root/"), [])
            self.assertGreater(len(jail.cgroups), 0)
            for path in jail.cgroups:
                self.assertIn(str(pid), pathlib.Path(path, "cgroup.procs").read_text().split(), path)
                self.assertTrue(path.endswith(f"-{vm.vm_id}"), path)
        for vm in vms:
            daemon.delete(vm.vm_id)
            for path in vm.jail.cgroups:
                self.assertFalse(os.path.exists(path), path)

    def nests(self, daemon):
        return checks(daemon)["user-namespaces"].status == system_pb.CHECK_STATUS_OK

    def test_the_limits_are_the_kernels_and_the_defaults_are_told(self):
        daemon = self.start_jailed()
        for name in ("cpu", "memory", "pids"):
            if not has_controller(daemon, name):
                self.skipTest(f"this host gives no {name} controller")
        limits = vm_pb.ResourceLimits(cpu_milli=1500, cpu_weight=200, memory_mib=256, pids_max=99)
        daemon.probe("asked", "probe.test=spin", limits=limits)
        vm = daemon.get("asked")
        self.assertEqual(vm.spec.limits, limits)
        wanted = {"memory.max": str(256 << 20), "memory.limit_in_bytes": str(256 << 20), "pids.max": "99",
                  "cpu.max": "150000 100000", "cpu.cfs_quota_us": "150000", "cpu.weight": "200", "cpu.shares": "2048"}
        found = {name: first_line(f"{path}/{name}") for path in vm.jail.cgroups for name in wanted
                 if os.path.exists(f"{path}/{name}")}
        self.assertEqual(len(found), 4, found)
        self.assertEqual(found, {name: wanted[name] for name in found})
        daemon.probe("default", "probe.test=spin", vcpus=2)
        self.assertEqual(daemon.get("default").spec.limits, vm_pb.ResourceLimits(memory_mib=32 + 64 + 1, pids_max=66))

    def test_the_command_line_asks_for_the_same(self):
        daemon = self.start_jailed()
        for name in ("cpu", "memory", "pids"):
            if not has_controller(daemon, name):
                self.skipTest(f"this host gives no {name} controller")
        end = self.mayfly("--socket", daemon.target, "create", "a", "--kernel", harness.PROBE, "--rootfs", "none",
                          "--no-agent", "--allow-slow-kvm", "--memory-mib", "32", "--cpus", "0.25", "--cpu-weight", "7",
                          "--memory-limit-mib", "300", "--pids-max", "40")
        self.assertEqual(end.code, 0, end)
        limits = vm_pb.ResourceLimits(cpu_milli=250, cpu_weight=7, memory_mib=300, pids_max=40)
        self.assertEqual(daemon.get("a").spec.limits, limits)

    def test_a_disk_is_limited_by_the_device_that_holds_it(self):
        daemon = self.start_jailed()
        if not has_controller(daemon, "io"):
            self.skipTest("this host gives no io controller")
        limits = vm_pb.DiskLimits(read_bytes_per_s=1 << 20, write_ops_per_s=100)
        disk = vm_pb.Disk(path=str(self.file("disk", size=1 << 20)), limits=limits)
        device = os.stat(self.dir).st_dev
        if not os.path.exists(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"):
            self.assert_refused(lambda: daemon.probe("a", "exit", disks=[disk]), "FAILED_PRECONDITION",
                                "NO_BLOCK_DEVICE", "disks[0].limits")
            self.skipTest("the test's directory is on no block device; the refusal was checked")
        daemon.probe("a", "probe.test=spin", disks=[disk])
        vm = daemon.get("a")
        self.assertEqual(vm.spec.disks[0].limits, limits)
        text = "".join(path.read_text() for group in vm.jail.cgroups for path in pathlib.Path(group).glob("*")
                       if re.match(r"io\.max|blkio\.throttle\.(read_bps|write_iops)_device", path.name))
        for wanted in (r"rbps=1048576 |(?m:^\d+:\d+ 1048576$)", r"wiops=100\n|(?m:^\d+:\d+ 100$)"):
            self.assertRegex(text, wanted)
        other = vm_pb.Disk(path=str(self.file("other", size=1 << 20)))
        self.assert_refused(lambda: daemon.probe("b", "exit", disks=[vm_pb.Disk(path=disk.path, read_only=True,
                                                                                limits=limits), other]),
                            "FAILED_PRECONDITION", "DISK_IN_USE")
        disk.path = str(self.file("third", size=1 << 20))
        self.assert_refused(lambda: daemon.probe("b", "exit", disks=[disk, other]), "INVALID_ARGUMENT",
                            "DISK_LIMITS_SHARED", "disks[1].limits.read_bytes_per_s")

    def test_a_range_that_is_used_up_is_named_and_what_ends_gives_its_id_back(self):
        daemon = self.start_jailed("--uid-range", f"{FIRST}-{LAST}")
        for index in range(LAST - FIRST + 1):
            daemon.probe(f"vm-{index}", "probe.test=spin")
        self.assertEqual({vm.jail.uid for vm in daemon.vms()}, set(range(FIRST, LAST + 1)))
        before = harness.fd_count(daemon.pid)
        self.assert_refused(lambda: daemon.probe("more", "exit"), "RESOURCE_EXHAUSTED", "UIDS_EXHAUSTED",
                            f"{FIRST}-{LAST}")
        self.assertEqual(harness.fd_count(daemon.pid), before)
        # A second daemon of this host has the range's ids no more than the first.
        other = self.start_daemon("--uid-range", f"{FIRST}-{LAST}", name="other")
        self.assert_refused(lambda: other.probe("more", "exit"), "RESOURCE_EXHAUSTED", "UIDS_EXHAUSTED")
        # Stopped is enough: the VM is still listed.
        freed = daemon.get("vm-2").jail.uid
        daemon.api.StopVm(vm_pb.StopVmRequest(vm_id="vm-2", grace_ms=0))
        other.probe("more", "probe.test=spin")
        self.assertEqual(other.get("more").jail.uid, freed)

    def test_failed_creates_leave_no_group_and_no_id_in_use(self):
        daemon = self.start_jailed("--uid-range", f"{FIRST}-{FIRST}")
        bad = self.file("kernel", b"no kernel" * 100)
        for _ in range(3):
            with self.assertRaises(grpc.RpcError):
                daemon.probe("a", "exit", kernel_path=str(bad))
        daemon.probe("a", "exit")
        vm = daemon.wait_stopped("a")
        self.assertEqual(vm.exit.reason, vm_pb.EXIT_REASON_GUEST_POWEROFF)
        for path in vm.jail.cgroups:
            harness.wait_until(lambda path=path: not os.path.exists(path), f"{path} is gone", 10)

    def test_refused_values_name_field_value_and_limit(self):
        daemon = self.start_jailed()
        for field, value, words in (("cpu_milli", 5, ("5", "10", "1024000")), ("cpu_weight", 0, ("0", "10000")),
                                    ("memory_mib", 40, ("40", "97")), ("pids_max", 3, ("3", "9"))):
            with self.subTest(field):
                limits = vm_pb.ResourceLimits(**{field: value})
                self.assert_refused(lambda limits=limits: daemon.probe("a", "exit", limits=limits), "INVALID_ARGUMENT",
                                    "RESOURCE_LIMIT", f"limits.{field}", *words)
        self.assertEqual(list(daemon.vms()), [])

    def test_a_killed_daemon_s_groups_are_swept_by_the_next(self):
        daemon = self.start_daemon()
        daemon.probe("a", "probe.test=spin")
        vm = daemon.get("a")
        daemon.kill()
        self.start_daemon()
        self.assertFalse(harness.is_alive(vm.monitor_pid))
        for path in vm.jail.cgroups:
            self.assertFalse(os.path.exists(path), path)

    def test_wrong_flags_are_said_at_the_start(self):
        for flags, words in ((["--jail", "chroot"], "none of auto, root, user, off"),
                             (["--uid-range", "0-10"], "holds 0"), (["--uid-range", "x"], "FIRST-LAST"),
                             (["--cgroup-parent", "../up"], "not an absolute path")):
            with self.subTest(flags):
                end = self.work.run([harness.MAYFLYD, "--socket", self.dir / "x.sock", "--state-dir",
                                     self.dir / "x.state", *flags], timeout=30)
                self.assertEqual(end.code, 1, end)
                self.assertIn(words, end.err.decode())
                self.assertFalse((self.dir / "x.state").exists())

    def test_the_daemon_keeps_only_what_it_needs(self):
        daemon = self.start_jailed()
        now = status(daemon.pid)
        kept = sum(1 << number for number in (1, 5, 6, 7, 8, 12, 18, 19, 21))
        for kind in ("CapPrm", "CapEff", "CapBnd"):
            self.assertEqual(int(now[kind][0], 16) & ~kept, 0, kind)
        self.assertEqual((int(now["CapInh"][0], 16), int(now["CapAmb"][0], 16), now["NoNewPrivs"]), (0, 0, ["1"]))
        limits = pathlib.Path(f"/proc/{daemon.pid}/limits").read_text()
        self.assertRegex(limits, r"Max core file size +0 +0")

    def test_what_being_born_in_a_group_costs(self):
        """Figures, and that the path is not slower than the kernel makes it."""
        daemon, off = self.start_jailed(), self.start_daemon("--jail=off", name="off")
        spans = {"jailed": [], "off": []}
        for index in range(20):
            for name, each in (("jailed", daemon), ("off", off)):
                times = each.probe(f"vm-{index}", "exit").times
                phases = {phase.name: phase.duration_us for phase in times.phases}
                spans[name].append(phases | {"total": times.total_us})
                each.delete(f"vm-{index}")
        middle = {name: {key: sorted(span.get(key, 0) for span in rows)[len(rows) // 2]
                         for key in rows[0]}
                  for name, rows in spans.items()}
        harness.print_figures("create, microseconds", **middle)
        self.assertLess(middle["jailed"]["total"], middle["off"]["total"] + 100_000)


class OffTest(harness.Case):
    def test_off_is_loud_and_sets_no_limits(self):
        daemon = self.start_daemon("--jail=off")
        self.assertIn("--jail=off: monitors are not confined", daemon.log_text())
        info = daemon.get_info()
        self.assertEqual(info.jail_mode, vm_pb.JAIL_MODE_OFF)
        self.assertTrue(any(warning.startswith("--jail=off") for warning in info.warnings), info)
        check = checks(daemon)["jail"]
        self.assertEqual((check.status, bool(check.remedy)), (system_pb.CHECK_STATUS_WARNING, True))
        daemon.probe("a", "probe.test=spin")
        vm = daemon.get("a")
        self.assertEqual((vm.jail.mode, vm.jail.uid, list(vm.jail.cgroups)), (vm_pb.JAIL_MODE_OFF, 0, []))
        self.assertEqual(status(vm.monitor_pid)["Uid"], [str(os.geteuid())] * 4)
        self.assert_refused(lambda: daemon.probe("b", "exit", limits=vm_pb.ResourceLimits(cpu_milli=100)),
                            "FAILED_PRECONDITION", "JAIL_OFF", "--jail=off")


@as_root
class UserTest(harness.Case):
    """As an ordinary user, by root's becoming one."""

    def test_an_ordinary_user_s_daemon_jails_by_user_namespaces(self):
        kvm = self.dir / "kvm"
        os.mknod(kvm, 0o20600, os.stat("/dev/kvm").st_rdev)
        os.chmod(kvm, 0o666)
        home = self.work.run_dir
        os.chmod(self.dir, 0o755)
        os.chown(home, NOBODY, NOBODY)
        # The tree may lie where only root may look.
        programs = self.dir / "programs"
        programs.mkdir()
        for program in (harness.MAYFLYD, harness.VMM, harness.OUT / "mayfly-jailer", harness.PROBE):
            shutil.copy(program, programs)
        log = (self.dir / "user.log").open("wb")
        self.addCleanup(log.close)
        socket = home / "u.sock"
        child = self.work.popen([programs / harness.MAYFLYD.name, "--socket", socket, "--kvm-device", kvm],
                                user=NOBODY, group=NOBODY, extra_groups=[], stderr=log)
        harness.wait_until(lambda: socket.exists() or child.poll() is not None, "mayflyd is up", 30)
        self.assertIsNone(child.poll(), (self.dir / "user.log").read_text())
        api = harness.Api(f"unix:{socket}")
        self.addCleanup(api.close)
        info = api.GetInfo(system_pb.GetInfoRequest())
        self.assertEqual(info.jail_mode, vm_pb.JAIL_MODE_USER)
        spec = vm_pb.VmSpec(kernel_path=str(programs / harness.PROBE.name), agent=False, cmdline="probe.test=spin",
                            memory_mib=32, replace_cmdline=True, allow_slow_kvm=True)
        api.CreateVm(vm_pb.CreateVmRequest(vm_id="a", spec=spec, start=True))
        vm = api.GetVm(vm_pb.GetVmRequest(vm_id="a")).vm
        self.assertEqual(vm.jail.mode, vm_pb.JAIL_MODE_USER)
        now = status(vm.monitor_pid)
        self.assertEqual((now["Uid"], now["NSpid"][1:], int(now["CapEff"][0], 16)), ([str(NOBODY)] * 4, ["1"], 0))
        self.assertNotEqual(namespaces(vm.monitor_pid)["user"], namespaces(os.getpid())["user"])
        self.assertEqual(os.listdir(f"/proc/{vm.monitor_pid}/root/"), [])
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(60), 0)

    def test_where_user_namespaces_are_forbidden_run_says_which_setting_and_flag(self):
        # In a user namespace of the test's own, whose limit on those below it is the test's to set.
        script = ("echo 0 > /proc/sys/user/max_user_namespaces; "
                  f"exec setpriv --reuid 0 {harness.MAYFLYD} --jail=user --socket {self.dir}/x.sock")
        end = self.work.run(["unshare", "--user", "--map-root-user", "sh", "-c", script], timeout=30)
        self.assertEqual(end.code, 1, end)
        for word in ("user.max_user_namespaces is 0", "--jail=off", "sudo sysctl"):
            self.assertIn(word, end.err.decode())


class DoctorTest(harness.DaemonCase):
    def test_doctor_tells_of_every_part_of_the_jail(self):
        found = checks(self.daemon)
        for name in ("jail", "uid-range", "seccomp", "landlock", "user-namespaces", "cgroup-cpu", "cgroup-memory",
                     "cgroup-pids", "cgroup-io"):
            self.assertIn(name, found)
        for check in found.values():
            self.assertEqual(check.status == system_pb.CHECK_STATUS_OK, check.remedy == "", check)
        end = self.work.mayfly("--socket", self.daemon.target, "doctor", "--json")
        self.assertIn("landlock", [check["name"] for check in json.loads(end.out)["checks"]])


class UnitTest(harness.Case):
    def test_systemd_takes_the_example_unit(self):
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["systemd-analyze", "--version"], check=True, capture_output=True)
            text = (harness.ROOT / "examples/systemd/mayflyd.service").read_text()
            unit = self.file("mayflyd.service", text.replace("/usr/local/bin/mayflyd", str(harness.MAYFLYD)).encode())
            end = self.work.run(["systemd-analyze", "verify", "--man=no", unit], timeout=60)
            self.assertEqual((end.code, end.err), (0, b""), end)
            return
        self.skipTest("systemd-analyze is not installed")
