# SPDX-License-Identifier: Apache-2.0
"""Templates: snapshots kept in memory, and VMs of the probe guest that go on from them."""

import json
import os
import pathlib
import signal
import time

import grpc
import harness
from control import snapshot_test
from harness import event_pb, snapshot_pb, template_pb, vm_pb

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
        count, disk = snapshot_test.ROUNDS, self.file("disk", size=snapshot_test.DISK_BYTES)
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


class ShellTest(TemplateCase):
    def ready(self, template_id="t", count=None):
        """Waits until the shells are as many as are wanted."""
        def are_ready():
            shells = self.template(template_id).shells
            return shells.ready == (shells.wanted if count is None else count) and shells
        return harness.wait_until(are_ready, f"the shells of {template_id} are ready", 60)

    def parked(self):
        return sorted(set(self.work.monitors()) - {vm.monitor_pid for vm in self.daemon.vms()})

    def test_clones_take_shells_and_others_come_in_their_place(self):
        template = self.echo_template(shells=4)
        self.assertEqual((template.shells.wanted, template.shells.ready), (4, 4))
        parked = self.parked()
        self.assertEqual((len(parked), self.daemon.vms()), (4, []))
        made = self.clone(dict.fromkeys("abcd"), template_id="t")
        vms = [response.vm for response in made.values()]
        self.assertEqual([vm.from_shell for vm in vms], [True] * 4)
        self.assertEqual(sorted(vm.monitor_pid for vm in vms), parked)
        self.assertEqual(len({vm.incarnation for vm in vms}), 4)
        if os.geteuid() == 0:
            self.assertEqual(len({vm.jail.uid for vm in vms}), 4)
        self.assertEqual(sorted(path for path in os.listdir(self.daemon.state / "vms") if path in "abcd"),
                         ["a", "b", "c", "d"])
        for vm_id in "abcd":
            self.say(vm_id, f"i-am-{vm_id}")
            self.assertEqual(self.lines(vm_id), [f"echo i-am-{vm_id}"])
        shells = self.ready()
        self.assertEqual((shells.claimed, shells.failed, shells.last_failure), (4, 0, ""))
        self.assertFalse(set(self.parked()) & set(parked))
        phases = [phase.name for phase in made["a"].times.phases]
        self.assertEqual(phases, ["validate", "check-host", "open", "shell", "receive", "devices", "vcpus", "run",
                                  "reply"])
        times = {phase.name: phase.duration_us / 1e3 for phase in self.restore_template("t", "last").times.phases}
        harness.print_figures("restore from a shell, ms", **times)

    def test_a_shell_that_does_not_fit_is_left_alone(self):
        self.echo_template(shells=1)
        response = self.restore_template("t", "large", overrides=self.overrides(console_kib=512))
        self.assertEqual((response.vm.from_shell, response.vm.spec.console_kib, response.vm.template_id),
                         (False, 512, "t"))
        limits = vm_pb.ResourceLimits(cpu_weight=50)
        self.assertFalse(self.restore_template("t", "light", overrides=self.overrides(limits=limits)).vm.from_shell)
        paused = self.restore_template("t", "paused", start=False).vm
        self.assertEqual((paused.from_shell, paused.state), (True, vm_pb.VM_STATE_PAUSED))
        self.resume("paused")
        for vm_id in ("large", "light", "paused"):
            self.say(vm_id, "here")

    def test_more_clones_than_shells_are_made_all_the_same(self):
        self.echo_template(shells=3)
        names = [f"c{index}" for index in range(12)]
        made = self.clone(dict.fromkeys(names), template_id="t")
        self.assertEqual({response.vm.state for response in made.values()}, {vm_pb.VM_STATE_RUNNING})
        from_shells = sum(response.vm.from_shell for response in made.values())
        self.assertGreaterEqual(from_shells, 3)
        harness.in_threads(12, lambda index: self.say(names[index], f"word-{index}"))
        self.assertEqual(self.ready().claimed, from_shells)

    def test_shells_that_are_killed_are_replaced_and_told_of(self):
        self.echo_template(shells=3)
        before = self.parked()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        shells = harness.wait_until(
            lambda: (now := self.template("t").shells).failed == 3 and now.ready == 3 and now, "new shells", 60)
        self.assertIn("killed by signal 9", shells.last_failure)
        self.assertFalse(set(self.parked()) & set(before))
        self.assertEqual(len(os.listdir(self.daemon.state / "vms")), 3)
        events = self.api.WatchEvents(event_pb.WatchEventsRequest(from_oldest=True))
        failed = [event for event in (next(events).event for _ in range(self.daemon_events())) if
                  event.HasField("shell_failed")]
        events.cancel()
        self.assertEqual([(event.vm_id, event.shell_failed.template_id) for event in failed], [("", "t")] * 3)
        self.assertTrue(self.restore_template("t", "one").vm.from_shell)
        self.say("one", "here")

    def daemon_events(self):
        """How many the daemon has told so far: the sequence of one that is told now, less one."""
        events = self.api.WatchEvents(event_pb.WatchEventsRequest())
        events.initial_metadata()
        self.daemon.probe("marker", "exit", start=False)
        sequence = next(events).event.sequence
        events.cancel()
        self.daemon.delete("marker")
        return sequence - 1

    def test_nothing_is_left_when_a_template_or_its_daemon_goes(self):
        self.echo("origin")
        self.save("origin", "s")
        with self.nothing_is_left():
            self.prepare("t", "s", shells=3)
            self.prepare("u", "s", shells=2)
            self.assertEqual(len(self.parked()), 5)
            self.delete_template("t")
            self.assertEqual(len(self.parked()), 2)
            self.assertTrue(self.restore_template("u", "one").vm.from_shell)
            self.delete_template("u")
            self.say("one", "here")
            self.daemon.delete("one")
        self.prepare("t", "s", shells=3)
        self.assertEqual(self.daemon.stop(), (0, []))
        harness.wait_until(lambda: not self.work.monitors(), "no shell outlives its daemon", 10)

    def test_shells_end_with_a_daemon_that_is_killed(self):
        self.echo_template(shells=4)
        self.restore_template("t", "one")
        self.ready()
        self.assertEqual(len(self.work.monitors()), 5)
        self.daemon.kill()
        harness.wait_until(lambda: not self.work.monitors(), "every monitor ends", 20)
        self.daemon = self.start()
        self.assertEqual(os.listdir(self.daemon.state / "vms"), [])
        self.assert_refused(lambda: self.template("t"), "NOT_FOUND", "TEMPLATE_NOT_FOUND")

    def test_a_template_is_deleted_amid_its_claims(self):
        self.echo("origin")
        self.save("origin", "s")
        self.prepare("t", "s", shells=8)
        made = []

        def claim(index):
            for number in range(6):
                try:
                    made.append(self.restore_template("t", f"v{index}-{number}").vm.vm_id)
                except grpc.RpcError as error:
                    self.assertEqual(harness.reason_of(error), "TEMPLATE_NOT_FOUND")
                if index == 0 and number == 1:
                    self.delete_template("t")

        harness.in_threads(4, claim)
        self.assertGreaterEqual(len(made), 2)
        self.assertEqual(self.parked(), [])
        for vm_id in made:
            self.say(vm_id, "here")

    def test_disks_come_with_the_claim(self):
        count, disk = snapshot_test.ROUNDS, self.file("disk", size=snapshot_test.DISK_BYTES)
        self.churn("origin", disk, count)
        copy = self.save_with_disk("origin", "s", disk)
        before = self.lines("origin")
        self.prepare("t", "s", shells=2)
        small = self.file("small", size=snapshot_test.DISK_BYTES // 2)
        with self.nothing_is_left():
            for overrides, reason in ((self.overrides(), "DISK_MISSING"), (self.overrides([small]), "DISK_MISMATCH"),
                                      (self.overrides([disk]), "DISK_IN_USE")):
                with self.subTest(reason), self.assertRaises(grpc.RpcError) as caught:
                    self.restore_template("t", "one", overrides=overrides)
                self.assertEqual(harness.reason_of(caught.exception), reason)
        self.assertEqual((self.template("t").shells.ready, self.template("t").shells.claimed), (2, 0))
        copies = {name: self.file(f"{name}.disk", copy.read_bytes()) for name in ("a", "b")}
        made = self.clone({name: self.overrides([path]) for name, path in copies.items()}, template_id="t")
        self.assertEqual([response.vm.from_shell for response in made.values()], [True, True])
        for name in copies:
            self.assert_passed(name, before, count)

    def test_a_diff_of_a_claimed_shell_is_over_its_snapshot(self):
        self.echo("origin")
        self.save("origin", "full")
        self.prepare("t", "full", shells=1)
        self.assertTrue(self.restore_template("t", "one").vm.from_shell)
        self.say("one", "more")
        self.save("one", "diff", DIFF)
        self.restore("diff", "two")
        for vm_id in ("one", "two"):
            self.say(vm_id, f"i-am-{vm_id}")

    def test_shells_wait_without_waking_up(self):
        self.echo_template(shells=2)

        def switches():
            found = {}
            for pid in self.parked():
                for status in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
                    words = status.read_text().split()
                    found[status.parent.name] = words[words.index("voluntary_ctxt_switches:") + 1]
            return found

        before = switches()
        self.assertGreaterEqual(len(before), 4)
        time.sleep(3)
        self.assertEqual(switches(), before)

    def test_too_many_shells_are_refused(self):
        self.echo("origin")
        self.save("origin", "s")
        with self.nothing_is_left():
            self.assert_refused(lambda: self.prepare("t", "s", shells=1001), "INVALID_ARGUMENT", "SHELL_COUNT", "1000")
        few = self.start_daemon("--snapshot-dir", self.store, "--uid-range", "940000-940002", name="few")
        if os.geteuid() == 0:
            with self.assertRaises(grpc.RpcError) as caught:
                few.api.PrepareTemplate(template_pb.PrepareTemplateRequest(template_id="t", snapshot_id="s", shells=4))
            self.assertEqual(harness.reason_of(caught.exception), "UIDS_EXHAUSTED")
            self.assertEqual(os.listdir(few.state / "vms"), [])


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
        self.assertRegex(self.mayfly_text("template", "prepare", "s", "t", "--shells", "1"),
                         r"^t: [0-9.]+ MiB resident, 1 shells, in [0-9.]+ ms\n$")
        head, row = self.mayfly_text("template", "ls").splitlines()
        self.assertEqual((head.split()[:2], row.split()[:2]), (["ID", "SNAPSHOT"], ["t", "s"]))
        self.assertIn(" 1 of 1 ready ", row)
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
