# SPDX-License-Identifier: Apache-2.0
"""What a monitor takes of the host beside its guest's memory. Goal 7."""

import pathlib
import subprocess
import time

import harness
from harness import snapshot_pb
from perf import place, saved_guest, stats

SETTLE_S = 1
# A guest that goes on for ever, at QEMU's places of the devices.
QEMU_GUEST = "probe.mmio=0xfeb00000 probe.stride=0x200 probe.slots=24 probe.test=spin"


def mappings(pid):
    return len(pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines())


def by_mapping(pid):
    """Private KiB of each kind of mapping, the largest first."""
    sums, name = {}, ""
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = words[5] if len(words) > 5 else "anonymous"
        elif words[0] in ("Private_Clean:", "Private_Dirty:"):
            sums[name] = sums.get(name, 0) + int(words[1])
    return dict(sorted(sums.items(), key=lambda item: -item[1])[:8])


def _qemu(where):
    """QEMU with the probe guest running."""
    with open(where.dir / "ram", "wb") as ram:
        ram.truncate(saved_guest.MEMORY_MIB << 20)
    process = where.work.popen(
        [place.QEMU, *place.QEMU_MACHINE.split(), "-kernel", harness.PROBE, "-append", QEMU_GUEST,
         "-object", f"memory-backend-file,id=ram,mem-path={where.dir}/ram,size={saved_guest.MEMORY_MIB}M,share=on",
         "-M", "memory-backend=ram", "-device", "virtio-serial-device", "-device", "virtconsole,chardev=c",
         "-chardev", "null,id=c", "-device", "virtio-rng-device",
         "-drive", f"id=d,file={where.disk},format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=d"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(SETTLE_S)
    if process.poll() is not None:
        raise RuntimeError(f"QEMU ended with {process.returncode}: {process.stderr.read().decode()}")
    found = {"private": harness.private_bytes(process.pid, without=f"{where.dir}/ram"),
             "mappings": mappings(process.pid)}
    process.kill()
    process.wait()
    return found


def _restore(where, vm_id, start):
    where.daemon.api.RestoreVm(snapshot_pb.RestoreVmRequest(
        snapshot_id=where.reading, vm_id=vm_id, start=start, overrides=saved_guest.overrides(where.disk)))
    time.sleep(SETTLE_S)
    return where.daemon.get(vm_id).monitor_pid


def _private(pid):
    """Without the guest's RAM, which is the snapshot's file."""
    return harness.private_bytes(pid, without="/memory")


def measure(where):
    where.need_kvm()
    where.progress("footprint of one monitor")
    pid = _restore(where, "footprint", start=True)
    private = _private(pid)
    ours = {"private": private, "mappings": mappings(pid), "private_kib_by_mapping": by_mapping(pid)}
    _restore(where, "beside", start=False)  # Its guest would take the other CPU, at our priority.
    ours["private_of_many"] = _private(pid)
    for vm_id in ("footprint", "beside"):
        where.daemon.delete(vm_id)
    figures = {"monitor_private_mib": stats.counted(private / 2**20),
               "monitor_private_mib_of_many": stats.counted(ours["private_of_many"] / 2**20),
               "monitor_mappings": stats.counted(ours["mappings"])}
    absent, qemu = {}, None
    table = [["", "private MiB", "mappings"], ["mayfly-vmm", f"{private / 2**20:.2f}", str(ours["mappings"])],
             ["beside another", f"{ours['private_of_many'] / 2**20:.2f}", ""]]
    if place.has_qemu():
        qemu = _qemu(where)
        figures["monitor_to_qemu"] = stats.counted(private / qemu["private"])
        table.append(["qemu microvm", f"{qemu['private'] / 2**20:.2f}", str(qemu["mappings"])])
    else:
        absent["monitor_to_qemu"] = place.NO_QEMU
    notes = [f"private KiB by mapping: {ours['private_kib_by_mapping']}"]
    return {"figures": figures, "absent": absent, "samples": {"mayfly": ours, "qemu": qemu}, "table": table,
            "notes": notes}
