# SPDX-License-Identifier: Apache-2.0
"""mayfly-vmm by itself: how small it is, and how it stands a hostile peer on its control socket."""

import os
import random
import socket

import harness
from control.monitor_client import Monitor
from harness import control_pb, vm_pb

LIMIT_PRIVATE_BYTES = 3 << 19  # 1.5 MiB with one vCPU, the program's own pages included
LIMIT_FURTHER_VCPU_BYTES = 64 << 10  # its stack and KVM's page for its exits
LIMIT_PRIVATE_BESIDE_BYTES = 3 << 17  # 384 KiB: what a further VM costs


class FootprintTest(harness.DaemonCase):
    def measure(self, words, vcpus=1, ready=b""):
        """Alone on the host, where the program's own pages count as private too, and with a second VM beside it."""
        disks = [vm_pb.Disk(path=str(self.file(f"disk-{i}", size=1 << 20))) for i in range(2)]
        self.daemon.probe(self.vm_id, words, vcpus=vcpus, rootfs=disks[0], agent=True)
        harness.wait_until(lambda: ready in self.daemon.console(self.vm_id), f"the probe says {ready}")
        pid = self.daemon.get(self.vm_id).monitor_pid
        alone = harness.private_bytes(pid)
        self.daemon.probe("beside", words, vcpus=vcpus, rootfs=disks[1], agent=True)
        harness.wait_until(lambda: ready in self.daemon.console("beside"), f"the probe says {ready}")
        private = harness.private_bytes(pid)
        threads = harness.thread_names(pid)
        harness.print_figures(f"monitor, probe {words.rpartition('=')[2]}, {vcpus} vCPUs, blk console rng vsock",
                              private_kib=alone >> 10, private_kib_beside_a_second_vm=private >> 10,
                              threads=threads, descriptors=harness.fd_count(pid),
                              binary_bytes=harness.VMM.stat().st_size)
        further = (vcpus - 1) * LIMIT_FURTHER_VCPU_BYTES
        self.assertLessEqual(alone, LIMIT_PRIVATE_BYTES + further)
        self.assertLess(private, LIMIT_PRIVATE_BESIDE_BYTES + further)
        self.assertLessEqual(len(threads), 3 + vcpus, threads)
        for vm_id in (self.vm_id, "beside"):
            self.daemon.delete(vm_id)

    def test_private_memory_and_threads_stay_small_with_one_vcpu(self):
        self.measure("probe.test=spin")
        self.measure("probe.test=echo", ready=b"ready\n")

    def test_threads_grow_by_one_with_each_vcpu(self):
        # The probe leaves the second and later vCPUs waiting for their start.
        self.measure("probe.test=spin", vcpus=4)

    def test_the_monitor_maps_no_library(self):
        self.daemon.probe(self.vm_id, "probe.test=spin")
        pid = self.daemon.get(self.vm_id).monitor_pid
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            self.assertNotIn(".so", maps.read())


