# SPDX-License-Identifier: Apache-2.0
"""Saves, restores and clones whose monitor or daemon is killed at every moment, and snapshots with every damage: what
is left is the old, the new or nothing, and whoever was not killed runs on.

$MAYFLY_TEST_KILLS kills of each kind (default 24), $MAYFLY_TEST_FLIPS bits flipped (default 300).
"""

import contextlib
import os
import pathlib
import random
import signal
import threading
import time

import grpc
import harness
from control import snapshot_case
from harness import snapshot_pb

KILLS = int(os.environ.get("MAYFLY_TEST_KILLS", "24"))
FLIPS = int(os.environ.get("MAYFLY_TEST_FLIPS", "300"))
PARTS = ("manifest", "state", "memory", "memory.index")


class KillCase(snapshot_case.SnapshotCase):
    def setUp(self):
        super().setUp()
        self.rng = random.Random(self.id())
        self.outcomes = {}

    def count(self, outcome, number=1):
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + number

    def timed(self, call):
        """How long the call takes when nobody is killed, in s."""
        began = time.monotonic()
        call()
        return time.monotonic() - began

    def delays(self, seconds):
        """From nothing to a little beyond the whole of a call."""
        return [seconds * 1.2 * number / KILLS for number in range(KILLS)]

    def under_way(self, call, delay, kill):
        """Begins the call, kills after the delay; what it was refused with, or None."""
        caught = []

        def run():
            try:
                call()
            except grpc.RpcError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(delay)
        kill()
        thread.join(60)
        self.assertFalse(thread.is_alive(), "the call does not end")
        return caught[0] if caught else None

    def assert_whole(self, snapshot_id):
        self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id=snapshot_id))

    def assert_store(self, *snapshots):
        """Nothing half-made is in the store: these, and nothing else."""
        self.assertEqual(sorted(os.listdir(self.store)), sorted(snapshots))

    def kill_new_monitors(self, before):
        for pid in set(self.work.monitors()) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def forget(self, *vm_ids):
        known = {vm.vm_id for vm in self.daemon.vms()}
        for vm_id in known.intersection(vm_ids):
            self.daemon.delete(vm_id)

    def print_outcomes(self, title):
        harness.print_figures(f"{KILLS} kills of {title}", **self.outcomes)


class MonitorKillTest(KillCase):
    def test_saving(self):
        self.echo("other")
        self.echo("one")
        seconds = self.timed(lambda: self.save("one", "timed"))
        kept = ["timed"]
        for number, delay in enumerate(self.delays(seconds)):
            vm_id, name = f"v{number}", f"s{number}"
            self.restore("timed", vm_id)
            pid = self.daemon.get(vm_id).monitor_pid
            error = self.under_way(lambda vm_id=vm_id, name=name: self.save(vm_id, name), delay,
                                   lambda pid=pid: os.kill(pid, signal.SIGKILL))
            if error is None:
                kept.append(name)
                self.assert_whole(name)
            else:
                self.assertIn(harness.reason_of(error), ("MONITOR_GONE", "VM_STOPPED"), error)
            self.count("saved" if error is None else harness.reason_of(error))
            self.daemon.wait_stopped(vm_id)
            self.daemon.delete(vm_id)
            self.assert_store(*kept)
        self.say("other", "untouched")
        self.say("one", "untouched")
        self.print_outcomes("a monitor that is saved")

    def test_restoring_and_cloning(self):
        self.echo("other")
        self.save("other", "s")
        for title, vm_ids, call in (
                ("restored", ["v"], lambda: self.restore("s", "v")),
                ("cloned", ["a", "b", "c"], lambda: self.clone(dict.fromkeys(("a", "b", "c")), snapshot_id="s"))):
            with self.nothing_is_left():
                seconds = self.timed(call)
                self.forget(*vm_ids)
                for delay in self.delays(seconds):
                    before = set(self.work.monitors())
                    error = self.under_way(call, delay, lambda before=before: self.kill_new_monitors(before))
                    if error is not None:
                        self.assertEqual(harness.reason_of(error), "MONITOR_GONE", error)
                    self.count(title if error is None else f"{title}: {harness.reason_of(error)}")
                    self.forget(*vm_ids)
        self.assert_store("s")
        self.say("other", "untouched")
        self.print_outcomes("monitors that are restored and cloned")


