# SPDX-License-Identifier: Apache-2.0
"""A restore in a monitor that runs, and the claim of a parked one, to the guest's first exit. Goals 1 and 2."""

import os

from perf import place, restore_floor, saved_guest, stats

SETTLED_CLAIMS = 20  # fewer have no p99


def _floor(where, order):
    done = where.work.run([place.FLOOR, f"{order}-ns"])
    if done.code != 0:
        raise RuntimeError(f"boot_floor: {done}")
    return {"exit": int(done.out) / 1e3}


def measure(where):
    where.need_kvm()
    rounds, size, disk = where.rounds(SETTLED_CLAIMS, 100), saved_guest.MEMORY_MIB << 20, where.dir / "own-disk"
    where.progress(f"restores and claims: {rounds} rounds")
    disk.touch()
    os.truncate(disk, saved_guest.DISK_BYTES)
    snapshot = restore_floor.prepared(where.work, disk, size)
    devices = {"disks": [disk], "ports": {}, "memory_bytes": size}
    contenders = {
        "floor": lambda number: _floor(where, "floor"),
        "firecracker order": lambda number: _floor(where, "firecracker"),
        "boot": lambda number: restore_floor.life(where.work, f"b{number}", cmdline="exit", **devices),
        "restore": lambda number: restore_floor.life(where.work, f"r{number}", restore=snapshot, **devices),
        "claim": lambda number: restore_floor.claim(where.work, f"c{number}", snapshot, disk, size),
    }
    samples, names = {name: [] for name in contenders}, list(contenders)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            sample = contenders[name](number)
            if number > 0:
                samples[name].append(sample)
    exits = {name: [row["exit"] for row in rows] for name, rows in samples.items()}
    figures = {
        "restore_to_floor": stats.ratio_figure(exits["restore"], exits["floor"]),
        "restore_to_firecracker_order": stats.ratio_figure(exits["restore"], exits["firecracker order"]),
        "claim_to_floor": stats.ratio_figure(exits["claim"], exits["floor"]),
        "claim_p99_to_floor": stats.counted(stats.quantile(exits["claim"], 0.99) / stats.quantile(exits["floor"], 0.5)),
    }
    table = [["µs to the first exit", "min", "p50", "p99", "to the floor", "95 %"]]
    for name, values in exits.items():
        each, ratio = stats.summary(values), stats.ratio_figure(values, exits["floor"])
        table.append([name, *(f"{each[part]:.0f}" for part in ("min", "p50", "p99")), f"{ratio['value']:.2f}",
                      f"{ratio['low']:.2f}-{ratio['high']:.2f}"])
    notes = []
    for name in ("boot", "restore", "claim"):
        steps = {step: round(stats.quantile([row[step] for row in samples[name]], 0.5)) for step in samples[name][0]}
        notes.append(f"{name}, p50 µs since the monitor had the order: {steps}")
    return {"figures": figures, "samples": samples, "table": table, "notes": notes}
