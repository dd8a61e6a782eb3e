# SPDX-License-Identifier: Apache-2.0
"""What a differential snapshot of a running VM takes. Goal 10."""

import os
import pathlib
import struct

import harness
from harness import snapshot_pb, vm_pb
from perf import saved_guest, stats

PAGE = 4096
# Of /proc/PID/pagemap: in memory, in swap, of a file.
PRESENT, SWAPPED, FILE = 1 << 63, 1 << 62, 1 << 61
LINES_BETWEEN = 16  # of the guest: four times through its memory


def _ram(pid):
    """The addresses of a monitor's guest RAM: its largest mapping."""
    spans = [line.split()[0].split("-") for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return max(((int(begin, 16), int(end, 16)) for begin, end in spans), key=lambda span: span[1] - span[0])


def _own_pages(pid):
    """How many pages of its RAM a paused VM has written since its memory became private; and how many are not zero."""
    begin, end = _ram(pid)
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        pagemap.seek(begin // PAGE * 8)
        entries = struct.unpack(f"<{(end - begin) // PAGE}Q", pagemap.read((end - begin) // PAGE * 8))
        own = [page for page, entry in enumerate(entries) if entry & (PRESENT | SWAPPED) and not entry & FILE]
        return len(own), sum(os.pread(memory.fileno(), PAGE, begin + page * PAGE) != bytes(PAGE) for page in own)


def _lines(daemon, vm_id):
    return daemon.console(vm_id).count(b"\n")


def measure(where):
    where.need_kvm()
    where.need_root()
    daemon, disk = where.daemon, where.dir / "writable"
    disk.touch()
    os.truncate(disk, saved_guest.DISK_BYTES)
    rows, ratios = [], []
    daemon.probe("churn", "probe.test=churn probe.count=1000000000", memory_mib=saved_guest.MEMORY_MIB,
                 disks=[vm_pb.Disk(path=str(disk))])
    for number in range(where.rounds(3, 10)):
        where.progress(f"diffs: {number}")
        seen = _lines(daemon, "churn")
        harness.wait_until(lambda: _lines(daemon, "churn") > seen + LINES_BETWEEN, "the guest goes on")
        kind = snapshot_pb.SNAPSHOT_KIND_DIFF if number else snapshot_pb.SNAPSHOT_KIND_FULL
        made = daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(
            vm_id="churn", snapshot_id=f"churn-{number}", kind=kind, stay_paused=True, caller_keeps_disks=True))
        if number:
            own, not_zero = _own_pages(daemon.get("churn").monitor_pid)
            ratios.append(made.snapshot.stored_bytes / (not_zero * PAGE))
            rows.append({"stopped_us": made.stopped_us, "stored_bytes": made.snapshot.stored_bytes, "own_pages": own,
                         "pages_not_zero": not_zero})
        daemon.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="churn"))
    daemon.delete("churn")
    figures = {"diff_bytes": stats.median_figure(ratios)}
    last = rows[-1]
    table = [["pages written", "not zero", "stored KiB", "stood still µs"],
             [str(last["own_pages"]), str(last["pages_not_zero"]), f"{last['stored_bytes'] >> 10}",
              str(last["stopped_us"])]]
    return {"figures": figures, "samples": {"diffs": rows}, "table": table}
