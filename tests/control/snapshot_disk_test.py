# SPDX-License-Identifier: Apache-2.0
"""Disks that are captured with memory: by copies and by shared blocks, in snapshots and forks, and when it fails."""

import contextlib
import hashlib
import os
import pathlib
import subprocess

import harness
from control.snapshot_case import DIFF, DISK_BYTES, ROUNDS, SnapshotCase, churn_lines
from harness import snapshot_pb, vm_pb

STATE_ONLY = snapshot_pb.SNAPSHOT_KIND_STATE_ONLY
MARK_AT = DISK_BYTES - 4096  # Where churn does not write.


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


class DiskCase(SnapshotCase):
    def mark(self, path, text):
        """Bytes on a disk that are told apart from all that the guest writes."""
        with open(path, "r+b") as file:
            file.seek(MARK_AT)
            file.write(text.encode().ljust(16))

    def marked(self, path):
        with open(path, "rb") as file:
            file.seek(MARK_AT)
            return file.read(16).decode().strip()

    def own_disk(self, vm_id):
        """The file without a name that a VM's monitor has for a disk."""
        fds = pathlib.Path(f"/proc/{self.daemon.get(vm_id).monitor_pid}/fd")
        found = [fd for fd in fds.iterdir()
                 if str(self.store) in os.readlink(fd) and os.readlink(fd).endswith(" (deleted)")]
        self.assertEqual(len(found), 1, "it has no disk of its own")
        return found[0]

    def churning(self, vm_id, count):
        disk = self.file(f"{vm_id}.img", size=DISK_BYTES)
        self.mark(disk, "first")
        self.churn(vm_id, disk, count)
        return disk

    def verify(self, snapshot_id):
        return list(self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id=snapshot_id)).verified_ids)


