# SPDX-License-Identifier: Apache-2.0
"""MemoryService: what it says of pages, compared with what the guest did to them, with the kernel's own page map and
with the content; and what it hands to other programs."""

import array
import contextlib
import json
import mmap
import os
import pathlib
import socket
import stat
import time

import harness
from harness import console_pb, memory_pb, snapshot_pb, vm_pb

PAGE = 4096
MEMORY = 32 << 20
PAGES = MEMORY // PAGE
# Far from what the probe itself uses, and beginning inside a byte of a bitmap.
FIRST = 4099
CHANGED, RESIDENT, SWAPPED, ZERO = (memory_pb.PAGE_KIND_CHANGED, memory_pb.PAGE_KIND_RESIDENT,
                                    memory_pb.PAGE_KIND_SWAPPED, memory_pb.PAGE_KIND_ZERO)
HEADER_BYTES = 64


class Export:
    """What a socket that ExportMemory named hands over."""

    def __init__(self, path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(10)
            connection.connect(path)
            self.header, self.files, _, _ = socket.recv_fds(connection, 4096, 8)
        self.magic = self.header[:8]
        self.version, self.flags = (int.from_bytes(self.header[at:at + 2], "little") for at in (8, 10))
        self.page_bytes = int.from_bytes(self.header[12:16], "little")
        self.size, self.layer_pages, self.low_end, self.high_start = (
            int.from_bytes(self.header[at:at + 8], "little") for at in (16, 24, 32, 40))

    def image(self):
        image = bytearray(os.pread(self.files[0], self.size, 0))
        if len(self.files) == 3:
            bits = os.pread(self.files[2], self.size // PAGE // 8, 0)
            for page in range(self.size // PAGE):
                if bits[page // 8] >> page % 8 & 1:
                    image[page * PAGE:(page + 1) * PAGE] = os.pread(self.files[1], PAGE, page * PAGE)
        return bytes(image)

    def close(self):
        for file in self.files:
            os.close(file)


class MemoryCase:
    """The tests, for a daemon of either kind: self.daemon."""

    @property
    def api(self):
        return self.daemon.api

    def pages_vm(self, vm_id):
        self.daemon.probe(vm_id, "probe.test=pages")
        self.hear(vm_id, "ready")

    def said(self, vm_id, line):
        """How often."""
        return self.daemon.console(vm_id).decode(errors="replace").splitlines().count(line)

    def hear(self, vm_id, line, before=0):
        harness.wait_until(lambda: self.said(vm_id, line) > before, f"{vm_id} says {line!r}", 30)

    def tell(self, vm_id, words, answer):
        before = self.said(vm_id, answer)
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=vm_id, from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=words.encode() + b"\n"))
        self.hear(vm_id, answer, before)
        call.cancel()
        inputs.end()

    def write(self, vm_id, first, count, value):
        self.tell(vm_id, f"w {first} {count} {value}", f"done {first} 0")

    def pause(self, vm_id):
        self.api.PauseVm(vm_pb.PauseVmRequest(vm_id=vm_id))

    def resume(self, vm_id):
        self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=vm_id))

    def save(self, vm_id, snapshot_id):
        self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id=vm_id, snapshot_id=snapshot_id))

    def restore(self, snapshot_id, vm_id, start=True):
        self.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id=snapshot_id, vm_id=vm_id, start=start,
            overrides=snapshot_pb.RestoreOverrides(allow_slow_kvm=True)))

    def describe(self, vm_id, **fields):
        return self.api.DescribeMemory(memory_pb.DescribeMemoryRequest(vm_id=vm_id, **fields))

    def query(self, vm_id, *kinds, first=0, count=0):
        """kind -> the set of pages."""
        found = {kind: set() for kind in kinds}
        at = first
        for response in self.api.QueryPages(memory_pb.QueryPagesRequest(
                vm_id=vm_id, kinds=kinds, first_page=first, page_count=count)):
            self.assertEqual(response.first_page, at)
            at += response.page_count
            self.assertEqual([each.kind for each in response.sets], list(kinds))
            for each in response.sets:
                end = response.first_page
                for run in each.runs:
                    # In order, apart, inside.
                    self.assertGreaterEqual(run.first_page, end + (end != response.first_page))
                    self.assertGreater(run.page_count, 0)
                    end = run.first_page + run.page_count
                    found[each.kind].update(range(run.first_page, end))
                self.assertLessEqual(end, at)
                self.assertEqual(each.page_count, sum(run.page_count for run in each.runs))
        self.assertEqual(at, first + count if count else PAGES)
        return found

    def page_map(self, vm_id):
        """(resident, private) pages of a VM by the kernel's /proc/PID/pagemap, read as root."""
        pid = self.daemon.get(vm_id).monitor_pid
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split()
            begin, end = (int(word, 16) for word in words[0].split("-"))
            if end - begin == MEMORY and "x" not in words[1]:
                break
        else:
            self.fail("no mapping of the size of RAM")
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
            file.seek(begin // PAGE * 8)
            entries = array.array("Q", file.read(PAGES * 8))
        resident = {page for page, entry in enumerate(entries) if entry >> 63}
        private = {page for page, entry in enumerate(entries) if entry >> 62 and not entry >> 61 & 1}
        return resident, private

    def export(self, vm_id, **fields):
        response = self.api.ExportMemory(memory_pb.ExportMemoryRequest(vm_id=vm_id, **fields))
        export = Export(response.socket_path)
        self.addCleanup(export.close)
        return response, export

    def test_pages_are_as_the_kernel_and_the_guest_have_them(self):
        self.pages_vm("one")
        self.save("one", "base")
        self.restore("base", "two")
        written = set(range(FIRST, FIRST + 70)) | {5000, 5002}
        self.write("two", FIRST, 70, 7)
        self.write("two", 5000, 1, 7)
        self.write("two", 5002, 1, 0)
        self.tell("two", "r 6000 32", "done 6000 0")
        self.pause("two")
        found = self.query("two", CHANGED, RESIDENT, SWAPPED, ZERO)
        resident, private = self.page_map("two")
        self.assertEqual(found[RESIDENT], resident)
        self.assertEqual(found[CHANGED], private)
        self.assertEqual(found[SWAPPED], set())
        # The probe has pages of its own, all of them below.
        self.assertEqual({page for page in found[CHANGED] if page >= 4096}, written)
        self.assertLess(len(found[CHANGED]), 300)
        self.assertTrue(found[ZERO] <= found[RESIDENT])
        self.assertIn(5002, found[ZERO])
        self.assertFalse((written - {5002}) & found[ZERO])
        # A piece is the same as that piece of the whole, wherever it begins.
        for first, count in ((FIRST + 1, 3), (4097, 2000), (PAGES - 1, 1)):
            piece = self.query("two", CHANGED, first=first, count=count)[CHANGED]
            self.assertEqual(piece, found[CHANGED] & set(range(first, first + count)))
        counts = self.describe("two", count_pages=True).pages
        self.assertEqual((counts.resident, counts.changed, counts.swapped), (len(resident), len(private), 0))
        # What it has not written it shares, and what it writes next is found, too.
        self.resume("two")
        self.write("two", 7000, 1, 1)
        self.assertEqual(self.query("two", CHANGED, first=6999, count=3)[CHANGED], {7000})

    def test_all_of_a_memory_that_is_the_vms_alone_has_changed(self):
        self.pages_vm("one")
        self.write("one", FIRST, 9, 5)
        self.pause("one")
        found = self.query("one", CHANGED, RESIDENT)
        self.assertEqual({page for page in found[CHANGED] if page >= 4096}, set(range(FIRST, FIRST + 9)))
        self.assertTrue(found[RESIDENT] <= found[CHANGED])
        memory = self.describe("one")
        self.assertEqual(memory.sharing, memory_pb.MEMORY_SHARING_OWN)
        self.assertFalse(memory.HasField("base"))
        self.assertEqual([(r.guest_address, r.size_bytes, r.offset_bytes) for r in memory.regions], [(0, MEMORY, 0)])
        self.assertEqual((memory.size_bytes, memory.page_bytes, memory.state), (MEMORY, PAGE, vm_pb.VM_STATE_PAUSED))
        self.assertGreater(memory.usage.unique_bytes, len(found[RESIDENT]) * PAGE)

    def test_usage_tells_what_clones_share_from_what_each_has_alone(self):
        self.pages_vm("one")
        self.write("one", FIRST, 2048, 3)
        self.save("one", "base")
        self.restore("base", "two")
        self.restore("base", "three")
        for vm_id in ("two", "three"):
            self.tell(vm_id, f"r {FIRST} 2048", f"done {FIRST} {3 * 2048}")
        before = self.usages()[0]["two"]
        self.write("two", FIRST, 1024, 4)
        usages, bases = self.usages()
        self.assertEqual(usages["two"].base_id, usages["three"].base_id)
        self.assertNotEqual(usages["one"].base_id, usages["two"].base_id)
        self.assertEqual(bases[usages["two"].base_id].vm_count, 2)
        self.assertEqual(bases[usages["two"].base_id].origin, "base")
        self.assertEqual(bases[usages["one"].base_id].vm_count, 1)
        # The kernel's counters may lag behind by some pages for each CPU.
        slack = 512 << 10
        self.assertAlmostEqual(usages["two"].unique_bytes - before.unique_bytes, 1024 * PAGE, delta=slack)
        self.assertGreater(usages["three"].shared_bytes, 2048 * PAGE - slack)
        # A huge page of the base that is written in is no longer mapped as a whole.
        less = usages["three"].shared_bytes - usages["two"].shared_bytes
        self.assertGreater(less, 1024 * PAGE - slack)
        self.assertLess(less, 1024 * PAGE + 3 * (2 << 20) + slack)
        self.daemon.delete("three")
        usages, bases = self.usages()
        self.assertNotIn("three", usages)
        self.assertEqual(bases[usages["two"].base_id].vm_count, 1)
        self.assertEqual(bases[usages["two"].base_id].base_id, self.describe("two").base.base_id)

    def usages(self):
        response = self.api.ListMemoryUsage(memory_pb.ListMemoryUsageRequest())
        return ({usage.vm_id: usage for usage in response.usages}, {base.base_id: base for base in response.bases})

    def test_an_export_is_the_memory_and_cannot_be_written_through(self):
        self.pages_vm("one")
        self.write("one", FIRST, 3, 0x0101)
        self.pause("one")
        response, export = self.export("one")
        self.assertEqual((export.magic, export.version, export.flags), (b"MAYFLYME", 1, 1))
        self.assertEqual((export.page_bytes, export.size), (PAGE, MEMORY))
        self.assertEqual((export.low_end, export.high_start), (3 << 30, 4 << 30))
        self.assertTrue(response.live)
        # The real thing: what it was told, and whatever the guest does from now on.
        self.assertEqual(export.image()[FIRST * PAGE:(FIRST + 3) * PAGE], (0x0101).to_bytes(8, "little") * 512 * 3)
        self.assertRaises(OSError, os.pwrite, export.files[0], b"x", 0)
        self.assertRaises(OSError, mmap.mmap, export.files[0], PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE)
        self.resume("one")
        self.write("one", FIRST, 1, 0x0202)
        self.assertEqual(os.pread(export.files[0], 8, FIRST * PAGE), (0x0202).to_bytes(8, "little"))

    def test_a_frozen_export_and_one_with_a_layer_stay_as_they_were(self):
        self.pages_vm("one")
        self.write("one", FIRST, 3, 1)
        response, frozen = self.export("one", frozen=True)
        self.assertFalse(response.live)
        self.assertEqual((frozen.flags, len(frozen.files)), (0, 1))
        first = frozen.image()
        self.write("one", FIRST + 1, 2, 2)
        self.pause("one")
        changed = self.query("one", CHANGED)[CHANGED]
        response, layered = self.export("one")
        self.assertEqual((layered.flags, len(layered.files)), (2, 3))
        self.assertEqual(response.layer_page_count, len(changed))
        self.assertEqual(layered.layer_pages, len(changed))
        second = layered.image()
        self.resume("one")
        self.write("one", FIRST, 3, 3)
        self.assertEqual(frozen.image(), first)
        self.assertEqual(layered.image(), second)
        word = [second[page * PAGE:page * PAGE + 8] for page in range(FIRST, FIRST + 3)]
        self.assertEqual(word, [value.to_bytes(8, "little") for value in (1, 2, 2)])
        differ = {page for page in range(PAGES) if first[page * PAGE:(page + 1) * PAGE] !=
                  second[page * PAGE:(page + 1) * PAGE]}
        self.assertTrue({FIRST + 1, FIRST + 2} <= differ <= changed)
        for file in (*frozen.files, *layered.files):
            # Sealed: nobody can, not by another descriptor either.
            with contextlib.suppress(OSError), open(f"/proc/self/fd/{file}", "r+b", buffering=0) as writable:
                self.assertRaises(OSError, writable.write, b"x")

    def test_an_export_is_for_one_and_for_a_time(self):
        self.pages_vm("one")
        exports = self.daemon.state / "exports"
        path = self.api.ExportMemory(memory_pb.ExportMemoryRequest(vm_id="one")).socket_path
        self.assertEqual(pathlib.Path(path).parent, exports)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        Export(path).close()
        self.assertEqual(os.listdir(exports), [])
        self.assertRaises(OSError, Export, path)
        before = harness.fd_count(self.daemon.pid)
        path = self.api.ExportMemory(memory_pb.ExportMemoryRequest(vm_id="one", timeout_s=1)).socket_path
        harness.wait_until(lambda: not os.path.exists(path), "the offer is over", 10)
        # Its socket and timer go with the next.
        self.assertLessEqual(harness.fd_count(self.daemon.pid), before + 2)
        self.assert_refused(lambda: self.api.ExportMemory(memory_pb.ExportMemoryRequest(vm_id="one", timeout_s=601)),
                            "INVALID_ARGUMENT", "EXPORT_TIMEOUT", "601")

    def test_what_is_wrong_is_named(self):
        self.pages_vm("one")
        self.assert_refused(lambda: self.query("two", CHANGED), "NOT_FOUND", "VM_NOT_FOUND")
        self.assert_refused(lambda: self.query("one"), "INVALID_ARGUMENT", "PAGE_KIND", "empty")
        self.assert_refused(lambda: self.query("one", CHANGED, CHANGED), "INVALID_ARGUMENT", "PAGE_KIND", "twice")
        self.assert_refused(lambda: self.query("one", 9), "INVALID_ARGUMENT", "PAGE_KIND", "9")
        self.assert_refused(lambda: self.query("one", CHANGED, first=PAGES), "INVALID_ARGUMENT", "PAGE_RANGE",
                            str(PAGES))
        self.assert_refused(lambda: self.query("one", CHANGED, first=1, count=PAGES), "INVALID_ARGUMENT", "PAGE_RANGE")
        self.api.StopVm(vm_pb.StopVmRequest(vm_id="one", grace_ms=0))
        for call in (lambda: self.describe("one"), lambda: self.query("one", CHANGED), lambda: self.export("one")):
            self.assert_refused(call, "FAILED_PRECONDITION", "VM_STOPPED")
        self.assertEqual(self.usages(), ({}, {}))


class MemoryTest(MemoryCase, harness.Case):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon("--snapshot-dir", self.dir / "snapshots")

    def test_queries_do_not_hold_up_a_guest(self):
        """A query of a large memory, all of it there, goes in bounded steps; between them the monitor does its work."""
        self.daemon.probe("large", "probe.test=pages", memory_mib=1024)
        self.hear("large", "ready")
        self.write("large", FIRST, 200_000, 1)
        started = time.monotonic()
        responses = list(self.api.QueryPages(memory_pb.QueryPagesRequest(vm_id="large", kinds=[RESIDENT])))
        whole = time.monotonic() - started
        self.assertEqual([response.page_count for response in responses], [65536] * 4)
        self.assertGreaterEqual(sum(response.sets[0].page_count for response in responses), 200_000)
        started = time.monotonic()
        zero = list(self.api.QueryPages(memory_pb.QueryPagesRequest(vm_id="large", kinds=[ZERO])))
        looked = time.monotonic() - started
        self.assertEqual(len(zero), 32)
        polls = []
        for _ in range(20):
            started = time.monotonic()
            self.api.ListMemoryUsage(memory_pb.ListMemoryUsageRequest())
            polls.append(time.monotonic() - started)
        harness.print_figures("memory, 1 GiB resident, ms", query=round(whole * 1e3, 1),
                              query_step=round(whole * 1e3 / 4, 2), zero=round(looked * 1e3, 1),
                              zero_step=round(looked * 1e3 / 32, 2), usage=round(sorted(polls)[10] * 1e3, 2))

    def test_the_command_line_says_the_same(self):
        self.pages_vm("one")
        self.write("one", FIRST, 3, 1)
        self.pause("one")

        def run(*words, code=0):
            end = self.mayfly("--socket", self.daemon.target, *words)
            self.assertEqual(end.code, code, end)
            return (end.err if code else end.out).decode()

        described = json.loads(run("memory", "describe", "one", "--count"))
        self.assertEqual(int(described["sizeBytes"]), MEMORY)
        self.assertIn(f"changed  {FIRST} 3\n", run("memory", "query", "one", "--first", str(FIRST), "--pages", "9"))
        self.assertIn("one", run("memory", "usage"))
        image = self.dir / "image"
        run("memory", "export", "one", str(image))
        _, export = self.export("one")
        self.assertEqual(image.read_bytes(), export.image())
        self.assertIn("exist", run("memory", "export", "one", str(image), code=125).lower())
        run("memory", "query", "one", "--kind", "odd", code=125)


class UserMemoryTest(MemoryCase, harness.Case):
    """The same by a daemon that is an ordinary user's."""

    UID = 912_000

    def setUp(self):
        super().setUp()
        self.daemon = self.start_user_daemon(self.UID, "--snapshot-dir", self.dir / "snapshots")
