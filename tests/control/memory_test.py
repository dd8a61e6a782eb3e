# SPDX-License-Identifier: Apache-2.0
"""Where a restored VM has its memory: pages of a template, of its own, huge ones; by the monitor's control socket."""

import contextlib
import os
import pathlib
import re

import harness
from control.monitor_client import Snapshot
from control.save_test import SaveCase
from harness import control_pb

MIB = 1 << 20
CHUNK = 2 * MIB
PAGE = 4096
AREA = 16 * MIB  # Where the probe's pages are.
SHMEM_ENABLED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
THP_ENABLED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


@contextlib.contextmanager
def shmem_huge_pages(test):
    """Huge pages for who asks for them, also in memfds; as it was afterwards. Skips where that cannot be had."""
    try:
        before = re.search(r"\[(\w+)\]", SHMEM_ENABLED.read_text()).group(1)
        SHMEM_ENABLED.write_text("advise")
    except OSError as error:
        test.skipTest(f"huge pages cannot be allowed in memfds: {error}")
    try:
        yield
    finally:
        SHMEM_ENABLED.write_text(before)


def minor_faults(pid):
    """Of all threads since the process began."""
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def guest_memory(pid):
    """Bytes of the guest's RAM by how they are held, from smaps: Anonymous (its own), AnonHugePages, ..."""
    found, counted = {}, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            first, last = (int(word, 16) for word in words[0].split("-"))
            counted = first % CHUNK == 0 and last - first >= CHUNK  # Nothing else is so large.
        elif counted and words[-1] == "kB":
            found[words[0][:-1]] = found.get(words[0][:-1], 0) + (int(words[1]) << 10)
    return found