class CaptureTest(DiskCase):
    def test_a_restored_vm_finds_on_its_disk_what_it_wrote_before_the_save_and_nothing_later(self):
        count = ROUNDS
        disk = self.churning("one", count)
        response = self.save("one", "s")
        before = self.lines("one")
        self.assertEqual([phase.name for phase in response.times.phases],
                         ["prepare", "queue", "share-disks", "pause", "disks", "save", "resume", "memory",
                          "disk-digests", "commit"])
        self.assertEqual([(each.captured, each.size_bytes) for each in response.snapshot.disks], [(True, DISK_BYTES)])
        self.mark(disk, "later")
        self.assertEqual(self.marked(self.store / "s" / "disk.0"), "first")
        self.assertEqual(self.verify("s"), ["s"])
        kept = digest(self.store / "s" / "disk.0")
        # It was saved while it ran: what it has printed since is not the snapshot's.
        self.assert_passed("one", [], count)
        restored = self.restore("s", "two", verify_memory=True)
        self.assertEqual(restored.vm.spec.disks[0].path, "")
        self.assertEqual(self.marked(self.own_disk("two")), "first")
        vm = self.daemon.wait_stopped("two")
        self.assertEqual(vm_pb.ExitReason.Name(vm.exit.reason), "EXIT_REASON_GUEST_POWEROFF")
        lines = self.lines("two")
        self.assertEqual(lines, churn_lines(count)[-len(lines):])
        self.assertGreaterEqual(len(lines) + len(before), len(churn_lines(count)))
        self.assertEqual((digest(self.store / "s" / "disk.0"), self.marked(disk)), (kept, "later"))
        self.assertEqual(os.listdir(self.store), ["s"])
        harness.print_figures("4 MiB of disk in a snapshot, ms", stopped=response.stopped_us / 1e3,
                              **{phase.name: phase.duration_us / 1e3 for phase in response.times.phases})

    def test_a_chain_of_diffs_has_the_disk_of_each_save(self):
        count = ROUNDS
        self.churning("v0", count)
        lines = {}
        for step, kind in enumerate((None, DIFF, DIFF)):
            here, there = f"v{step}", f"v{step + 1}"
            self.save(here, f"s{step}", **({"kind": kind} if kind else {}), stay_paused=True)
            lines[step] = self.lines(here)
            self.daemon.delete(here)
            self.restore(f"s{step}", there)
            harness.wait_until(lambda there=there: len(self.lines(there)) > 2, f"{there} churns", 60)
        self.assertEqual(self.verify("s2"), ["s2", "s1", "s0"])
        self.assert_passed("v3", lines[0] + lines[1] + lines[2], count)
        rebased = self.api.RebaseSnapshot(snapshot_pb.RebaseSnapshotRequest(snapshot_id="s2"))
        self.assertEqual(list(rebased.merged_ids), ["s2", "s1", "s0"])
        self.assertEqual(self.verify("s2"), ["s2"])
        for name in ("s1", "s0"):
            self.api.DeleteSnapshot(snapshot_pb.DeleteSnapshotRequest(snapshot_id=name))
        self.restore("s2", "again", verify_memory=True)
        self.assert_passed("again", lines[0] + lines[1] + lines[2], count)

    def test_clones_of_a_snapshot_and_of_a_live_vm_write_each_on_their_own(self):
        count = ROUNDS
        disk = self.churning("one", count)
        self.save("one", "s", stay_paused=True)
        before = self.lines("one")
        self.resume("one")
        self.assertEqual({response.WhichOneof("result") for response in
                          self.clone({"a": None, "b": None}, snapshot_id="s").values()}, {"vm"})
        forks = self.clone({"f": None, "g": None}, source_vm_id="one", start=False)
        self.assertEqual({response.WhichOneof("result") for response in forks.values()}, {"vm"}, forks)
        for vm_id in ("f", "g"):
            self.assertEqual(self.marked(self.own_disk(vm_id)), "first")
            self.mark(self.own_disk(vm_id), vm_id)
        self.mark(disk, "one")
        self.assertEqual([self.marked(self.own_disk(vm_id)) for vm_id in ("f", "g")], ["f", "g"])
        for vm_id in ("f", "g"):
            self.resume(vm_id)
        for vm_id in ("a", "b"):
            self.assert_passed(vm_id, before, count)
        for vm_id in ("f", "g"):
            vm = self.daemon.wait_stopped(vm_id)
            self.assertEqual(vm_pb.ExitReason.Name(vm.exit.reason), "EXIT_REASON_GUEST_POWEROFF")
        self.assert_passed("one", [], count)
        self.assertEqual((os.listdir(self.store), self.marked(disk)), (["s"], "one"))

    def test_who_keeps_the_disk_has_it_not_captured_and_must_name_it(self):
        self.churning("one", 1 << 40)
        self.save("one", "s", caller_keeps_disks=True)
        self.assertFalse((self.store / "s" / "disk.0").exists())
        self.assert_refused(lambda: self.restore("s", "two"), "INVALID_ARGUMENT", "DISK_MISSING", "disk 0")
        self.save("one", "t")
        named = self.file("named", size=DISK_BYTES)
        restored = self.restore("t", "two", start=False, overrides=self.overrides([named]))
        self.assertEqual(restored.vm.spec.disks[0].path, str(named))

    def test_a_state_alone_goes_on_over_a_memory_that_was_kept(self):
        self.daemon.probe("one", "probe.test=echo")
        self.hear("one", "ready")
        response = self.save("one", "state", STATE_ONLY, stay_paused=True)
        self.assertEqual(sorted(os.listdir(self.store / "state")), ["manifest", "state"])
        self.assertEqual(response.snapshot.kind, STATE_ONLY)
        # Paused as it is, a FULL has the same memory.
        self.save("one", "full")
        memory = self.file("kept.memory", (self.store / "full" / "memory").read_bytes())
        self.assert_refused(lambda: self.restore("state", "two"), "FAILED_PRECONDITION", "NO_MEMORY", "memory_path")
        self.assert_refused(lambda: self.restore("state", "two", memory_path=str(self.file("short", b"short"))),
                            "FAILED_PRECONDITION", "MEMORY_MISMATCH", str(32 << 20))
        self.restore("state", "two", memory_path=str(memory))
        self.say("two", "hello")
        self.resume("one")
        self.say("one", "on")


