# SPDX-License-Identifier: Apache-2.0
"""How many system calls a VM's start and end take, by strace: counts, which no busy machine changes."""

import collections
import re
import shutil

from perf import place, starts, stats

CALL = re.compile(r"^(\d+) +(\w+)\(")
REQUEST = re.compile(r"^\d+ +ioctl\(\d+, ((?:KVM_)?\w+)")
# In this order boot_compare runs them, once each before the rounds.
CONTENDERS = ("empty process", "floor", "firecracker order", "boot", "jailed boot", "restore", "jailed restore")


def _by_process(lines):
    """Of each process that executes a program, in the order of their start: its calls and those of its threads, by
    name; ioctls by request. They run one after the other, so a thread is of the process that was there before it."""
    executes = {line.split()[0] for line in lines if re.match(r"^\d+ +execve(at)?\(", line)}
    order, processes = [], {}
    for line in lines:
        found = CALL.match(line)
        if not found:
            continue
        task, call = found.groups()
        if task not in processes:
            if task in executes:
                order.append(task)
                processes[task] = collections.Counter()
            else:
                processes[task] = processes[order[-1]]
        request = REQUEST.match(line)
        processes[task][request[1] if request else call] += 1
    return [processes[task] for task in order]


def measure(where):
    where.need_kvm()
    where.need_root()
    if shutil.which("strace") is None:
        raise place.Skip("strace is not installed")
    where.progress("counting system calls")
    path = where.dir / "strace"
    done = where.work.run(["strace", "-f", "-qq", "--pidns-translation", "-e", "signal=none", "-o", path,
                           *starts.command(where, 1)])
    if done.code != 0:
        raise RuntimeError(f"strace: {done}")
    # The first is boot_compare itself.
    counts = dict(zip(CONTENDERS, _by_process(path.read_text(errors="replace").splitlines())[1:]))
    kvm = {name: sum(count for call, count in each.items() if call.startswith("KVM_")) for name, each in counts.items()}
    total = {name: sum(each.values()) for name, each in counts.items()}
    table = [["", "system calls", "of KVM"], *([name, str(total[name]), str(kvm[name])] for name in counts)]
    ours = counts["jailed restore"]
    notes = ["jailed restore: " + ", ".join(f"{call} {count}" for call, count in ours.most_common(24))]
    figures = {"start_calls": stats.counted(total["jailed restore"]),
               "start_kvm_calls": stats.counted(kvm["jailed restore"])}
    return {"figures": figures, "samples": counts, "table": table, "notes": notes}
