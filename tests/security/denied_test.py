# SPDX-License-Identifier: Apache-2.0
"""A monitor that makes a call its filter denies: it ends at once, the daemon says which thread wanted what, and nobody
else notices. The escapee is the monitor; it makes its attempt when it is asked to pause."""

import os
import pathlib
import signal

import grpc
import harness
from harness import event_pb, vm_pb
from security import host

# What is attempted, as which thread -> the call that is denied.
DENIED = {
    ("open-host-file", "loop"): "openat",
    ("open-host-file", "vcpu"): "openat",
    ("start-thread", "loop"): "clone",
    ("executable-pages", "vcpu"): "mmap",
    ("connect-to-host", "start"): "socket",
    ("execute-shell-plainly", "loop"): "execve",
    ("second-ring", "vcpu"): "io_uring_setup",
}


class DeniedTest(host.RootCase):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon("--vmm", host.ESCAPEE)
        self.api = self.daemon.api
        self.addCleanup(self.remove_vms)

    def remove_vms(self):
        for vm in self.daemon.vms():
            self.daemon.delete(vm.vm_id)

    def rogue(self, vm_id, attempt, policy):
        self.daemon.probe(vm_id, f"escapee.policy={policy} escapee.attempt={attempt}")
        return self.daemon.get(vm_id)

    def events_of(self, vm_id):
        """What was told of this VM, up to its end."""
        events = []
        for response in self.api.WatchEvents(event_pb.WatchEventsRequest(from_oldest=True), timeout=30):
            event = response.event
            if event.vm_id == vm_id:
                events.append(event)
                if event.WhichOneof("what") == "exited":
                    return events
        raise AssertionError(f"no end in {events}")

    def test_a_denied_call_ends_its_vm_and_is_told(self):
        neighbour = self.rogue("neighbour", "open-host-file", "loop")
        for (attempt, policy), call in DENIED.items():
            with self.subTest(attempt, policy=policy):
                vm_id = f"{attempt}-{policy}"
                jail = self.rogue(vm_id, attempt, policy).jail
                self.assert_refused(lambda: self.api.PauseVm(vm_pb.PauseVmRequest(vm_id=vm_id)),  # noqa: B023
                                    "UNAVAILABLE", "MONITOR_GONE")
                vm = self.daemon.wait_stopped(vm_id)
                self.assertEqual(vm.exit.reason, vm_pb.EXIT_REASON_SYSCALL_DENIED, vm.exit)
                self.assertEqual((vm.exit.denied_syscall.thread, vm.exit.denied_syscall.name), (policy, call), vm.exit)
                self.assertEqual(vm.exit.signal, signal.SIGSYS)
                *_, denied, exited = self.events_of(vm_id)
                self.assertEqual(denied.WhichOneof("what"), "syscall_denied")
                self.assertEqual(denied.syscall_denied.denied, vm.exit.denied_syscall)
                self.assertEqual(exited.exited.reason, vm.exit.reason)
                harness.wait_until(lambda: not any(map(os.path.exists, jail.cgroups)), "its cgroups are gone", 20)
        self.assertTrue(harness.is_alive(neighbour.monitor_pid))
        self.assertEqual(self.daemon.get("neighbour").state, vm_pb.VM_STATE_RUNNING)

    def test_without_filters_the_same_attempt_ends_otherwise(self):
        self.rogue("vm", "kernel-version", "none")
        with self.assertRaises(grpc.RpcError):
            self.api.PauseVm(vm_pb.PauseVmRequest(vm_id="vm"))
        vm = self.daemon.wait_stopped("vm")
        self.assertNotEqual(vm.exit.reason, vm_pb.EXIT_REASON_SYSCALL_DENIED, vm.exit)
        self.assertIn("ESCAPED", str(vm.exit))


class SignalTest(host.RootCase):
    def test_a_real_monitor_that_ends_by_the_filters_signal_counts_as_denied_without_a_name(self):
        daemon = self.start_daemon()
        daemon.probe("vm", "probe.test=spin")
        daemon.probe("neighbour", "probe.test=spin")
        os.kill(daemon.get("vm").monitor_pid, signal.SIGSYS)
        vm = daemon.wait_stopped("vm")
        self.assertEqual(vm.exit.reason, vm_pb.EXIT_REASON_SYSCALL_DENIED, vm.exit)
        self.assertFalse(vm.exit.HasField("denied_syscall"), vm.exit)
        neighbour = daemon.get("neighbour").monitor_pid
        self.assertTrue(pathlib.Path(f"/proc/{neighbour}").exists())
        daemon.delete("neighbour")
