# SPDX-License-Identifier: Apache-2.0
"""The daemon's own life: told to stop, killed, its monitors killed; and the API's plumbing."""

import os
import signal
import socket
import stat
import sys

import grpc
import harness
from harness import event_pb, system_pb, vm_pb


class LifeTest(harness.Case):
    def running_probes(self, daemon, count):
        """That many running VMs; their monitors' pids."""
        for index in range(count):
            daemon.probe(f"vm-{index}", "probe.test=spin")
        return [daemon.get(f"vm-{index}").monitor_pid for index in range(count)]

    def test_a_daemon_told_to_stop_ends_its_vms_and_leaves_nothing(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name):
                daemon = self.start_daemon(name=number.name.lower())
                pids = self.running_probes(daemon, 5)
                daemon.process.send_signal(number)
                self.assertEqual(daemon.process.wait(60), 0, daemon.log_text())
                self.assertEqual([pid for pid in pids if harness.is_alive(pid)], [])
                self.assertEqual(daemon.stop(), (0, []))

    def test_a_daemon_that_is_killed_takes_its_monitors_along_and_the_next_starts_cleanly(self):
        daemon = self.start_daemon()
        pids = self.running_probes(daemon, 5)
        daemon.probe("created", "exit", start=False)
        pids.append(daemon.get("created").monitor_pid)
        epoch = daemon.get_info().epoch
        daemon.kill()
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the monitors have ended")
        self.assertTrue(daemon.socket.exists(), "kill -9 left the socket")
        self.assertEqual(len(os.listdir(daemon.state / "vms")), 6)
        again = self.start_daemon()
        self.assertEqual(os.listdir(again.state / "vms"), [])
        info = again.get_info()
        self.assertEqual(info.vm_count, 0)
        self.assertNotEqual(info.epoch, epoch)
        again.probe("vm-0", "exit")
        self.assertEqual(again.wait_stopped("vm-0").exit.reason, vm_pb.EXIT_REASON_GUEST_POWEROFF)

    def test_a_call_under_way_ends_when_the_daemon_is_told_to_stop(self):
        daemon = self.start_daemon()
        self.running_probes(daemon, 1)
        watch = daemon.api.WatchEvents(event_pb.WatchEventsRequest())
        watch.initial_metadata()
        call = daemon.api.channel.unary_unary("/mayfly.v1.VmService/WaitVm").future(
            vm_pb.WaitVmRequest(vm_id="vm-0", states=[vm_pb.VM_STATE_PAUSED]).SerializeToString(), timeout=60)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(60), 0)
        self.assertIn(call.exception(60).code(), (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE))
        with self.assertRaises(grpc.RpcError):
            for _ in watch:
                pass

    def test_a_state_directory_that_was_there_stays_and_what_is_foreign_in_it_too(self):
        state = self.dir / "d.state"
        (state / "vms" / "kept").mkdir(parents=True)
        (state / "vms" / "kept" / "notes").write_text("mine")
        daemon = self.start_daemon()
        self.running_probes(daemon, 1)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(60), 0)
        self.assertEqual([str(path.relative_to(state)) for path in sorted(state.rglob("*"))],
                         ["vms", "vms/kept", "vms/kept/notes"])
        harness.shutil.rmtree(state)

    def test_files_and_socket_are_for_the_daemons_user_alone(self):
        daemon = self.start_daemon()
        self.running_probes(daemon, 1)
        for path in (daemon.socket, daemon.state, *daemon.state.rglob("*")):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o077, 0, path)

    def test_another_user_is_not_served(self):
        if os.geteuid() != 0:
            self.skipTest("only root can be another user")
        daemon = self.start_daemon()
        # Past the file modes, so that the daemon's own check is what refuses.
        os.chmod(self.dir, 0o755)
        os.chmod(daemon.socket, 0o666)
        script = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); "
                  "s.send(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(3) + bytes([4]) + bytes(5)); "
                  "print(len(s.recv(100)))")

        def received(user):
            end = self.work.run([sys.executable, "-I", "-c", script, daemon.socket], user=user, timeout=30)
            return int(end.out) if end.code == 0 else 0

        self.assertGreater(received(0), 0)
        self.assertEqual(received(65534), 0)

    def test_a_monitor_program_that_is_missing_is_said_at_the_start(self):
        end = self.work.run([harness.MAYFLYD, "--socket", self.dir / "x.sock", "--state-dir", self.dir / "x.state",
                             "--vmm", "/no/vmm"], timeout=30)
        self.assertEqual(end.code, 1, end)
        self.assertIn(b"--vmm: cannot run /no/vmm", end.err)
        self.assertFalse((self.dir / "x.state").exists())


