# SPDX-License-Identifier: Apache-2.0
"""Snapshots, restores and clones of the probe guest, through the daemon and the jail, on whatever KVM this host has."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import threading
import time

import grpc
import harness
from harness import console_pb, snapshot_pb, vm_pb

ROUNDS_PER_LINE = 64
DISK_BYTES = 4 << 20
FULL, DIFF = snapshot_pb.SNAPSHOT_KIND_FULL, snapshot_pb.SNAPSHOT_KIND_DIFF


def churn_lines(count):
    """What probe.test=churn prints when it is never saved."""
    value, lines = 1, []
    for number in range(count):
        value = (value * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        if number % ROUNDS_PER_LINE == 0:
            lines.append(f"round {number} {value}")
    return [*lines, "PASS churn"]


class SnapshotCase(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.dir / "snapshots"
        self.daemon = self.start()

    def start(self, store=None, name="d"):
        return self.start_daemon("--snapshot-dir", store or self.store, name=name)

    @property
    def api(self):
        return self.daemon.api

    def save(self, vm_id, snapshot_id, kind=FULL, **fields):
        return self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(
            vm_id=vm_id, snapshot_id=snapshot_id, kind=kind, **fields))

    def overrides(self, disks=(), **fields):
        return snapshot_pb.RestoreOverrides(
            disks=[snapshot_pb.DiskOverride(index=index, path=str(path)) for index, path in enumerate(disks)],
            **{"allow_slow_kvm": True} | fields)

    def restore(self, snapshot_id, vm_id, start=True, overrides=None, **fields):
        return self.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id=snapshot_id, vm_id=vm_id, start=start, overrides=overrides or self.overrides(), **fields))

    def clone(self, targets, **fields):
        """`targets`: vm_id -> RestoreOverrides, or None for plain ones; the responses by vm_id."""
        clones = [snapshot_pb.Clone(vm_id=vm_id, overrides=overrides or self.overrides())
                  for vm_id, overrides in targets.items()]
        responses = self.api.CloneVm(snapshot_pb.CloneVmRequest(clones=clones, **{"start": True} | fields))
        return {response.vm_id: response for response in responses}

    def echo(self, vm_id):
        """A VM that says what it is told, and has memory worth saving."""
        self.daemon.probe(vm_id, "probe.test=echo")
        self.hear(vm_id, "ready")

    def hear(self, vm_id, line):
        harness.wait_until(lambda: line in self.lines(vm_id), f"{vm_id} says {line!r}", 30)

    def say(self, vm_id, word):
        """Tells an echo guest a word, and waits until it has repeated it."""
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=vm_id, from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=word.encode() + b"\n"))
        self.hear(vm_id, f"echo {word}")
        call.cancel()
        inputs.end()

    def lines(self, vm_id):
        return self.daemon.console(vm_id).decode(errors="replace").splitlines()

    def churn(self, vm_id, disk, count):
        self.daemon.probe(vm_id, f"probe.test=churn probe.count={count}", disks=[vm_pb.Disk(path=str(disk))])
        harness.wait_until(lambda: len(self.lines(vm_id)) > 3, f"{vm_id} churns", 60)

    def save_with_disk(self, vm_id, snapshot_id, disk, kind=FULL):
        """A snapshot and a copy of the VM's disk that belong together."""
        self.save(vm_id, snapshot_id, kind, stay_paused=True, caller_keeps_disks=True)
        copy = self.dir / f"{snapshot_id}.disk"
        shutil.copyfile(disk, copy)
        return copy

    def resume(self, vm_id):
        self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=vm_id))

    def assert_passed(self, vm_id, before, count):
        """The guest ends well, and what it printed follows on the lines `before`."""
        vm = self.daemon.wait_stopped(vm_id)
        self.assertEqual(vm_pb.ExitReason.Name(vm.exit.reason), "EXIT_REASON_GUEST_POWEROFF",
                         (vm.exit, self.lines(vm_id)[-3:]))
        self.assertEqual([*before, *self.lines(vm_id)], churn_lines(count))

    def holdings(self):
        """What the daemon has on the host: processes, VM directories, cgroups, descriptors."""
        cgroups = [path for path in pathlib.Path("/sys/fs/cgroup").glob("**/mayfly/*") if path.is_dir()]
        return (sorted(self.work.monitors()), sorted(os.listdir(self.daemon.state / "vms")),
                sorted(str(path) for path in cgroups), harness.fd_count(self.daemon.pid))

    @contextlib.contextmanager
    def nothing_is_left(self):
        before = self.holdings()
        if self.daemon.vms() and any(vm.jail.cgroups for vm in self.daemon.vms()):
            self.assertNotEqual(before[2], [], "cgroups are looked for in the wrong place")
        yield
        harness.wait_until(lambda: self.holdings() == before, f"{before} again, not {self.holdings()}", 10)

    def damage(self, snapshot_id, part, change):
        """A copy of a snapshot with a part changed: its id. `change` is given the part's bytes."""
        name = f"{snapshot_id}-{part.replace('_', '-')}"
        shutil.rmtree(self.store / name, ignore_errors=True)
        shutil.copytree(self.store / snapshot_id, self.store / name)
        path = self.store / name / part
        data = change(bytearray(path.read_bytes()))
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        return name