class TouchCase(SaveCase):
    """VMs that go on from one which knows `PAGES` pages and writes `WRITTEN` of them when it is told a line."""

    PAGES, EVERY, MEMORY = 4096, 5, 64 * MIB
    WRITTEN = set(range(0, PAGES, EVERY))
    CHUNKS = PAGES * PAGE // CHUNK

    def source(self):
        vm = self.configured(f"probe.test=touch probe.at={AREA} probe.pages={self.PAGES} probe.every={self.EVERY}",
                             memory_bytes=self.MEMORY)
        harness.wait_until(lambda: b"ready\n" in vm.console(), "the guest is ready")
        self.ok(vm.call(pause=control_pb.Pause()))
        snapshot, _ = self.save(vm)
        self.seal(snapshot)
        vm.close()
        return snapshot

    def clone(self, snapshot, **options):
        return self.configured(restore=snapshot, memory_bytes=self.MEMORY, **options)

    def touch(self, vm, times=1):
        """What the guest says of each: how many TSC cycles it took."""
        for _ in range(times):
            said = vm.console().count(b"touched")
            os.write(vm.console_input, b"go\n")
            harness.wait_until(lambda said=said: vm.console().count(b"\n") > said or vm.process.poll() is not None,
                               "the guest has touched its pages")
        cycles = [int(text) for text in re.findall(rb"touched \d+ (\d+)\n", vm.console())]
        self.assertEqual(len(cycles), vm.console().count(b"\n"), vm.console())
        return cycles

    def run_area(self, count=None):
        """The chunks of the probe's pages."""
        return [(AREA // CHUNK, self.CHUNKS if count is None else count)]

    def changed_in_area(self, snapshot):
        pages = Snapshot.changed_pages(snapshot.layers[-1][1])
        first = AREA // PAGE
        return {page - first for page in pages if first <= page < first + self.PAGES}, pages


class CopiedChunksTest(TouchCase):
    def policies(self):
        every_other = [(AREA // CHUNK + chunk, 1) for chunk in range(0, self.CHUNKS, 2)]
        return {"none": [], "some": every_other, "hot": self.run_area(), "all": [(0, self.MEMORY // CHUNK)]}

    def test_every_page_is_what_it_was_whoever_copied_it_and_in_a_snapshot_of_that(self):
        snapshot = self.source()
        before = snapshot.image(self.MEMORY)
        layers = {}
        for name, copied in self.policies().items():
            with self.subTest(policy=name):
                vm = self.clone(snapshot, copied=copied)
                self.touch(vm, 3)
                self.ok(vm.call(pause=control_pb.Pause()))
                child, saved = self.save(vm, snapshot)
                written, pages = self.changed_in_area(child)
                self.assertEqual(written, self.WRITTEN, "a layer has what was written, and no copies")
                self.assertEqual(saved.page_count, len(pages))
                layers[name] = set(pages)
                image = child.image(self.MEMORY)
                for page in set(range(self.MEMORY // PAGE)) - set(pages):
                    self.assertEqual(image[page * PAGE:(page + 1) * PAGE], before[page * PAGE:(page + 1) * PAGE])
                # A grandchild, over a layer and copies.
                second = self.clone(child, copied=copied)
                self.assertEqual(len(self.touch(second, 2)), 2)
                os.write(second.console_input, b"q\n")
                self.assertEqual(second.wait(), 0)
                self.assertTrue(second.console().endswith(b"PASS touch\n"), second.console())
                self.assertEqual(vm.console().count(b"touched"), 3)
        for name, pages in layers.items():
            # What the loop thread and the guest's console wrote differs by little.
            self.assertLess(len(pages ^ layers["none"]), 20, (name, pages ^ layers["none"]))
        self.assertEqual(snapshot.image(self.MEMORY), before, "somebody wrote to what was left")

    def test_copies_cost_few_faults_and_are_private(self):
        snapshot = self.source()
        faults, memory, cycles = {}, {}, {}
        for name, copied in self.policies().items():
            vm = self.clone(snapshot, copied=copied)
            begin = minor_faults(vm.process.pid)
            cycles[name] = self.touch(vm)[0]
            faults[name] = minor_faults(vm.process.pid) - begin
            memory[name] = guest_memory(vm.process.pid)
        harness.print_figures("faults of the first request", **faults)
        harness.print_figures("Mcycles of the first request", **{name: value / 1e6 for name, value in cycles.items()})
        area = self.PAGES * PAGE
        self.assertGreater(faults["none"], len(self.WRITTEN))
        self.assertLess(faults["hot"], faults["none"] / 8)
        self.assertLess(faults["all"], faults["none"] / 8)
        self.assertLess(faults["some"], 0.7 * faults["none"])
        self.assertLess(memory["none"]["Anonymous"], 1.15 * len(self.WRITTEN) * PAGE + MIB)
        self.assertGreaterEqual(memory["hot"]["Anonymous"], area)
        self.assertLess(memory["hot"]["Anonymous"], area + MIB)
        if "[never]" not in THP_ENABLED.read_text():
            self.assertGreaterEqual(memory["hot"]["AnonHugePages"], area)

    def test_twenty_clones_share_what_they_do_not_write(self):
        snapshot = self.source()
        copied = self.run_area(2)
        clones = []
        for _ in range(20):
            clones.append(self.clone(snapshot, copied=copied))
            self.touch(clones[-1])
            # It would wait for its next line by looking at the queue.
            self.ok(clones[-1].call(pause=control_pb.Pause()))
        area, copies = self.PAGES * PAGE, 2 * CHUNK
        dirtied = len([page for page in self.WRITTEN if page >= copies // PAGE]) * PAGE
        clean = area - copies - dirtied
        for vm in clones:
            memory = guest_memory(vm.process.pid)
            private = memory["Anonymous"]
            self.assertLess(private, 1.15 * dirtied + copies + MIB // 2)
            self.assertGreater(memory["Shared_Clean"] + memory["Shared_Dirty"], 0.95 * clean)
        harness.print_figures("a clone of twenty, MiB", private=private / MIB, dirtied=dirtied / MIB,
                              copies=copies / MIB, shared=(memory["Shared_Clean"] + memory["Shared_Dirty"]) / MIB)

    def test_chunks_that_are_none_are_refused(self):
        snapshot = self.source()
        last = self.MEMORY // CHUNK
        for copied, reason, words in (
                ([(last, 1)], "COPIED_CHUNKS", ("copied_chunks[0]", "32")),
                ([(0, last + 1)], "COPIED_CHUNKS", ("33 chunks at 0",)),
                ([(1, 0)], "COPIED_CHUNKS", ("0 chunks at 1",)),
                ([(5, 1), (4, 1)], "COPIED_CHUNKS", ("copied_chunks[1]", "1 chunks at 4")),
                ([(5, 2), (6, 1)], "COPIED_CHUNKS", ("copied_chunks[1]",)),
                ([(0, (1 << 32) - 1)], "COPIED_CHUNKS", ("4294967295",)),
                ([(chunk, 1) for chunk in range(1025)], "TOO_MANY", ("1025", "1024"))):
            with self.subTest(copied=copied[:3]):
                vm = self.monitor()
                self.assert_refused(vm.configure(restore=snapshot, memory_bytes=self.MEMORY, copied=copied), reason,
                                    *words)
                # Refused as a message: it can be sent again.
                self.ok(vm.configure(restore=snapshot, memory_bytes=self.MEMORY))
                vm.close()
        vm = self.monitor()
        reply = vm.configure(restore=snapshot, memory_bytes=self.MEMORY, copied=[(0, 1)], private_memory=False)
        self.assert_refused(reply, "COPIES_SHARED")


class RecordTest(TouchCase):
    def test_a_run_tells_what_it_touches_and_writes_from_small_pages_and_huge_ones(self):
        first = AREA // PAGE
        small = self.source()
        with shmem_huge_pages(self):
            huge = self.source()
        for name, snapshot in (("small", small), ("huge", huge)):
            with self.subTest(pages=name):
                vm = self.clone(snapshot, record=True)
                before = self.ok(vm.touched_pages(self.MEMORY)[0]).touched_pages
                self.assertLess(before.touched_count, 64)
                self.touch(vm)
                reply, touched, written = vm.touched_pages(self.MEMORY)
                self.assertEqual(self.ok(reply).touched_pages.touched_count, len(touched))
                self.assertEqual(reply.touched_pages.written_count, len(written))
                area = range(first, first + self.PAGES)
                self.assertEqual({page - first for page in written if page in area}, self.WRITTEN)
                self.assertEqual([page for page in touched if page in area], list(area))
                self.assertLessEqual(set(written), set(touched))
                others = len(touched) - self.PAGES
                harness.print_figures(f"touched pages, {name}", exact=reply.touched_pages.is_exact, others=others)
                if reply.touched_pages.is_exact:
                    self.assertLess(others, 64, "neighbours were mapped too")
                # What it recorded is what another one is spared.
                chunks = sorted({page // (CHUNK // PAGE) for page in written if page in area})
                other = self.clone(snapshot, copied=[(chunk, 1) for chunk in chunks])
                begin = minor_faults(other.process.pid)
                self.touch(other)
                self.assertLess(minor_faults(other.process.pid) - begin, 200)

    def test_who_does_not_record_cannot_tell(self):
        snapshot = self.source()
        self.assert_refused(self.clone(snapshot).touched_pages(self.MEMORY)[0], "NOT_RECORDED")
        vm = self.clone(snapshot, record=True)
        self.assert_refused(vm.touched_pages(self.MEMORY // 2)[0], "FILE_LENGTH", "touched_fd", "2048")
        for options in ({"copied": [(0, 1)]}, {"private_memory": False}):
            self.assert_refused(
                self.monitor().configure(restore=snapshot, memory_bytes=self.MEMORY, record=True, **options),
                "RECORD_TOUCHED")


class HugePagesTest(TouchCase):
    EVERY = 0
    WRITTEN = set()

    def test_a_template_of_huge_pages_is_mapped_by_few_faults(self):
        figures = {}
        small = self.source()
        with shmem_huge_pages(self):
            huge = self.source()
        for name, snapshot in (("small", small), ("huge", huge)):
            vm = self.clone(snapshot)
            begin = minor_faults(vm.process.pid)
            cycles = self.touch(vm)[0]
            figures[name] = (minor_faults(vm.process.pid) - begin, cycles)
            self.assertLess(guest_memory(vm.process.pid)["Anonymous"], MIB)
        harness.print_figures("clean pages, faults and Mcycles", **{
            f"{name}-{what}": value for name, (faults, cycles) in figures.items()
            for what, value in (("faults", faults), ("Mcycles", cycles / 1e6))})
        self.assertLess(figures["huge"][0], figures["small"][0] / 4)

    def test_memory_of_huge_pages_is_left_and_written_as_other_memory_is(self):
        with shmem_huge_pages(self):
            snapshot = self.source()
            before = snapshot.image(self.MEMORY)
            vm = self.clone(snapshot)
            self.touch(vm, 2)
            self.ok(vm.call(pause=control_pb.Pause()))
            child, _ = self.save(vm, snapshot)
            self.assertEqual(self.changed_in_area(child)[0], set())
            self.assertEqual(child.image(self.MEMORY)[AREA:][:self.PAGES * PAGE], before[AREA:][:self.PAGES * PAGE])
