# SPDX-License-Identifier: Apache-2.0
"""Templates: snapshots kept in memory, and VMs of the probe guest that go on from them."""

import json
import os

import harness
from control import snapshot_test
from harness import snapshot_pb, template_pb, vm_pb

DIFF = snapshot_test.DIFF


class TemplateCase(snapshot_test.SnapshotCase):
    def prepare(self, template_id, snapshot_id, **fields):
        return self.api.PrepareTemplate(template_pb.PrepareTemplateRequest(
            template_id=template_id, snapshot_id=snapshot_id, **fields)).template

    def template(self, template_id):
        return self.api.GetTemplate(template_pb.GetTemplateRequest(template_id=template_id)).template

    def delete_template(self, template_id):
        self.api.DeleteTemplate(template_pb.DeleteTemplateRequest(template_id=template_id))

    def restore_template(self, template_id, vm_id, start=True, overrides=None, **fields):
        return self.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            template_id=template_id, vm_id=vm_id, start=start, overrides=overrides or self.overrides(), **fields))

    def echo_template(self, template_id="t", **fields):
        """A template of an echo guest that is no more, nor is its snapshot."""
        self.echo("origin")
        self.save("origin", f"{template_id}-snapshot")
        self.daemon.delete("origin")
        template = self.prepare(template_id, f"{template_id}-snapshot", **fields)
        self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id=f"{template_id}-snapshot"))
        return template


class ResidentTest(TemplateCase):
    def test_vms_go_on_from_a_template_whose_snapshot_is_gone(self):
        template = self.echo_template()
        self.assertEqual((template.template_id, template.snapshot_id, template.vcpus, template.memory_mib,
                          template.agent), ("t", "t-snapshot", 1, 32, False))
        self.assertLess(template.resident_bytes, 8 << 20)
        self.assertGreater(template.resident_bytes, 0)
        self.assertEqual(os.listdir(self.store), [])
        response = self.restore_template("t", "one")
        self.assertEqual((response.vm.state, response.vm.restored_from, response.vm.template_id),
                         (vm_pb.VM_STATE_RUNNING, "t-snapshot", "t"))
        made = self.clone({"two": None, "three": None}, template_id="t")
        self.assertEqual({clone.vm.template_id for clone in made.values()}, {"t"})
        for vm_id in ("one", "two", "three"):
            self.say(vm_id, f"i-am-{vm_id}")
            self.assertEqual(self.lines(vm_id), [f"echo i-am-{vm_id}"])
        self.assertEqual(self.template("t").resident_bytes, template.resident_bytes, "a clone wrote to its template")

    def test_a_template_goes_and_the_vms_made_from_it_stay(self):
        self.echo("origin")
        self.save("origin", "s")
        with self.nothing_is_left():
            self.prepare("t", "s")
            self.restore_template("t", "one")
            self.delete_template("t")
            self.assert_refused(lambda: self.template("t"), "NOT_FOUND", "TEMPLATE_NOT_FOUND", '"t"')
            self.say("one", "here")
            self.clone({"two": None}, source_vm_id="one")
            self.say("two", "here")
            for vm_id in ("one", "two"):
                self.daemon.delete(vm_id)

    def test_a_diff_of_a_templates_vm_is_over_its_snapshot(self):
        self.echo("origin")
        self.save("origin", "full")
        self.prepare("t", "full")
        self.restore_template("t", "one")
        self.say("one", "more")
        self.save("one", "diff", DIFF)
        # And a chain is one memory in a template.
        self.prepare("u", "diff")
        self.restore_template("u", "two")
        self.say("two", "last")
        self.save("two", "next", DIFF)
        snapshot = self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="next")).snapshot
        self.assertEqual(snapshot.parent_id, "diff")
        self.restore("next", "three")
        self.say("three", "word")
        self.assertEqual(self.lines("three"), ["echo word"])

    def test_disks_are_each_vms_own(self):
        count, disk = 20000, self.file("disk", size=snapshot_test.DISK_BYTES)
        self.churn("origin", disk, count)
        copy = self.save_with_disk("origin", "s", disk)
        before = self.lines("origin")
        template = self.prepare("t", "s")
        self.assertEqual([(each.size_bytes, each.read_only) for each in template.disks],
                         [(snapshot_test.DISK_BYTES, False)])
        self.assert_refused(lambda: self.restore_template("t", "one"), "INVALID_ARGUMENT", "DISK_MISSING")
        copies = {name: self.file(f"{name}.disk", copy.read_bytes()) for name in ("a", "b")}
        self.clone({name: self.overrides([path]) for name, path in copies.items()}, template_id="t")
        for name in copies:
            self.assert_passed(name, before, count)

    def test_templates_are_listed_in_pages(self):
        self.echo("origin")
        self.save("origin", "s")
        for name in ("c", "a", "b"):
            self.prepare(name, "s")
        page = self.api.ListTemplates(template_pb.ListTemplatesRequest(page_size=2))
        self.assertEqual([each.template_id for each in page.templates], ["a", "b"])
        page = self.api.ListTemplates(template_pb.ListTemplatesRequest(page_size=2, page_token=page.next_page_token))
        self.assertEqual(([each.template_id for each in page.templates], page.next_page_token), (["c"], ""))


