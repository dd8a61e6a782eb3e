# SPDX-License-Identifier: Apache-2.0
"""The system call filters in force: every thread of a monitor has its own; what one denies ends the VM, reported."""

import contextlib
import pathlib
import signal

import harness
from control.monitor_client import Monitor
from harness import control_pb

GETUID = 102  # x86-64


def status_of(pid):
    """Thread name -> the fields of its status; without the kernel's own threads, which KVM puts beside ours."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        if not fields["Name"].strip().startswith("kvm-"):
            found[fields["Name"].strip()] = {key: value.strip() for key, value in fields.items()}
    return found


class SeccompTest(harness.Case):
    def monitor(self, *flags, **options):
        monitor = Monitor(self.work, *flags, **options)
        self.addCleanup(monitor.close)
        return monitor

    def filters(self, pid):
        return {name: fields["Seccomp_filters"] for name, fields in status_of(pid).items()}

    def test_before_the_first_byte_is_read_the_first_filter_is_there(self):
        monitor = self.monitor()
        harness.wait_until(lambda: self.filters(monitor.process.pid) == {"mayfly-vmm": "1"}, "the filter")
        self.assertEqual(status_of(monitor.process.pid)["mayfly-vmm"]["NoNewPrivs"], "1")

    def test_every_thread_of_a_running_monitor_has_its_own_filter_on_top(self):
        monitor = self.monitor()
        self.assertFalse(monitor.configure("probe.test=spin", vcpu_count=3).HasField("status"))
        expected = {"mayfly-vmm": "2"} | {f"vcpu{index}": "2" for index in range(3)}
        harness.wait_until(lambda: self.filters(monitor.process.pid) == expected, expected)
        for fields in status_of(monitor.process.pid).values():
            self.assertEqual((fields["Seccomp"], fields["NoNewPrivs"]), ("2", "1"))

    def test_another_process_of_its_user_may_not_look_into_it(self):
        nobody = 65534
        monitor = self.monitor(under=["/usr/bin/setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups"])
        pid = monitor.process.pid
        harness.wait_until(lambda: self.filters(pid) == {"mayfly-vmm": "1"}, "the filter")
        self.assertEqual(status_of(pid)["mayfly-vmm"]["Uid"].split()[0], str(nobody))
        peek = self.work.run(["/usr/bin/setpriv", "--reuid", nobody, "--regid", nobody, "--clear-groups", "/bin/cat",
                              f"/proc/{pid}/maps"])
        self.assertNotEqual(peek.code, 0, peek)
        self.assertIn(b"Permission denied", peek.err)

    def test_off_is_possible_and_loud(self):
        monitor = self.monitor("--seccomp=off")
        self.assertFalse(monitor.configure("probe.test=spin").HasField("status"))
        self.assertEqual(set(self.filters(monitor.process.pid).values()), {"0"})
        self.assertIn("NOT CONFINED", monitor.errors.read_text())

    def inject(self, call, nth):
        """A monitor whose nth `call` of a thread becomes getuid(), before its filters see it."""
        return self.monitor(under=["strace", "-D", "-f", "-qq", "-o", self.dir / "trace",
                                   "-e", f"trace={call}", "-e", f"inject={call}:retval=0:syscall=getuid:when={nth}"])

    def assert_denied(self, monitor, thread):
        # It may be gone before it answers.
        with contextlib.suppress(AssertionError, ConnectionResetError):
            monitor.configure("probe.test=console probe.count=100000000")
        self.assertEqual(monitor.wait(), -signal.SIGSYS)
        report = monitor.exit_report()
        self.assertEqual(report, control_pb.ExitReport(
            reason=control_pb.EXIT_REASON_SYSCALL_DENIED,
            denied_syscall=control_pb.DeniedSyscall(thread=thread, number=GETUID)))
        self.assertEqual(monitor.errors.read_text(),
                         f"mayfly-vmm error seccomp: the {thread} thread may not make system call {GETUID}\n")

    def test_a_denied_call_of_the_loop_ends_the_monitor_with_a_report(self):
        self.assert_denied(self.inject("io_uring_enter", 20), "loop")

    def test_a_denied_call_of_a_vcpu_ends_the_monitor_with_a_report(self):
        # The loop thread's own ioctls are fewer than a busy vCPU's.
        self.assert_denied(self.inject("ioctl", 100), "vcpu")

    def test_a_denied_call_while_the_machine_is_built_has_a_report_too(self):
        self.assert_denied(self.inject("preadv", 1), "start")
