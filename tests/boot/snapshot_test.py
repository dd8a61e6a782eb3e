# SPDX-License-Identifier: Apache-2.0
"""Linux guests that are saved, restored, cloned and forked: what they knew, who they are, and that they run on."""

import itertools
import os
import shutil
import subprocess
import time

import harness
from harness import snapshot_pb, vm_pb

FULL, DIFF = snapshot_pb.SNAPSHOT_KIND_FULL, snapshot_pb.SNAPSHOT_KIND_DIFF
DISK_BYTES = 16 << 20
# In the lab a clone takes about half a second of its two CPUs. More, to see what becomes of many.
CLONES = int(os.environ.get("MAYFLY_TEST_CLONES", "12"))
# Which boot it is, of how many CPUs.
BOOT = "cat /proc/sys/kernel/random/boot_id; grep -c ^processor /proc/cpuinfo"
# Of what is in memory and on the scratch disk, read from there.
SUMS = "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /tmp/memory; sha256sum /dev/vdb"


PAGE = 4096


def pages_that_differ(before, after):
    assert len(before) == len(after)
    return [at // PAGE for at in range(0, len(after), PAGE) if before[at:at + PAGE] != after[at:at + PAGE]]


class LinuxSnapshotTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.dir / "snapshots"
        self.daemon = self.start("d")

    def start(self, name):
        daemon = self.start_daemon("--snapshot-dir", self.store, name=name)
        daemon.need_linux_guests()
        return daemon

    def boot(self, vm_id, **spec):
        self.daemon.create(vm_id, memory_mib=128, **spec)
        self.daemon.wait_ready(vm_id)

    def guest(self, vm_id, command):
        """What a command in the guest prints."""
        result = self.daemon.exec(vm_id, command)
        self.assert_command(result, 0, err=b"")
        return result.out.decode()

    def save(self, vm_id, snapshot_id, kind=FULL, **fields):
        return self.daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(
            vm_id=vm_id, snapshot_id=snapshot_id, kind=kind, **fields))

    def overrides(self, *more_disks):
        disks = [harness.ROOTFS, *more_disks]
        return snapshot_pb.RestoreOverrides(
            disks=[snapshot_pb.DiskOverride(index=index, path=str(path)) for index, path in enumerate(disks)])

    def restore(self, snapshot_id, vm_id, *more_disks, cpus=None):
        """`cpus`: those of the host that it may run on."""
        response = self.daemon.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id=snapshot_id, vm_id=vm_id, start=not cpus, overrides=self.overrides(*more_disks)))
        if cpus:
            for thread in os.listdir(f"/proc/{response.vm.monitor_pid}/task"):
                os.sched_setaffinity(int(thread), cpus)
            self.daemon.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=vm_id))
        self.daemon.wait_ready(vm_id)

    def clone(self, vm_ids, **source):
        """Clones that have answered, and how long each took from the call to its answer, in s."""
        request = snapshot_pb.CloneVmRequest(clones=[snapshot_pb.Clone(vm_id=vm_id) for vm_id in vm_ids],
                                             overrides=self.overrides(), start=True, **source)
        began = time.monotonic()
        for response in self.daemon.api.CloneVm(request):
            self.assertTrue(response.HasField("vm"), response)
        return [self.ready_after(vm_id, began) for vm_id in vm_ids]

    def ready_after(self, vm_id, began):
        self.daemon.wait_ready(vm_id)
        return time.monotonic() - began

    def test_three_cycles_keep_memory_disk_console_and_agent(self):
        disk = self.file("scratch.0", size=DISK_BYTES)
        self.boot("vm-0", vcpus=2, disks=[vm_pb.Disk(path=str(disk))])
        booted = self.guest("vm-0", BOOT)
        for cycle, kind in enumerate((FULL, DIFF, DIFF)):
            here, there = f"vm-{cycle}", f"vm-{cycle + 1}"
            sums = self.guest(here, f"head -c 3000000 /dev/urandom >> /tmp/memory; head -c 2000000 /dev/urandom | "
                                    f"dd of=/dev/vdb bs=1M seek={4 * cycle} 2>/dev/null; {SUMS}")
            self.save(here, f"s-{cycle}", kind, stay_paused=True, caller_keeps_disks=True)
            disk = shutil.copyfile(disk, self.dir / f"scratch.{cycle + 1}")
            self.daemon.delete(here)
            if cycle == 1:
                # Another daemon, and a store that has moved.
                self.daemon.stop()
                self.store = self.store.rename(self.dir / "moved")
                self.daemon = self.start("e")
            # The last has one CPU for both of the guest's.
            self.restore(f"s-{cycle}", there, disk, cpus={0} if cycle == 2 else None)
            self.assertEqual(self.guest(there, SUMS), sums)
            self.guest(there, f"echo this is {there} > /dev/console")
            harness.wait_until(lambda: f"this is {there}".encode() in self.daemon.console(there), "the console", 30)
        self.assertEqual(self.guest("vm-3", BOOT), booted)
        verified = self.daemon.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s-2"))
        self.assertEqual(list(verified.verified_ids), ["s-2", "s-1", "s-0"])

    def test_changes_over_a_full_image_are_the_memory_as_it_is(self):
        """What a DIFF holds, page by page: what vCPUs write, and a disk that is read."""
        disk = self.file("scratch", size=DISK_BYTES)
        self.boot("vm", vcpus=2, disks=[vm_pb.Disk(path=str(disk))])
        kept = {"stay_paused": True, "caller_keeps_disks": True}
        self.save("vm", "s-0", **kept)
        images = [(self.store / "s-0/memory").read_bytes()]
        for turn in (1, 2):
            self.daemon.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="vm"))
            self.guest("vm", "for n in 1 2; do head -c 4000000 /dev/urandom >> /tmp/memory & done; wait; "
                             f"dd if=/dev/urandom of=/dev/vdb bs=1M count=6 seek={turn} conv=fsync 2>/dev/null; {SUMS}")
            self.save("vm", f"s-{turn}", DIFF, **kept)
            self.save("vm", f"whole-{turn}", FULL, **kept)
            self.daemon.api.RebaseSnapshot(snapshot_pb.RebaseSnapshotRequest(
                snapshot_id=f"s-{turn}", new_snapshot_id=f"merged-{turn}"))
            merged = (self.store / f"merged-{turn}/memory").read_bytes()
            images.append((self.store / f"whole-{turn}/memory").read_bytes())
            self.assertEqual(pages_that_differ(merged, images[-1]), [])
        changed = [len(pages_that_differ(*pair)) for pair in itertools.pairwise(images)]
        # The disk's content came by its device alone.
        self.assertGreater(min(changed), (8_000_000 + (6 << 20)) // PAGE, "so much was written that is not like before")
        harness.print_figures("pages of a Linux guest that differ between saves", of=len(images[0]) // PAGE,
                              changed=changed)

    def test_a_file_system_that_is_mounted_and_written_goes_along_with_its_memory(self):
        disk = self.file("data.img", size=DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
        self.boot("vm-0", disks=[vm_pb.Disk(path=str(disk))])
        self.guest("vm-0", "mkdir -p /tmp/data && mount -t ext4 /dev/vdb /tmp/data")
        for cycle, kind in enumerate((FULL, DIFF)):
            here, there = f"vm-{cycle}", f"vm-{cycle + 1}"
            # Half of it is on the disk, half of it in the guest's memory only.
            sums = self.guest(here, f"cd /tmp/data && head -c 1000000 /dev/urandom > old.{cycle} && sync && "
                                    f"head -c 1000000 /dev/urandom > new.{cycle} && sha256sum *.*")
            response = self.save(here, f"s-{cycle}", kind)
            self.assertEqual([each.captured for each in response.snapshot.disks], [False, True])
            # What is written after the save is on the one's disk alone.
            self.guest(here, "echo later > /tmp/data/later && sync")
            self.restore(f"s-{cycle}", there)
            self.guest(there, "sync; echo 3 > /proc/sys/vm/drop_caches")
            self.assertEqual(self.guest(there, "cd /tmp/data && sha256sum *.*"), sums)
            self.assertEqual(self.guest(there, "ls /tmp/data/later 2>/dev/null || echo none"), "none\n")
            self.daemon.delete(here)
        self.clone(["fork-0", "fork-1"], source_vm_id="vm-2")
        for vm_id in ("fork-0", "fork-1", "vm-2"):
            self.guest(vm_id, f"echo {vm_id} > /tmp/data/who && sync && echo 3 > /proc/sys/vm/drop_caches")
        for vm_id in ("fork-0", "fork-1", "vm-2"):
            self.assertEqual(self.guest(vm_id, "cat /tmp/data/who; cd /tmp/data && sha256sum *.*"), f"{vm_id}\n{sums}")
            self.guest(vm_id, "umount /tmp/data && mount -t ext4 /dev/vdb /tmp/data && cat /tmp/data/who")
        verified = self.daemon.api.VerifySnapshot(snapshot_pb.VerifySnapshotRequest(snapshot_id="s-1"))
        self.assertEqual(list(verified.verified_ids), ["s-1", "s-0"])

    def test_clones_answer_each_as_one_of_its_own(self):
        self.boot("source")
        self.save("source", "s")
        vm_ids = [f"clone-{number}" for number in range(CLONES)]
        seconds = self.clone(vm_ids, snapshot_id="s")
        answers, cids = set(), set()
        for vm_id in ["source", *vm_ids]:
            before = time.time()
            uuid, numbers, now = self.guest(vm_id, "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | "
                                                   "sha256sum; date +%s").splitlines()
            self.assertLess(abs(int(now) - before), 30, vm_id)
            answers |= {uuid, numbers}
            cids.add(self.daemon.get(vm_id).guest_cid)
        self.assertEqual(len(answers), 2 * (CLONES + 1))
        self.assertEqual(len(cids), CLONES + 1)
        harness.print_figures(f"{CLONES} clones of a Linux guest, s from the call to the agent's answer",
                              first=round(min(seconds), 2), last=round(max(seconds), 2))

    def test_a_guest_under_load_is_forked_and_all_run_on(self):
        self.boot("source", vcpus=2)
        # Two processes that keep memory changing, and tell how far they are.
        self.guest("source", "for n in 0 1; do echo 0 > /tmp/count.$n; "
                             "setsid sh -c 'i=0; while :; do i=$((i + 1)); head -c 65536 /dev/zero > /tmp/page.'$n'; "
                             "echo $i > /tmp/new.'$n'; mv /tmp/new.'$n' /tmp/count.'$n'; done' "
                             "< /dev/null > /dev/null 2>&1 & done")
        before = self.counts("source")
        self.clone(["fork-0", "fork-1"], source_vm_id="source")
        for vm_id in ("fork-0", "fork-1", "source"):
            first = self.counts(vm_id)
            harness.wait_until(lambda: all(now > then for now, then in zip(self.counts(vm_id), first)),
                               f"{vm_id} to count on from {first}")
            for now, then in zip(first, before):
                self.assertGreaterEqual(now, then, vm_id)

    def counts(self, vm_id):
        return [int(line) for line in self.guest(vm_id, "cat /tmp/count.0 /tmp/count.1").split()]