class GoingOnTest(SnapshotCase):
    def test_a_vm_goes_on_where_it_was_after_its_end_and_its_daemons(self):
        count, disk = 20000, self.file("disk", size=DISK_BYTES)
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
        count, disk = 20000, self.file("disk", size=DISK_BYTES)
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
        count, disk = 20000, self.file("disk", size=DISK_BYTES)
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
        count, disk = 20000, self.file("disk", size=DISK_BYTES)
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
        os.chown(self.dir, self.UID, self.UID)
        kvm = self.dir / "kvm"
        os.mknod(kvm, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
        kvm.chmod(0o666)
        as_user = ["setpriv", f"--reuid={self.UID}", f"--regid={self.UID}", "--clear-groups"]
        if self.work.run([*as_user, "test", "-r", harness.MAYFLYD]).code != 0:
            self.skipTest(f"an ordinary user cannot read {harness.MAYFLYD} here")
        self.daemon = self.start_daemon("--kvm-device", kvm, "--snapshot-dir", self.dir / "snapshots", under=as_user)
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
        self.assertIn("one of --snapshot and --vm", self.mayfly_text("clone", "four", code=125))


class RefusalTest(SnapshotCase):
    def test_a_writable_disk_is_saved_only_by_who_keeps_it(self):
        disk = self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, 20000)
        with self.nothing_is_left():
            self.assert_refused(lambda: self.save("one", "s"), "FAILED_PRECONDITION", "WRITABLE_DISK", "disks[0]",
                                str(disk))
            self.assert_refused(lambda: self.clone({"a": None}, source_vm_id="one"), "FAILED_PRECONDITION",
                                "WRITABLE_DISK")
        self.assert_passed("one", [], 20000)

    def test_wrong_overrides_leave_nothing(self):
        disk = self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, 1 << 40)
        copy = self.save_with_disk("one", "s", disk)
        small = self.file("small", size=DISK_BYTES // 2)
        two = [copy, self.file("other", size=DISK_BYTES)]
        twice = self.overrides([copy])
        twice.disks.add(index=0, path=str(copy))
        refused = [
            ("INVALID_ARGUMENT", "DISK_MISSING", self.overrides(), "disk 0", str(DISK_BYTES)),
            ("INVALID_ARGUMENT", "DISK_INDEX", self.overrides(two), "index 1"),
            ("INVALID_ARGUMENT", "DISK_INDEX", twice, "twice"),
            ("INVALID_ARGUMENT", "PATH_NOT_ABSOLUTE", self.overrides(["disk"])),
            ("NOT_FOUND", "FILE_NOT_FOUND", self.overrides([self.dir / "none"])),
            ("FAILED_PRECONDITION", "DISK_MISMATCH", self.overrides([small]), str(DISK_BYTES // 2), str(DISK_BYTES)),
            ("FAILED_PRECONDITION", "DISK_IN_USE", self.overrides([disk])),
            ("INVALID_ARGUMENT", "GUEST_CID", self.overrides([copy], guest_cid=7), "no vsock"),
            ("INVALID_ARGUMENT", "CONSOLE_SIZE", self.overrides([copy], console_kib=3)),
            ("INVALID_ARGUMENT", "RESOURCE_LIMIT",
             self.overrides([copy], limits=vm_pb.ResourceLimits(memory_mib=1))),
        ]
        with self.nothing_is_left():
            for code, reason, overrides, *words in refused:
                with self.subTest(reason):
                    self.assert_refused(lambda overrides=overrides: self.restore("s", "two", overrides=overrides),
                                        code, reason, *words)
            for snapshot_id, reason in (("", "ID_MISSING"), ("../s", "ID_BAD"), ("s.tmp-1", "ID_BAD")):
                self.assert_refused(lambda snapshot_id=snapshot_id: self.restore(snapshot_id, "two"),
                                    "INVALID_ARGUMENT", reason)
            self.assert_refused(lambda: self.restore("s", "one"), "ALREADY_EXISTS", "VM_EXISTS")
            self.assert_refused(lambda: self.clone({}, snapshot_id="s"), "INVALID_ARGUMENT", "CLONE_COUNT")
            self.assert_refused(lambda: self.clone({"a": None}), "INVALID_ARGUMENT", "CLONE_SOURCE")
        self.restore("s", "two", overrides=self.overrides([copy]))

    def test_a_vm_that_does_not_run_is_not_saved(self):
        self.daemon.probe("created", "probe.test=spin", start=False)
        self.assert_refused(lambda: self.save("created", "s"), "FAILED_PRECONDITION", "VM_STATE", "CREATED")
        self.daemon.probe("ended", "exit")
        self.daemon.wait_stopped("ended")
        self.assert_refused(lambda: self.save("ended", "s"), "FAILED_PRECONDITION", "VM_STOPPED")
        self.assert_refused(lambda: self.save("none", "s"), "NOT_FOUND", "VM_NOT_FOUND")
        self.assertEqual(os.listdir(self.store), [])


class DamageTest(SnapshotCase):
    def test_whatever_is_damaged_is_data_loss_and_leaves_nothing(self):
        self.echo("one")
        self.save("one", "s")

        def flip(at):
            def change(data):
                data[at % len(data)] ^= 0x10
                return data
            return change

        changes = {f"bit in byte {at}": flip(at) for at in (0, 13, 50, 80, -1)}
        changes |= {"half": lambda data: data[:len(data) // 2], "empty": lambda data: b"",
                    "longer": lambda data: data + b"x", "gone": lambda data: None}
        with self.nothing_is_left():
            for part in ("manifest", "state", "memory.index"):
                for name, change in changes.items():
                    with self.subTest(f"{part}: {name}"):
                        damaged = self.damage("s", part, change)
                        with self.assertRaises(grpc.RpcError) as caught:
                            self.restore(damaged, "two")
                        # Another major version is no damage.
                        self.assertIn(caught.exception.code().name, ("DATA_LOSS", "FAILED_PRECONDITION"))
                        if caught.exception.code().name != "DATA_LOSS":
                            self.assertEqual(harness.reason_of(caught.exception), "FORMAT_VERSION")
            for name in ("half", "longer", "gone"):
                with self.subTest(f"memory: {name}"):
                    damaged = self.damage("s", "memory", changes[name])
                    with self.assertRaises(grpc.RpcError) as caught:
                        self.restore(damaged, "two")
                    self.assertEqual(caught.exception.code().name, "DATA_LOSS")
            damaged = self.damage("s", "memory", flip(1 << 20))
            self.assert_refused(lambda: self.restore(damaged, "two", verify_memory=True), "DATA_LOSS",
                                "MEMORY_DAMAGED")
            self.assert_refused(
                lambda: self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id=damaged)),
                "DATA_LOSS", "MEMORY_DAMAGED")
            (self.store / "s" / "more").write_text("x")
            self.assert_refused(lambda: self.restore("s", "two"), "DATA_LOSS", "PART_UNEXPECTED")
            (self.store / "s" / "more").unlink()
        self.restore("s", "two", verify_memory=True)
        self.say("two", "whole")

    def test_a_damaged_or_missing_parent_is_told_of(self):
        self.echo("one")
        self.save("one", "full")
        self.say("one", "more")
        self.save("one", "diff", DIFF)
        memory = self.store / "full" / "memory"
        whole = memory.read_bytes()
        used = next(at for at in range(0, len(whole), 4096) if any(whole[at:at + 4096]))
        with memory.open("r+b") as file:
            file.seek(used)
            file.write(bytes([whole[used] ^ 1]))
        with self.nothing_is_left():
            self.assert_refused(lambda: self.restore("diff", "two"), "DATA_LOSS", "MEMORY_DAMAGED")
            (self.store / "full").rename(self.store / "away")
            self.assert_refused(lambda: self.restore("diff", "two"), "NOT_FOUND", "PARENT_NOT_FOUND", "full")
        (self.store / "away").rename(self.store / "full")
        memory.write_bytes(whole)
        self.restore("diff", "two")
        self.say("two", "whole")


class FailureTest(SnapshotCase):
    def test_a_monitor_killed_while_it_saves_is_told_of_and_leaves_no_snapshot(self):
        self.echo("other")
        for step, delay_ms in enumerate((0, 1, 2, 4, 8)):
            vm_id = f"victim-{step}"
            self.echo(vm_id)
            pid = self.daemon.get(vm_id).monitor_pid
            os.kill(pid, signal.SIGSTOP)
            call = self.api.channel.unary_unary("/mayfly.v1.SnapshotService/CreateSnapshot").future(
                snapshot_pb.CreateSnapshotRequest(vm_id=vm_id, snapshot_id=vm_id).SerializeToString(), timeout=60)
            time.sleep(0.1)
            # It goes on with what it was told, for so long.
            os.kill(pid, signal.SIGCONT)
            time.sleep(delay_ms / 1e3)
            os.kill(pid, signal.SIGKILL)
            error = call.exception(60)
            if error is None:
                continue  # It had saved already.
            self.assertEqual(harness.reason_of(error), "MONITOR_GONE", error)
            self.assertFalse((self.store / vm_id).exists())
            self.assertEqual(self.daemon.wait_stopped(vm_id).exit.signal, signal.SIGKILL)
        self.assertEqual([name for name in os.listdir(self.store) if ".tmp-" in name], [])
        self.say("other", "untouched")

    def test_a_call_that_gives_up_leaves_the_vm_running(self):
        self.echo("one")
        pid = self.daemon.get("one").monitor_pid
        os.kill(pid, signal.SIGSTOP)
        # Past the deadline the monitor still gets its orders: the last of them is to go on.
        release = threading.Timer(1.5, os.kill, (pid, signal.SIGCONT))
        release.start()
        with self.assertRaises(grpc.RpcError) as caught:
            self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"), timeout=0.5)
        self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")
        release.join()
        self.say("one", "on")
        self.assertEqual(self.daemon.get("one").state, vm_pb.VM_STATE_RUNNING)
        harness.wait_until(lambda: os.listdir(self.store) == [], "the store is as it was", 10)
        self.save("one", "s")
        self.restore("s", "two")
        self.say("two", "on")

    def test_a_daemon_killed_while_it_writes_leaves_no_half_snapshot(self):
        self.daemon.probe("one", "probe.test=echo", memory_mib=1024)
        self.save("one", "whole")
        call = self.api.channel.unary_unary("/mayfly.v1.SnapshotService/CreateSnapshot").future(
            snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="half").SerializeToString(), timeout=60)
        harness.wait_until(lambda: call.done() or any(".tmp-" in name for name in os.listdir(self.store)),
                           "it writes", 10)
        self.daemon.kill()
        self.daemon = self.start(name="e")
        left = sorted(os.listdir(self.store))
        self.assertIn(left, (["whole"], ["half", "whole"]))
        for name in left:
            self.restore(name, name, verify_memory=True)
            self.say(name, "here")

    def test_a_full_disk_is_told_of_and_harms_neither_the_vm_nor_what_was_there(self):
        if os.geteuid() != 0:
            self.skipTest("only root may mount a small tmpfs")
        store = self.dir / "small"
        store.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", store], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", store], check=True)
        self.daemon.stop()
        self.daemon = self.start(store, name="e")
        self.echo("one")
        self.save("one", "kept")
        with contextlib.suppress(OSError), open(store / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        self.assert_refused(lambda: self.save("one", "s"), "RESOURCE_EXHAUSTED", "NO_SPACE")
        self.assert_refused(lambda: self.save("one", "d", DIFF), "RESOURCE_EXHAUSTED", "NO_SPACE")
        self.say("one", "on")
        self.assertEqual(sorted(os.listdir(store)), ["filler", "kept"])
        (store / "filler").unlink()
        self.save("one", "d", DIFF)
        for name in ("kept", "d"):
            self.restore(name, name, verify_memory=True)
            self.say(name, "here")
