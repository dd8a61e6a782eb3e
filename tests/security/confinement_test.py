# SPDX-License-Identifier: Apache-2.0
"""What a running VM looks like from outside, for every set of devices: each thread filtered, no capability, namespaces
with nothing in them, ids of its own, and only the descriptors that it was made with."""

import contextlib
import json
import os
import pathlib
import re
import stat
import sys

import grpc
import harness
from harness import vm_pb
from security import host

NO_CAPABILITY = "0" * 16
SECCOMP_FILTER = "2"

PAGEMAP = r"/proc/\d+/pagemap"
# Every descriptor that a monitor may have: what it is -> the most there may be, for `disks` and `vcpus`.
DESCRIPTORS = {
    r"/dev/null": lambda disks, vcpus: 2,
    r"/dev/kvm|.*/kvm": lambda disks, vcpus: 1,
    r"anon_inode:kvm-vm": lambda disks, vcpus: 1,
    r"anon_inode:kvm-vcpu:\d+": lambda disks, vcpus: vcpus,
    # Its own: which of its pages are there.
    PAGEMAP: lambda disks, vcpus: 1,
    r"anon_inode:\[io_uring\]": lambda disks, vcpus: 1,
    # The loop's and vsock's own, the console's, and one for each queue: console 2, entropy 1, vsock 3, each disk 1.
    r"anon_inode:\[eventfd\]": lambda disks, vcpus: 3 + 6 + disks,
    # Standard error and the console's input.
    r"pipe:\[\d+\]": lambda disks, vcpus: 2,
    # The listener, the daemon's connection, the agent's stream.
    r"socket:\[\d+\]": lambda disks, vcpus: 3,
    r"/memfd:mayfly-guest \(deleted\)": lambda disks, vcpus: 1,
    r".*/vms/[^/]+/console": lambda disks, vcpus: 1,
    r".*/vms/[^/]+/exit": lambda disks, vcpus: 1,
    r".*/disk-\d": lambda disks, vcpus: disks,
}

DEVICE_SETS = {
    "bare": {"disks": 0, "agent": False, "vcpus": 1},
    "disk": {"disks": 1, "agent": False, "vcpus": 1},
    "read-only-disk": {"disks": 1, "read_only": True, "agent": True, "vcpus": 1},
    "all": {"disks": 3, "agent": True, "vcpus": 4},
    "serial": {"disks": 0, "agent": False, "vcpus": 1, "debug_serial": True},
}


