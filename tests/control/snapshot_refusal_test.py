# SPDX-License-Identifier: Apache-2.0
"""Snapshots that are refused, damaged or cut short: what is told, and that nothing is left."""

import contextlib
import os
import signal
import subprocess
import threading
import time

import grpc
import harness
from control.snapshot_case import DIFF, DISK_BYTES, SnapshotCase
from harness import snapshot_pb, vm_pb


class RefusalTest(SnapshotCase):
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
