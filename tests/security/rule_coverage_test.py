# SPDX-License-Identifier: Apache-2.0
"""Every rule of the monitor's filters is needed and no call is without one, as traced monitors of Linux guests show.

A rule that no call touches goes, or says here why this run cannot reach it.
"""

import contextlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket

import harness
from control.monitor_client import Monitor
from harness import console_pb, control_pb, vm_pb

# Rules that stand for what a run does not show, by (call, reason): why.
ABORT = "a bug of ours: vmm/seccomp/confinement_test.cc makes them"
SOURCE_GONE = "memory whose source has gone: tests/control/lazy_test.py"
RACE = "depends on who comes first to a lock or a device"
UNREACHED = {
    ("clock_gettime", "clock_gettime() where the vDSO cannot read the host's clock source"): "another host",
    ("ioctl", "file_size() of a block device"): "no block device in the lab is free to use as a disk",
    ("madvise", "pages of shared guest RAM that the guest does without"): "tests/control/balloon_test.py",
    ("madvise", "pages of private guest RAM that the guest does without"): "tests/control/balloon_test.py",
    ("shutdown", "the guest takes no more"): "the agent ends both directions or none; tests/probe does it",
    ("writev", "glibc's last words"): ABORT,
    ("mmap", "where glibc keeps a copy of its last words"): ABORT,
    ("gettid", "abort() names its thread"): ABORT,
    ("tgkill", "abort()"): ABORT,
    ("rt_sigaction", "abort() in a process that had survived the signal: the first of its pid namespace"): ABORT,
}
# The same for one policy: rules that several threads share, of which some thread does not need all.
UNREACHED_BY = {
    ("vcpu", "rt_sigprocmask", "abort() and pthread_kill() hold signals off"): ABORT,
    ("vcpu", "getpid", "abort() and pthread_kill() name their process"): ABORT,
    ("vcpu", "brk", "malloc: grow and trim its one arena"): "only for the text of an error",
    ("vcpu", "ioctl", "interrupts leave the IOAPIC as messages"): "a pin unmasked while its line is up: " + RACE,
    ("vcpu", "futex", "std::mutex: wait for its holder"): RACE,
    ("loop", "brk", "malloc: grow and trim its one arena"): "the building of the machine has left room in the heap",
    ("loop", "futex", "std::mutex: wait for its holder"): RACE,
    ("loop", "futex", "std::condition_variable: wait"): RACE,
    ("guard", "futex", "std::mutex: wait for its holder"): RACE,
    ("guard", "futex", "std::mutex and std::condition_variable: wake those that wait"): RACE,
    ("guard", "futex", "std::condition_variable: wait"): "it waits for its socket alone; the rules are any thread's",
    ("guard", "brk", "malloc: grow and trim its one arena"): "only for the text of an error",
    ("guard", "write", "wake another thread, signal console output, log, report the end"): SOURCE_GONE,
    ("guard", "exit_group", "the end of main()"): SOURCE_GONE,
    ("guard", "rt_sigprocmask", "abort() and pthread_kill() hold signals off"): ABORT,
    ("guard", "getpid", "abort() and pthread_kill() name their process"): ABORT,
}

LINE = re.compile(r"(\d+) +(\w+)\((.*)")
SECCOMP_SET_MODE_FILTER = 1


def calls_by_policy(trace):
    """(policy, call name, arguments) of every call that a monitor's thread made under a filter.

    A monitor is a process that installs a filter: its first thread, which has executed the program, goes from `start`
    to `loop`; the others are born under `start` and go to `vcpu`, or to `guard`, whose first call no vCPU makes.
    """
    executed, policy, unfiltered = set(), {}, {}
    for line in trace.open(encoding="utf-8", errors="replace"):
        match = LINE.match(line)
        if not match:
            continue
        thread, name, rest = match.groups()
        words = re.split(r"\)\s+= | <unfinished", rest)[0].rstrip(")\n")
        arguments = [int(word, 0) for word in words.split(", ") if re.fullmatch(r"0x[0-9a-f]+|\d+", word)]
        installs = name == "seccomp" and arguments[0] == SECCOMP_SET_MODE_FILTER
        if name in ("execve", "execveat"):
            executed.add(thread)
            policy.pop(thread, None)
        elif thread in policy:
            if policy[thread] is None:
                policy[thread] = "guard" if name == "read" else "vcpu"
            yield policy[thread], name, arguments
            if installs:
                policy[thread] = "loop"
        elif thread in executed:
            if installs:
                policy[thread] = "start"
        else:
            unfiltered.setdefault(thread, []).append((name, arguments))
            if installs:
                yield from (("start", *call) for call in unfiltered.pop(thread))
                policy[thread] = None  # its next call says which


