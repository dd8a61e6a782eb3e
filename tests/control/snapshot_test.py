# SPDX-License-Identifier: Apache-2.0
"""Snapshots, restores and clones of the probe guest, through the daemon and the jail, on whatever KVM this host has."""

import json
import os
import shutil
import time

import grpc
import harness
from control.snapshot_case import DIFF, DISK_BYTES, FULL, ROUNDS, SnapshotCase, churn_lines
from harness import snapshot_pb, vm_pb


class GoingOnTest(SnapshotCase):
    def test_a_vm_goes_on_where_it_was_after_its_end_and_its_daemons(self):
        count, disk = ROUNDS, self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, count)
        copy = self.save_with_disk("one", "kept", disk)
        before = self.lines("one")
        self.daemon.delete("one")
        self.daemon.stop()
        self.daemon = self.start(name="e")
        moved = self.store / "moved"
        (self.store / "kept").rename(moved)
        response = self.restore("moved", "two", overrides=self.overrides([copy]))
        self.assertEqual((response.vm.state, response.vm.restored_from), (vm_pb.VM_STATE_RUNNING, "moved"))
        self.assert_passed("two", before, count)
        harness.print_figures("restore, ms", **{phase.name: phase.duration_us / 1e3 for phase in response.times.phases},
                              total=response.times.total_us / 1e3)

    def test_a_saved_vm_runs_on_and_its_snapshot_has_it_as_it_was(self):
        self.echo("one")
        self.say("one", "a")
        response = self.save("one", "s")
        self.assertEqual(response.vm.state, vm_pb.VM_STATE_RUNNING)
        self.assertEqual([phase.name for phase in response.times.phases],
                         ["prepare", "queue", "pause", "save", "resume", "memory", "commit"])
        self.say("one", "b")
        self.restore("s", "two")
        self.say("two", "c")
        self.say("one", "d")
        self.assertEqual(self.lines("two"), ["echo c"])
        self.assertEqual(self.lines("one"), ["ready", "echo a", "echo b", "echo d"])
        harness.print_figures("snapshot, ms", stopped=response.stopped_us / 1e3,
                              **{phase.name: phase.duration_us / 1e3 for phase in response.times.phases})

    def test_a_snapshot_is_told_of_and_goes(self):
        self.echo("one")
        self.save("one", "s")
        snapshot = self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="s")).snapshot
        self.assertEqual((snapshot.kind, snapshot.vcpus, snapshot.memory_mib, snapshot.cmdline, snapshot.agent),
                         (FULL, 1, 32, "probe.test=echo", False))
        self.assertEqual(len(snapshot.host.cpu_vendor), 12)
        self.assertGreater(snapshot.stored_bytes, 4096)
        self.assertLess(snapshot.stored_bytes, 32 << 20)
        self.assert_refused(lambda: self.save("one", "s"), "ALREADY_EXISTS", "SNAPSHOT_EXISTS")
        verified = self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s"))
        self.assertEqual(list(verified.verified_ids), ["s"])
        self.restore("s", "two")
        self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id="s"))
        self.assertEqual(os.listdir(self.store), [])
        # What goes on from it has what it needs.
        self.say("two", "still")
        self.assert_refused(lambda: self.restore("s", "three"), "NOT_FOUND", "SNAPSHOT_NOT_FOUND", '"s"')
        self.assert_refused(lambda: self.save("two", "d", DIFF), "FAILED_PRECONDITION", "BASE_GONE")

    def test_snapshots_are_listed_in_pages(self):
        self.echo("one")
        for name in ("c", "a", "b"):
            self.save("one", name)
        (self.store / "a" / "manifest").write_bytes(b"nothing")
        (self.store / "notes.txt").write_text("mine")
        page = self.api.ListSnapshots(snapshot_pb.ListSnapshotsRequest(page_size=2))
        self.assertEqual([snapshot.snapshot_id for snapshot in page.snapshots], ["a", "b"])
        self.assertTrue(page.snapshots[0].damage)
        rest = self.api.ListSnapshots(snapshot_pb.ListSnapshotsRequest(page_size=2, page_token=page.next_page_token))
        self.assertEqual([snapshot.snapshot_id for snapshot in rest.snapshots], ["c"])

    def test_a_restored_vm_may_stay_paused_and_a_request_may_be_repeated(self):
        self.echo("one")
        self.save("one", "s", stay_paused=True)
        self.assertEqual(self.daemon.get("one").state, vm_pb.VM_STATE_PAUSED)
        first = self.restore("s", "two", start=False, request_id="r")
        self.assertEqual(first.vm.state, vm_pb.VM_STATE_PAUSED)
        again = self.restore("s", "two", start=False, request_id="r")
        self.assertEqual(again.vm.incarnation, first.vm.incarnation)
        self.assert_refused(lambda: self.restore("s", "two"), "ALREADY_EXISTS", "VM_EXISTS")
        for vm_id in ("one", "two"):
            self.resume(vm_id)
            self.say(vm_id, "again")


