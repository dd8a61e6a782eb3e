# SPDX-License-Identifier: Apache-2.0
"""VMs that run before their memory is there: by their snapshot, compressed or not, and by handlers, good and bad."""

import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import harness
from control.monitor_client import Monitor
from control.snapshot_case import DIFF, SnapshotCase
from harness import control_pb, snapshot_pb, template_pb, vm_pb

COUNT = 100000
DISK_BYTES = 4 << 20
# What churn touches over and over, besides its program.
CHURN_PAGES = 256
ZSTD = snapshot_pb.SNAPSHOT_COMPRESSION_ZSTD
HANDLER = harness.ROOT / "examples/memory_handler/memory_handler.py"
WORD = struct.Struct("<II")
READY, COMPLETE, FAILED = 1, 2, 3

UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00


def has_userfaultfd(pid):
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return any("userfaultfd" in link for link in links)


def has_ended(pid):
    """A process that nobody has reaped has ended too."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class LazyCase(SnapshotCase):
    def kept(self, snapshot_id="kept", **fields):
        """A snapshot of a churning VM whose lines so far are `self.before`, and the disk that goes with it."""
        disk = self.file("disk", size=DISK_BYTES)
        self.churn("one", disk, COUNT)
        self.save("one", snapshot_id, stay_paused=True, caller_keeps_disks=True, **fields)
        self.before = self.lines("one")
        self.copy = self.dir / "copy"
        self.copy.write_bytes(disk.read_bytes())
        self.daemon.delete("one")
        return snapshot_id

    def go_on(self, snapshot_id, vm_id, **fields):
        return self.restore(snapshot_id, vm_id, overrides=self.overrides([self.copy]), **fields)

    def memory_of(self, vm_id):
        return self.daemon.get(vm_id).lazy_memory

    def wait_complete(self, vm_id):
        harness.wait_until(lambda: self.memory_of(vm_id).complete, f"{vm_id} has its memory", 60)

    def assert_lost(self, vm_id, *words):
        vm = self.daemon.wait_stopped(vm_id)
        self.assertEqual(vm_pb.ExitReason.Name(vm.exit.reason), "EXIT_REASON_MEMORY_LOST", vm.exit)
        for word in words:
            self.assertIn(word, vm.exit.detail)

    def damage_pages(self, snapshot_id, part):
        """Every stored byte of the memory is another."""
        return self.damage(snapshot_id, part, lambda data: bytes(byte ^ 0x40 if byte else 0 for byte in data))


class SnapshotMemoryTest(LazyCase):
    def test_a_vm_that_runs_before_its_memory_is_there_goes_on_exactly(self):
        for name, fields in (("plain", {}), ("packed", {"compression": ZSTD})):
            with self.subTest(name):
                self.kept(name, **fields)
                response = self.go_on(name, f"{name}-vm", lazy_memory=True)
                self.assertGreater(response.vm.lazy_memory.source_bytes, 0)
                self.wait_complete(f"{name}-vm")
                memory = self.memory_of(f"{name}-vm")
                self.assertEqual(memory.filled_bytes, memory.source_bytes)
                self.assertLessEqual(memory.filled_for_faults, memory.source_bytes >> 21)
                self.assertLess(memory.faults * 8, CHURN_PAGES, "a fault brings many pages")
                self.assert_passed(f"{name}-vm", self.before, COUNT)
                harness.print_figures(f"lazy, {name}", faults=memory.faults, for_faults=memory.filled_for_faults,
                                      mib=memory.source_bytes >> 20, restore_ms=response.times.total_us / 1e3)
                self.daemon.delete(f"{name}-vm")

    def test_a_compressed_snapshot_is_smaller_and_goes_on_exactly(self):
        plain = self.save_sizes()
        self.kept("packed", compression=ZSTD)
        snapshot = self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="packed")).snapshot
        self.assertEqual(snapshot.compression, ZSTD)
        self.assertLess(snapshot.stored_bytes * 2, plain)
        self.assertEqual(sorted(os.listdir(self.store / "packed")), ["manifest", "memory.index", "memory.zst", "state"])
        self.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="packed"))
        self.go_on("packed", "two")
        self.assertFalse(self.daemon.get("two").HasField("lazy_memory"))
        self.assert_passed("two", self.before, COUNT)
        harness.print_figures("snapshot, KiB", plain=plain >> 10, compressed=snapshot.stored_bytes >> 10)

    def save_sizes(self):
        self.kept("plain")
        return self.api.GetSnapshot(snapshot_pb.GetSnapshotRequest(snapshot_id="plain")).snapshot.stored_bytes

    def test_diffs_and_compression_mix(self):
        self.echo("v0")
        self.save("v0", "s0", compression=ZSTD)
        self.say("v0", "a")
        self.save("v0", "s1", DIFF)
        self.say("v0", "b")
        self.restore("s1", "v1")
        self.say("v1", "c")
        self.save("v1", "s2", DIFF, compression=ZSTD)
        for vm_id, fields in (("v2", {}), ("v3", {"lazy_memory": True})):
            self.restore("s2", vm_id, **fields)
            self.say(vm_id, "d")
            self.assertEqual(self.lines(vm_id), ["echo d"])
        self.wait_complete("v3")

    def test_a_vm_that_has_got_its_memory_is_saved_like_one_that_was_booted(self):
        self.echo("one")
        self.save("one", "s", compression=ZSTD)
        self.restore("s", "two", lazy_memory=True)
        # Waits for all of it first.
        self.assert_refused(lambda: self.save("two", "d", DIFF), "FAILED_PRECONDITION", "NO_BASE")
        self.save("two", "t")
        self.assertTrue(self.memory_of("two").complete)
        self.say("two", "a")
        self.save("two", "u", DIFF)
        self.restore("u", "three", lazy_memory=True)
        self.say("three", "b")
        self.clone({"four": None}, source_vm_id="three")
        self.say("four", "c")
        self.say("two", "d")

    def test_a_damaged_memory_ends_the_vm_and_says_so(self):
        self.echo("warm")
        self.save("warm", "warm")
        for vm_id in ("warm1", "warm2"):  # the threads stay, once they have begun
            self.restore("warm", vm_id, lazy_memory=True)
        for vm_id in ("warm", "warm1", "warm2"):
            self.daemon.delete(vm_id)
        for name, part, fields in (("plain", "memory", {}), ("packed", "memory.zst", {"compression": ZSTD})):
            with self.subTest(name):
                self.kept(name, **fields)
                broken = self.damage_pages(name, part)
                self.assert_refused(lambda: self.api.VerifySnapshot(  # pylint: disable=cell-var-from-loop
                    snapshot_pb.VerifySnapshotRequest(snapshot_id=broken)), "DATA_LOSS", "MEMORY_DAMAGED")
                with self.nothing_is_left():
                    self.go_on_or_fail(broken)

    def go_on_or_fail(self, snapshot_id):
        """What is found before the VM is there is the call's answer, and what is found after that is its end."""
        try:
            self.go_on(snapshot_id, "bad", lazy_memory=True)
        except harness.grpc.RpcError as error:
            self.assertEqual(error.code().name, "DATA_LOSS", error)
            return
        self.assert_lost("bad", "MEMORY_DAMAGED")
        self.daemon.delete("bad")

    def test_many_at_once_share_the_threads_and_each_is_right(self):
        self.echo("one")
        self.save("one", "s", compression=ZSTD)
        ids = [f"vm{i}" for i in range(6)]
        for vm_id in ids:
            self.restore("s", vm_id, lazy_memory=True)
        for vm_id in ids:
            self.say(vm_id, "here")
            self.wait_complete(vm_id)
            # What the monitor had is closed when it is of no use.
            pid = self.daemon.get(vm_id).monitor_pid
            harness.wait_until(lambda pid=pid: not has_userfaultfd(pid), "the guard has let go", 10)

    def test_templates_their_shells_and_clones_of_a_compressed_memory(self):
        self.echo("one")
        self.save("one", "s", compression=ZSTD)
        self.api.PrepareTemplate(template_pb.PrepareTemplateRequest(template_id="t", snapshot_id="s", shells=1))
        for vm_id in ("shell", "template"):
            self.api.RestoreVm(snapshot_pb.RestoreVmRequest(vm_id=vm_id, template_id="t", start=True,
                                                            overrides=self.overrides()))
        self.assertTrue(self.daemon.get("shell").from_shell)
        self.clone({"clone-0": None, "clone-1": None}, snapshot_id="s")
        for vm_id in ("shell", "template", "clone-0", "clone-1"):
            self.say(vm_id, "here")
            self.assertEqual(self.lines(vm_id), ["echo here"])

    def test_an_export_has_all_of_the_memory(self):
        self.echo("one")
        self.save("one", "s")
        self.restore("s", "two", start=False, lazy_memory=True)
        image = self.dir / "image"
        self.assert_command(self.mayfly("--socket", self.daemon.target, "memory", "export", "two", image), 0)
        self.assertTrue(self.memory_of("two").complete)
        saved, exported = (self.store / "s/memory").read_bytes(), image.read_bytes()
        self.assertEqual(len(exported), len(saved))
        differ = [at for at in range(0, len(saved), 4096) if saved[at:at + 4096] != exported[at:at + 4096]]
        # Who it is, which the restore has written.
        self.assertLessEqual(len(differ), 4, differ)


