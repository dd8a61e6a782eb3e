# SPDX-License-Identifier: Apache-2.0
"""A CreateSnapshot under way: what the events tell of it, and that it can be ended, by whoever has had enough."""

import os
import pty
import signal
import subprocess
import threading

import grpc
import harness
from control import snapshot_case
from harness import event_pb, snapshot_pb, vm_pb

MEMORY_MIB = 768
# Random bytes that lie in the guest's memory as its initrd, so that there is something to write.
FILLER_BYTES = 512 << 20
PHASES = {name.removeprefix("SNAPSHOT_PHASE_"): number for name, number in event_pb.SnapshotPhase.items()}
LAST = (PHASES["FINISHED"], PHASES["FAILED"], PHASES["CANCELLED"])


class Watch:
    """What is told of snapshots from now on."""

    def __init__(self, api):
        self.events = []
        self.grew = threading.Condition()
        self.call = api.WatchEvents(event_pb.WatchEventsRequest())
        self.call.initial_metadata()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            for response in self.call:
                if response.event.HasField("snapshot_progress"):
                    with self.grew:
                        self.events.append(response.event)
                        self.grew.notify_all()
        except grpc.RpcError:
            pass

    def progress(self, snapshot_id):
        return [event.snapshot_progress for event in self.events if event.snapshot_progress.snapshot_id == snapshot_id]

    def wait(self, snapshot_id, wanted):
        """The first one of this snapshot for which `wanted` is true."""
        with self.grew:
            found = []
            done = self.grew.wait_for(lambda: found.extend(filter(wanted, self.progress(snapshot_id))) or found, 60)
            assert done, f"nothing of {snapshot_id} among {self.events}"
            return found[0]

    def wait_writing(self, snapshot_id):
        return self.wait(snapshot_id, lambda progress: progress.phase == PHASES["MEMORY"] and progress.done_bytes > 0)

    def wait_end(self, snapshot_id):
        return self.wait(snapshot_id, lambda progress: progress.phase in LAST)


class ProgressCase(snapshot_case.SnapshotCase):
    @classmethod
    def setUpClass(cls):
        cls.class_work = harness.Workplace()
        cls.addClassCleanup(cls.class_work.close)
        cls.filler = cls.class_work.dir / "filler"
        with cls.filler.open("wb") as file:
            for _ in range(FILLER_BYTES >> 24):
                file.write(os.urandom(1 << 24))

    def setUp(self):
        super().setUp()
        self.daemon.probe("one", "probe.test=echo", memory_mib=MEMORY_MIB, initrd_paths=[str(self.filler)])
        self.hear("one", "ready")
        self.watch = Watch(self.api)
        self.addCleanup(self.watch.call.cancel)

    def begin(self, snapshot_id, **fields):
        return self.api.channel.unary_unary(
            "/mayfly.v1.SnapshotService/CreateSnapshot",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=snapshot_pb.CreateSnapshotResponse.FromString).future(
                snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id=snapshot_id, **fields), timeout=120)

    def cancel(self, **what):
        return list(self.api.CancelSnapshot(snapshot_pb.CancelSnapshotRequest(**what)).snapshot_ids)

    def assert_nothing_but(self, *snapshots):
        self.assertEqual(sorted(os.listdir(self.store)), sorted(snapshots))