class DiffTest(SnapshotCase):
    def test_diffs_over_diffs_over_a_full_one_go_on_where_they_were(self):
        count, disk = ROUNDS, self.file("disk", size=DISK_BYTES)
        self.churn("v0", disk, count)
        disk = self.save_with_disk("v0", "s0", disk)
        before = self.lines("v0")
        self.daemon.delete("v0")
        for step in (1, 2, 3):
            vm_id = f"v{step}"
            self.restore(f"s{step - 1}", vm_id, overrides=self.overrides([disk]))
            harness.wait_until(lambda vm_id=vm_id: len(self.lines(vm_id)) > 3, f"{vm_id} churns", 60)
            disk = self.save_with_disk(vm_id, f"s{step}", disk, DIFF)
            before += self.lines(vm_id)
            self.daemon.delete(vm_id)
            snapshot = self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id=f"s{step}")).snapshot
            self.assertEqual((snapshot.kind, snapshot.parent_id), (DIFF, f"s{step - 1}"))
        self.assertLess(len(before), len(churn_lines(count)), "saved too late to prove anything")
        verified = self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s3"))
        self.assertEqual(list(verified.verified_ids), ["s3", "s2", "s1", "s0"])
        self.restore("s3", "last", overrides=self.overrides([disk]))
        self.assert_passed("last", before, count)
        self.assert_refused(
            lambda: self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id="s1")),
            "FAILED_PRECONDITION", "HAS_DIFFS", "s2")

    def test_one_vm_has_a_full_one_then_diffs_over_it_then_another_full_one(self):
        count, disk = ROUNDS, self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, count)
        disks, lines = {}, {}
        for name, kind in (("full", FULL), ("diff-1", DIFF), ("diff-2", DIFF), ("full-2", FULL)):
            printed = len(self.lines("one"))
            harness.wait_until(lambda printed=printed: len(self.lines("one")) > printed, "it churns", 60)
            disks[name] = self.save_with_disk("one", name, disk, kind)
            lines[name] = self.lines("one")
            self.resume("one")
        sizes = {name: (self.store / name / "memory").stat().st_blocks * 512 for name in disks}
        harness.print_figures("stored bytes", **sizes)
        for name, copy in disks.items():
            self.restore(name, name, overrides=self.overrides([copy]))
        for name in disks:
            self.assert_passed(name, lines[name], count)
        self.assert_passed("one", [], count)

    def test_a_diff_needs_a_base(self):
        self.echo("one")
        self.assert_refused(lambda: self.save("one", "d", DIFF), "FAILED_PRECONDITION", "NO_BASE", "make a FULL")
        self.save("one", "s")
        shutil.rmtree(self.store / "s")
        self.assert_refused(lambda: self.save("one", "d", DIFF), "FAILED_PRECONDITION", "BASE_GONE", "s")
        self.say("one", "more")
        self.save("one", "s")
        self.assert_refused(lambda: self.save("one", "d", DIFF), "FAILED_PRECONDITION", "BASE_GONE", "another")
        self.say("one", "well")
        self.assertEqual(sorted(os.listdir(self.store)), ["s"])