class NoDeviceTest(SnapshotCase):
    def start(self, store=None, name="d"):
        return self.start_daemon("--snapshot-dir", store or self.store, "--userfault-device", "/dev/none", name=name)

    def test_a_host_without_the_device_says_so_and_nothing_is_left(self):
        self.echo("one")
        self.save("one", "s")
        with self.nothing_is_left():
            self.assert_refused(lambda: self.restore("s", "two", lazy_memory=True), "FAILED_PRECONDITION",
                                "USERFAULT_MISSING", "/dev/none")
        self.restore("s", "two")
        checks = self.work.run([harness.MAYFLY, "--socket", self.daemon.target, "doctor"]).out.decode()
        self.assertRegex(checks, r"userfaultfd.*/dev/none")


class HandlerTest(LazyCase):
    def handler(self, snapshot_id, *flags, name="h.sock"):
        """The example, serving the memory of a snapshot: its process and its socket."""
        path = self.dir / name
        process = self.work.popen([sys.executable, HANDLER, path, self.store / snapshot_id / "memory", *flags],
                                  stdout=subprocess.PIPE, text=True)
        harness.wait_until(path.exists, "the handler listens", 20)
        return process, path

    def source(self, path):
        return snapshot_pb.MemorySource(handler_socket=str(path))

    def listener(self):
        """A handler to be played by the test."""
        path = self.dir / "played.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(listener.close)
        listener.bind(str(path))
        listener.listen()
        return listener, path

    def test_the_example_serves_a_vm_which_goes_on_exactly(self):
        self.kept()
        process, path = self.handler("kept")
        self.go_on("kept", "two", memory_source=self.source(path))
        self.wait_complete("two")
        said = process.stdout.readline()
        self.assert_passed("two", self.before, COUNT)
        process.terminate()
        self.assertRegex(said, r"^two: \d+ faults, \d+ pieces")

    def test_a_fault_brings_many_pages(self):
        self.kept()
        process, path = self.handler("kept", "--only-faults")
        self.go_on("kept", "two", memory_source=self.source(path))
        # All that it touches comes by faults, and it is never complete.
        self.assert_passed("two", self.before, COUNT)
        name, faults, _, pieces, *_ = process.stdout.readline().split()
        process.terminate()
        self.assertEqual(name, "two:")
        self.assertGreater(int(pieces), 0)
        self.assertLess(int(pieces) * 8, CHURN_PAGES)
        harness.print_figures("handler", pages_touched=CHURN_PAGES, faults=int(faults), pieces=int(pieces))

    def served(self):
        """`two`, which waits for a word, out of a handler that never has all of its memory there: the handler."""
        self.echo("one")
        self.save("one", "kept")
        process, path = self.handler("kept", "--only-faults")
        self.restore("kept", "two", memory_source=self.source(path))
        return process

    def test_a_handler_that_dies_ends_its_vm_and_no_other(self):
        self.echo("one")
        self.save("one", "kept")
        process, path = self.handler("kept", "--only-faults")
        self.echo("neighbour")
        with self.nothing_is_left():
            self.restore("kept", "two", memory_source=self.source(path))
            process.kill()
            process.wait()
            self.assert_lost("two", "HANDLER_GONE")
            self.daemon.delete("two")
        self.say("neighbour", "still")

    def test_a_monitor_that_is_killed_is_noticed_by_its_handler(self):
        process = self.served()
        os.kill(self.daemon.get("two").monitor_pid, signal.SIGKILL)
        self.daemon.wait_stopped("two")
        self.assertRegex(process.stdout.readline(), "^two: ")
        process.terminate()

    def test_a_daemon_that_is_killed_takes_the_vm_along(self):
        process = self.served()
        pid = self.daemon.get("two").monitor_pid
        self.assertTrue(has_userfaultfd(pid))
        # A handler that does not answer: every thread of the monitor may wait for a page.
        process.send_signal(signal.SIGSTOP)
        self.daemon.kill()
        harness.wait_until(lambda: has_ended(pid), "the monitor has ended", 20)
        process.send_signal(signal.SIGCONT)
        self.assertRegex(process.stdout.readline(), "^two: ")
        process.terminate()
        self.daemon = self.start(name="e")

    def test_a_vm_whose_handler_hangs_can_be_stopped(self):
        process = self.served()
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(harness.grpc.RpcError):
            self.api.PauseVm(vm_pb.PauseVmRequest(vm_id="two"), timeout=1)
        with self.assertRaises(harness.grpc.RpcError) as raised:
            self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="two", snapshot_id="t"), timeout=1)
        self.assertEqual(raised.exception.code().name, "DEADLINE_EXCEEDED")
        self.daemon.delete("two")
        process.kill()

    def test_the_userfaultfd_is_in_no_other_monitor(self):
        process = self.served()
        self.echo("other")
        self.assertTrue(has_userfaultfd(self.daemon.get("two").monitor_pid))
        self.assertFalse(has_userfaultfd(self.daemon.get("other").monitor_pid))
        self.daemon.delete("two")
        process.terminate()

    def test_what_a_handler_may_not_say(self):
        self.kept()
        listener, path = self.listener()
        cases = {
            "closes at once": (None, "HANDLER_GONE"),
            "says a failure": (WORD.pack(FAILED, 7) + b"no disk", "HANDLER_FAILED", "no disk"),
            "is complete at once": (WORD.pack(COMPLETE, 0), "HANDLER_PROTOCOL"),
            "says too little": (b"abc", "HANDLER_PROTOCOL"),
            "says too much": (WORD.pack(FAILED, 600) + b"x" * 600, "HANDLER_PROTOCOL"),
            "says far too much": (b"x" * 100000, "HANDLER_PROTOCOL"),
            "says another length": (WORD.pack(FAILED, 3) + b"xx", "HANDLER_PROTOCOL"),
            "says an unknown word": (WORD.pack(9, 0), "HANDLER_PROTOCOL"),
            "is ready with text": (WORD.pack(READY, 1) + b"x", "HANDLER_PROTOCOL"),
        }
        for what, (packet, *words) in cases.items():
            with self.subTest(what), self.nothing_is_left():
                with self.played(listener, lambda connection, packet=packet: packet and connection.send(packet)):
                    self.assert_refused(lambda: self.go_on("kept", "two", memory_source=self.source(path)),
                                        "UNAVAILABLE", *words)

    def test_a_handler_that_never_answers_is_given_up(self):
        self.kept()
        _, path = self.listener()
        with self.nothing_is_left():
            with self.assertRaises(harness.grpc.RpcError) as raised:
                self.api.RestoreVm(snapshot_pb.RestoreVmRequest(
                    snapshot_id="kept", vm_id="two", start=True, overrides=self.overrides([self.copy]),
                    memory_source=self.source(path)), timeout=2)
            self.assertEqual(raised.exception.code().name, "DEADLINE_EXCEEDED")

    def test_a_handler_that_breaks_off_later_ends_the_vm(self):
        self.kept()
        listener, path = self.listener()
        for packet, word in ((WORD.pack(READY, 0), "HANDLER_PROTOCOL"), (b"", "HANDLER_GONE"),
                             (WORD.pack(FAILED, 2) + b"no", "HANDLER_FAILED")):
            with self.subTest(word):
                def speak(connection, packet=packet):
                    connection.send(WORD.pack(READY, 0))
                    time.sleep(0.2)
                    if packet:
                        connection.send(packet)
                # The monitor waits for its first page by then.
                with self.nothing_is_left(), self.played(listener, speak):
                    self.assert_refused(lambda: self.go_on("kept", "two", memory_source=self.source(path)),
                                        "UNAVAILABLE", word)

    @contextlib.contextmanager
    def played(self, listener, speak):
        """A handler that says its piece to the next daemon, and goes."""
        def run():
            connection, _ = listener.accept()
            _, fds, _, _ = socket.recv_fds(connection, 4096, 2)
            for fd in fds:
                os.close(fd)
            speak(connection)
            connection.close()
        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join(20)
        self.assertFalse(thread.is_alive())

    def test_wrong_sources_are_refused(self):
        self.kept()
        for path, reason in (("relative", "SOCKET_PATH"), ("/" + "x" * 200, "SOCKET_PATH_TOO_LONG")):
            self.assert_refused(lambda path=path: self.go_on("kept", "two", memory_source=self.source(path)),
                                "INVALID_ARGUMENT", reason)
        with self.nothing_is_left():
            self.assert_refused(lambda: self.go_on("kept", "two", memory_source=self.source(self.dir / "none")),
                                "FAILED_PRECONDITION", "HANDLER_CONNECT")
        self.assert_refused(lambda: self.go_on("kept", "two", lazy_memory=True, memory_source=self.source("/x")),
                            "INVALID_ARGUMENT", "MEMORY_SOURCE")
        recorded = self.overrides([self.copy], record_working_set=True)
        self.assert_refused(lambda: self.restore("kept", "two", overrides=recorded, lazy_memory=True),
                            "INVALID_ARGUMENT", "RECORD_SOURCE", "lazy_memory")