class ControlSocketTest(harness.Case):
    def setUp(self):
        super().setUp()
        self.monitor = self.another()

    def another(self):
        monitor = Monitor(self.work, name=f"m{random.getrandbits(40):x}")
        self.addCleanup(monitor.close)
        return monitor

    def run_probe(self):
        """From here on it outlives its connections."""
        self.assertFalse(self.monitor.configure("probe.test=spin").HasField("status"))

    def assert_serves(self):
        """It answers a peer that behaves, here and anew; until it has a machine, it ends with its first peer."""
        reply = self.monitor.call(get_stats=control_pb.GetStats())
        self.assertIn(reply.status.reason, ("", "NOT_CONFIGURED"), reply)
        if reply.HasField("status"):
            self.monitor.connection.close()
            self.assertEqual(self.monitor.wait(), 1)
        else:
            self.reconnect()
            again = self.monitor.call(get_stats=control_pb.GetStats())
            self.assertEqual((again.HasField("status"), again.HasField("stats")), (False, True), again)
            self.monitor.call(stop=control_pb.Stop())
            self.assertEqual(self.monitor.wait(), 0)

    def reconnect(self):
        self.monitor.connection.close()
        self.monitor.connection = self.monitor.connect()

    def configure_refused(self, reason, *words, **changes):
        monitor = self.another()
        reply = monitor.configure("exit", **changes)
        self.assertEqual(reply.status.reason, reason, reply)
        for word in words:
            self.assertIn(word, reply.status.message)
        monitor.connection.close()
        self.assertEqual(monitor.wait(), 1)

    def test_a_descriptor_that_is_no_listening_socket_is_refused_at_once(self):
        for target in (open(os.devnull, "rb"), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)):
            with self.subTest(str(target)), target:
                end = self.work.run([harness.VMM, f"--control-fd={target.fileno()}"], timeout=10,
                                    pass_fds=[target.fileno()])
                self.assertEqual(end.code, 1, end)
                self.assertIn(b"listening", end.err)
        for arguments in ([], ["--control-fd=x"], ["--control-fd=-1"], ["--control-fd=3", "more"], ["--help"]):
            end = self.work.run([harness.VMM, *arguments], timeout=10)
            self.assertEqual((end.code, end.out), (2, b""), end)
            self.assertIn(b"usage: mayfly-vmm --control-fd=N", end.err)

    def test_packets_of_garbage_are_answered_and_change_nothing(self):
        generator = random.Random(1)
        for _ in range(300):
            self.monitor.send(generator.randbytes(generator.randrange(1, 400)))
            reply = self.monitor.receive()
            self.assertIsNotNone(reply)
            self.assertIn(reply.status.code, (3, 9, 12), reply)  # INVALID_ARGUMENT, FAILED_PRECONDITION, UNIMPLEMENTED
        self.assert_serves()

    def test_truncated_messages_are_refused(self):
        configure = control_pb.Configure(vcpu_count=1, cmdline="exit")
        whole = control_pb.Request(id=7, configure=configure).SerializeToString()
        for size in range(1, len(whole)):
            self.monitor.send(whole[:size])
            self.assertNotEqual(self.monitor.receive().status.code, 0)
        self.assert_serves()

    def test_an_oversize_packet_costs_the_connection_only(self):
        self.run_probe()
        self.monitor.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.monitor.send(bytes(65537))
        self.assertIsNone(self.monitor.receive())
        self.reconnect()
        self.assert_serves()

    def test_too_many_descriptors_cost_the_connection_and_are_closed(self):
        self.run_probe()
        before = harness.fd_count(self.monitor.process.pid)
        null = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, null)
        self.monitor.send(b"\x08\x01", [null] * 65)
        self.assertIsNone(self.monitor.receive())
        for _ in range(20):  # As many as are allowed, with a call that uses none.
            self.reconnect()
            request = control_pb.Request(id=1, configure=control_pb.Configure())
            self.monitor.send(request.SerializeToString(), [null] * 64)
            self.assertNotEqual(self.monitor.receive().status.reason, "")
        self.assertLessEqual(harness.fd_count(self.monitor.process.pid), before)
        self.assert_serves()

    def test_a_peer_that_never_reads_loses_its_connection(self):
        self.run_probe()
        request = control_pb.Request(id=1, get_stats=control_pb.GetStats()).SerializeToString()
        self.monitor.connection.settimeout(20)
        with self.assertRaises(ConnectionError):
            for _ in range(100_000):
                self.monitor.send(request)
        self.reconnect()
        self.assert_serves()

    def test_a_second_peer_waits_until_the_first_has_gone(self):
        self.run_probe()
        second = self.monitor.connect()
        self.addCleanup(second.close)
        second.send(control_pb.Request(id=99, get_stats=control_pb.GetStats()).SerializeToString())
        for _ in range(10):
            self.monitor.call(get_stats=control_pb.GetStats())
        second.setblocking(False)
        with self.assertRaises(BlockingIOError):
            second.recv(100)
        self.monitor.connection.close()
        second.settimeout(harness.PATIENCE)
        self.assertEqual(control_pb.Reply.FromString(second.recv(65536)).id, 99)
        self.monitor.connection = second
        self.assert_serves()

    def test_a_bad_configuration_is_refused_by_field_and_ends_the_monitor(self):
        self.configure_refused("VCPU_COUNT", "vcpu_count", "0", "32", vcpu_count=0)
        self.configure_refused("VCPU_COUNT", "33", vcpu_count=33)
        self.configure_refused("MEMORY_SIZE", "memory_bytes", str(1 << 20), memory_bytes=1 << 20)
        self.configure_refused("MEMORY_SIZE", "memory_bytes", str((32 << 20) + 1), memory_bytes=(32 << 20) + 1)
        self.configure_refused("DESCRIPTOR_INDEX", "kvm_fd", "99", "7", kvm_fd=99)
        self.configure_refused("DESCRIPTOR_TWICE", "memory_fd", "0", memory_fd=0)
        self.configure_refused("TOO_MANY", "disks", "9", "8", disks=[self.file(f"d{i}", size=512) for i in range(9)])
        self.configure_refused("GUEST_CID", "guest_cid", "2", vsock=control_pb.Vsock(guest_cid=2))

    def test_descriptors_of_the_wrong_kind_are_refused(self):
        # Each in the place of another: 0 kvm, 1 memory, 2 kernel, 3 report, 4 ring, 5 event, 6 input.
        event_and_kernel = {"kernel_fd": 5, "console": control_pb.Console(ring_fd=4, output_event_fd=2, input_fd=6)}
        for changes in ({"kvm_fd": 1, "memory_fd": 0}, {"memory_fd": 2, "kernel_fd": 1}, event_and_kernel):
            with self.subTest(changes):
                monitor = self.another()
                reply = monitor.configure("exit", **changes)
                self.assertNotEqual(reply.status.code, 0, reply)
                self.assertNotEqual(reply.status.message, "", reply)
                # There was an attempt to build: it does not stay for a second one.
                self.assertEqual(monitor.wait(), 1)

    def test_a_configured_monitor_takes_no_second_configuration(self):
        self.assertFalse(self.monitor.configure("probe.test=spin").HasField("status"))
        self.assertNotEqual(self.monitor.call(configure=control_pb.Configure()).status.reason, "")
        self.assertNotEqual(self.monitor.call(start=control_pb.Start()).status.reason, "")
        self.assertFalse(self.monitor.call(stop=control_pb.Stop()).HasField("status"))
        self.assertEqual(self.monitor.wait(), 0)
        self.assertEqual(self.monitor.exit_report().reason, control_pb.EXIT_REASON_HOST_STOP)

    def test_garbage_while_the_guest_runs_does_not_disturb_it(self):
        self.monitor.configure("probe.test=echo")
        harness.wait_until(lambda: self.monitor.console() == b"ready\n", "the guest is ready")
        for size in (1, 100, 60_000):
            self.monitor.send(b"\xff" * size)
            self.assertNotEqual(self.monitor.receive().status.code, 0)
        os.write(self.monitor.console_input, b"quit\n")
        self.assertEqual(self.monitor.wait(), 0)
        self.assertEqual(self.monitor.console(), b"ready\necho quit\nPASS echo\n")
        self.assertEqual(self.monitor.exit_report().reason, control_pb.EXIT_REASON_GUEST_POWEROFF)

    def test_the_end_of_its_daemon_ends_it_only_where_it_was_told_so(self):
        self.monitor.configure("probe.test=spin", end_on_disconnect=True)
        self.monitor.connection.close()
        self.assertEqual(self.monitor.wait(), 0)
        self.assertEqual(self.monitor.exit_report().reason, control_pb.EXIT_REASON_HOST_STOP)
        lasting = Monitor(self.work, name="lasting")
        self.addCleanup(lasting.close)
        lasting.configure("probe.test=spin")
        lasting.connection.close()
        lasting.connection = lasting.connect()
        self.assertFalse(lasting.call(get_stats=control_pb.GetStats()).HasField("status"))
        lasting.call(stop=control_pb.Stop())
        self.assertEqual(lasting.wait(), 0)

    def test_vsock_carries_bytes_both_ways_to_a_socket_it_was_given(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            ours.settimeout(harness.PATIENCE)
            self.monitor.configure("probe.test=vsock probe.expect=data probe.vsock_port=77", ports={77: theirs})
            theirs.close()
            self.assertEqual(ours.recv(100), b"hello from the probe\n")
            ours.send(b"and from the test")
            self.assertEqual(ours.recv(100), b"")
        self.assertEqual(self.monitor.wait(), 0)
        self.assertIn(b"data and from the test", self.monitor.console())
        self.assertTrue(self.monitor.console().endswith(b"PASS vsock\n"), self.monitor.console())

    def test_a_vsock_port_that_nobody_serves_is_reset(self):
        self.monitor.configure("probe.test=vsock probe.expect=rst probe.vsock_port=78", ports={})
        self.assertEqual(self.monitor.wait(), 0)
        self.assertTrue(self.monitor.console().endswith(b"PASS vsock\n"), self.monitor.console())

    def test_counters_of_a_run_are_in_its_report(self):
        self.monitor.configure("probe.test=blk probe.count=8", disks=[self.file("disk", size=1 << 20)])
        self.assertEqual(self.monitor.wait(), 0)
        report = self.monitor.exit_report()
        self.assertEqual((report.stats.disk_writes, report.stats.disk_reads, report.stats.disk_flushes), (8, 8, 1))
        self.assertEqual(report.stats.console_bytes, len(self.monitor.console()))
        phases = report.phases
        steps = [phases.main_ns, phases.received_ns, phases.memory_ns, phases.vm_ns, phases.devices_ns,
                 phases.kernel_ns, phases.vcpus_ns, phases.running_ns, report.ended_ns]
        self.assertTrue(all(step > 0 for step in steps), steps)
        self.assertEqual(sorted(steps), steps, "a step ended before the one that goes before it")