class SharedBlocksTest(DiskCase):
    def mount(self, kind, mkfs):
        image, mounted = self.file(f"{kind}.image", size=500 << 20), self.dir / kind
        mounted.mkdir()
        if os.geteuid() != 0:
            self.skipTest("only root may mount")
        for command in ([*mkfs, image], ["mount", "-o", "loop", image, mounted]):
            try:
                end = subprocess.run(command, capture_output=True, check=False)
            except FileNotFoundError:
                self.skipTest(f"{command[0]} is not installed")
            if end.returncode != 0:
                self.skipTest(f"{kind} cannot be made or mounted here: {end.stderr.decode().strip()[-200:]}")
        self.addCleanup(subprocess.run, ["umount", "-l", mounted], check=True)
        return mounted

    def saves_by_sharing(self, kind, mkfs):
        mounted = self.mount(kind, mkfs)
        self.daemon.stop()
        self.store = mounted / "snapshots"
        self.daemon = self.start(name="e")
        disk, size = mounted / "disk", 200 << 20
        with disk.open("wb") as file:
            file.write(os.urandom(size - (4 << 20)))
            file.truncate(size)
            os.fsync(file.fileno())
        free = os.statvfs(mounted).f_bavail * 4096
        self.churn("one", disk, ROUNDS)
        response = self.save("one", "s")
        self.restore("s", "two", start=False)
        self.restore("s", "three", start=False)
        # Three more copies of 196 MiB would not even fit.
        used = free - os.statvfs(mounted).f_bavail * 4096
        self.assertLess(used, 150 << 20)
        self.assertEqual(self.verify("s"), ["s"])
        for vm_id in ("two", "three"):
            self.resume(vm_id)
        for vm_id in ("one", "two", "three"):
            self.assertEqual(vm_pb.ExitReason.Name(self.daemon.wait_stopped(vm_id).exit.reason),
                             "EXIT_REASON_GUEST_POWEROFF")
        for vm_id in ("one", "two", "three"):
            self.daemon.delete(vm_id)
        self.daemon.stop()
        harness.print_figures(f"200 MiB of disk on {kind}, ms", stopped=response.stopped_us / 1e3,
                              **{phase.name: phase.duration_us / 1e3 for phase in response.times.phases})

    def test_on_xfs(self):
        self.saves_by_sharing("xfs", ["mkfs.xfs", "-q", "-m", "reflink=1"])

    def test_on_btrfs(self):
        self.saves_by_sharing("btrfs", ["mkfs.btrfs", "-q"])


class DiskFailureTest(DiskCase):
    def test_a_daemon_killed_while_it_copies_leaves_no_half_snapshot_and_no_disk(self):
        disk = self.file("big", size=DISK_BYTES)
        with disk.open("r+b") as file:
            file.seek(DISK_BYTES)
            for _ in range(48):
                file.write(os.urandom(8 << 20))
        self.churn("one", disk, 1 << 40)
        call = self.api.channel.unary_unary("/mayfly.v1.SnapshotService/CreateSnapshot").future(
            snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="half").SerializeToString(), timeout=60)
        copies = lambda: [path for path in self.store.glob("*.tmp-*/disk.0") if path.stat().st_blocks > 0]
        harness.wait_until(lambda: call.done() or (self.store.exists() and copies()), "it copies", 30)
        self.assertFalse(call.done())
        self.daemon.kill()
        self.daemon = self.start(name="e")
        self.assertEqual(os.listdir(self.store), [])

    def test_a_copy_that_is_given_up_leaves_the_vm_running(self):
        disk = self.file("big", size=DISK_BYTES)
        with disk.open("r+b") as file:
            file.seek(DISK_BYTES)
            for _ in range(32):
                file.write(os.urandom(8 << 20))
        self.churn("one", disk, 1 << 40)
        with self.assertRaises(harness.grpc.RpcError) as caught:
            self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"), timeout=0.05)
        self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")
        harness.wait_until(lambda: os.listdir(self.store) == [], "the store is as it was", 20)
        printed = len(self.lines("one"))
        harness.wait_until(lambda: len(self.lines("one")) > printed, "it runs on", 30)

    def test_a_full_disk_is_told_of_and_leaves_nothing(self):
        if os.geteuid() != 0:
            self.skipTest("only root may mount a small tmpfs")
        small = self.dir / "small"
        small.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", small], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", small], check=True)
        self.daemon.stop()
        self.store = small
        self.daemon = self.start(name="e")
        disk = self.file("disk", os.urandom(DISK_BYTES))
        self.churn("one", disk, 1 << 40)
        self.save("one", "kept")
        self.assert_refused(lambda: self.save("one", "s"), "RESOURCE_EXHAUSTED", "NO_SPACE", "disk")
        with self.nothing_is_left():
            self.assert_refused(lambda: self.restore("kept", "two"), "RESOURCE_EXHAUSTED", "NO_SPACE")
            self.assert_refused(lambda: next(iter(self.api.CloneVm(snapshot_pb.CloneVmRequest(
                source_vm_id="one", clones=[snapshot_pb.Clone(vm_id="a")])))), "RESOURCE_EXHAUSTED", "NO_SPACE")
        self.assertEqual(os.listdir(small), ["kept"])
        printed = len(self.lines("one"))
        harness.wait_until(lambda: len(self.lines("one")) > printed, "it runs on", 30)
        self.assertEqual(self.verify("kept"), ["kept"])

    def test_a_damaged_disk_is_found_by_who_looks(self):
        self.churning("one", 1 << 40)
        self.save("one", "s")

        def flip(data):
            data[MARK_AT] ^= 1
            return data
        name = self.damage("s", "disk.0", flip)
        refuse = lambda call: self.assert_refused(call, "DATA_LOSS", "DISK_DAMAGED", "disk.0")
        with self.nothing_is_left():
            refuse(lambda: self.verify(name))
            refuse(lambda: self.restore(name, "two", verify_memory=True))
            name = self.damage("s", "disk.0", lambda data: data[:-512])
            self.assert_refused(lambda: self.restore(name, "two"), "DATA_LOSS", "PART_SIZE", "disk.0")
            name = self.damage("s", "disk.0", lambda data: None)
            self.assert_refused(lambda: self.restore(name, "two"), "DATA_LOSS", "PART_MISSING", "disk.0")


