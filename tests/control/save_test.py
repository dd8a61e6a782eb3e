# SPDX-License-Identifier: Apache-2.0
"""Saving a paused VM and restoring it, by the monitor's control socket: the probe guest goes on where it was."""

import fcntl
import hashlib
import os
import re
import shutil

import harness
from control.monitor_client import Monitor, Snapshot
from harness import control_pb

MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407
F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1033, 2, 4, 8


def values(count):
    """The numbers that the probe's churn says, by round."""
    value, found = 1, {}
    for number in range(count):
        value = (value * MULTIPLIER + INCREMENT) % (1 << 64)
        if number % 64 == 0:
            found[number] = value
    return found


def rounds(console):
    return [(int(number), int(value)) for number, value in re.findall(rb"^round (\d+) (\d+)$", console, re.MULTILINE)]


class SaveTest(harness.Case):
    COUNT = 6400

    def monitor(self, *flags):
        monitor = Monitor(self.work, *flags, name=f"m{len(self.work.children)}")
        self.addCleanup(monitor.close)
        return monitor

    def configured(self, *words, **options):
        monitor = self.monitor()
        reply = monitor.configure(*words, **options)
        self.assertFalse(reply.HasField("status"), (reply, monitor.errors.read_text()))
        return monitor

    def ok(self, reply):
        self.assertFalse(reply.HasField("status"), reply)
        return reply

    def churn(self, disk, lines=5, **options):
        """A VM that is paused amid its work."""
        monitor = self.configured(f"probe.test=churn probe.count={self.COUNT}", disks=[disk], **options)
        self.run_on(monitor, lines)
        return monitor

    def run_on(self, monitor, lines):
        harness.wait_until(lambda: len(rounds(monitor.console())) >= lines, "the guest works")
        self.ok(monitor.call(pause=control_pb.Pause()))

    def save(self, monitor, changed_from=None):
        snapshot, reply = monitor.save(changed_from)
        self.addCleanup(snapshot.close)
        return snapshot, self.ok(reply).saved

    def seal(self, snapshot):
        fcntl.fcntl(snapshot.memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

    def assert_ends_well(self, monitor, after=b""):
        """`after`: what was on the console of the VM that this one goes on from."""
        self.assertEqual(monitor.wait(), 0)
        console = after + monitor.console()
        self.assertTrue(console.endswith(b"PASS churn\n"), (console[-200:], monitor.errors.read_text()))
        self.assertEqual(monitor.exit_report().reason, control_pb.EXIT_REASON_GUEST_POWEROFF)
        self.assertEqual(dict(rounds(console)), values(self.COUNT))
        self.assertEqual([number for number, _ in rounds(console)], list(range(0, self.COUNT, 64)))

    def copy_of(self, disk, name):
        return shutil.copy(disk, self.dir / name)

    def test_original_and_restored_go_on_independently_from_where_it_stood(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, saved = self.save(original)
        self.assertGreater(saved.tsc_khz, 0)
        self.seal(snapshot)
        before, said = hashlib.sha256(snapshot.image()).digest(), original.console()
        restored = self.configured(restore=snapshot, disks=[self.copy_of(disk, "copy")])
        self.ok(original.call(resume=control_pb.Resume()))
        self.assert_ends_well(original)
        self.assert_ends_well(restored, said)
        self.assertEqual(hashlib.sha256(snapshot.image()).digest(), before, "somebody wrote to what was left behind")
