# SPDX-License-Identifier: Apache-2.0
"""A VM's whole start and end as a process, beside the floor, QEMU and what else is named. Goal 3."""

import harness
from perf import place, stats

PHASES = ("main_ns", "running_ns", "ended_ns", "wall_ns")


def _others(where):
    if not place.has_qemu():
        return where.others
    qemu = f"qemu microvm:{place.QEMU_EXIT}={place.QEMU} {place.QEMU_MACHINE} -bios {where.firmware}"
    return [qemu, *where.others]


def command(where, rounds):
    """boot_compare with all that is ours."""
    saved = where.store / where.ending
    return [place.PROGRAMS / "boot_compare", "--floor", place.FLOOR, "--rounds", rounds, "--monitor", harness.VMM,
            "--probe", harness.PROBE, "--jailer", harness.OUT / "mayfly-jailer", "--state", saved / "state",
            "--memory", saved / "memory", "--disk", where.disk]


def measure(where):
    where.need_kvm()
    where.need_root()
    rounds = where.rounds(30, 100)
    where.progress(f"starts: {rounds} rounds")
    samples = where.run_json(command(where, rounds) + [
        word for other in _others(where) for word in ("--also", other)])
    ours, floor = samples["jailed restore"], samples["floor"]
    figures = {
        "start_to_floor": stats.ratio_figure(ours["wall_ns"], floor["wall_ns"]),
        "start_cpu_to_floor": stats.ratio_figure(ours["cpu_ns"], floor["cpu_ns"]),
    }
    absent = {}
    if "qemu microvm" in samples:
        figures["start_to_qemu"] = stats.ratio_figure(ours["wall_ns"], samples["qemu microvm"]["wall_ns"])
    else:
        absent["start_to_qemu"] = place.NO_QEMU
    return {"figures": figures, "absent": absent, "samples": samples, "table": _table(samples),
            "notes": _notes(samples)}


def _table(samples):
    rows = [["", "min µs", "p50 µs", "p99 µs", "CPU µs", "faults", "to the floor", "95 %"]]
    for name, each in samples.items():
        wall = stats.summary([ns / 1e3 for ns in each["wall_ns"]])
        ratio = stats.ratio_figure(each["wall_ns"], samples["floor"]["wall_ns"])
        rows.append([name, f"{wall['min']:.0f}", f"{wall['p50']:.0f}", f"{wall['p99']:.0f}",
                     f"{stats.quantile(each['cpu_ns'], 0.5) / 1e3:.0f}",
                     f"{stats.quantile(each['minor_faults'], 0.5)}",
                     f"{ratio['value']:.2f}", f"{ratio['low']:.2f}-{ratio['high']:.2f}"])
    return rows


def _notes(samples):
    """Where a monitor's time goes."""
    notes = []
    for name, each in samples.items():
        if not any(each["running_ns"]):
            continue
        ends = [stats.quantile(each[phase], 0.5) / 1e3 for phase in PHASES]
        steps = [end - begin for begin, end in zip([0, *ends], ends)]
        notes.append(f"{name}, p50 µs: to main {steps[0]:.0f}, to the guest {steps[1]:.0f}, to its exit "
                     f"{steps[2]:.0f}, to reaped {steps[3]:.0f}")
    return notes