class MonitorEndTest(harness.DaemonCase):
    def test_a_killed_monitor_is_reported_with_its_signal_and_others_run_on(self):
        for vm_id in ("victim", "other"):
            self.daemon.probe(vm_id, "probe.test=echo")
        watch = self.api.WatchEvents(event_pb.WatchEventsRequest(vm_id="victim"))
        watch.initial_metadata()
        os.kill(self.daemon.get("victim").monitor_pid, signal.SIGKILL)
        vm = self.daemon.wait_stopped("victim")
        self.assert_exit(vm, "MONITOR_KILLED")
        self.assertEqual((vm.exit.signal, vm.monitor_pid), (signal.SIGKILL, 0))
        self.assertIn("signal 9", vm.exit.detail)
        exited = next(response.event.exited for response in watch if response.event.HasField("exited"))
        watch.cancel()
        self.assertEqual(exited.signal, signal.SIGKILL)
        self.assertEqual(self.daemon.get("other").state, vm_pb.VM_STATE_RUNNING)
        # What it had said is still to be read, and its id is free once it is deleted.
        self.assertEqual(self.daemon.console("victim"), b"ready\n")
        self.daemon.delete("victim", force=False)
        self.daemon.probe("victim", "exit")
        self.assert_exit(self.daemon.wait_stopped("victim"), "GUEST_POWEROFF")

    def test_a_monitor_that_crashes_is_reported_with_its_signal(self):
        if os.geteuid() != 0:
            self.skipTest("only root may write to a monitor's memory")
        self.daemon.probe(self.vm_id, "probe.test=spin")
        # The first process of a PID namespace takes no signals from outside but SIGKILL, so it is made to fault.
        pid = self.daemon.get(self.vm_id).monitor_pid
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for line in maps:
                words = line.split()
                start, _, end = words[0].partition("-")
                if words[1] == "r-xp" and "[" not in line:
                    memory.seek(int(start, 16))
                    # INT3, one byte: wherever in an instruction a thread goes on.
                    memory.write(b"\xcc" * (int(end, 16) - int(start, 16)))
        with self.assertRaises(grpc.RpcError):
            self.api.PauseVm(vm_pb.PauseVmRequest(vm_id=self.vm_id))
        vm = self.daemon.wait_stopped(self.vm_id)
        self.assert_exit(vm, "MONITOR_KILLED")
        self.assertEqual(vm.exit.signal, signal.SIGTRAP)

    def test_a_call_that_waits_on_a_monitor_ends_with_it(self):
        self.daemon.probe(self.vm_id, "probe.test=spin")
        pid = self.daemon.get(self.vm_id).monitor_pid
        os.kill(pid, signal.SIGSTOP)
        call = self.api.channel.unary_unary("/mayfly.v1.VmService/PauseVm").future(
            vm_pb.PauseVmRequest(vm_id=self.vm_id).SerializeToString(), timeout=60)
        with self.assertRaises(grpc.FutureTimeoutError):
            call.exception(0.3)
        os.kill(pid, signal.SIGKILL)
        error = call.exception(60)
        self.assertEqual((error.code().name, harness.reason_of(error)), ("UNAVAILABLE", "MONITOR_GONE"))
        self.assertIn("signal 9", error.details())

    def test_a_monitor_that_hangs_is_killed_by_stop_and_holds_up_nobody_else(self):
        self.daemon.probe("hung", "probe.test=spin")
        self.daemon.probe("other", "probe.test=spin")
        os.kill(self.daemon.get("hung").monitor_pid, signal.SIGSTOP)
        stop = self.api.channel.unary_unary("/mayfly.v1.VmService/StopVm").future(
            vm_pb.StopVmRequest(vm_id="hung", grace_ms=0).SerializeToString(), timeout=60)
        other = self.api.StopVm(vm_pb.StopVmRequest(vm_id="other", grace_ms=0)).vm
        self.assert_exit(other, "HOST_STOP")
        stopped = vm_pb.StopVmResponse.FromString(stop.result(60))
        self.assert_exit(stopped.vm, "HOST_STOP")
        self.assertEqual(stopped.vm.exit.signal, signal.SIGKILL)


# grpc.health.v1's messages by hand: a generated module's package would hide gRPC's own.
HEALTH = "/grpc.health.v1.Health/"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = (b"\x08" + bytes([status]) for status in (1, 2, 3))


def health_of(service):
    return b"\x0a" + bytes([len(service)]) + service.encode()