class GuardTest(harness.Case):
    """The monitor alone, with a daemon that is played."""

    def test_the_end_of_the_other_side_ends_a_monitor_that_waits_for_memory(self):
        monitor = Monitor(self.work)
        monitor.configure("probe.test=echo")
        harness.wait_until(lambda: b"ready" in monitor.console(), "the guest is up", 30)
        monitor.call(pause=control_pb.Pause())
        saved, _ = monitor.save()
        monitor.close()
        second = Monitor(self.work, name="n")
        ours, reply = second.map_memory()
        self.addCleanup(ours.close)
        regions = reply.mapped_memory.regions
        self.assertEqual([(region.guest_address, region.size_bytes, region.file_offset) for region in regions],
                         [(0, 32 << 20, 0)])
        _, (userfault,), _, _ = socket.recv_fds(ours, 1, 1)
        fcntl.ioctl(userfault, UFFDIO_API, bytearray(struct.pack("<QQQ", 0xAA, 0, 0)))
        fcntl.ioctl(userfault, UFFDIO_REGISTER,
                    bytearray(struct.pack("<QQQQ", regions[0].address, regions[0].size_bytes, 1, 0)))
        # Nobody serves it: the request is sent, and no reply comes.
        second.configure(restore=saved, is_mapped=True, answered=False, generation_id=bytes(16))
        time.sleep(0.3)
        self.assertIsNone(second.process.poll())
        os.close(userfault)
        time.sleep(0.3)
        self.assertIsNone(second.process.poll(), "the monitor's own keeps missing pages from being zero")
        ours.close()
        self.assertEqual(second.wait(), 1)
        self.assertIn("has gone", second.errors.read_text())
        saved.close()

    def test_what_is_mapped_is_what_is_configured(self):
        monitor = Monitor(self.work)
        _, reply = monitor.map_memory(memory_bytes=33)
        self.assertEqual(reply.status.reason, "MEMORY_SIZE")
        _, reply = monitor.map_memory(memory_bytes=64 << 20)
        self.assertEqual(reply.status.reason, "MEMORY_FILE_TOO_SHORT")
        _, reply = monitor.map_memory(userfault_device_fd=0, memory_fd=1)
        self.assertNotEqual(reply.status.code, 0)
        _, reply = monitor.map_memory()
        self.assertEqual(reply.status.code, 0)
        _, reply = monitor.map_memory()
        self.assertEqual(reply.status.reason, "MAPPED")
        monitor.connection.close()
        self.assertEqual(monitor.wait(), 1)
