# SPDX-License-Identifier: Apache-2.0
"""Linux guests with a balloon: what the host has of them before and after, by the host's own count; and that a guest
goes on with what it had, also in clones, with lazy memory, and where it runs out of memory."""

import pathlib
import time

import harness
from google.protobuf import field_mask_pb2
from harness import snapshot_pb, vm_pb

MEMORY_MIB = 192
FILL_MIB = 64
TARGET_MIB = 96
# Changes of a guest that is not asked to do anything.
NOISE = 12 << 20
FILL = f"head -c {FILL_MIB << 20} /dev/zero | tr '\\0' x > /tmp/fill"
KEEP = "head -c 4000000 /dev/urandom > /tmp/keep; sha256sum /tmp/keep"
SUM = "sha256sum /tmp/keep"


def resident(pid):
    """Bytes of the guest's memory that the monitor holds."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(("RssShmem:", "RssAnon:")))


class LinuxBalloonTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon("--snapshot-dir", self.dir / "snapshots")
        self.daemon.need_linux_guests()

    def boot(self, vm_id, **balloon):
        self.daemon.create(vm_id, memory_mib=MEMORY_MIB, balloon=vm_pb.Balloon(**balloon))
        self.daemon.wait_ready(vm_id)

    def guest(self, vm_id, command):
        result = self.daemon.exec(vm_id, command)
        self.assert_command(result, 0, err=b"")
        return result.out.decode()

    def resident(self, vm_id):
        return resident(self.daemon.get(vm_id).monitor_pid)

    def set_target(self, vm_id, mib):
        self.daemon.api.UpdateVm(vm_pb.UpdateVmRequest(
            vm_id=vm_id, spec=vm_pb.VmSpec(balloon=vm_pb.Balloon(target_mib=mib)),
            update_mask=field_mask_pb2.FieldMask(paths=["balloon.target_mib"])))

    def reach(self, vm_id, mib):
        """Sets a target and waits until the guest says that it is there."""
        self.set_target(vm_id, mib)
        harness.wait_until(lambda: self.daemon.get(vm_id).balloon.actual_mib == mib, f"{vm_id} has given {mib} MiB", 60)

    def restore(self, snapshot_id, vm_id, **fields):
        disks = [snapshot_pb.DiskOverride(index=0, path=str(harness.ROOTFS))]
        self.daemon.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id=snapshot_id, vm_id=vm_id, start=True, overrides=snapshot_pb.RestoreOverrides(disks=disks),
            **fields))
        self.daemon.wait_ready(vm_id)

    def test_a_target_takes_memory_from_the_guest_and_gives_it_back(self):
        self.boot("a", stats_interval_s=1)
        kept = self.guest("a", KEEP)
        self.guest("a", FILL)
        full = self.resident("a")
        self.guest("a", "rm /tmp/fill")
        self.assertGreater(self.resident("a"), full - NOISE)
        self.reach("a", TARGET_MIB)
        least = self.resident("a")
        self.assertLess(least, full - (FILL_MIB << 20) + NOISE)
        total = int(self.guest("a", "awk '/MemTotal/ {print $2}' /proc/meminfo"))
        self.assertLess(total, (MEMORY_MIB - TARGET_MIB) << 10)

        self.reach("a", 0)
        self.guest("a", FILL)
        self.assertEqual(self.guest("a", "tr -d x < /tmp/fill | wc -c; wc -c < /tmp/fill").split(),
                         ["0", str(FILL_MIB << 20)])
        self.assertEqual(self.guest("a", SUM), kept)
        again = self.resident("a")
        self.assertGreater(again, least + (FILL_MIB << 20) - NOISE)

        harness.wait_until(lambda: self.daemon.get("a").balloon.HasField("stats"), "statistics arrive", 30)
        stats = self.daemon.get("a").balloon.stats
        self.assertLess(stats.age_ms, 30_000)
        self.assertLess(stats.free_bytes, stats.total_bytes)
        self.assertLessEqual(stats.total_bytes, MEMORY_MIB << 20)
        harness.print_figures("balloon: MiB of the guest that the host has", full=full >> 20,
                              at_target=least >> 20, filled_again=again >> 20)

    def test_free_pages_are_reported_without_a_target(self):
        self.boot("a", free_page_reporting=True)
        self.guest("a", FILL)
        full = self.resident("a")
        self.guest("a", "rm /tmp/fill")
        harness.wait_until(lambda: self.resident("a") < full - (FILL_MIB << 20) + NOISE,
                           "the guest has reported what it freed", 60)
        status = self.daemon.get("a").balloon
        self.assertGreater(status.reported_bytes, (FILL_MIB << 20) - NOISE)
        self.assertEqual((status.target_mib, status.actual_mib, status.inflated_bytes), (0, 0, 0))
        harness.print_figures("balloon: MiB of the guest that the host has, by reports", full=full >> 20,
                              reported=self.resident("a") >> 20)

    def test_a_guest_that_runs_out_of_memory_takes_it_back(self):
        self.boot("a", deflate_on_oom=True)
        self.reach("a", TARGET_MIB)
        # More than is left, in memory of a program's own.
        result = self.daemon.exec("a", f"dd if=/dev/zero of=/dev/null bs={MEMORY_MIB - TARGET_MIB + 16}M count=1")
        self.assert_command(result, 0)
        self.assertLess(self.daemon.get("a").balloon.actual_mib, TARGET_MIB)

    def test_clones_keep_the_balloon_and_give_what_is_their_own(self):
        self.boot("a", deflate_on_oom=True)
        kept = self.guest("a", KEEP)
        self.reach("a", TARGET_MIB)
        self.daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="a", snapshot_id="s"))
        self.restore("s", "b")
        list(self.daemon.api.CloneVm(snapshot_pb.CloneVmRequest(
            source_vm_id="a", clones=[snapshot_pb.Clone(vm_id="c")], start=True, overrides=snapshot_pb.RestoreOverrides(
                disks=[snapshot_pb.DiskOverride(index=0, path=str(harness.ROOTFS))]))))
        self.daemon.wait_ready("c")
        for vm_id in ("a", "b", "c"):
            status = self.daemon.get(vm_id).balloon
            self.assertEqual((status.target_mib, status.actual_mib), (TARGET_MIB, TARGET_MIB), vm_id)
            self.reach(vm_id, 0)
            self.guest(vm_id, FILL)
            full = self.resident(vm_id)
            self.guest(vm_id, "rm /tmp/fill")
            self.reach(vm_id, TARGET_MIB)
            self.assertLess(self.resident(vm_id), full - (FILL_MIB << 20) + NOISE, vm_id)
            self.assertEqual(self.guest(vm_id, SUM), kept)

    def test_memory_that_comes_as_it_is_touched_stays(self):
        self.boot("a")
        kept = self.guest("a", KEEP)
        self.daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="a", snapshot_id="s"))
        self.restore("s", "b", lazy_memory=True)
        harness.wait_until(lambda: self.daemon.get("b").lazy_memory.complete, "all memory is there", 60)
        self.guest("b", FILL)
        full = self.resident("b")
        self.guest("b", "rm /tmp/fill")
        self.reach("b", TARGET_MIB)
        time.sleep(1)
        self.assertGreater(self.resident("b"), full - NOISE)
        self.reach("b", 0)
        self.assertEqual(self.guest("b", SUM), kept)
