# SPDX-License-Identifier: Apache-2.0
"""Parked machines, by the monitor's control socket: all is restored but what makes it one VM; a claim brings that."""

import os
import re
import socket
import time

import harness
from control import state_file
from control.save_test import SaveCase, rounds
from control.seccomp_test import status_of
from harness import control_pb

ID = b"0123456789abcdef"
TSC = 0x10
# MSRs that are clocks: TSC, and Hyper-V's run time of a vCPU and reference count.
CLOCKS = {TSC, 0x4000_0010, 0x4000_0020}
KVM_CLOCK_HOST_TSC = 8


class ParkCase(SaveCase):
    def parked(self, snapshot, **options):
        monitor = self.monitor()
        phases = self.ok(monitor.park(snapshot, **options)).phases
        self.assertGreater(phases.vcpus_ns, phases.received_ns)
        self.assertEqual((phases.running_ns, phases.claim_ns), (0, 0))
        return monitor

    def assert_nothing_ran(self, monitor):
        stats = self.ok(monitor.call(get_stats=control_pb.GetStats())).stats
        self.assertEqual(stats, control_pb.Stats())
        self.assertEqual(monitor.console(), b"")


class ParkTest(ParkCase):
    def test_claimed_it_goes_on_where_the_saved_one_stood(self):
        for vcpus in (1, 4):
            with self.subTest(vcpus=vcpus):
                disk = self.file(f"disk-{vcpus}", size=4 << 20)
                original = self.churn(disk, vcpu_count=vcpus, ports={})
                snapshot, _ = self.save(original)
                self.seal(snapshot)
                shells = [self.parked(snapshot, vcpu_count=vcpus, ports={}) for _ in range(2)]
                for number, shell in enumerate(shells):
                    self.assert_nothing_ran(shell)
                    copy = self.copy_of(disk, f"copy-{vcpus}-{number}")
                    phases = self.ok(shell.claim([copy], cid=number + 7, generation_id=ID)).phases
                    steps = [phases.vcpus_ns, phases.claim_ns, phases.claim_devices_ns, phases.claim_vcpus_ns,
                             phases.running_ns]
                    self.assertEqual(sorted(steps), steps)
                for shell in shells:
                    self.assert_ends_well(shell, original.console())

    def test_claimed_without_start_it_is_paused(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, _ = self.save(original)
        shell = self.parked(snapshot)
        self.assertEqual(self.ok(shell.claim([disk], start=False, generation_id=ID)).phases.running_ns, 0)
        self.assert_nothing_ran(shell)
        self.assertEqual(self.ram_of(shell)[0xef000:0xef010], ID)
        self.assert_refused(shell.call(pause=control_pb.Pause()), "VM_STATE", "paused")
        # What it is then is what was saved, in another VM's hands.
        self.save(shell, snapshot)
        self.ok(shell.call(start=control_pb.Start()))
        self.assert_ends_well(shell, original.console())

    def test_until_it_is_claimed_it_answers_nothing_else(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, _ = self.save(original)
        shell = self.parked(snapshot)
        with open(os.devnull, "rb") as null:
            calls = [({"start": control_pb.Start()}, []), ({"pause": control_pb.Pause()}, []),
                     ({"resume": control_pb.Resume()}, []), ({"get_memory": control_pb.GetMemory()}, []),
                     ({"vsock_connect": control_pb.VsockConnect(port=1, fd=0)}, [null.fileno()]),
                     ({"save": control_pb.Save(state_fd=0, leave_memory=True)}, [null.fileno()])]
            for call, fds in calls:
                self.assert_refused(shell.call(fds, **call), "NOT_CLAIMED")
        self.assert_nothing_ran(shell)
        self.ok(shell.claim([disk]))
        self.assert_ends_well(shell, original.console())

    def test_it_ends_with_stop_and_with_its_connection(self):
        snapshot, _ = self.save(self.churn(self.file("disk", size=4 << 20)))
        stopped, left = self.parked(snapshot), self.parked(snapshot)
        self.ok(stopped.call(stop=control_pb.Stop()))
        left.connection.close()
        for shell in (stopped, left):
            self.assertEqual(shell.wait(), 0)
            self.assertEqual(shell.exit_report().reason, control_pb.EXIT_REASON_HOST_STOP)
            self.assertEqual(shell.exit_report().phases.running_ns, 0)
            self.assertEqual(shell.console(), b"")

    def test_vsock_gets_its_cid_and_its_ports_from_the_claim(self):
        original = self.configured("probe.test=echo", ports={})
        harness.wait_until(lambda: original.console() == b"ready\n", "the guest is ready")
        self.ok(original.call(pause=control_pb.Pause()))
        snapshot, _ = self.save(original)
        mine, theirs = socket.socketpair()
        with mine, theirs:
            shell = self.parked(snapshot, ports={1024: theirs})
            self.ok(shell.claim(cid=4711, ports={1025: theirs}, start=False))
        again, _ = self.save(shell, snapshot)
        devices = state_file.read(again.state).devices
        self.assertEqual([device.vsock.guest_cid for device in devices if device.HasField("vsock")], [4711])
        self.ok(shell.call(resume=control_pb.Resume()))
        os.write(shell.console_input, b"quit\n")
        self.assertEqual(shell.wait(), 0)
        self.assertTrue(shell.console().endswith(b"echo quit\nPASS echo\n"), shell.console())


class TimeTest(ParkCase):
    """A parked machine's time stands still, whatever shows it."""
    WAIT_S = 4

    def waited(self, words, until, **options):
        """The original, its snapshot, and what was parked since, for a while."""
        original = self.configured(words, **options)
        harness.wait_until(lambda: until in original.console(), f"the guest says {until}")
        self.ok(original.call(pause=control_pb.Pause()))
        snapshot, saved = self.save(original)
        self.tsc_khz = saved.tsc_khz
        shell = self.parked(snapshot, **options)
        time.sleep(self.WAIT_S)
        return original, snapshot, shell

    def need_own_tsc(self, state):
        """Some KVMs without hardware virtualisation give every guest the host's counter, whatever is set."""
        tsc = next(msr.data for msr in state.vcpus[0].msrs if msr.index == TSC)
        if state.clock.flags & KVM_CLOCK_HOST_TSC and abs(tsc - state.clock.host_tsc) < self.tsc_khz * 1000:
            self.skipTest("this host's KVM lets a guest's time-stamp counter not be set")

    def test_its_state_is_the_one_that_was_saved(self):
        words = f"probe.test=tsc probe.count={10**15}"
        _, snapshot, shell = self.waited(words, b"ready\n", vcpu_count=2, ports={})
        before_ram = self.ram_of(shell)
        self.assertEqual(before_ram, snapshot.image(), "a parked machine's memory changed")
        self.ok(shell.claim(cid=3, start=False))
        saved, _ = self.save(shell, snapshot)
        one, other = state_file.read(snapshot.state), state_file.read(saved.state)
        for before, after in zip(one.vcpus, other.vcpus):
            self.assertEqual({msr.index: msr.data for msr in before.msrs if msr.index not in CLOCKS},
                             {msr.index: msr.data for msr in after.msrs if msr.index not in CLOCKS})
            for vcpu in (before, after):
                vcpu.ClearField("msrs")
        self.assertGreaterEqual(other.clock.clock_ns, one.clock.clock_ns)
        self.assertLess(other.clock.clock_ns - one.clock.clock_ns, self.WAIT_S * 500_000_000, "kvmclock leapt")
        for state in (one, other):
            state.ClearField("clock")
        self.assertEqual(one, other)

    def test_its_guest_sees_no_leap(self):
        count = 2_000_000_000
        _, snapshot, shell = self.waited(f"probe.test=tsc probe.count={count}", b"ready\n")
        self.ok(shell.claim())
        self.assertEqual(shell.wait(), 0)
        said = re.search(rb"^leapt by (\d+) of (\d+)\nPASS tsc\n$", shell.console(), re.MULTILINE)
        leapt, of = map(int, said.groups())
        self.need_own_tsc(state_file.read(snapshot.state))
        self.assertLess(leapt, self.tsc_khz * 1000 * self.WAIT_S // 2, shell.console())
        self.assertGreaterEqual(of, count)

    def test_its_timer_goes_on_with_what_was_left(self):
        seconds = 2
        _, _, shell = self.waited(f"probe.test=timer probe.wait={seconds * 10**9}", b"armed\n")
        begin = time.monotonic()
        self.ok(shell.claim())
        self.assertEqual(shell.wait(), 0)
        self.assertTrue(shell.console().endswith(b"PASS timer\n"), shell.console())
        # Most of it was left when it was saved.
        self.assertGreater(time.monotonic() - begin, seconds / 4)


class RefusedClaimTest(ParkCase):
    """A claim that cannot be is answered, and is the end of the shell; one that is refused as a message is not."""

    def setUp(self):
        super().setUp()
        self.disk = self.file("disk", size=4 << 20)
        self.original = self.churn(self.disk, ports={})
        self.snapshot, _ = self.save(self.original)
        self.seal(self.snapshot)

    def shell(self):
        return self.parked(self.snapshot, ports={})

    def test_what_does_not_fit_the_machine_ends_it(self):
        small, second = self.file("small", size=1 << 20), self.file("second", size=4 << 20)
        for reason, words, claim in (
                ("DISK_COUNT", ("0", "1"), {"cid": 3}),
                ("DISK_COUNT", ("2", "1"), {"cid": 3, "disks": [self.disk, second]}),
                ("DISK_SIZE", ("2048", "8192"), {"cid": 3, "disks": [small]}),
                ("CLAIM_VSOCK", ("CID",), {"disks": [self.disk]}),
        ):
            with self.subTest(reason=reason, words=words):
                shell = self.shell()
                self.assert_refused(shell.claim(**claim), reason, *words)
                self.assert_ended_unrun(shell)

    def test_a_disk_of_another_access_ends_it(self):
        shell = self.shell()
        reply = shell.claim([self.disk], cid=3, read_only=True)
        self.assert_refused(reply, "DISK_ACCESS")
        self.assert_ended_unrun(shell)

    def assert_ended_unrun(self, shell):
        self.assertEqual(shell.wait(), 0)
        report = shell.exit_report()
        self.assertEqual((report.reason, report.phases.running_ns), (control_pb.EXIT_REASON_MONITOR_ERROR, 0))
        self.assertEqual(report.stats, control_pb.Stats())
        self.assertEqual(shell.console(), b"")

    def test_a_message_that_is_refused_can_be_sent_again(self):
        shell = self.shell()
        for reason, claim in (
                ("GENERATION_ID", {"cid": 3, "disks": [self.disk], "generation_id": b"short"}),
                ("GUEST_CID", {"cid": 2, "disks": [self.disk]}),
                ("GUEST_CID", {"cid": 1 << 40, "disks": [self.disk]}),
                ("TOO_MANY", {"cid": 3, "disks": [self.disk] * 9}),
        ):
            self.assert_refused(shell.claim(**claim), reason)
        shell.send(b"\x08\x01\x5a\x05")
        self.assertEqual(shell.receive().status.reason, "BAD_MESSAGE")
        self.assert_nothing_ran(shell)
        self.ok(shell.claim([self.disk], cid=3))
        self.assert_ends_well(shell, self.original.console())

    def test_what_is_not_parked_cannot_be_claimed(self):
        self.assert_refused(self.monitor().claim([self.disk], cid=3), "NOT_CONFIGURED")
        shell = self.shell()
        self.ok(shell.claim([self.disk], cid=3))
        self.assert_refused(shell.claim([self.disk], cid=3), "VM_STATE", "running", "parked")
        self.assert_refused(self.original.claim([self.disk], cid=3), "VM_STATE", "paused", "parked")
        self.assert_ends_well(shell, self.original.console())
        self.ok(self.original.call(resume=control_pb.Resume()))

    def test_what_only_a_claim_can_say_is_refused_where_it_parks(self):
        for field, options in (("disks", {"disks": [self.disk]}), ("start", {"start": True}),
                               ("restore.generation_id", {"generation_id": ID})):
            options = {"ports": {}, "start": False} | options
            reply = self.monitor().configure(restore=self.snapshot, park=True, **options)
            self.assert_refused(reply, "PARKED", field)
        self.assert_refused(self.monitor().park(self.snapshot), "DEVICE_KIND", "devices[2]")
        self.assert_refused(self.monitor().park(self.snapshot, ports={}, vcpu_count=2), "VCPU_COUNT")
        self.assert_refused(self.monitor().park(self.snapshot, ports={}, memory_bytes=64 << 20),
                            "MEMORY_FILE_TOO_SHORT")


class WaitingTest(ParkCase):
    def test_its_threads_are_confined_and_sleep(self):
        disk = self.file("disk", size=4 << 20)
        snapshot, _ = self.save(self.churn(disk, vcpu_count=2))
        shell = self.parked(snapshot, vcpu_count=2)
        pid = shell.process.pid

        def filters():
            return {name: fields["Seccomp_filters"] for name, fields in status_of(pid).items()}

        expected = {"mayfly-vmm": "1", "vcpu0": "2", "vcpu1": "2"}
        harness.wait_until(lambda: filters() == expected, expected)
        time.sleep(0.5)

        def switches():
            return {name: (fields["voluntary_ctxt_switches"], fields["nonvoluntary_ctxt_switches"])
                    for name, fields in status_of(pid).items()}

        before = switches()
        time.sleep(3)
        self.assertEqual(switches(), before, "a parked machine woke up")
        self.ok(shell.claim([disk], start=False))
        self.assertEqual(filters(), expected | {"mayfly-vmm": "2"})
        self.ok(shell.call(resume=control_pb.Resume()))
        harness.wait_until(lambda: len(rounds(shell.console())) > 3, "the guest works")
