# SPDX-License-Identifier: Apache-2.0
"""Snapshots that measurements restore, made by a daemon from the probe guest."""

import os
import struct

import harness
from control import state_file
from control.state_file import state_pb
from harness import snapshot_pb, vm_pb

# mov $0x600, %edx; mov $0x34, %al; out %al, (%dx): the guest's power-off.
POWER_OFF = bytes.fromhex("ba00060000 b034 ee")
RIP = 16 * 8  # in kvm_regs
MEMORY_MIB = 128
DISK_BYTES = 4 << 20
WARM_TICKS = 20
CHUNK_PAGES = 512
MANIFEST_PART, INDEX_PART = 1, 3


def make_disk(directory):
    """A disk that any number of VMs may read."""
    disk = directory / "disk"
    disk.touch()
    os.truncate(disk, DISK_BYTES)
    return disk


def save_reading(daemon, snapshot_id, disk):
    """A guest with console, entropy, vsock and disk that reads from the disk for ever, saved amid that."""
    daemon.probe("source", "probe.test=bench probe.count=1000000000000", agent=True, memory_mib=MEMORY_MIB,
                 disks=[vm_pb.Disk(path=str(disk), read_only=True)])
    pid = daemon.get("source").monitor_pid
    harness.wait_until(lambda: harness.cpu_ticks(pid) >= WARM_TICKS, "the guest reads", 60)
    _save(daemon, "source", snapshot_id)


def save_halted(daemon, snapshot_id, memory_mib=16):
    """A guest that waits for ever, as an idle one does."""
    daemon.probe("source", "halt", memory_mib=memory_mib)
    _save(daemon, "source", snapshot_id)


def power_off_at_once(directory):
    """Changes a snapshot so that the guest's next instructions power it off. `directory` is the snapshot's."""
    rip, = struct.unpack_from("<Q", _read(directory, "state", state_pb.MachineState).vcpus[0].regs, RIP)
    with open(directory / "memory", "r+b") as memory:
        os.pwrite(memory.fileno(), POWER_OFF, rip)
        index = _read(directory, "memory.index", state_pb.MemoryIndex)
        for chunk in index.chunks:
            chunk.digest = state_file.digest(_stored(memory.fileno(), chunk))
    manifest = _read(directory, "manifest", state_pb.Manifest)
    for part in manifest.parts:
        if part.name == "memory.index":
            data = state_file.bytes_of(index, INDEX_PART)
            part.size_bytes, part.digest = len(data), data[48:64]
            (directory / part.name).write_bytes(data)
    (directory / "manifest").write_bytes(state_file.bytes_of(manifest, MANIFEST_PART))


def _read(directory, part, kind):
    return kind.FromString((directory / part).read_bytes()[64:])


def _stored(memory, chunk):
    """The pages that a chunk's digest is of (docs/snapshots.md)."""
    page, pages = chunk.number * CHUNK_PAGES, bytearray()
    for run in chunk.runs:
        if run & 3 == 1:
            pages += os.pread(memory, (run >> 2) << 12, page << 12)
        page += run >> 2
    return bytes(pages)


def overrides(disk=None):
    """For RestoreVm and CloneVm."""
    disks = [] if disk is None else [snapshot_pb.DiskOverride(index=0, path=str(disk))]
    return snapshot_pb.RestoreOverrides(disks=disks, allow_slow_kvm=True)


def _save(daemon, vm_id, snapshot_id):
    daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(
        vm_id=vm_id, snapshot_id=snapshot_id, stay_paused=True))
    daemon.delete(vm_id)