class Jailed:
    """The checks, for a daemon in either mode."""

    def create_set(self, vm_id, disks, vcpus, agent, read_only=False, **spec):
        images = [vm_pb.Disk(path=str(self.disk(f"disk-{index}")), read_only=read_only) for index in range(disks)]
        self.daemon.probe(vm_id, "probe.test=spin", vcpus=vcpus, agent=agent, disks=images, **spec)
        return self.daemon.get(vm_id)

    def disk(self, name):
        path = self.file(name, size=1 << 20)
        path.chmod(0o666)
        return path

    def test_every_set_of_devices_is_confined(self):
        for name, devices in DEVICE_SETS.items():
            with self.subTest(name):
                vm = self.create_set(name, **devices)
                try:
                    self.check_threads(vm, devices["vcpus"])
                    self.check_namespaces(vm.monitor_pid)
                    self.check_root(vm.monitor_pid)
                    self.check_process(vm)
                    self.check_limits(vm)
                    self.check_descriptors(vm.monitor_pid, devices)
                    self.check_memory(vm.monitor_pid)
                finally:
                    self.daemon.delete(name)

    def check_threads(self, vm, vcpus):
        # Newer kernels show threads of KVM's own among ours; those run no code of the process.
        threads = [thread for thread in os.listdir(f"/proc/{vm.monitor_pid}/task")
                   if not host.status(vm.monitor_pid, thread)["Name"].startswith("kvm-")]
        self.assertEqual(len(threads), 1 + vcpus)
        for thread in threads:
            fields = host.status(vm.monitor_pid, thread)
            seen = {key: fields[key] for key in ("Seccomp", "NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd",
                                                 "CapAmb", "Groups")}
            self.assertEqual(seen, {"Seccomp": SECCOMP_FILTER, "NoNewPrivs": "1", "CapInh": NO_CAPABILITY,
                                    "CapPrm": NO_CAPABILITY, "CapEff": NO_CAPABILITY, "CapBnd": NO_CAPABILITY,
                                    "CapAmb": NO_CAPABILITY, "Groups": ""}, fields["Name"])
            # The start's filter and the thread's own, which the loop enters when it has answered.
            harness.wait_until(lambda: host.status(vm.monitor_pid, thread)["Seccomp_filters"] == "2",  # noqa: B023
                               f"{fields['Name']} is under its own filter", 10)
            self.assertEqual(fields["Uid"].split(), [str(self.uid(vm))] * 4)
            self.assertEqual(fields["Gid"].split(), [str(self.uid(vm))] * 4)

    def check_namespaces(self, pid):
        daemon, monitor = host.namespaces(self.daemon.pid), host.namespaces(pid)
        # The time namespace is the host's: no clock in it can be set without a capability.
        for kind in ("mnt", "pid", "ipc", "uts", "net", "cgroup", "user"):
            self.assertNotEqual(monitor[kind], daemon[kind], kind)
        self.assertEqual(host.status(pid)["NSpid"].split()[1:], ["1"])

    def check_root(self, pid):
        (mount,) = pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        fields = mount.split()
        self.assertEqual((fields[4], fields[fields.index("-") + 1]), ("/", "tmpfs"))
        self.assertLessEqual({"ro", "nosuid", "nodev", "noexec"}, set(fields[5].split(",")), mount)
        self.assertEqual(os.listdir(f"/proc/{pid}/root"), [])
        self.assertEqual(os.readlink(f"/proc/{pid}/cwd"), "/")
        probe = pathlib.Path(f"/proc/{pid}/root/file")
        with self.assertRaises(OSError):
            probe.touch()  # Not even by root.

    def check_process(self, vm):
        pid = vm.monitor_pid
        self.assertEqual(pathlib.Path(f"/proc/{pid}/environ").read_bytes(), b"")
        # Root owns what describes a process that is not dumpable.
        self.assertEqual(os.stat(f"/proc/{pid}/mem").st_uid, 0)
        self.assertNotEqual(os.getsid(pid), os.getsid(self.daemon.pid))
        for group in vm.jail.cgroups:
            self.assertEqual(host.programs_in(group), [str(pid)])

    def check_limits(self, vm):
        limits = {}
        for line in pathlib.Path(f"/proc/{vm.monitor_pid}/limits").read_text().splitlines()[1:]:
            name, soft, hard = re.match(r"(.{26})(\S+)\s+(\S+)", line).groups()
            limits[name.strip()] = (soft, hard)
        self.assertEqual(limits["Max core file size"], ("0", "0"))
        soft, hard = limits["Max open files"]
        self.assertEqual(soft, hard)
        self.assertLessEqual(int(hard), 4096)

    def check_descriptors(self, pid, devices):
        counts = {}
        for number in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{number}")
            kinds = [kind for kind in DESCRIPTORS if re.fullmatch(kind, target)]
            self.assertEqual(len(kinds), 1, f"descriptor {number} is {target}")
            counts[kinds[0]] = counts.get(kinds[0], 0) + 1
            flags = int(re.search(r"flags:\s+(\d+)", pathlib.Path(f"/proc/{pid}/fdinfo/{number}").read_text())[1], 8)
            if "/disk-" in target and devices.get("read_only"):
                self.assertEqual(flags & os.O_ACCMODE, os.O_RDONLY, target)
            self.assertFalse(stat.S_ISDIR(os.stat(f"/proc/{pid}/fd/{number}").st_mode), target)
        self.assertEqual(counts.get(PAGEMAP), 1)
        for kind, most in DESCRIPTORS.items():
            self.assertLessEqual(counts.get(kind, 0), most(devices["disks"], devices["vcpus"]), kind)

    def check_memory(self, pid):
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            self.assertFalse("w" in line.split()[1] and "x" in line.split()[1], line)

    def test_two_vms_share_only_what_is_empty(self):
        first, second = (self.create_set(name, disks=0, vcpus=1, agent=False) for name in ("first", "second"))
        one, other = host.namespaces(first.monitor_pid), host.namespaces(second.monitor_pid)
        for kind in ("mnt", "pid", "ipc", "uts", "cgroup", "user"):
            self.assertNotEqual(one[kind], other[kind], kind)
        if first.jail.mode == vm_pb.JAIL_MODE_ROOT:
            self.assertNotEqual(first.jail.uid, second.jail.uid)
        interfaces = self.inside_network(first.monitor_pid)
        self.assertEqual(interfaces, {"lo": False})

    def inside_network(self, pid):
        """The interfaces of its network namespace, and whether each is up."""
        code = ("import socket, fcntl, struct, json; s = socket.socket()\n"
                "flags = lambda n: struct.unpack('16sh', fcntl.ioctl(s, 0x8913, n.encode().ljust(18, b'\\0')))[1]\n"
                "print(json.dumps({n: bool(flags(n) & 1) for _, n in socket.if_nameindex()}))")
        end = self.work.run(["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-I", "-c", code])
        self.assertEqual(end.code, 0, end)
        return json.loads(end.out)


class RootConfinementTest(Jailed, host.RootCase, harness.DaemonCase):
    def uid(self, vm):
        self.assertEqual(vm.jail.mode, vm_pb.JAIL_MODE_ROOT)
        self.assertEqual(vm.jail.uid, vm.jail.gid)
        self.assertNotIn(vm.jail.uid, (0, os.getuid()))
        return vm.jail.uid

    def test_the_number_of_threads_is_limited(self):
        vm = self.create_set("threads", disks=0, vcpus=1, agent=False)
        limits = pathlib.Path(f"/proc/{vm.monitor_pid}/limits").read_text()
        most = re.search(r"Max processes +(\d+) +(\d+)", limits).groups()
        self.assertEqual(most[0], most[1])
        self.assertLessEqual(int(most[1]), 256)


class UserConfinementTest(Jailed, host.RootCase):
    """A daemon that is an ordinary user's."""

    UID = 910_000

    def setUp(self):
        super().setUp()
        os.chown(self.work.run_dir, self.UID, self.UID)
        self.daemon = self.start_user_daemon(self.UID)
        self.addCleanup(self.remove_vms)

    def remove_vms(self):
        with contextlib.suppress(grpc.RpcError):
            for vm in self.daemon.vms():
                self.daemon.delete(vm.vm_id)

    def uid(self, vm):
        self.assertEqual(vm.jail.mode, vm_pb.JAIL_MODE_USER)
        return self.UID
