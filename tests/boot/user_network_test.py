# SPDX-License-Identifier: Apache-2.0
"""Networks without privilege: Linux guests of an ordinary user's daemon, through passt, in a network namespace that has
one device and a default route."""

import os
import pathlib
import shutil
import signal
import subprocess

import harness
from harness import snapshot_pb, vm_pb

HOST = "198.51.100.2"
# Answers each connection with a line, and with what it said.
SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"you said " + connection.makefile("rb").readline())
"""


class UserNetworkTest(harness.Case):
    UID = 54321

    def setUp(self):
        super().setUp()
        if shutil.which("passt") is None:
            self.fail("passt is missing: scripts/setup test installs it")
        self.namespace = f"mf-{os.getpid()}"
        self.ip("netns", "add", self.namespace)
        self.addCleanup(self.ip, "netns", "delete", self.namespace)
        inside = ("-n", self.namespace)
        self.ip(*inside, "link", "set", "lo", "up")
        self.ip(*inside, "link", "add", "up0", "type", "bridge")
        self.ip(*inside, "address", "add", f"{HOST}/24", "dev", "up0")
        self.ip(*inside, "link", "set", "up0", "up")
        self.ip(*inside, "route", "add", "default", "via", "198.51.100.1")
        self.under = ("ip", "netns", "exec", self.namespace)
        self.daemon = self.start_user_daemon(self.UID, "--snapshot-dir", self.dir / "snapshots", under=self.under)
        self.daemon.need_linux_guests()
        # Where this user may read them.
        self.kernel, self.rootfs = (pathlib.Path(shutil.copy(path, self.dir))
                                    for path in (harness.KERNEL, harness.ROOTFS))
        for path in (self.kernel, self.rootfs):
            path.chmod(0o644)

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def serve(self, address, port):
        server = subprocess.Popen([*self.under, "/usr/bin/python3", "-c", SERVER, address, str(port)],
                                  stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.addCleanup(server.stdout.close)
        self.assertEqual(server.stdout.readline(), b"ready\n")

    def guest(self, vm_id, command, code=0):
        result = self.daemon.exec(vm_id, command)
        self.assertEqual(result.code, code, result)
        return result.out.decode()

    def create(self, vm_id, **net):
        self.daemon.create(vm_id, memory_mib=128, nets=[vm_pb.Net(**net)], kernel_path=str(self.kernel),
                           rootfs=vm_pb.Disk(path=str(self.rootfs), read_only=True))

    def boot(self, vm_id, **net):
        self.create(vm_id, **net)
        self.daemon.wait_ready(vm_id)
        return self.net(vm_id)

    def net(self, vm_id):
        return self.daemon.get(vm_id).spec.nets[0]

    def passts(self):
        """The daemon's own."""
        pids = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                name, rest = path.read_text().split("(", 1)[1].rsplit(")", 1)
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if name.startswith("passt") and int(parent) == self.daemon.pid and state != "Z":
                pids.append(int(path.parent.name))
        return pids

    def reach(self, vm_id, word="hello"):
        # The server closes first: passt of 2023 may lose its end where the guest's has come before.
        self.assertEqual(self.guest(vm_id, f"(echo {word}; sleep 3) | timeout 30 nc {HOST} 7000"), f"you said {word}\n")

    def test_a_guest_has_an_address_by_itself_and_reaches_the_host_and_is_reached_by_ports(self):
        self.serve(HOST, 7000)
        self.serve("127.0.0.1", 7001)
        net = self.boot("one", automatic=True, tcp_ports=[vm_pb.PortForward(host_port=7080, guest_port=80)])
        self.assertTrue(net.user_mode)
        self.assertEqual((net.tap, net.host_address, net.mtu), ("", "", 65520))
        shown = self.guest("one", "ip address show eth0; ip route; cat /etc/resolv.conf")
        self.assertIn(f"inet {net.guest.address}", shown)
        self.assertIn(f"link/ether {net.mac}", shown)
        self.assertIn(f"default via {net.guest.gateway}", shown)
        self.reach("one")
        # The host's own loopback device is not the guest's to reach.
        said = self.guest("one", f"(echo x; sleep 2) | timeout 5 nc {net.guest.gateway} 7001; true")
        self.assertNotIn("you said", said)
        # More than sockets hold at once.
        size = 3_000_000
        self.guest("one", "(while :; do (echo back; sleep 3) | nc -l -p 80 > /tmp/in; done) >/dev/null 2>&1 &")
        client = ("import socket; s = socket.create_connection(('127.0.0.1', 7080), 10); "
                  f"s.sendall(bytes({size})); print(s.makefile().readline().strip())")

        def comes_back():
            out = subprocess.run([*self.under, "/usr/bin/python3", "-c", client], capture_output=True, text=True,
                                 check=False)
            return out.stdout == "back\n"

        harness.wait_until(comes_back, "the guest answers at the host's port", 60)
        harness.wait_until(lambda: self.guest("one", "stat -c %s /tmp/in").strip() == str(size), "all of it came", 60)
        self.assertEqual(len(self.passts()), 1)
        self.daemon.delete("one")
        harness.wait_until(lambda: not self.passts(), "passt has gone", 10)

    def test_each_copy_of_a_guest_has_a_network_of_its_own(self):
        self.serve(HOST, 7000)
        original = self.boot("one", automatic=True)
        api = self.daemon.api
        disks = [snapshot_pb.DiskOverride(index=0, path=str(self.rootfs))]
        overrides = snapshot_pb.RestoreOverrides(disks=disks)
        api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"))
        api.RestoreVm(snapshot_pb.RestoreVmRequest(snapshot_id="s", vm_id="two", start=True, overrides=overrides))
        clones = [snapshot_pb.Clone(vm_id="c0", overrides=overrides)]
        for response in api.CloneVm(snapshot_pb.CloneVmRequest(source_vm_id="one", clones=clones, start=True)):
            self.assertTrue(response.HasField("vm"), response)
        for vm_id in ("two", "c0"):
            self.daemon.wait_ready(vm_id)
            net = self.net(vm_id)
            self.assertNotEqual(net.guest.address, original.guest.address)
            self.assertIn(f"inet {net.guest.address}", self.guest(vm_id, "ip address show eth0"))
            self.reach(vm_id)
        self.reach("one")
        self.assertEqual(len(self.passts()), 3)

    def test_a_network_that_ends_is_told_of_and_goes_with_its_daemon(self):
        self.boot("one", user_mode=True)
        self.boot("two", user_mode=True)
        first, second = sorted(self.passts())
        os.kill(first, signal.SIGKILL)
        harness.wait_until(lambda: self.net("one").failure or self.net("two").failure, "its end is told of", 10)
        ended, going = ("one", "two") if self.net("one").failure else ("two", "one")
        self.assertIn("signal 9", self.net(ended).failure)
        harness.wait_until(lambda: self.guest(ended, "cat /sys/class/net/eth0/carrier").strip() == "0",
                           "the guest's link is down", 10)
        self.assertEqual(self.guest(going, "cat /sys/class/net/eth0/carrier").strip(), "1")
        self.daemon.kill()
        harness.wait_until(lambda: not harness.is_alive(second), "passt has gone", 20)

    def test_what_cannot_be_is_refused_and_leaves_nothing(self):
        def create(**net):
            return lambda: self.create("one", **net)

        self.assert_refused(create(user_mode=True, tap="x"), "INVALID_ARGUMENT", "NET_USER_MODE", "nets[0].tap")
        self.assert_refused(create(user_mode=True, tcp_ports=[vm_pb.PortForward(host_port=70000)]), "INVALID_ARGUMENT",
                            "NET_PORTS", "70000")
        self.assert_refused(create(tap="x", tcp_ports=[vm_pb.PortForward(host_port=1)]), "INVALID_ARGUMENT",
                            "NET_PORTS")
        self.serve("127.0.0.1", 7002)
        self.assert_refused(create(user_mode=True, tcp_ports=[vm_pb.PortForward(host_port=7002)]),
                            "FAILED_PRECONDITION", "NET_PASST", "7002")
        self.assertEqual(self.passts(), [])
        self.assertEqual(self.daemon.vms(), [])
