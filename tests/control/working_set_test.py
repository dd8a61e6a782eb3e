# SPDX-License-Identifier: Apache-2.0
"""A run is recorded, and decides what later VMs of its snapshot and templates copy; through the daemon and the jail."""

import os

import harness
from control.memory_test import MIB, guest_memory, minor_faults, shmem_huge_pages
from control.snapshot_test import DIFF, SnapshotCase
from harness import console_pb, snapshot_pb, template_pb, vm_pb

LAZY, BALANCED, LATENCY = (vm_pb.MEMORY_POLICY_LAZY, vm_pb.MEMORY_POLICY_BALANCED, vm_pb.MEMORY_POLICY_LATENCY)
PAGE = 4096


class WorkingSetCase(SnapshotCase):
    """The guest knows 8 MiB of pages; it writes all of the first 2 MiB, and one page of each 2 MiB after them."""

    PAGES = 2048
    WRITTEN = 512 + 3

    def prepare(self):
        self.daemon.probe("one", f"probe.test=touch probe.pages={self.PAGES} probe.written=512 probe.every=512")
        self.hear("one", "ready")
        self.save("one", "s")

    def touch(self, vm_id):
        before = self.daemon.console(vm_id).count(b"touched")
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=vm_id, from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=b"go\n"))
        harness.wait_until(lambda: self.daemon.console(vm_id).count(b"touched") > before, f"{vm_id} touches", 30)
        call.cancel()
        inputs.end()

    def record(self, vm_id="recorder", **fields):
        self.restore(vm_id=vm_id, overrides=self.overrides(record_working_set=True), **fields)
        self.touch(vm_id)
        return self.api.RecordWorkingSet(snapshot_pb.RecordWorkingSetRequest(vm_id=vm_id))

    def restore(self, snapshot_id="s", vm_id="two", **fields):
        if "template_id" in fields:
            return self.api.RestoreVm(snapshot_pb.RestoreVmRequest(vm_id=vm_id, start=True, **fields))
        return super().restore(snapshot_id, vm_id, **fields)


