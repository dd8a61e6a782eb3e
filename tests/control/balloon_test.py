# SPDX-License-Identifier: Apache-2.0
"""The balloon of a monitor: what a guest gives goes back to the host, from shared and from private RAM, and comes back
as it is touched; by the monitor's control socket and a guest that drives the device by hand."""

import os
import pathlib

import harness
from control.save_test import SaveCase
from harness import control_pb

PAGE = 4096
MEMORY = 64 << 20
FIRST, COUNT = 4096, 8192  # 32 MiB, far from what the probe itself uses.
BYTES = COUNT * PAGE
# The guest's console, its stack and what the kernel holds back of a page table change meanwhile.
SLACK = 1 << 20
ALL = {"free_page_reporting": True, "deflate_on_oom": True}


def resident(vm, kind):
    """Bytes of the monitor's memory: RssShmem or RssAnon."""
    for line in pathlib.Path(f"/proc/{vm.process.pid}/status").read_text().splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) << 10
    raise AssertionError(kind)


class BalloonTest(SaveCase):
    def pages(self, balloon, **options):
        vm = self.configured("probe.test=pages", memory_bytes=MEMORY, balloon=balloon, **options)
        harness.wait_until(lambda: b"ready\n" in vm.console(), "the guest is ready")
        return vm

    def tell(self, vm, words):
        """What the guest says to a line."""
        before = len(vm.console())
        os.write(vm.console_input, words.encode() + b"\n")
        harness.wait_until(lambda: vm.console()[before:].endswith(b"\n"), f"the guest answers {words!r}", 30)
        return vm.console()[before:].decode().strip()

    def balloon(self, vm):
        return self.ok(vm.call(get_balloon=control_pb.GetBalloon())).balloon

    def blocks(self, vm):
        return os.fstat(vm.memory).st_blocks * 512

    def assert_near(self, value, wanted):
        self.assertLess(abs(value - wanted), SLACK, (value, wanted))

    def test_shared_ram_goes_back_as_holes_in_its_file_and_comes_back_zero(self):
        vm = self.pages(ALL)
        for command in ("i", "f"):
            with self.subTest(command=command):
                self.tell(vm, f"w {FIRST} {COUNT} 7")
                full, full_rss = self.blocks(vm), resident(vm, "RssShmem")
                self.assertEqual(self.tell(vm, f"{command} {FIRST} {COUNT}"), "balloon used target 0")
                self.assert_near(full - self.blocks(vm), BYTES)
                self.assert_near(full_rss - resident(vm, "RssShmem"), BYTES)
                self.assertEqual(self.tell(vm, f"d {FIRST} {COUNT}"), "balloon used target 0")
                self.assertEqual(self.tell(vm, f"r {FIRST} {COUNT}"), f"done {FIRST} 0")
                self.tell(vm, f"w {FIRST} {COUNT} 9")
                self.assertEqual(self.tell(vm, f"r {FIRST} {COUNT}"), f"done {FIRST} {9 * COUNT}")
                self.assert_near(self.blocks(vm), full)
        counters = self.balloon(vm)
        self.assertEqual((counters.inflated_pages, counters.reported_pages, counters.failures), (COUNT, COUNT, 0))

    def test_private_ram_gives_the_vms_own_pages_and_is_the_snapshots_again(self):
        vm = self.pages(ALL)
        self.tell(vm, f"w {FIRST} {COUNT} 5")
        self.ok(vm.call(pause=control_pb.Pause()))
        snapshot, _ = self.save(vm)
        self.seal(snapshot)
        self.ok(vm.call(resume=control_pb.Resume()))
        restored = self.configured(restore=snapshot, memory_bytes=MEMORY, balloon=ALL)
        for one in (vm, restored):
            self.tell(one, f"w {FIRST} {COUNT} 6")
            full = resident(one, "RssAnon")
            self.assertGreater(full, BYTES)
            self.assertEqual(self.tell(one, f"i {FIRST} {COUNT}"), "balloon used target 0")
            self.assert_near(full - resident(one, "RssAnon"), BYTES)
            self.assertEqual(self.tell(one, f"r {FIRST} {COUNT}"), f"done {FIRST} {5 * COUNT}")
            self.tell(one, f"w {FIRST} {COUNT} 8")
            self.assertEqual(self.tell(one, f"r {FIRST} {COUNT}"), f"done {FIRST} {8 * COUNT}")

    def test_target_and_what_was_given_are_told_and_go_through_a_save_and_a_claim(self):
        vm = self.pages({**ALL, "target_pages": 100})
        self.assertEqual(self.tell(vm, "t"), "balloon used target 100")
        told = self.ok(vm.call(set_balloon=control_pb.SetBalloon(target_pages=2000))).balloon
        self.assertEqual((told.target_pages, told.actual_pages, told.has_stats), (2000, 0, False))
        self.assertEqual(self.tell(vm, "a 1500"), "balloon used target 2000")
        self.assertEqual(self.balloon(vm).actual_pages, 1500)
        self.ok(vm.call(pause=control_pb.Pause()))
        snapshot, _ = self.save(vm)
        restored = self.configured(restore=snapshot, memory_bytes=MEMORY, balloon=ALL)
        parked = self.monitor()
        self.ok(parked.park(snapshot, memory_bytes=MEMORY, balloon=ALL))
        self.assert_refused(parked.call(get_balloon=control_pb.GetBalloon()), "NOT_CLAIMED")
        self.ok(parked.claim())
        for one in (restored, parked):
            self.assertEqual((self.balloon(one).target_pages, self.balloon(one).actual_pages), (2000, 1500))
            self.ok(one.call(set_balloon=control_pb.SetBalloon(target_pages=3)))
            self.assertEqual(self.tell(one, "t"), "balloon used target 3")
            self.assertEqual(self.tell(one, f"i {FIRST} 1"), "balloon used target 3")

    def test_a_restore_is_of_the_same_balloon(self):
        vm = self.pages(ALL)
        self.ok(vm.call(pause=control_pb.Pause()))
        snapshot, _ = self.save(vm)
        for reason, options in (("DEVICE_COUNT", {}), ("BALLOON_OPTIONS", {"balloon": {"stats_interval_s": 1}})):
            self.assert_refused(self.monitor().configure(restore=snapshot, memory_bytes=MEMORY, **options), reason)

    def test_bad_requests_name_field_value_and_limit(self):
        pages = MEMORY // PAGE
        self.assert_refused(self.monitor().configure(memory_bytes=MEMORY, balloon={"target_pages": pages + 1}),
                            "BALLOON_TARGET", "balloon.target_pages", str(pages + 1), str(pages))
        self.assert_refused(self.monitor().configure(memory_bytes=MEMORY, balloon={"stats_interval_s": 86401}),
                            "BALLOON_STATS", "balloon.stats_interval_s", "86401", "86400")
        vm = self.pages(ALL)
        self.assert_refused(vm.call(set_balloon=control_pb.SetBalloon(target_pages=pages + 1)), "BALLOON_TARGET")
        without = self.configured("probe.test=spin")
        self.assert_refused(without.call(set_balloon=control_pb.SetBalloon()), "NO_BALLOON")
        self.assert_refused(without.call(get_balloon=control_pb.GetBalloon()), "NO_BALLOON")

    def test_a_guest_that_names_pages_beyond_ram_loses_its_balloon_and_nothing_else(self):
        vm = self.pages(ALL)
        self.tell(vm, f"w {FIRST} {COUNT} 5")
        self.assertEqual(self.tell(vm, f"i {MEMORY // PAGE - 1} 2"), "balloon needs-reset target 0")
        self.assertEqual(self.tell(vm, f"r {FIRST} {COUNT}"), f"done {FIRST} {5 * COUNT}")
        self.ok(vm.call(pause=control_pb.Pause()))
        self.assertEqual(self.balloon(vm).inflated_pages, 0)