def thread_names(pid):
    names = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append((task / "comm").read_text().strip())
    return names


def matches(rule, name, arguments):
    # The process's id in its namespace is not what the trace says: any will do.
    return rule["name"] == name and all(
        argument["own_pid"] or arguments[argument["index"]] & argument["mask"] == argument["value"]
        for argument in rule["arguments"])


def is_excused(policy, rule):
    key = (rule["name"], rule["reason"])
    # What only the build calls is under `start` alone; what stacked filters let pass has been seen under them.
    return key in UNREACHED or (policy, *key) in UNREACHED_BY


class RuleCoverageTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.traces = []
        self.daemon = self.start_daemon(under=self.tracer())
        self.daemon.need_linux_guests()

    def tracer(self):
        self.traces.append(self.dir / f"trace-{len(self.traces)}")
        return ["strace", "-D", "-f", "-qq", "-e", "raw=all", "-e", "signal=none", "-o", self.traces[-1]]

    def stop(self, vm_id):
        self.daemon.api.StopVm(vm_pb.StopVmRequest(vm_id=vm_id, grace_ms=0))

    def lives_fully(self):
        """Two vCPUs, disks, exec both ways, the console, pause and resume; ended by the API."""
        root = self.dir / "root.ext4"
        shutil.copy(harness.ROOTFS, root)
        disks = [vm_pb.Disk(path=str(self.file("data", size=16 << 20)))]
        self.daemon.create("full", vcpus=2, rootfs=vm_pb.Disk(path=str(root)), disks=disks,
                           nets=[vm_pb.Net(automatic=True)])
        self.daemon.wait_ready("full")
        host = self.daemon.get("full").spec.nets[0].host_address.split("/")[0]
        self.assertEqual(self.daemon.exec("full", f"ping -c 2 {host}").code, 0)
        self.assertEqual(self.daemon.exec("full", "cat", stdin=b"x" * 300_000).out, b"x" * 300_000)
        written = self.daemon.exec("full", "dd if=/dev/zero of=/dev/vdb bs=64k count=200 conv=fsync; "
                                   "dd if=/dev/vdb of=/dev/null bs=64k; dd if=/dev/hwrng of=/dev/null bs=64 count=4")
        self.assertEqual(written.code, 0, written)
        self.daemon.api.PauseVm(vm_pb.PauseVmRequest(vm_id="full"))
        self.daemon.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="full"))
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id="full")))
        inputs.put(console_pb.AttachConsoleRequest(input=b"echo typed\n"))
        call = self.daemon.api.AttachConsole(iter(inputs))
        self.assertEqual(self.daemon.exec("full", "echo alive").out, b"alive\n")
        inputs.end()
        call.cancel()
        self.stop("full")

    def reboots(self):
        self.daemon.create("rebooting")
        self.daemon.wait_ready("rebooting")
        with contextlib.suppress(harness.grpc.RpcError):
            self.daemon.exec("rebooting", "reboot; sleep 1000")
        self.daemon.wait_stopped("rebooting")

    def panics(self):
        path = self.file("init.cpio", harness.busybox_initrd("exit 3\n"))
        self.daemon.create("panicking", rootfs=None, initrd_paths=[str(path)], agent=False, memory_mib=64)
        self.daemon.wait_stopped("panicking")

    def fails_to_start(self):
        with contextlib.suppress(harness.grpc.RpcError):
            self.daemon.create("broken", rootfs=None, agent=False, kernel_path=str(self.file("kernel", b"no kernel")))

    def changes_its_client(self):
        monitor = Monitor(self.work, under=self.tracer())
        self.addCleanup(monitor.close)
        self.assertFalse(monitor.configure("probe.test=spin").HasField("status"))
        monitor.connection.close()
        monitor.connection = monitor.connect()
        monitor.call(stop=control_pb.Stop())
        self.assertEqual(monitor.wait(), 0)

    def is_saved_and_restored(self):
        # Each has its own, as it was when it was saved.
        disks = [self.file(f"disk-{number}", size=4 << 20) for number in range(4)]
        first = Monitor(self.work, under=self.tracer(), name="saved")
        self.addCleanup(first.close)
        self.assertFalse(first.configure("probe.test=churn probe.count=100000000", disks=disks[:1],
                                         ports={}).HasField("status"))
        base = None
        for _ in range(2):
            harness.wait_until(lambda: first.console().count(b"\n") > 1, "the guest works")
            first.call(pause=control_pb.Pause())
            base, reply = first.save(base)
            self.addCleanup(base.close)
            self.assertFalse(reply.HasField("status"), reply)
            for copy in disks[1:]:
                shutil.copyfile(disks[0], copy)
            first.call(resume=control_pb.Resume())
        first.send(control_pb.Request(id=1, get_memory=control_pb.GetMemory()).SerializeToString())
        _, fds, _, _ = socket.recv_fds(first.connection, 4096, 1)
        os.close(fds[0])
        second = Monitor(self.work, under=self.tracer(), name="restored")
        self.addCleanup(second.close)
        self.assertFalse(second.configure(restore=base, generation_id=bytes(16), copied=[(0, 2)],
                                          disks=disks[1:2], ports={}).HasField("status"))
        third = Monitor(self.work, under=self.tracer(), name="recorded")
        self.addCleanup(third.close)
        self.assertFalse(third.configure(restore=base, record=True, disks=disks[2:3], ports={}).HasField("status"))
        self.assertFalse(third.touched_pages()[0].HasField("status"))
        fourth = Monitor(self.work, under=self.tracer(), name="parked")
        self.addCleanup(fourth.close)
        self.assertFalse(fourth.park(base, ports={}).HasField("status"))
        self.assertFalse(fourth.claim(disks[3:], cid=3, generation_id=bytes(16)).HasField("status"))
        for monitor in (first, second, third, fourth):
            monitor.call(stop=control_pb.Stop())
            self.assertEqual(monitor.wait(), 0)

    def gets_its_memory_later(self):
        first = Monitor(self.work, name="early")
        self.addCleanup(first.close)
        first.configure("probe.test=churn probe.count=100000000", disks=[self.file("late", size=4 << 20)])
        harness.wait_until(lambda: first.console().count(b"\n") > 1, "the guest works")
        first.call(pause=control_pb.Pause())
        saved, _ = first.save()
        self.addCleanup(saved.close)
        first.close()
        second = Monitor(self.work, under=self.tracer(), name="late")
        self.addCleanup(second.close)
        ours, reply = second.map_memory()
        self.addCleanup(ours.close)
        self.assertFalse(reply.HasField("status"), reply)
        # Filled before anybody looks: nothing is ever missing.
        os.pwrite(second.mapped, saved.image(), 0)
        self.assertFalse(second.configure(restore=saved, is_mapped=True, disks=[self.dir / "late"]).HasField("status"))
        ours.send(b"\0")
        harness.wait_until(lambda: "guard" not in thread_names(second.process.pid), "the guard has ended")
        second.call(stop=control_pb.Stop())
        self.assertEqual(second.wait(), 0)

    def outlives_its_daemon(self):
        self.daemon.create("orphan", rootfs=None, agent=False)
        os.kill(self.daemon.pid, signal.SIGKILL)
        self.daemon.process.wait()
        harness.wait_until(lambda: not self.work.processes(), "monitors and tracer are gone")

    def test_every_rule_is_touched_and_no_call_is_without_a_rule(self):
        lives = (self.lives_fully, self.reboots, self.panics, self.fails_to_start, self.changes_its_client,
                 self.is_saved_and_restored, self.gets_its_memory_later)
        harness.in_threads(len(lives), lambda index: lives[index]())
        self.outlives_its_daemon()

        policies = json.loads((harness.OUT / "seccomp.json").read_text())
        touched = {policy: [0] * len(rules) for policy, rules in policies.items()}
        without, seen = set(), set()
        for policy, name, arguments in itertools.chain.from_iterable(map(calls_by_policy, self.traces)):
            found = [i for i, rule in enumerate(policies[policy]) if matches(rule, name, arguments)]
            for index in found:
                touched[policy][index] += 1
                seen.add((name, policies[policy][index]["reason"]))
            if not found:
                without.add((policy, name, *(hex(argument) for argument in arguments)))
        self.assertEqual(without, set(), "calls without a rule")
        harness.print_figures("calls of traced monitors", **{policy: sum(counts) for policy, counts in touched.items()})
        # A guard makes hardly any.
        self.assertTrue(all(sum(counts) > (100 if policy != "guard" else 2) for policy, counts in touched.items()),
                        touched)

        untouched = []
        for policy, rules in policies.items():
            for rule, count in zip(rules, touched[policy]):
                # `start` has the stacked policies' rules for their sake.
                is_needed_above = policy == "start" and (rule["name"], rule["reason"]) in seen
                if not count and not is_needed_above and not is_excused(policy, rule):
                    untouched.append(f"{policy}: {rule['name']}: {rule['reason']}")
        self.assertEqual(untouched, [], "rules that no call touched")

        known = {(policy, rule["name"], rule["reason"]) for policy, rules in policies.items() for rule in rules}
        stale = [key for key in UNREACHED if not any(entry[1:] == key for entry in known)]
        stale += [key for key in UNREACHED_BY if key not in known]
        self.assertEqual(stale, [], "excuses for rules that are not there")
