# SPDX-License-Identifier: Apache-2.0
"""What makes a Linux guest one of its own after a restore: the generation id, and what the agent is told."""

import os
import socket
import struct

import harness
from control.monitor_client import Monitor
from harness import agent_pb

AGENT_PORT = 1024
# 2033, to the second.
LATER_S = 2_000_000_000


class Stream:
    """Frames of proto/agent.proto over one end of a socket pair; the other end is `theirs`."""

    def __init__(self, case):
        self.ours, self.theirs = socket.socketpair()
        self.ours.settimeout(harness.PATIENCE)
        for end in (self.ours, self.theirs):
            case.addCleanup(end.close)

    def send(self, message):
        data = message.SerializeToString()
        self.ours.sendall(struct.pack("<I", len(data)) + data)

    def receive(self, kind):
        """The next message, or None where the other side has closed."""
        header = self.ours.recv(4, socket.MSG_WAITALL)
        if not header:
            return None
        return kind.FromString(self.ours.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL))


class KernelTest(harness.Case):
    def test_linux_finds_the_generation_id_and_waits_for_its_interrupt(self):
        # The VMClock's driver is in no kernel of these tests: its page is read by tests/control/vmclock_test.py.
        end = self.mayfly("run", "--", "/bin/sh", "-c",
                          "cd /sys/bus/acpi/devices/; cat AMZNC10C:00/path; cd MFLY0001:00; cat path; readlink driver; "
                          "grep -c 'IO-APIC *1-edge *ACPI:Ged' /proc/interrupts; dmesg | grep -ci 'acpi.*error'")
        self.assertEqual((end.code, end.err), (1, b""), end)  # grep: no error is there
        clock, path, driver, ged, errors = end.out.decode().splitlines()
        self.assertEqual((clock, path, driver.rsplit("/", 1)[-1], ged, errors),
                         ("\\_SB_.VCLK", "\\_SB_.VGEN", "vmgenid", "1", "0"))


class AgentTest(harness.Case):
    """Without a daemon: this test has the host's end of the agent's connection."""

    def setUp(self):
        super().setUp()
        self.monitor, self.link = self.start_monitor("first")

    def start_monitor(self, name):
        monitor = Monitor(self.work, name=name)
        self.addCleanup(monitor.close)
        return monitor, Stream(self)

    def configure(self, monitor, link, **options):
        reply = monitor.configure(kernel=harness.KERNEL, memory_bytes=128 << 20, ports={AGENT_PORT: link.theirs},
                                  **options)
        self.assertFalse(reply.HasField("status"), reply)
        # The monitor's is the only copy: when it closes it, we see that.
        link.theirs.close()
        self.assertTrue(link.receive(agent_pb.AgentToHost).HasField("hello"))

    def boot(self):
        # No root image: the guest stays in its initramfs.
        initrds = [self.file("busybox.cpio", harness.busybox_initrd()), harness.AGENT]
        self.configure(self.monitor, self.link, cmdline="console=hvc0 quiet panic=-1 rdinit=/.mayfly/agent",
                       initrds=initrds)

    def start_in_guest(self, monitor, script):
        stream = Stream(self)
        reply = monitor.call([stream.theirs.fileno()], vsock_connect={"port": AGENT_PORT, "fd": 0})
        self.assertFalse(reply.HasField("status"), reply)
        stream.theirs.close()
        stream.send(agent_pb.ExecInput(start={"argv": ["/bin/busybox", "sh", "-c", script]}))
        return stream

    def run_in_guest(self, monitor, script):
        """What a shell in the guest prints."""
        stream = self.start_in_guest(monitor, script)
        out = b""
        while True:
            message = stream.receive(agent_pb.ExecOutput)
            self.assertFalse(message is None or message.HasField("failed"), message)
            out += message.stdout
            if message.HasField("exited"):
                return out.decode()

    def reseed(self, link, seconds):
        link.send(agent_pb.HostToAgent(restored={"entropy": os.urandom(32), "realtime_ns": seconds * 10**9}))
        reseeded = link.receive(agent_pb.AgentToHost).reseeded
        self.assertEqual(reseeded.failure, "", reseeded)
        return reseeded

    def test_the_agent_takes_entropy_and_time_and_says_so(self):
        self.boot()
        before = int(self.run_in_guest(self.monitor, "busybox date +%s"))
        # Not followed, and not answered.
        self.link.send(agent_pb.HostToAgent(restored={"entropy": b"short", "realtime_ns": 1}))
        reseeded = self.reseed(self.link, LATER_S)
        after = int(self.run_in_guest(self.monitor, "busybox date +%s"))
        self.assertGreaterEqual(after, LATER_S)
        self.assertLess(after, LATER_S + harness.PATIENCE)
        self.assertLess(abs(reseeded.clock_step_us // 10**6 - (LATER_S - before)), harness.PATIENCE)

    def test_an_agent_whose_connection_ends_serves_on(self):
        self.boot()
        self.link.ours.close()
        self.assertEqual(self.run_in_guest(self.monitor, "echo $PPID"), "1\n")

    def test_copies_of_a_guest_have_identities_of_their_own(self):
        self.boot()
        command = self.start_in_guest(self.monitor, "echo $$ > /pid; echo ready; exec busybox sleep 1000")
        while b"ready" not in command.receive(agent_pb.ExecOutput).stdout:
            pass
        self.monitor.call(pause={})
        snapshot, reply = self.monitor.save()
        self.assertFalse(reply.HasField("status"), reply)
        self.addCleanup(snapshot.close)
        random = "busybox head -c 32 /dev/urandom | busybox sha256sum; busybox dmesg | busybox grep -c 'machine fork'"
        drawn = set()
        for cid in (3, 77):
            copy, link = self.start_monitor(f"copy-{cid}")
            self.configure(copy, link, restore=snapshot, generation_id=os.urandom(16), vsock={"guest_cid": cid})
            # Before the agent has done anything: by the generation id alone.
            told = "until busybox dmesg | busybox grep -q 'machine fork'; do busybox sleep 0.1; done; "
            digest, reseeded = self.run_in_guest(copy, told + random).splitlines()
            self.assertEqual(reseeded, "1")
            drawn.add(digest)
            self.reseed(link, LATER_S)
            self.assertGreaterEqual(int(self.run_in_guest(copy, "busybox date +%s")), LATER_S)
            # The command whose connection was the original's: hung up, and reaped.
            self.run_in_guest(copy, "while busybox test -e /proc/$(busybox cat /pid); do busybox sleep 0.1; done")
            self.assertEqual(self.run_in_guest(copy, "busybox ps -o stat | busybox grep -c Z"), "0\n")
        self.monitor.call(resume={})
        digest, reseeded = self.run_in_guest(self.monitor, random).splitlines()
        self.assertEqual(reseeded, "0")
        drawn.add(digest)
        self.assertEqual(len(drawn), 3, drawn)
        self.assertEqual(self.run_in_guest(self.monitor, "busybox test -e /proc/$(busybox cat /pid) && echo lives"),
                         "lives\n")