class WorkingSetTest(WorkingSetCase):
    def faults_of(self, vm_id):
        pid = self.daemon.get(vm_id).monitor_pid
        before = minor_faults(pid)
        self.touch(vm_id)
        return minor_faults(pid) - before

    def test_what_was_written_is_copied_by_who_comes_after_and_is_no_change(self):
        self.prepare()
        self.assertFalse(self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="s")).snapshot.has_working_set)
        recorded = self.record()
        self.assertEqual((recorded.snapshot_id, list(recorded.template_ids)), ("s", []))
        self.assertTrue(self.daemon.get("recorder").memory.records_working_set)
        self.assertGreaterEqual(recorded.touched_bytes, self.PAGES * PAGE)
        self.assertGreaterEqual(recorded.written_bytes, self.WRITTEN * PAGE)
        if recorded.exact:
            self.assertLess(recorded.touched_bytes, self.PAGES * PAGE + MIB)
        self.assertLess(recorded.written_bytes, self.WRITTEN * PAGE + MIB)
        self.assertTrue(self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="s")).snapshot.has_working_set)
        self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s"))
        self.assertEqual(os.listdir(self.store), ["s"])

        faults, copied = {}, {}
        for name, policy in (("lazy", LAZY), ("balanced", BALANCED), ("latency", LATENCY)):
            vm = self.restore(vm_id=name, overrides=self.overrides(memory_policy=policy)).vm
            self.assertEqual(vm.memory.policy, policy)
            copied[name] = vm.memory.copied_bytes
            faults[name] = self.faults_of(name)
            self.assertLess(guest_memory(vm.monitor_pid)["Anonymous"], 1.15 * self.WRITTEN * PAGE + copied[name] + MIB)
        harness.print_figures("faults by policy", **faults)
        self.assertEqual((copied["lazy"], copied["balanced"]), (0, 2 * MIB))
        self.assertGreaterEqual(copied["latency"], 8 * MIB)
        self.assertLess(faults["balanced"], faults["lazy"] - 400)
        self.assertLess(faults["latency"], 100)
        # A diff has what was written, and not what was copied.
        for name in ("lazy", "latency"):
            self.save(name, f"d-{name}", DIFF)
            stored = (self.store / f"d-{name}" / "memory").stat().st_blocks * 512
            harness.print_figures(f"stored by a diff of {name}", pages=stored / PAGE, written=self.WRITTEN)
            self.assertLess(stored, 1.05 * (self.WRITTEN + 40) * PAGE)
            self.restore(f"d-{name}", f"of-{name}")
            self.touch(f"of-{name}")

    def test_templates_learn_from_a_run_and_outlive_their_snapshot(self):
        self.prepare()
        with shmem_huge_pages(self):
            made = self.api.PrepareTemplate(template_pb.PrepareTemplateRequest(template_id="t", snapshot_id="s"))
        self.assertFalse(made.template.has_working_set)
        self.assertGreaterEqual(made.template.huge_bytes, 8 * MIB)
        self.assertLessEqual(made.template.huge_bytes, made.template.resident_bytes)
        self.restore(template_id="t", vm_id="before", overrides=self.overrides())
        before = self.faults_of("before")
        recorded = self.record(template_id="t")
        self.assertEqual((recorded.snapshot_id, list(recorded.template_ids)), ("s", ["t"]))
        self.assertTrue(self.api.GetTemplate(template_pb.GetTemplateRequest(template_id="t")).template.has_working_set)
        vm = self.restore(template_id="t", vm_id="after", overrides=self.overrides(memory_policy=LATENCY)).vm
        # All four pieces of 2 MiB have a page that is written.
        self.assertGreaterEqual(vm.memory.copied_bytes, 8 * MIB)
        after = self.faults_of("after")
        harness.print_figures("faults with a template", before=before, after=after)
        self.assertLess(after, before / 5)
        self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id="s"))
        recorded = self.record("again", template_id="t")
        self.assertEqual((recorded.snapshot_id, list(recorded.template_ids)), ("", ["t"]))
        made = self.clone({f"c{number}": self.overrides(memory_policy=LATENCY) for number in range(3)}, template_id="t")
        for vm_id in made:
            self.touch(vm_id)

    def test_what_cannot_be_recorded_is_refused(self):
        self.prepare()
        self.assert_refused(lambda: self.api.RecordWorkingSet(snapshot_pb.RecordWorkingSetRequest(vm_id="one")),
                            "FAILED_PRECONDITION", "NOT_RECORDED")
        self.assert_refused(lambda: self.api.RecordWorkingSet(snapshot_pb.RecordWorkingSetRequest(vm_id="none")),
                            "NOT_FOUND", "VM_NOT_FOUND")
        self.assert_refused(lambda: self.clone({"x": self.overrides(record_working_set=True)}, source_vm_id="one"),
                            "INVALID_ARGUMENT", "RECORD_SOURCE")
        self.assert_refused(lambda: self.restore(overrides=self.overrides(memory_policy=77)),
                            "INVALID_ARGUMENT", "MEMORY_POLICY")
        self.restore(vm_id="r", overrides=self.overrides(record_working_set=True))
        self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id="s"))
        self.assert_refused(lambda: self.api.RecordWorkingSet(snapshot_pb.RecordWorkingSetRequest(vm_id="r")),
                            "NOT_FOUND", "SNAPSHOT_NOT_FOUND")
        self.save("one", "s")
        self.touch("r")

    def test_copies_are_within_the_default_limit_of_memory_which_is_the_least(self):
        self.prepare()
        self.record()
        vm = self.restore(vm_id="two", overrides=self.overrides(memory_policy=LATENCY)).vm
        self.touch("two")
        self.assertEqual(self.daemon.get("two").state, vm_pb.VM_STATE_RUNNING)
        self.assertGreater(vm.memory.copied_bytes, 0)