class DaemonKillTest(KillCase):
    def kill(self):
        self.daemon.process.kill()
        self.daemon.process.wait()

    def again(self):
        """A daemon on the same state and store as the one that was killed, and what that left: told, and gone."""
        self.daemon.api.close()
        left = os.listdir(self.daemon.state / "vms")
        self.daemon = self.start()
        log = self.daemon.log_text()
        for name in left:
            self.assertIn(f"{name} ended with its daemon", log)
        self.count("directories found", len(left))
        self.assertEqual(os.listdir(self.daemon.state / "vms"), [])
        self.assertEqual(self.daemon.vms(), [])
        self.assertFalse([name for name in os.listdir(self.store) if ".tmp-" in name])
        harness.wait_until(lambda: not self.work.monitors(), "the monitors to end with their daemon", 20)

    def kill_under(self, title, seconds, call, check):
        """Kills the daemon under the call, after each of the delays; each time all is as `check` wants it."""
        for number, delay in enumerate(self.delays(seconds)):
            error = self.under_way(lambda number=number: call(number), delay, self.kill)
            self.count(f"{title} before" if error is None else f"{title} under way")
            self.again()
            check(number, error)

    def test_saving(self):
        self.echo("one")
        self.save("one", "first")
        kept = {"first"}

        def prepare():
            self.restore("first", "v")
            return lambda number: self.save("v", f"s{number}")

        save = prepare()
        seconds = self.timed(lambda: save(KILLS))
        kept.add(f"s{KILLS}")

        def check(number, error):
            # In place, or not there; in place for sure where that was the answer.
            there = set(os.listdir(self.store))
            self.assertIn(there - kept, ({f"s{number}"}, set()) if error else ({f"s{number}"},))
            for name in there - kept:
                self.assert_whole(name)
                self.restore(name, "again", verify_memory=True)
                self.say("again", "here")
                self.count("there afterwards")
            kept.update(there)
            prepare()

        self.kill_under("saved", seconds, save, check)
        self.print_outcomes("a daemon that saves")

    def test_restoring_and_cloning(self):
        """Neither directories nor processes, cgroups or half-made snapshots of VMs that were on their way stay."""
        self.echo("one")
        self.save("one", "s")
        names = ("a", "b", "c")
        groups = [pathlib.Path(path) for path in self.daemon.get("one").jail.cgroups]
        self.daemon.delete("one")

        def ours():
            """The cgroups of this state directory's VMs: their names begin alike, and no other daemon's do."""
            return [path for group in groups for path in group.parent.glob(group.name.removesuffix("one") + "*")]

        def check(_number, _error):
            self.assertEqual(ours(), [])
            self.assertEqual(list(self.work.processes()), [self.daemon.pid])
            self.assert_store("s")
            self.assertFalse(os.path.exists(self.daemon.state / "exports"))

        for title, call in (("restored", lambda _number: self.restore("s", "a")),
                            ("cloned", lambda _number: self.clone(dict.fromkeys(names), snapshot_id="s"))):
            seconds = self.timed(lambda call=call: call(0))
            self.assertEqual(bool(ours()), bool(groups), "cgroups are looked for in the wrong place")
            self.forget(*names)
            self.kill_under(title, seconds, call, check)
        self.assert_whole("s")
        self.restore("s", "one", verify_memory=True)
        self.say("one", "whole")
        self.print_outcomes("a daemon that restores and clones, each")


class DamageTest(KillCase):
    def setUp(self):
        super().setUp()
        self.echo("one")
        self.save("one", "s")
        self.monitors = sorted(self.work.monitors())

    def refused(self, what):
        """The snapshot as it is now is refused before a process exists: the reason."""
        with self.assertRaises(grpc.RpcError, msg=what) as caught:
            self.restore("s", "two", verify_memory=True)
        self.assertIn(caught.exception.code().name, ("DATA_LOSS", "FAILED_PRECONDITION"), what)
        reason = harness.reason_of(caught.exception)
        # A header of another major version is no damage.
        self.assertEqual(caught.exception.code().name == "DATA_LOSS", reason != "FORMAT_VERSION", (what, reason))
        self.count(reason)

    def assert_whole_again(self):
        self.assertEqual(sorted(self.work.monitors()), self.monitors, "a process was started")
        self.restore("s", "two", verify_memory=True)
        self.say("two", "whole")
        self.say("one", "whole")

    def test_no_flipped_bit_is_restored(self):
        for number in range(FLIPS):
            path = self.store / "s" / PARTS[number % len(PARTS)]
            bit = self.rng.randrange(path.stat().st_size * 8)
            with path.open("r+b", buffering=0) as file:
                byte = os.pread(file.fileno(), 1, bit // 8)
                os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
                self.refused(f"{path.name}, bit {bit}")
                os.pwrite(file.fileno(), byte, bit // 8)
        self.assert_whole_again()
        harness.print_figures(f"{FLIPS} flipped bits", **self.outcomes)

    def test_no_other_length_is_restored(self):
        tried = 0
        for part in PARTS:
            path = self.store / "s" / part
            whole = path.read_bytes()
            lengths = {0, 1, 7, 15, 16, 47, 48, 63, 64, 65, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1,
                       len(whole) + 1, len(whole) + 4096}
            for length in sorted(length for length in lengths if length >= 0 and length != len(whole)):
                os.truncate(path, length)
                self.refused(f"{part}, {length} of {len(whole)} bytes")
                path.write_bytes(whole)
                tried += 1
            path.rename(self.dir / part)
            self.refused(f"{part}, gone")
            (self.dir / part).rename(path)
        self.assert_whole_again()
        harness.print_figures(f"{tried} other lengths", **self.outcomes)
