# SPDX-License-Identifier: Apache-2.0
"""What Mayfly must reach, and what it must not fall behind: the lines that figures are judged by.

A goal's `line` is what is wanted. Its `gate` fails a test: the line itself, unless that is not reached yet, or is so
near that a busy machine would cross it. Then the gate holds what is reached.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Goal:
    number: str
    key: str
    section: str  # of bench.py
    what: str
    sense: str  # "<=" or ">="
    line: float
    unit: str
    gate: float | None = None

    def is_met(self, value):
        return value <= self.line if self.sense == "<=" else value >= self.line

    def holds(self, value):
        gate = self.line if self.gate is None else self.gate
        return value <= gate if self.sense == "<=" else value >= gate

    def distance(self, value):
        """Nothing where it is met."""
        if self.is_met(value):
            return ""
        return f"{value / self.line:.2f} x the line" if self.line else f"{value - self.line:g} above the line"

    def missed(self, figure):
        gate = self.line if self.gate is None else self.gate
        return (f"goal {self.number}: {self.what}: {figure['value']:.4g} {self.unit} (95 %: {figure['low']:.4g} to "
                f"{figure['high']:.4g}, {figure['count']} samples); the gate is {self.sense} {gate:g}, the goal "
                f"{self.line:g}")


# F: the floor program as a process (boot_floor); FCO: the same in Firecracker's order of calls; Q: QEMU microvm.
START = "spawn, jail, restore, first instruction, reaped"
GOALS = [
    Goal("1", "restore_to_floor", "restores", "a restore in a running monitor to its guest's first exit", "<=", 1.3,
         "F inside a process", gate=2.6),
    Goal("1", "restore_to_firecracker_order", "restores", "the same", "<=", 0.10, "FCO inside a process", gate=0.25),
    Goal("2", "claim_to_floor", "restores", "the claim of a parked machine to its first exit", "<=", 0.5,
         "F inside a process", gate=1.0),
    Goal("2", "claim_p99_to_floor", "restores", "its p99, to F's p50", "<=", 1.5, "F inside a process", gate=20),
    Goal("3", "start_to_floor", "starts", START, "<=", 2.5, "F", gate=5),
    Goal("3", "start_cpu_to_floor", "starts", "CPU time of the same", "<=", 2.5, "F", gate=3),
    Goal("3", "start_to_qemu", "starts", START, "<=", 0.10, "Q", gate=0.25),
    Goal("3", "start_calls", "counts", "system calls of the same, the jail's included", "<=", 350, ""),
    Goal("3", "start_kvm_calls", "counts", "KVM's among them", "<=", 36, ""),
    Goal("4", "first_request", "memory", "a first request over 24 recorded MiB, a fifth written, to lazy pages",
         "<=", 0.15, "", gate=0.4),
    Goal("5", "clean_faults", "memory", "faults of a clean working set of huge pages, to small ones", "<=", 0.03, "",
         gate=0.06),
    Goal("5", "clean_time", "memory", "its time", "<=", 0.05, "", gate=0.2),
    Goal("6", "clones_private", "memory", "private memory of the worst of 200 clones but its copies, to what it wrote",
         "<=", 1.15, ""),
    Goal("6", "clones_shared", "memory", "what of its clean pages the worst of them shares", ">=", 0.95, ""),
    Goal("9", "fork_pause", "memory", "a fork's pause beyond 1 ms, 16 MiB of 1 GiB being dirty, to their memcpy", "<=",
         1.5, "", gate=12),
    Goal("9", "fork_scale", "memory", "the pause with 1 GiB, to that with 128 MiB", "<=", 1.1, "", gate=3),
    Goal("7", "monitor_private_mib", "footprint", "a jailed, restored monitor's private memory", "<=", 1.0, "MiB",
         gate=1.6),
    Goal("7", "monitor_private_mib_of_many", "footprint", "the same where another shares the program's pages", "<=",
         1.0, "MiB"),
    Goal("7", "monitor_mappings", "footprint", "its mappings", "<=", 40, ""),
    Goal("7", "monitor_to_qemu", "footprint", "its private memory", "<=", 0.10, "Q"),
    Goal("8", "rate_to_floor", "rate", "VMs launched and destroyed by the daemon, by one client", ">=", 0.8, "F's rate",
         gate=0.1),
    Goal("8", "rate_to_firecracker_order", "rate", "the same", ">=", 5, "FCO's rate", gate=2.5),
    Goal("8", "latency_when_many", "many", "call to first exit with many VMs live, to that with 10", "<=", 1.25, "",
         gate=2.5),
    Goal("10", "diff_bytes", "diffs", "a DIFF's bytes, to those of pages written and not zero", "<=", 1.05, ""),
    Goal("11", "disk_exits", "devices", "exits for each read of 4 KiB, 32 in flight", "<=", 0.10, ""),
    Goal("11", "net_exits", "devices", "exits for each frame of 1,514 bytes there and back", "<=", 0.10, ""),
    Goal("11", "vsock_exits", "devices", "exits for each 4 KiB of a connection", "<=", 0.10, ""),
    Goal("11", "disk_to_host", "devices", "reads of 4 KiB, 32 in flight", ">=", 0.8, "the host's rate", gate=0.3),
    Goal("11", "disk_per_cpu_to_qemu", "devices", "the same for each CPU second", ">=", 1.5, "Q's", gate=0.9),
    Goal("11", "net_per_cpu_to_qemu", "devices", "frames there and back for each CPU second", ">=", 1.5, "Q's",
         gate=0.5),
    Goal("11", "vsock_in_to_out", "devices", "a connection's rate to the guest", ">=", 0.8, "that to the host",
         gate=0.2),
    Goal("12", "template_call_to_exit", "rate", "RestoreVm of a template to first exit, to goal 1's path and 1.5 empty "
         "calls", "<=", 1.0, "",
         gate=30),
    Goal("12", "rested_call_to_exit", "rate", "the same of a snapshot, which launches a monitor", "<=", 1.0, "",
         gate=30),
    Goal("12", "call_to_exit", "rate", "the same of a snapshot, one after the other", "<=", 1.0, "", gate=5),
    Goal("12", "idle_wakeups", "many", "wake-ups of an idle VM's monitor in 10 s", "<=", 0, ""),
    Goal("12", "daemon_wakeups", "many", "wake-ups of the daemon in the same 10 s", "<=", 0, "", gate=150),
    Goal("12", "daemon_kib_per_vm", "many", "the daemon's private memory for each VM", "<=", 64, "KiB"),
    Goal("12", "clones_that_share", "many", "clones with another's incarnation, uid or CID", "<=", 0, ""),
    Goal("13", "boot_to_qemu", "linux", "a Linux guest from CreateVm to its init", "<=", 0.8, "Q", gate=1.25),
    Goal("13", "restore_to_qemu", "linux", "RestoreVm to its agent's answer, to QEMU's boot", "<=", 0.8, "Q"),
    Goal("13", "restore_to_cold_boot", "linux", "the same, to our own cold boot", "<=", 0.15, "", gate=0.5),
]
# Measured where scripts/bench is asked to: minutes, in the lab.
LONG_SECTIONS = ("linux",)
BY_KEY = {goal.key: goal for goal in GOALS}
