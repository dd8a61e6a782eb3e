# SPDX-License-Identifier: Apache-2.0
"""A host whose memory runs out while a VM is restored. Cgroups of version 2, as in cgroup_test.py."""

import unittest

import harness
from control.memory_test import MIB
from control.working_set_test import LATENCY, LAZY, WorkingSetCase
from harness import snapshot_pb
from security.cgroup_test import PARENT, is_pure_version_2


@unittest.skipUnless(is_pure_version_2(), "needs root on a host with version 2 alone")
class HostMemoryTest(WorkingSetCase):
    """The guest knows 14 MiB, which are copied before it runs; all VMs together may have less."""

    PAGES = 3584

    def test_a_restore_that_finds_no_memory_is_told_so_and_leaves_nothing(self):
        self.prepare()
        self.record()
        for vm_id in ("one", "recorder"):
            self.daemon.delete(vm_id)
        limit = PARENT / "memory.max"
        self.addCleanup(limit.write_text, "max")
        limit.write_text(str(8 * MIB))
        copies = self.overrides(memory_policy=LATENCY)
        for turn in range(3):
            self.assert_refused(lambda turn=turn: self.restore(vm_id=f"big-{turn}", overrides=copies),
                                "UNAVAILABLE", "MONITOR_GONE", "signal 9")
        clones = {f"clone-{number}": copies for number in range(3)}
        for response in self.clone(clones, snapshot_id="s").values():
            self.assertIn("signal 9", response.error.message, response)
        self.assertEqual(self.daemon.vms(), [])
        self.assertEqual([path.name for path in PARENT.iterdir() if path.is_dir()], [])
        # One that needs less of it runs beside all that.
        self.restore(vm_id="small", overrides=self.overrides(memory_policy=LAZY))
        limit.write_text("max")
        self.restore(vm_id="big", overrides=copies)
        self.touch("big")
        self.touch("small")
        self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s"))