class RefusalTest(TemplateCase):
    def test_wrong_requests_leave_nothing(self):
        self.echo("origin")
        self.save("origin", "s")
        self.prepare("t", "s")
        with self.nothing_is_left():
            for template_id, snapshot_id, code, reason in (
                    ("", "s", "INVALID_ARGUMENT", "ID_MISSING"), ("../t", "s", "INVALID_ARGUMENT", "ID_BAD"),
                    ("u", "", "INVALID_ARGUMENT", "ID_MISSING"), ("u", "none", "NOT_FOUND", "SNAPSHOT_NOT_FOUND"),
                    ("t", "s", "ALREADY_EXISTS", "TEMPLATE_EXISTS")):
                with self.subTest(reason):
                    self.assert_refused(lambda t=template_id, s=snapshot_id: self.prepare(t, s), code, reason)
            for call in (self.template, self.delete_template, lambda name: self.restore_template(name, "one")):
                self.assert_refused(lambda call=call: call("none"), "NOT_FOUND", "TEMPLATE_NOT_FOUND", '"none"')
                self.assert_refused(lambda call=call: call(".."), "INVALID_ARGUMENT", "ID_BAD")
            self.assert_refused(lambda: self.clone({"a": None}, template_id="none"), "NOT_FOUND", "TEMPLATE_NOT_FOUND")
            self.assert_refused(lambda: self.restore_template("t", "origin"), "ALREADY_EXISTS", "VM_EXISTS")
            self.assert_refused(lambda: self.restore_template("t", "one", overrides=self.overrides(guest_cid=7)),
                                "INVALID_ARGUMENT", "GUEST_CID")
        # A name that was refused is free.
        self.prepare("u", "s")

    def test_damaged_memory_is_found_as_it_is_loaded(self):
        self.echo("origin")
        self.save("origin", "s")
        size = (self.store / "s" / "memory").stat().st_size

        def flip(data):
            place = next(at for at in range(size) if data[at])
            data[place] ^= 1
            return data

        damaged = self.damage("s", "memory", flip)
        with self.nothing_is_left():
            self.assert_refused(lambda: self.prepare("t", damaged), "DATA_LOSS", "MEMORY_DAMAGED")
        self.assert_refused(lambda: self.template("t"), "NOT_FOUND", "TEMPLATE_NOT_FOUND")


class CommandTest(TemplateCase):
    def mayfly_text(self, *arguments, code=0):
        end = self.mayfly("--socket", self.daemon.target, *arguments)
        self.assertEqual(end.code, code, end)
        return (end.err if code else end.out).decode()

    def test_templates_from_the_command_line(self):
        self.echo("origin")
        self.save("origin", "s")
        self.assertRegex(self.mayfly_text("template", "prepare", "s", "t"),
                         r"^t: [0-9.]+ MiB resident, in [0-9.]+ ms\n$")
        rows = [row.split() for row in self.mayfly_text("template", "ls").splitlines()]
        self.assertEqual((rows[0][:2], rows[1][:2]), (["ID", "SNAPSHOT"], ["t", "s"]))
        self.assertEqual(json.loads(self.mayfly_text("template", "inspect", "t"))["snapshotId"], "s")
        self.assertEqual(self.mayfly_text("restore", "--template", "t", "one", "--allow-slow-kvm"), "one RUNNING\n")
        made = self.mayfly_text("clone", "--template", "t", "a", "b", "--allow-slow-kvm").splitlines()
        self.assertEqual(sorted(made), ["a RUNNING", "b RUNNING"])
        for vm_id in ("one", "a", "b"):
            self.say(vm_id, f"i-am-{vm_id}")
        self.assertIn("--template ID", self.mayfly_text("restore", "--template", "t", "s", "two", code=125))
        self.assertIn("--template ID", self.mayfly_text("restore", "two", code=125))
        self.assertIn("one of --snapshot, --template and --vm",
                      self.mayfly_text("clone", "--template", "t", "--vm", "one", "two", code=125))
        self.assertEqual(self.mayfly_text("template", "rm", "t"), "t deleted\n")
        self.assertIn("TEMPLATE_NOT_FOUND", self.mayfly_text("template", "rm", "t", code=125))