class ProgressTest(ProgressCase):
    def test_events_tell_how_far_a_snapshot_is(self):
        self.save("one", "s")
        self.watch.wait_end("s")
        events = [event for event in self.watch.events if event.snapshot_progress.snapshot_id == "s"]
        phases = [event.snapshot_progress.phase for event in events]
        self.assertEqual(phases[:2], [PHASES["STARTED"], PHASES["MEMORY"]])
        self.assertEqual(phases[-2:], [PHASES["SYNC"], PHASES["FINISHED"]])
        self.assertEqual(set(phases[1:-2]), {PHASES["MEMORY"]})
        self.assertLessEqual(len(phases), 104)
        done = [event.snapshot_progress.done_bytes for event in events]
        self.assertEqual((done, done[0], done[-1]), (sorted(done), 0, MEMORY_MIB << 20))
        self.assertEqual({event.snapshot_progress.total_bytes for event in events}, {MEMORY_MIB << 20})
        self.assertEqual({(event.vm_id, event.incarnation) for event in events},
                         {("one", self.daemon.get("one").incarnation)})
        times = [event.time.ToNanoseconds() for event in events[1:-2]]
        self.assertGreater(len(times), 1, "nothing was told on the way")
        self.assertGreater(min(after - before for before, after in zip(times, times[1:])), 95e6)
        self.assert_refused(lambda: self.save("one", "s"), "ALREADY_EXISTS", "SNAPSHOT_EXISTS")
        self.assertEqual(len(self.watch.progress("s")), len(events), "what was refused at once is told of")

    def test_a_cancelled_snapshot_is_not_there_and_its_vm_goes_on(self):
        for state, what in (("RUNNING", {"snapshot_id": "s"}), ("PAUSED", {"vm_id": "one"})):
            with self.subTest(state):
                if state == "PAUSED":
                    self.api.PauseVm(vm_pb.PauseVmRequest(vm_id="one"))
                call = self.begin("s")
                self.watch.wait_writing("s")
                self.assertEqual(self.cancel(**what), ["s"])
                self.assert_nothing_but()
                self.assert_refused(call.result, "CANCELLED", "SNAPSHOT_CANCELLED")
                end = self.watch.wait_end("s")
                self.assertEqual((end.phase, end.error.code), (PHASES["CANCELLED"], 1))
                self.assertEqual(vm_pb.VmState.Name(self.daemon.get("one").state), f"VM_STATE_{state}")
                self.watch.events.clear()
        self.assert_refused(lambda: self.cancel(snapshot_id="s"), "NOT_FOUND", "SNAPSHOT_NOT_UNDER_WAY")
        self.assert_refused(self.cancel, "INVALID_ARGUMENT", "ID_MISSING")
        self.resume("one")
        self.say("one", "on")
        self.save("one", "s")
        self.restore("s", "two", verify_memory=True)
        self.say("two", "here")

    def test_cancelled_at_any_time_it_is_there_whole_or_not_at_all(self):
        cancelled, kept = 0, []
        for number in range(12):
            name = f"s{number}"
            call = self.begin(name)
            self.watch.wait(name, lambda progress: progress.phase == PHASES["STARTED"])
            threading.Event().wait(number * 0.06)
            try:
                self.assertEqual(self.cancel(vm_id="one"), [name])
                self.assert_refused(call.result, "CANCELLED", "SNAPSHOT_CANCELLED")
                cancelled += 1
            except grpc.RpcError as error:
                self.assertIn(harness.reason_of(error), ("SNAPSHOT_COMMITTED", "SNAPSHOT_NOT_UNDER_WAY"))
                call.result()
                kept.append(name)
            self.assert_nothing_but(*kept)
        self.assertGreater(cancelled, 0)
        self.say("one", "on")
        harness.print_figures("snapshots cancelled, after 0 to 660 ms", cancelled=cancelled, kept=len(kept))

    def test_a_client_that_goes_away_cancels(self):
        call = self.begin("s")
        self.watch.wait_writing("s")
        call.cancel()
        self.assertEqual(self.watch.wait_end("s").phase, PHASES["CANCELLED"])
        self.assert_nothing_but()
        self.say("one", "on")


class CancelCommandTest(ProgressCase):
    def create(self, snapshot_id, **options):
        return self.work.popen([harness.MAYFLY, "--socket", self.daemon.target, "snapshot", "create", "one",
                                snapshot_id], **options)

    def test_the_command_line_cancels_and_may_be_killed(self):
        child = self.create("s", stderr=subprocess.PIPE)
        self.watch.wait_writing("s")
        end = self.mayfly("--socket", self.daemon.target, "snapshot", "cancel", "s")
        self.assert_command(end, 0, out=b"s cancelled\n")
        self.assertEqual(child.wait(60), 125)
        self.assertIn(b"SNAPSHOT_CANCELLED", child.stderr.read())
        end = self.mayfly("--socket", self.daemon.target, "snapshot", "cancel", "--vm", "one")
        self.assertIn(b"SNAPSHOT_NOT_UNDER_WAY", end.err)
        child = self.create("t")
        self.watch.wait_writing("t")
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertEqual(self.watch.wait_end("t").phase, PHASES["CANCELLED"])
        self.assert_nothing_but()
        self.say("one", "on")
        lines = self.mayfly("--socket", self.daemon.target, "--timeout", 1, "events", "--all").out.decode()
        self.assertRegex(lines, r"  one  snapshot s: started\n")
        self.assertRegex(lines, rf"  one  snapshot s: memory, \d+ of {MEMORY_MIB} MiB\n")
        self.assertRegex(lines, r"  one  snapshot s: cancelled, ")

    def test_a_terminal_shows_how_far_it_is_and_nothing_else_does(self):
        shown = self.mayfly("--socket", self.daemon.target, "snapshot", "create", "one", "quiet")
        self.assert_command(shown, 0, err=b"")
        ours, theirs = pty.openpty()
        child = self.create("s", stderr=theirs, stdout=subprocess.PIPE)
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # What a terminal's end is to Linux.
            pass
        os.close(ours)
        self.assertEqual(child.wait(60), 0)
        self.assertRegex(text, rb"snapshot s: memory, \d+ of 768 MiB")
        self.assertTrue(text.endswith(b"\r\x1b[K"), text[-40:])
        self.assertTrue(child.stdout.read().startswith(b"s: "))