class HealthTest(harness.Case):
    def test_a_watcher_hears_when_the_daemon_stops(self):
        daemon = self.start_daemon()
        watch = daemon.api.channel.unary_stream(HEALTH + "Watch")
        unknown = watch(health_of("mayfly.v1.Nothing"), timeout=harness.PATIENCE)
        self.assertEqual(next(unknown), SERVICE_UNKNOWN)
        unknown.cancel()
        watched = watch(b"", timeout=harness.PATIENCE)
        self.assertEqual(next(watched), SERVING)
        daemon.process.terminate()
        self.assertEqual(list(watched), [NOT_SERVING])


class PlumbingTest(harness.DaemonCase):
    def reflection(self, request):
        """Server reflection by hand: the fields of its messages are few."""
        call = self.api.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        return next(call(iter([request]), timeout=harness.PATIENCE))

    def test_reflection_lists_the_services_and_gives_their_files(self):
        answer = self.reflection(b"\x3a\x01*")
        for name in ("VmService", "ExecService", "ConsoleService", "EventService", "SystemService"):
            self.assertIn(f"mayfly.v1.{name}".encode(), answer)
        symbol = b"mayfly.v1.VmService"
        self.assertIn(b"mayfly/v1/vm.proto", self.reflection(b"\x22" + bytes([len(symbol)]) + symbol))

    def test_health_is_told_of_the_daemon_and_of_each_service(self):
        check = self.api.channel.unary_unary(HEALTH + "Check")
        for service in ("", "mayfly.v1.VmService", "mayfly.v1.MemoryService", "grpc.health.v1.Health"):
            self.assertEqual(check(health_of(service), timeout=harness.PATIENCE), SERVING, service)
        self.assert_refused(lambda: check(health_of("mayfly.v1.Nothing"), timeout=harness.PATIENCE),
                            "NOT_FOUND", "SERVICE")

    def test_capabilities_are_the_limits_that_are_enforced(self):
        limits = self.api.GetCapabilities(system_pb.GetCapabilitiesRequest())
        self.assertEqual((limits.max_vcpus, limits.min_memory_mib, limits.max_disks, limits.max_cmdline_bytes),
                         (32, 16, 8, 2047))
        self.assertIn("exec", limits.features)
        self.daemon.probe(self.vm_id, "exit", vcpus=limits.max_vcpus, memory_mib=limits.min_memory_mib)
        self.assert_exit(self.daemon.wait_stopped(self.vm_id), "GUEST_POWEROFF")

    def test_garbage_on_the_socket_harms_nobody(self):
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", harness.pattern(4096), preface + b"\xff" * 500):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.daemon.socket))
                client.sendall(data)
        self.assertEqual(self.daemon.get_info().pid, self.daemon.pid)

    def test_vms_are_listed_in_pages(self):
        for index in range(7):
            self.daemon.probe(f"page-{index}", "exit", start=False)
        names, token, pages = [], "", 0
        while True:
            page = self.api.ListVms(vm_pb.ListVmsRequest(page_size=3, page_token=token))
            names += [vm.vm_id for vm in page.vms]
            pages += 1
            token = page.next_page_token
            if not token:
                break
        self.assertEqual((names, pages), ([f"page-{index}" for index in range(7)], 3))

    def test_the_python_example_says_what_it_needs(self):
        example = harness.ROOT / "examples/python/first_vm.py"
        end = self.work.run([sys.executable, example, "--help"])
        self.assertEqual(end.code, 0, end)
        end = self.work.run([sys.executable, example, "--socket", self.daemon.target, "--kernel", "/no/kernel"])
        self.assertEqual(end.code, 1, end)
        self.assertRegex(end.err.decode(), r"(NOT_FOUND: kernel_path: cannot open /no/kernel|FAILED_PRECONDITION: this "
                                           r"host's KVM only emulates)")
        self.assertNotIn("Traceback", end.err.decode())

    def test_the_daemon_holds_few_descriptors_and_threads_for_each_vm(self):
        before = harness.fd_count(self.daemon.pid), len(harness.thread_names(self.daemon.pid))
        for index in range(20):
            self.daemon.probe(f"many-{index}", "probe.test=echo")
        after = harness.fd_count(self.daemon.pid), len(harness.thread_names(self.daemon.pid))
        harness.print_figures("daemon, 20 VMs", descriptors=(before[0], after[0]), threads=(before[1], after[1]),
                              binary_bytes=harness.MAYFLYD.stat().st_size,
                              private_kib=harness.private_bytes(self.daemon.pid) >> 10)
        self.assertLessEqual(after[0] - before[0], 20 * 10)
        self.assertLessEqual(after[1] - before[1], 10, "threads grow with VMs")
