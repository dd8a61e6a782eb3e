# SPDX-License-Identifier: Apache-2.0
"""Many VMs through the daemon: how fast they come and go, and what many at once cost. Goals 8 and 12."""

import pathlib
import re
import statistics
import time

import harness
from harness import snapshot_pb, vm_pb
from perf import place, saved_guest, stats

FEW = 10
EMPTY_CALLS = 1.5  # of a restore's own: its request, and half of its answer
IDLE_S = 10
CLONES_IN_A_CALL = 250


def _load(where, rounds, batch, *more):
    daemon = where.daemon
    return where.run_json([place.PROGRAMS / "launch_load", "--socket", daemon.target, "--state-dir", daemon.state,
                           "--snapshot", where.ending, "--floor", place.FLOOR, "--disk", where.disk,
                           "--rounds", rounds, "--batch", batch, *more])


def _clone(where, first, last):
    """Halted VMs number `first` to `last`; when each was up, in seconds since the first call."""
    start, up = time.monotonic(), []
    for begin in range(first, last, CLONES_IN_A_CALL):
        clones = [snapshot_pb.Clone(vm_id=f"live-{number}") for number in range(begin, min(begin + CLONES_IN_A_CALL,
                                                                                         last))]
        request = snapshot_pb.CloneVmRequest(snapshot_id=where.halted, clones=clones, start=True,
                                             overrides=saved_guest.overrides())
        for response in where.daemon.api.CloneVm(request):
            if response.HasField("error"):
                raise RuntimeError(f"clone {response.vm_id}: {response.error.message}")
            up.append(time.monotonic() - start)
    return up


def _per_round(lives, key, batch):
    """A round's lives as their median."""
    return [statistics.median(lives[key][at:at + batch]) for at in range(0, len(lives[key]), batch)]


def rate(where):
    """Goal 8's rates, and the first part of 12: a call's way to the guest's first exit."""
    where.need_kvm()
    rounds, batch = where.rounds((6, 10), (20, 50))
    where.progress(f"launches: {rounds} rounds of {batch}")
    load = _load(where, rounds, batch, "--template", where.template)
    lives = load["lives"]
    # Goal 1's path is the same VM's, from Configure on.
    path = [statistics.median(end - begin for begin, end in zip(lives["received_ns"][at:at + batch],
                                                               lives["ended_ns"][at:at + batch]))
            for at in range(0, len(lives["ended_ns"]), batch)]
    allowed = [each + EMPTY_CALLS * empty for each, empty in zip(path, load["empty call"])]
    figures = {
        "rate_to_floor": stats.ratio_figure(load["floor"], load["daemon"]),
        "rate_to_firecracker_order": stats.ratio_figure(load["firecracker order"], load["daemon"]),
        "call_to_exit": stats.ratio_figure(_per_round(lives, "ended_ns", batch), allowed),
        "rested_call_to_exit": stats.ratio_figure(_per_round(load["lives, rested"], "ended_ns", batch), allowed),
        "template_call_to_exit": stats.ratio_figure(_per_round(load["lives, template"], "ended_ns", batch), allowed),
    }
    table = [["µs for each VM, p50", "", "VMs a second"]]
    for name in ("floor", "firecracker order", "daemon", "daemon, parallel", "daemon, rested", "daemon, template"):
        each = stats.quantile(load[name], 0.5) / batch / 1e3
        table.append([name, f"{each:.0f}", f"{1e6 / each:.0f}"])
    table.append(["empty call", f"{stats.quantile(load['empty call'], 0.5) / 1e3:.0f}", ""])
    notes = []
    for name in ("lives", "lives, parallel", "lives, rested", "lives, template"):
        ends = {key: stats.quantile(values, 0.5) / 1e3 for key, values in load[name].items()}
        notes.append(f"{name}, p50 µs since the call: " + ", ".join(
            f"{key.removesuffix('_ns')} {value:.0f}" for key, value in sorted(ends.items(), key=lambda item: item[1])))
    return {"figures": figures, "samples": load, "table": table, "notes": notes}


def _switches(pid):
    """How often threads of a process have left a CPU to wait: as often as they were woken."""
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", path.read_text(), re.MULTILINE)[1])
               for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"))


def _idle(where, figures, notes):
    daemon, monitor = where.daemon, where.daemon.get("live-0").monitor_pid
    time.sleep(1)
    begin = _switches(monitor), _switches(daemon.pid)
    time.sleep(IDLE_S)
    end = _switches(monitor), _switches(daemon.pid)
    figures["idle_wakeups"] = stats.counted(end[0] - begin[0])
    figures["daemon_wakeups"] = stats.counted(end[1] - begin[1])
    notes.append(f"switches in {IDLE_S} idle seconds: monitor {end[0] - begin[0]}, daemon {end[1] - begin[1]}")


def _shared(vms):
    """VMs that have something which must be each one's own and that another has too."""
    seen, sharing = {}, set()
    for vm in vms:
        for kind, value in (("cid", vm.guest_cid), ("incarnation", vm.incarnation), ("uid", vm.jail.uid)):
            if value and seen.setdefault((kind, value), vm.vm_id) != vm.vm_id:
                sharing.add(vm.vm_id)
    return sharing


def many(where):
    """What is different with many VMs live: goal 8's latency, goal 12's memory, idleness and identities."""
    where.need_kvm()
    count = where.rounds(100, 1000)
    rounds, batch = where.rounds((12, 5), (20, 10))
    daemon, figures, notes = where.daemon, {}, []
    where.progress(f"launches with {FEW} VMs live, then {count}")
    _clone(where, 0, FEW)
    _idle(where, figures, notes)
    few = _load(where, rounds, batch)
    memory = harness.private_bytes(daemon.pid)
    up = _clone(where, FEW, count)
    figures["daemon_kib_per_vm"] = stats.counted((harness.private_bytes(daemon.pid) - memory) / 1024 / (count - FEW))
    alive = daemon.vms()
    running = sum(vm.state == vm_pb.VM_STATE_RUNNING for vm in alive)
    if running != count:
        raise RuntimeError(f"{running} of {count} VMs run")
    figures["clones_that_share"] = stats.counted(len(_shared(alive)))
    lots = _load(where, rounds, batch)
    # The floor beside each says how fast the machine was meanwhile.
    figures["latency_when_many"] = stats.ratio_figure(
        *[[life / floor * batch for life, floor in zip(_per_round(load["lives"], "ended_ns", batch), load["floor"])]
          for load in (lots, few)])
    where.progress(f"deleting {count} VMs")
    for number in range(count):
        daemon.delete(f"live-{number}")
    p50 = [stats.quantile(load["lives"]["ended_ns"], 0.5) / 1e3 for load in (few, lots)]
    table = [["live VMs", "call to first exit, p50 µs"], [str(FEW), f"{p50[0]:.0f}"], [str(count), f"{p50[1]:.0f}"]]
    notes.append(f"{count - FEW} clones of a halted guest in {up[-1]:.2f} s, {len(up) / up[-1]:.0f} a second")
    samples = {"few": few | {"live": FEW}, "many": lots | {"live": count}, "clones_up_s": up}
    return {"figures": figures, "samples": samples, "table": table, "notes": notes}
