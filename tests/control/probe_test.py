# SPDX-License-Identifier: Apache-2.0
"""The probe guest through the daemon, on whatever KVM this host has: devices, drivers that misbehave, ends."""

import os
import re
import signal

import harness
from harness import console_pb, vm_pb


class ProbeTest(harness.DaemonCase):
    def run_probe(self, words, vm_id=None, **spec):
        """The probe to its end: the VM, and its console as text."""
        vm_id = vm_id or self.vm_id
        self.daemon.probe(vm_id, words, **spec)
        vm = self.daemon.wait_stopped(vm_id)
        return vm, self.daemon.console(vm_id).decode(errors="replace")

    def assert_passes(self, test, words="", **spec):
        vm, console = self.run_probe(f"probe.test={test} {words}", **spec)
        self.assertEqual(console.splitlines()[-1:], [f"PASS {test}"], console)
        self.assert_exit(vm, "GUEST_POWEROFF")
        return vm, console

    def disk(self, name="disk", size=1 << 20, data=b"", **fields):
        return vm_pb.Disk(path=str(self.file(name, data, size)), **fields)

    # Ends.

    def test_the_shortest_life_ends_as_a_poweroff(self):
        vm, console = self.run_probe("exit")
        self.assert_exit(vm, "GUEST_POWEROFF")
        self.assertEqual(console, "")
        self.assertEqual((vm.monitor_pid, vm.exit.signal, vm.exit.exit_status), (0, 0, 0))

    def test_each_end_has_its_own_reason(self):
        ends = {"exit": "GUEST_POWEROFF", "reset": "GUEST_REBOOT", "panic": "GUEST_PANIC",
                "triple-fault": "TRIPLE_FAULT"}
        for test, reason in ends.items():
            with self.subTest(test):
                vm, _ = self.run_probe(f"probe.test={test}", vm_id=test)
                self.assert_exit(vm, reason)

    def test_a_panicking_guest_may_still_print_and_reset_itself(self):
        vm, console = self.run_probe("probe.test=panic-reset")
        self.assert_exit(vm, "GUEST_PANIC")
        self.assertIn("after the panic", console)

    def test_a_failed_probe_is_seen_as_a_panic(self):
        vm, console = self.run_probe("probe.test=no-such-test")
        self.assert_exit(vm, "GUEST_PANIC")
        self.assertIn("FAIL probe.test= names no test", console)

    def test_a_guest_that_halts_or_spins_is_stopped_by_the_host(self):
        for words in ("halt", "probe.test=spin"):
            with self.subTest(words):
                vm_id = words.rpartition("=")[2]
                self.daemon.probe(vm_id, words)
                self.assertTrue(harness.is_alive(self.daemon.get(vm_id).monitor_pid))
                vm = self.api.StopVm(vm_pb.StopVmRequest(vm_id=vm_id, grace_ms=0)).vm
                self.assertEqual(vm.state, vm_pb.VM_STATE_STOPPED)
                self.assert_exit(vm, "HOST_STOP")
                # Stopping what has stopped changes nothing.
                again = self.api.StopVm(vm_pb.StopVmRequest(vm_id=vm_id, grace_ms=0)).vm
                self.assertEqual(again.exit, vm.exit)

    # Console.

    def test_console_lines_arrive_in_order_and_whole(self):
        _, console = self.assert_passes("console", "probe.count=1000")
        self.assertEqual(console.splitlines()[:-1], [f"line {i} of 1000" for i in range(1000)])

    def test_console_is_read_from_an_offset(self):
        _, console = self.assert_passes("console", "probe.count=50")
        whole = console.encode()
        self.assertEqual(self.daemon.console(self.vm_id, offset=100), whole[100:])
        self.assertEqual(self.daemon.console(self.vm_id, offset=len(whole)), b"")

    def test_console_flood_keeps_the_end_and_says_what_was_lost(self):
        self.assert_passes("console", "probe.count=20000", console_kib=4)
        request = console_pb.ReadConsoleRequest(vm_id=self.vm_id)
        chunks = [response.chunk for response in self.api.ReadConsole(request)]
        kept = b"".join(chunk.data for chunk in chunks)
        self.assertLessEqual(len(kept), 4096)
        self.assertTrue(kept.endswith(b"line 19999 of 20000\nPASS console\n"), kept[-100:])
        total = sum(len(f"line {i} of 20000\n") for i in range(20000)) + len("PASS console\n")
        self.assertEqual(chunks[0].lost_bytes, chunks[0].offset)
        self.assertEqual(chunks[0].offset + len(kept), total)

    def test_console_input_reaches_the_guest_and_follow_ends_with_the_vm(self):
        self.daemon.probe(self.vm_id, "probe.test=echo", start=False)

        def requests():
            yield console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=self.vm_id))
            yield from (console_pb.AttachConsoleRequest(input=line) for line in inputs)

        inputs = harness.Inputs()
        call = self.api.AttachConsole(requests())
        self.api.StartVm(vm_pb.StartVmRequest(vm_id=self.vm_id))
        output = b""
        for response in call:
            output += response.chunk.data
            if output.endswith(b"ready\n"):
                inputs.put(b"hello\n")
            elif output.endswith(b"echo hello\n"):
                inputs.put(b"quit\n")
        inputs.end()
        self.assertEqual(output, b"ready\necho hello\necho quit\nPASS echo\n")

    # Devices.

    def test_rng_answers_are_not_alike(self):
        self.assert_passes("rng")

    def test_blk_writes_flush_and_read_back(self):
        vm, console = self.assert_passes("blk", "probe.count=64", disks=[self.disk(serial="probe-0")])
        self.assertIn("serial 'probe-0', 2048 sectors", console)
        stats = vm.exit.stats
        self.assertEqual((stats.disk_writes, stats.disk_reads, stats.disk_flushes, stats.disk_errors), (64, 64, 1, 0))
        self.assertEqual((stats.disk_written_bytes, stats.disk_read_bytes), (64 * 4096, 64 * 4096))
        self.assertNotEqual((self.dir / "disk").read_bytes(), bytes(1 << 20), "the writes are not in the file")

    def test_a_read_only_disk_refuses_writes_and_stays_as_it_was(self):
        data = harness.pattern(1 << 20)
        self.assert_passes("blk-read-only", disks=[self.disk(data=data, read_only=True)])
        self.assertEqual((self.dir / "disk").read_bytes(), data)

    def test_disks_come_in_their_order_with_their_serials(self):
        for index in range(8):
            with self.subTest(index):
                disks = [self.disk(f"disk{i}", (i + 1) << 20, serial=f"serial-{i}") for i in range(8)]
                _, console = self.assert_passes("blk", f"probe.disk={index}", vm_id=f"disks-{index}", disks=disks)
                self.assertIn(f"serial 'serial-{index}', {(index + 1) * 2048} sectors", console)

    def test_a_disk_is_free_again_once_its_vm_has_stopped_or_was_killed(self):
        disk = self.disk()
        for index in range(60):
            vm_id = f"turn-{index}"
            if index % 3 == 2:
                self.daemon.probe(vm_id, "probe.test=spin", disks=[disk])
                self.api.StopVm(vm_pb.StopVmRequest(vm_id=vm_id, grace_ms=0))
            elif index % 3 == 1:
                self.daemon.probe(vm_id, "probe.test=spin", disks=[disk])
                os.kill(self.daemon.get(vm_id).monitor_pid, signal.SIGKILL)
                self.daemon.wait_stopped(vm_id)
            else:
                self.assert_passes("blk", vm_id=vm_id, disks=[disk])

    def test_a_disk_is_shared_by_readers_and_has_one_writer(self):
        writable, read_only = self.disk(), vm_pb.Disk(path=str(self.dir / "disk"), read_only=True)
        for vm_id in ("reader-1", "reader-2"):
            self.daemon.probe(vm_id, "probe.test=spin", disks=[read_only])
        refused = ("FAILED_PRECONDITION", "DISK_IN_USE", "disks[0]", read_only.path)
        self.assert_refused(lambda: self.daemon.probe("writer", "exit", disks=[writable]), *refused)
        for vm_id in ("reader-1", "reader-2"):
            self.daemon.delete(vm_id)
        self.daemon.probe("writer", "probe.test=spin", disks=[writable])
        for disk in (writable, read_only):
            self.assert_refused(lambda disk=disk: self.daemon.probe("other", "exit", disks=[disk]), *refused)

    def test_46_broken_block_drivers_each_get_an_answer_and_the_device_recovers(self):
        vm, console = self.assert_passes("blk-bad", disks=[self.disk(data=harness.pattern(1 << 20))])
        answers = dict(re.findall(r"^ok (\S+): (\S+)", console, re.MULTILINE))
        for case in ("loop", "head-outside", "indirect-nested", "avail-jump"):
            self.assertEqual(answers.get(case), "needs-reset", console)
        self.assertGreaterEqual(len(answers), 46, console)
        self.assertEqual(vm.exit.stderr_tail.count("CHECK"), 0, vm.exit.stderr_tail)

    def test_many_reads_in_flight_are_all_answered(self):
        _, console = self.assert_passes("bench", "probe.count=20000 probe.depth=32",
                                        disks=[self.disk(size=64 << 20, read_only=True)])
        print(f"    {console.splitlines()[0]}")

    def test_a_disk_under_load_needs_few_kicks_and_loses_nothing(self):
        """Reads and writes with 32 in flight, and one at a time, which waits for each answer."""
        for write, depth, count in ((0, 32, 20000), (1, 32, 5000), (0, 1, 2000)):
            with self.subTest(write=write, depth=depth):
                vm, console = self.assert_passes(
                    "blk-load", f"probe.count={count} probe.depth={depth} probe.write={write}",
                    vm_id=f"load-{write}-{depth}", disks=[self.disk(f"disk-{write}-{depth}", size=16 << 20)])
                requests, kicks = (int(re.search(rf"{word}=(\d+)", console)[1]) for word in ("requests", "kicks"))
                self.assertEqual(requests, count)
                # Writes may wait for the file system, each for itself.
                self.assertLessEqual(kicks, count // 8 if depth > 1 and not write else count)
                stats = vm.exit.stats
                self.assertEqual(stats.disk_writes if write else stats.disk_reads, count)

    def test_registers_survive_wrong_widths_and_unoffered_features(self):
        _, console = self.assert_passes("registers", disks=[self.disk()])
        self.assertIn("devices survived", console)

    def test_a_guest_that_is_no_agent_on_the_agents_port_does_no_harm(self):
        self.daemon.probe(self.vm_id, "probe.test=vsock", agent=True)
        vm = self.daemon.wait_stopped(self.vm_id)
        console = self.daemon.console(self.vm_id).decode()
        self.assertIn("PASS vsock", console)
        self.assertFalse(vm.HasField("guest"))
        self.assertEqual(self.api.GetInfo(harness.system_pb.GetInfoRequest()).running_vm_count, 0)

    # Life cycle.

    def test_pause_stops_a_guest_that_talks_and_resume_lets_it_go_on(self):
        self.daemon.probe(self.vm_id, "probe.test=console probe.count=100000000", console_kib=4)
        harness.wait_until(lambda: self.daemon.console(self.vm_id), "the guest talks")
        paused = self.api.PauseVm(vm_pb.PauseVmRequest(vm_id=self.vm_id)).vm
        self.assertEqual(paused.state, vm_pb.VM_STATE_PAUSED)
        first, cpu = self.daemon.console_end(self.vm_id), harness.cpu_ticks(paused.monitor_pid)
        for _ in range(50):
            self.assertEqual(self.daemon.console_end(self.vm_id), first)
        self.assertLessEqual(harness.cpu_ticks(paused.monitor_pid) - cpu, 1, "a paused VM uses the CPU")
        resumed = self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=self.vm_id)).vm
        self.assertEqual(resumed.state, vm_pb.VM_STATE_RUNNING)
        harness.wait_until(lambda: self.daemon.console_end(self.vm_id) > first, "the guest talks on")

    def test_a_vm_is_created_then_started_and_each_state_is_an_event(self):
        watch = self.api.WatchEvents(harness.event_pb.WatchEventsRequest(vm_id=self.vm_id))
        watch.initial_metadata()
        created = self.daemon.probe(self.vm_id, "exit", start=False).vm
        self.assertEqual(created.state, vm_pb.VM_STATE_CREATED)
        self.api.StartVm(vm_pb.StartVmRequest(vm_id=self.vm_id))
        self.daemon.wait_stopped(self.vm_id)
        self.daemon.delete(self.vm_id, force=False)
        seen = []
        for response in watch:
            event = response.event
            change = event.state_changed
            seen.append((vm_pb.VmState.Name(change.to)[9:] if event.HasField("state_changed") else
                         event.WhichOneof("what")))
            if event.HasField("deleted"):
                break
        watch.cancel()
        self.assertEqual(seen, ["CREATED", "RUNNING", "STOPPED", "exited", "deleted"])

    def test_200_short_lives_leave_no_descriptor_in_the_daemon(self):
        self.run_probe("exit", vm_id="first")
        before = harness.fd_count(self.daemon.pid)
        for batch in range(10):
            def one(index):
                vm_id = f"life-{batch}-{index}"
                vm, _ = self.run_probe("exit", vm_id=vm_id)
                self.assert_exit(vm, "GUEST_POWEROFF")
                self.daemon.delete(vm_id, force=False)
            harness.in_threads(20, one)
        harness.wait_until(lambda: harness.fd_count(self.daemon.pid) <= before,
                           f"the daemon has again {before} descriptors")
        self.assertEqual(self.class_work.monitors(), [])