class CloneTest(SnapshotCase):
    def test_clones_of_a_snapshot_and_its_vm_are_independent(self):
        count, disk = ROUNDS, self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, count)
        copy = self.save_with_disk("one", "s", disk)
        before = self.lines("one")
        copies = {name: self.file(f"{name}.disk", copy.read_bytes()) for name in ("a", "b")}
        self.resume("one")
        made = self.clone({name: self.overrides([path]) for name, path in copies.items()}, snapshot_id="s")
        self.assertEqual({name: response.vm.state for name, response in made.items()},
                         {name: vm_pb.VM_STATE_RUNNING for name in copies})
        for name in copies:
            self.assert_passed(name, before, count)
        self.assert_passed("one", [], count)

    def test_a_live_vm_is_forked_and_its_fork_again(self):
        self.echo("one")
        made = self.clone({"a": None, "b": None}, source_vm_id="one")
        self.assertEqual(sorted(made), ["a", "b"])
        self.assertFalse(self.store.exists(), "a fork wrote to the store")
        for vm_id in ("one", "a", "b"):
            self.say(vm_id, f"i-am-{vm_id}")
        made = self.clone({"aa": None, "ab": None}, source_vm_id="a")
        self.assertEqual({response.vm.restored_from for response in made.values()}, {"a"})
        self.clone({"aaa": None}, source_vm_id="aa")
        for vm_id in ("one", "a", "b", "aa", "ab", "aaa"):
            self.say(vm_id, f"still-{vm_id}")
            self.assertEqual([line for line in self.lines(vm_id) if "still" in line], [f"echo still-{vm_id}"])
        self.save("aaa", "s")
        self.restore("s", "last")
        self.say("last", "done")

    def test_a_clone_that_fails_takes_no_other_with_it(self):
        self.echo("one")
        made = self.clone({"a": None, "one": None, "b": self.overrides(console_kib=5)}, source_vm_id="one")
        self.assertEqual(made["a"].vm.state, vm_pb.VM_STATE_RUNNING)
        self.assertEqual(made["one"].error.code, grpc.StatusCode.ALREADY_EXISTS.value[0])
        self.assertIn("console_kib: 5", made["b"].error.message)
        self.say("one", "here")
        self.say("a", "here")

    def test_sixteen_clones_come_up_together(self):
        self.echo("one")
        self.save("one", "s")
        names = [f"c{index}" for index in range(16)]
        started = time.monotonic()
        made = self.clone(dict.fromkeys(names), snapshot_id="s")
        elapsed = time.monotonic() - started
        self.assertEqual({response.vm.state for response in made.values()}, {vm_pb.VM_STATE_RUNNING})
        harness.print_figures("16 clones, ms", all=round(elapsed * 1e3, 1),
                              each=sorted(response.times.total_us / 1e3 for response in made.values())[8])
        harness.in_threads(16, lambda index: self.say(names[index], f"word-{index}"))


class JailTest(harness.Case):
    UID = 911_000

    # The methods of SnapshotCase alone; each test has a daemon of its own kind.
    api, save, restore, clone, overrides = (SnapshotCase.api, SnapshotCase.save, SnapshotCase.restore,
                                            SnapshotCase.clone, SnapshotCase.overrides)
    echo, say, hear, lines = SnapshotCase.echo, SnapshotCase.say, SnapshotCase.hear, SnapshotCase.lines

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("only root can be any user")

    def saves_and_restores(self):
        self.echo("one")
        self.save("one", "full")
        self.say("one", "more")
        self.save("one", "diff", DIFF)
        self.restore("diff", "two")
        self.say("two", "here")
        self.clone({"three": None}, source_vm_id="two")
        self.say("three", "here")

    def test_vms_are_saved_in_every_mode_that_root_can_jail_them_in(self):
        for mode in ("root", "off"):
            with self.subTest(mode):
                self.daemon = self.start_daemon(f"--jail={mode}", "--snapshot-dir", self.dir / f"{mode}.snapshots",
                                                name=mode)
                self.saves_and_restores()

    def test_an_ordinary_user_saves_vms_as_often_as_root_does(self):
        self.daemon = self.start_user_daemon(self.UID, "--snapshot-dir", self.dir / "snapshots")
        self.saves_and_restores()
        self.assertEqual(self.daemon.get("three").jail.mode, vm_pb.JAIL_MODE_USER)


