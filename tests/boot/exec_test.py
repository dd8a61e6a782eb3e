# SPDX-License-Identifier: Apache-2.0
"""One Linux guest, many commands: Exec, the console, pause, and the guest's devices."""

import signal
import time

import grpc
import harness
from harness import console_pb, exec_pb, vm_pb


class ExecTest(harness.DaemonCase):
    shared = ("shared",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.daemon.create("shared", vcpus=2, memory_mib=256, console_kib=16)
        cls.ready = cls.daemon.wait_ready("shared")

    def guest(self, command, **options):
        return self.daemon.exec("shared", command, **options)

    # What the guest is.

    def test_the_agents_report_tells_the_guest(self):
        self.assertEqual(self.ready.guest.cpu_count, 2)
        self.assertEqual(self.ready.guest.failure, "")
        self.assertEqual(self.guest("uname -r").out.decode().strip(), self.ready.guest.kernel_release)
        self.assertGreater(self.ready.guest.ready_us, self.ready.guest.init_us)
        self.assertGreater(self.ready.guest.start_to_ready_us, 0)

    def test_the_hardware_generator_gives_random_bytes(self):
        result = self.guest("cat /sys/class/misc/hw_random/rng_current >&2; "
                            "dd if=/dev/hwrng bs=512 count=8 2>/dev/null")
        self.assert_command(result, 0)
        self.assertRegex(result.err, rb"virtio_rng")
        self.assertEqual(len(result.out), 4096, result)
        # 4096 random bytes hold about all values, and no block twice.
        self.assertGreater(len(set(result.out)), 200)
        self.assertEqual(len({result.out[at:at + 64] for at in range(0, 4096, 64)}), 64)

    def test_the_root_is_read_only_and_tmp_is_not(self):
        result = self.guest("touch /file; echo $?; echo here > /tmp/file && cat /tmp/file")
        self.assertEqual(result.out, b"1\nhere\n", result)
        self.assertIn(b"Read-only file system", result.err)

    # Commands.

    def test_environment_directory_and_arguments_arrive_as_given(self):
        argv = ["/bin/sh", "-c", 'printf "%s|" "$@"; pwd; env | sort', "name", "two words", "", "$HOME", "ä\n"]
        result = self.daemon.exec("shared", argv, env=["GREETING=hello world", "HOME=/tmp"], workdir="/usr/bin")
        self.assert_command(result, 0, err=b"")
        text = result.out.decode()
        self.assertTrue(text.startswith("two words||$HOME|ä\n|/usr/bin\n"), text)
        self.assertIn("\nGREETING=hello world\n", text)
        self.assertIn("\nHOME=/tmp\n", text)
        self.assertRegex(text, r"\nPATH=\S*/bin")

    def test_exit_codes_and_signals_are_told_apart(self):
        self.assertEqual([self.guest(f"exit {code}").code for code in (0, 1, 255)], [0, 1, 255])
        result = self.guest("kill -KILL $$")
        self.assertEqual((result.code, result.signal), (128 + signal.SIGKILL, signal.SIGKILL))

    def test_a_signal_reaches_the_whole_command(self):
        call = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", "trap 'echo caught; exit 3' USR1; echo ready; "
                                                                      "while :; do sleep 1; done"])
        output = b""
        for response in call.responses():
            output += response.stdout
            if output == b"ready\n":
                call.send(signal=signal.SIGUSR1)
                output += b"."
            if response.HasField("exited"):
                self.assertEqual(response.exited.exit_code, 3)
                call.end()
        self.assertEqual(output, b"ready\n.caught\n")

    def test_a_command_that_is_not_there_is_refused_by_name(self):
        self.assert_refused(lambda: self.daemon.exec("shared", ["/no/such/program"]), "NOT_FOUND", "COMMAND_NOT_FOUND",
                            "/no/such/program")
        self.assert_refused(lambda: self.daemon.exec("shared", ["/etc/passwd"]), "FAILED_PRECONDITION",
                            "COMMAND_FAILED", "/etc/passwd")
        self.assert_refused(lambda: self.daemon.exec("shared", []), "INVALID_ARGUMENT",
                            "COMMAND_MISSING", "argv")

    def test_the_cli_maps_commands_that_cannot_run_to_126_and_127(self):
        socket = ["--socket", self.daemon.target, "exec", "shared", "--"]
        for argv, code in ((["/no/such/program"], 127), (["/etc/passwd"], 126), (["/bin/sh", "-c", "exit 9"], 9)):
            end = self.mayfly(*socket, *argv)
            self.assertEqual(end.code, code, end)

    def test_a_terminal_has_a_size_and_one_stream(self):
        call = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", "tty; stty size; echo error >&2"], terminal=True)
        call.send(window_size=exec_pb.WindowSize(rows=33, columns=99))
        result = call.finish()
        self.assertEqual(result.code, 0, result)
        self.assertTrue(result.out.startswith(b"/dev/pts/"), result)
        self.assertTrue(result.out.endswith(b"error\r\n"), result)
        self.assertEqual(result.err, b"")

    def test_input_flows_through_and_its_end_is_seen(self):
        data = harness.pattern(300_000, seed=2)
        result = self.guest("sha256sum; echo done >&2", stdin=data)
        self.assert_command(result, 0, out=f"{harness.sha256(data)}  -\n".encode(), err=b"done\n")

    def test_ten_commands_at_once_do_not_mix(self):
        def one(index):
            data = harness.pattern(50_000, seed=100 + index)
            result = self.guest(f"cat; echo {index} >&2; exit {index}", stdin=data)
            self.assert_command(result, index, out=data, err=b"%d\n" % index)
        harness.in_threads(10, one)

    def test_a_slow_reader_gets_every_byte_and_holds_up_nobody_else(self):
        size = 8 << 20
        slow = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", f"yes 0123456789abcde | head -c {size}"])
        responses = iter(slow.responses())
        first = next(response for response in responses if response.stdout)
        # The command is now held up by us; others are not.
        for _ in range(3):
            self.assert_command(self.guest("echo quick"), 0, out=b"quick\n")
        output = bytearray(first.stdout)
        for response in responses:
            output += response.stdout
            if response.HasField("exited"):
                self.assertEqual(response.exited.exit_code, 0)
                slow.end()
        self.assertEqual(len(output), size)
        self.assertEqual(harness.sha256(output), harness.sha256(b"0123456789abcde\n" * (size // 16)))

    def test_a_cancelled_call_ends_its_command(self):
        call = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", "echo $$; exec sleep 7654"])
        pid = next(response.stdout for response in call.responses() if response.stdout).strip().decode()
        call.call.cancel()
        call.end()
        harness.wait_until(lambda: self.guest(f"test -d /proc/{pid}").code == 1, "the command is gone")

    def test_an_exec_waits_no_longer_than_its_deadline(self):
        call = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", "echo $$; exec sleep 7655"], timeout=5)
        pid = b""
        with self.assertRaises(grpc.RpcError) as caught:
            for response in call.responses():
                pid += response.stdout
        call.end()
        self.assertEqual(caught.exception.code().name, "DEADLINE_EXCEEDED")
        harness.wait_until(lambda: self.guest(f"test -d /proc/{pid.decode().strip()}").code == 1, "the command is gone")

    # Console.

    def test_the_console_is_followed_from_an_offset(self):
        self.guest("echo first-line > /dev/hvc0")
        harness.wait_until(lambda: b"first-line" in self.daemon.console("shared"), "the line is on the console")
        end = self.daemon.console_end("shared")
        call = self.api.ReadConsole(console_pb.ReadConsoleRequest(vm_id="shared", offset=end, follow=True))
        self.guest("echo second-line > /dev/hvc0")
        chunk = next(call).chunk
        call.cancel()
        self.assertEqual((chunk.offset, chunk.lost_bytes), (end, 0))
        self.assertTrue(chunk.data.startswith(b"second-line"), chunk)

    def test_the_console_takes_input(self):
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id="shared", from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=b"typed on the console\n"))
        result = self.guest("head -n 1 < /dev/hvc0")
        call.cancel()
        inputs.end()
        self.assert_command(result, 0, out=b"typed on the console\n")

    def test_a_console_flood_is_bounded_and_keeps_its_end(self):
        # Long lines: the guest's terminal hands them over one by one.
        line = "flood " * 250
        self.guest(f"yes '{line}' | head -c 200000 > /dev/hvc0; echo > /dev/hvc0; echo the very end > /dev/hvc0")
        harness.wait_until(lambda: b"the very end" in self.daemon.console("shared")[-100:], "the flood's end is there")
        chunks = [response.chunk for response in
                  self.api.ReadConsole(console_pb.ReadConsoleRequest(vm_id="shared"))]
        self.assertLessEqual(sum(len(chunk.data) for chunk in chunks), 16 << 10)
        self.assertGreater(chunks[0].lost_bytes, 150_000)
        self.assertEqual(chunks[0].lost_bytes, chunks[0].offset)

    # Pause.

    def test_a_paused_guest_stands_still_and_then_goes_on(self):
        ticker = harness.ExecCall(self.api, "shared", ["/bin/sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; "
                                                                        "usleep 20000; done"])
        responses = iter(ticker.responses())
        next(response for response in responses if response.stdout)
        self.api.PauseVm(vm_pb.PauseVmRequest(vm_id="shared"))
        try:
            ticks = self.cpu_ticks()
            self.assert_refused(lambda: self.guest("true"), "FAILED_PRECONDITION", "VM_STATE", "PAUSED", "RUNNING")
            time.sleep(0.5)  # Not a bound: time in which a guest that wrongly runs is seen to.
            self.assertLessEqual(self.cpu_ticks() - ticks, 1, "a paused VM uses the CPU")
        finally:
            self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="shared"))
        seen = b""
        for response in responses:
            seen += response.stdout
            if len(seen.split()) > 20:
                break
        ticker.call.cancel()
        ticker.end()
        numbers = [int(word) for word in seen.split(b"\n")[1:-1]]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))), "ticks were lost")
        self.assert_command(self.guest("echo on"), 0, out=b"on\n")

    def cpu_ticks(self):
        return harness.cpu_ticks(self.daemon.get("shared").monitor_pid)
