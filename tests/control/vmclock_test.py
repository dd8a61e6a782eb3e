# SPDX-License-Identifier: Apache-2.0
"""The VMClock page of guests that are booted, restored and cloned, as it lies in what is saved of their memory."""

import struct

from control import snapshot_case

PAGE = 0xee000
# magic, size, version, counter, time, seq_count, disruption_marker, flags; then, at 104, vm_generation_counter.
LAYOUT = struct.Struct("<4sIHBBIQQ72xQ")


class VmClockTest(snapshot_case.SnapshotCase):
    def page(self, snapshot_id):
        with (self.store / snapshot_id / "memory").open("rb") as memory:
            memory.seek(PAGE)
            return memory.read(4096)

    def clock(self, snapshot_id):
        """(seq_count, disruption_marker, vm_generation_counter), of a page that is as it should be."""
        magic, size, version, counter, _, seq_count, disruption, flags, generation = LAYOUT.unpack_from(
            self.page(snapshot_id))
        self.assertEqual((magic, size, version, counter, flags), (b"VCLK", 4096, 1, 0xff, 0x300))
        self.assertEqual(seq_count % 2, 0)
        return seq_count, disruption, generation

    def test_each_that_goes_on_from_a_snapshot_finds_other_markers(self):
        self.echo("one")
        self.save("one", "booted")
        self.save("one", "again")
        first = self.clock("booted")
        self.assertEqual(self.clock("again"), first, "a save alone has changed it")
        self.clone(dict.fromkeys(("a", "b", "c")), snapshot_id="booted")
        self.clone({"d": None}, source_vm_id="a")
        clocks = {"booted": first}
        for name in ("a", "b", "c", "d"):
            self.save(name, name)
            clocks[name] = self.clock(name)
            self.assertGreater(clocks[name][0], first[0])
            self.say(name, "here")
        for field in (1, 2):
            self.assertEqual(len({clock[field] for clock in clocks.values()}), len(clocks), clocks)

    def test_a_guest_of_a_time_before_there_was_one_keeps_its_memory(self):
        self.echo("one")
        self.save("one", "s")
        with (self.store / "s" / "memory").open("r+b") as memory:
            memory.seek(PAGE)
            memory.write(bytes(4096))
        # Its memory is not verified, so that this is a snapshot whose page is not there.
        self.restore("s", "two")
        self.say("two", "here")
        self.save("two", "t")
        self.assertEqual(self.page("t"), bytes(4096))