class RebaseCommandTest(DiskCase):
    def test_a_chain_is_merged_from_the_command_line(self):
        self.echo("one")
        self.save("one", "full")
        for name in ("a", "b"):
            self.say("one", name)
            self.save("one", name, DIFF)
        self.restore("b", "two")
        self.say("two", "more")
        self.save("two", "c", DIFF)

        def rebase(*arguments, code=0):
            end = self.mayfly("--socket", self.daemon.target, "snapshot", "rebase", *arguments)
            self.assertEqual(end.code, code, end)
            return (end.err if code else end.out).decode()
        self.assertRegex(rebase("c", "--onto", "full", "--as", "d"),
                         r"^d: 2 snapshots merged, [0-9.]+ MiB, over full\n$")
        self.assertEqual(self.verify("d"), ["d", "full"])
        self.assertIn("HAS_DIFFS", rebase("b", code=125))
        self.assertRegex(rebase("c"), r"^c: 3 snapshots merged, [0-9.]+ MiB, a FULL\n$")
        self.assertIn("NOTHING_TO_MERGE", rebase("c", "--full", code=125))
        for name in ("c", "d"):
            self.restore(name, f"from-{name}", verify_memory=True)
            self.say(f"from-{name}", "here")
        # What it stands on is another now, and the same.
        self.restore("c", "three")
        self.say("two", "on")
        self.assertEqual(self.verify("c"), ["c"])

    def test_a_daemon_killed_while_it_merges_leaves_the_old_one(self):
        self.daemon.probe("one", "probe.test=echo", memory_mib=512)
        self.hear("one", "ready")
        self.save("one", "full")
        self.say("one", "more")
        self.save("one", "diff", DIFF)
        call = self.api.channel.unary_unary("/mayfly.v1.SnapshotService/RebaseSnapshot").future(
            snapshot_pb.RebaseSnapshotRequest(snapshot_id="diff").SerializeToString(), timeout=60)
        harness.wait_until(lambda: call.done() or any(".tmp-" in name for name in os.listdir(self.store)),
                           "it writes", 10)
        self.daemon.kill()
        with contextlib.suppress(Exception):
            call.result(10)
        self.daemon = self.start(name="e")
        self.assertEqual(sorted(os.listdir(self.store)), ["diff", "full"])
        self.assertIn(self.verify("diff"), (["diff", "full"], ["diff"]))
        self.restore("diff", "two", verify_memory=True)
        self.say("two", "here")
