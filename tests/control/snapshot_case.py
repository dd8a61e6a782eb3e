# SPDX-License-Identifier: Apache-2.0
"""What the tests of snapshots share: a daemon with a store, and the probe guest to save."""

import contextlib
import os
import pathlib
import shutil

import harness
from harness import console_pb, snapshot_pb, vm_pb

ROUNDS = 64000  # Of a guest that is to be busy still when it is saved or cloned, on a host that is busy, too.
ROUNDS_PER_LINE = 64
DISK_BYTES = 4 << 20
FULL, DIFF = snapshot_pb.SNAPSHOT_KIND_FULL, snapshot_pb.SNAPSHOT_KIND_DIFF


def churn_lines(count):
    """What probe.test=churn prints when it is never saved."""
    value, lines = 1, []
    for number in range(count):
        value = (value * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        if number % ROUNDS_PER_LINE == 0:
            lines.append(f"round {number} {value}")
    return [*lines, "PASS churn"]


class SnapshotCase(harness.Case):
    def setUp(self):
        super().setUp()
        self.store = self.dir / "snapshots"
        self.daemon = self.start()

    def start(self, store=None, name="d"):
        return self.start_daemon("--snapshot-dir", store or self.store, name=name)

    @property
    def api(self):
        return self.daemon.api

    def save(self, vm_id, snapshot_id, kind=FULL, **fields):
        return self.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(
            vm_id=vm_id, snapshot_id=snapshot_id, kind=kind, **fields))

    def overrides(self, disks=(), **fields):
        return snapshot_pb.RestoreOverrides(
            disks=[snapshot_pb.DiskOverride(index=index, path=str(path)) for index, path in enumerate(disks)],
            **{"allow_slow_kvm": True} | fields)

    def restore(self, snapshot_id, vm_id, start=True, overrides=None, **fields):
        return self.api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id=snapshot_id, vm_id=vm_id, start=start, overrides=overrides or self.overrides(), **fields))

    def clone(self, targets, **fields):
        """`targets`: vm_id -> RestoreOverrides, or None for plain ones; the responses by vm_id."""
        clones = [snapshot_pb.Clone(vm_id=vm_id, overrides=overrides or self.overrides())
                  for vm_id, overrides in targets.items()]
        responses = self.api.CloneVm(snapshot_pb.CloneVmRequest(clones=clones, **{"start": True} | fields))
        return {response.vm_id: response for response in responses}

    def echo(self, vm_id):
        """A VM that says what it is told, and has memory worth saving."""
        self.daemon.probe(vm_id, "probe.test=echo")
        self.hear(vm_id, "ready")

    def hear(self, vm_id, line):
        harness.wait_until(lambda: line in self.lines(vm_id), f"{vm_id} says {line!r}", 30)

    def say(self, vm_id, word):
        """Tells an echo guest a word, and waits until it has repeated it."""
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=vm_id, from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=word.encode() + b"\n"))
        self.hear(vm_id, f"echo {word}")
        call.cancel()
        inputs.end()

    def lines(self, vm_id):
        return self.daemon.console(vm_id).decode(errors="replace").splitlines()

    def churn(self, vm_id, disk, count):
        self.daemon.probe(vm_id, f"probe.test=churn probe.count={count}", disks=[vm_pb.Disk(path=str(disk))])
        harness.wait_until(lambda: len(self.lines(vm_id)) > 3, f"{vm_id} churns", 60)

    def save_with_disk(self, vm_id, snapshot_id, disk, kind=FULL):
        """A snapshot and a copy of the VM's disk that belong together."""
        self.save(vm_id, snapshot_id, kind, stay_paused=True, caller_keeps_disks=True)
        copy = self.dir / f"{snapshot_id}.disk"
        shutil.copyfile(disk, copy)
        return copy

    def resume(self, vm_id):
        self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=vm_id))

    def assert_passed(self, vm_id, before, count):
        """The guest ends well, and what it printed follows on the lines `before`."""
        vm = self.daemon.wait_stopped(vm_id)
        self.assertEqual(vm_pb.ExitReason.Name(vm.exit.reason), "EXIT_REASON_GUEST_POWEROFF",
                         (vm.exit, self.lines(vm_id)[-3:]))
        self.assertEqual([*before, *self.lines(vm_id)], churn_lines(count))

    def holdings(self):
        """What the daemon has on the host: processes, VM directories, cgroups, descriptors."""
        cgroups = [path for path in pathlib.Path("/sys/fs/cgroup").glob("**/mayfly/*") if path.is_dir()]
        return (sorted(self.work.monitors()), sorted(os.listdir(self.daemon.state / "vms")),
                sorted(str(path) for path in cgroups), harness.fd_count(self.daemon.pid))

    @contextlib.contextmanager
    def nothing_is_left(self):
        before = self.holdings()
        if self.daemon.vms() and any(vm.jail.cgroups for vm in self.daemon.vms()):
            self.assertNotEqual(before[2], [], "cgroups are looked for in the wrong place")
        yield
        harness.wait_until(lambda: self.holdings() == before, f"{before} again, not {self.holdings()}", 10)

    def damage(self, snapshot_id, part, change):
        """A copy of a snapshot with a part changed: its id. `change` is given the part's bytes."""
        name = f"{snapshot_id}-{part.replace('_', '-')}"
        shutil.rmtree(self.store / name, ignore_errors=True)
        shutil.copytree(self.store / snapshot_id, self.store / name)
        path = self.store / name / part
        data = change(bytearray(path.read_bytes()))
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        return name
