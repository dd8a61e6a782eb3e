#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""To the guest's first exit: a restore in a monitor that runs, a claim of a parked one, against the floor. README.md.

usage: tests/perf/restore_floor.py --floor PATH [--rounds N] [--memory-mib N]

PATH is boot_floor. Needs out/mayfly-vmm and out/guest/probe.elf, and /dev/kvm.
"""

import argparse
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
from control import state_file
from control.monitor_client import Monitor, Snapshot
from harness import control_pb

# mov $0x600, %edx; mov $0x34, %al; out %al, (%dx): the guest's power-off.
POWER_OFF = bytes.fromhex("ba00060000 b034 ee")
CODE = 0x1000
RIP = 16 * 8  # in kvm_regs
SETTLED_S = 0.02  # after which a parked monitor's threads wait


def prepared(work, disk, size):
    """A probe guest saved in ring 3 amid its work, whose next instructions power it off."""
    monitor = Monitor(work, name="source")
    reply = monitor.configure("probe.test=churn probe.count=1000000000", disks=[disk], ports={}, memory_bytes=size)
    assert not reply.HasField("status"), reply
    harness.wait_until(lambda: monitor.console().count(b"\n") > 10, "the guest works")
    monitor.call(pause=control_pb.Pause())
    snapshot, reply = monitor.save()
    assert not reply.HasField("status"), reply
    os.pwrite(snapshot.memory, POWER_OFF, CODE)
    state = state_file.read(snapshot.state)
    regs = bytearray(state.vcpus[0].regs)
    struct.pack_into("<Q", regs, RIP, CODE)
    state.vcpus[0].regs = bytes(regs)
    monitor.close()
    return Snapshot(snapshot.memory, state_file.file_of(state_file.bytes_of(state)))


def end_of(monitor):
    assert monitor.wait() == 0
    report = monitor.exit_report()
    assert report.reason == control_pb.EXIT_REASON_GUEST_POWEROFF, report
    monitor.close()
    return report


def claim(work, name, snapshot, disk, size):
    """A parked monitor's claim: the phases since it had it, in µs, and since it was sent."""
    monitor = Monitor(work, name=name)
    reply = monitor.park(snapshot, ports={}, memory_bytes=size)
    assert not reply.HasField("status"), reply
    time.sleep(SETTLED_S)
    reply = monitor.claim([disk], cid=5, generation_id=bytes(range(16)))
    assert not reply.HasField("status"), reply
    report = end_of(monitor)
    phases = report.phases
    steps = {"devices": phases.claim_devices_ns, "vcpus": phases.claim_vcpus_ns, "running": phases.running_ns,
             "exit": report.ended_ns}
    return {"sent": (phases.claim_ns - monitor.sent_ns) / 1000,
            **{step: (at - phases.claim_ns) / 1000 for step, at in steps.items()}}


def life(work, name, **options):
    """A monitor's whole life: the phases from Configure on, in µs."""
    monitor = Monitor(work, name=name)
    reply = monitor.configure(**options)
    assert not reply.HasField("status"), reply
    report = end_of(monitor)
    phases = report.phases
    steps = {"memory": phases.memory_ns, "vm": phases.vm_ns, "devices": phases.devices_ns,
             "kernel": phases.kernel_ns or phases.devices_ns, "vcpus": phases.vcpus_ns, "running": phases.running_ns,
             "exit": report.ended_ns}
    return {step: (at - phases.received_ns) / 1000 for step, at in steps.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--floor", required=True)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--memory-mib", type=int, default=128)
    arguments = parser.parse_args()
    work, size = harness.Workplace(), arguments.memory_mib << 20
    disk = work.dir / "disk"
    disk.touch()
    os.truncate(disk, 4 << 20)
    snapshot = prepared(work, disk, size)
    devices = {"disks": [disk], "ports": {}, "memory_bytes": size}

    def floor(order):
        return {"exit": int(subprocess.check_output([arguments.floor, f"{order}-ns"])) / 1000}

    contenders = {
        "floor": lambda number: floor("floor"),
        "firecracker order": lambda number: floor("firecracker"),
        "boot": lambda number: life(work, f"b{number}", cmdline="exit", **devices),
        "restore": lambda number: life(work, f"r{number}", restore=snapshot, **devices),
        "claim": lambda number: claim(work, f"c{number}", snapshot, disk, size),
    }
    samples = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(arguments.rounds + 1):
        for name in names[number % len(names):] + names[:number % len(names)]:
            sample = contenders[name](number)
            if number > 0:
                samples[name].append(sample)
    print(f"{'µs to the first exit':20} {'min':>8} {'p50':>8} {'p99':>8} {'p50/floor':>10} {'p99/floor':>10} "
          f"{'/firecracker':>12}")
    floor_p50 = statistics.median(row["exit"] for row in samples["floor"])
    for name, rows in samples.items():
        values = sorted(row["exit"] for row in rows)
        ratios = [statistics.median(row["exit"] / base["exit"] for row, base in zip(rows, samples[other]))
                  for other in ("floor", "firecracker order")]
        p99 = values[len(values) * 99 // 100]
        print(f"{name:20} {values[0]:8.0f} {statistics.median(values):8.0f} {p99:8.0f} {ratios[0]:10.2f} "
              f"{p99 / floor_p50:10.2f} {ratios[1]:12.3f}")
    for name in ("boot", "restore", "claim"):
        steps = {step: round(statistics.median(row[step] for row in samples[name])) for step in samples[name][0]}
        print(f"{name}, p50 µs since {'Claim' if name == 'claim' else 'Configure'}: {steps}")
    work.close()


if __name__ == "__main__":
    main()