class CommandTest(SnapshotCase):
    def mayfly_json(self, *arguments):
        end = self.mayfly("--socket", self.daemon.target, "--json", *arguments)
        self.assertEqual(end.code, 0, end)
        return json.loads(end.out)

    def mayfly_text(self, *arguments, code=0):
        end = self.mayfly("--socket", self.daemon.target, *arguments)
        self.assertEqual(end.code, code, end)
        return (end.err if code else end.out).decode()

    def test_a_vm_is_saved_restored_and_cloned_from_the_command_line(self):
        self.echo("one")
        self.assertRegex(self.mayfly_text("snapshot", "create", "one", "full"),
                         r"^full: [0-9.]+ MiB; one RUNNING, stood still for [0-9.]+ ms\n$")
        self.say("one", "more")
        created = self.mayfly_json("snapshot", "create", "one", "diff", "--diff", "--stay-paused")
        self.assertEqual((created["snapshot"]["kind"], created["snapshot"]["parentId"], created["vm"]["state"]),
                         ("SNAPSHOT_KIND_DIFF", "full", "VM_STATE_PAUSED"))
        table = self.mayfly_text("snapshot", "list").splitlines()
        self.assertEqual([row.split()[:3] for row in table],
                         [["ID", "KIND", "PARENT"], ["diff", "DIFF", "full"], ["full", "FULL", "-"]])
        listed = self.mayfly_json("snapshot", "list")["snapshots"]
        self.assertEqual([snapshot["snapshotId"] for snapshot in listed], ["diff", "full"])
        self.assertEqual(json.loads(self.mayfly_text("snapshot", "inspect", "full"))["memoryMib"], "32")
        self.assertEqual(self.mayfly_text("snapshot", "verify", "diff"), "diff is whole\nfull is whole\n")
        self.assertEqual(self.mayfly_text("restore", "diff", "two", "--allow-slow-kvm"), "two RUNNING\n")
        self.say("two", "here")
        self.assertEqual(self.mayfly_text("restore", "full", "three", "--allow-slow-kvm", "--paused", "--verify-memory",
                                          "--cpu-weight", "50"), "three PAUSED\n")
        self.assertEqual(self.daemon.get("three").spec.limits.cpu_weight, 50)
        made = self.mayfly_text("clone", "--vm", "two", "a", "b", "--allow-slow-kvm").splitlines()
        self.assertEqual(sorted(made), ["a RUNNING", "b RUNNING"])
        end = self.mayfly("--socket", self.daemon.target, "--json", "clone", "--snapshot", "full", "a", "c",
                          "--allow-slow-kvm")
        results = {answer["vmId"]: answer for answer in map(json.loads, end.out.splitlines())}
        self.assertEqual((end.code, results["a"]["error"]["code"], results["c"]["vm"]["state"]),
                         (125, 6, "VM_STATE_RUNNING"))
        for vm_id in ("a", "b", "c"):
            self.say(vm_id, f"i-am-{vm_id}")
        self.assertIn("HAS_DIFFS", self.mayfly_text("snapshot", "delete", "full", code=125))
        self.assertEqual(self.mayfly_text("snapshot", "delete", "diff", "full"), "diff deleted\nfull deleted\n")
        self.assertEqual(self.mayfly_json("snapshot", "list")["snapshots"], [])
        self.assertIn("SNAPSHOT_NOT_FOUND", self.mayfly_text("restore", "full", "four", code=125))
        self.assertIn("one of --snapshot, --template and --vm", self.mayfly_text("clone", "four", code=125))
