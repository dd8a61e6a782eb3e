# SPDX-License-Identifier: Apache-2.0
"""`mayfly run`: a Linux guest for one command, with a private daemon that leaves nothing behind."""

import json
import signal
import subprocess

import harness

class RunTest(harness.Case):
    def run_guest(self, *arguments, stdin=b"", timeout=harness.PATIENCE):
        return self.mayfly("run", *arguments, stdin=stdin, timeout=timeout)

    def test_uname_is_all_of_stdout_and_the_exit_code_is_the_commands(self):
        end = self.run_guest("--memory-mib", 128, "--vcpus", 1, "--", "/bin/sh", "-c", "uname -a; exit 7")
        self.assertEqual((end.code, end.err), (7, b""), end)
        self.assertRegex(end.out, rb"\ALinux \S+ 6\.\d+\.\d+[^\n]* x86_64 GNU/Linux\n\Z")

    def test_debians_own_kernel_boots_as_a_bzimage(self):
        end = self.run_guest("--kernel", harness.STOCK_KERNEL, "--initrd", harness.STOCK_MODULES, "--rootfs",
                             harness.ROOTFS, "--read-only", "--memory-mib", 256, "--", "/bin/sh", "-c",
                             "uname -a; exit 7")
        self.assertEqual((end.code, end.err), (7, b""), end)
        release = (harness.STOCK_KERNEL.parent / "release").read_text().strip()
        self.assertIn(f" {release} ", end.out.decode())
        self.assertIn("cloud-amd64", release)

    def test_a_mebibyte_goes_in_and_comes_back_on_both_streams_byte_for_byte(self):
        data = harness.pattern(1 << 20)
        end = self.run_guest("--", "/bin/sh", "-c", "tee /dev/stderr; echo kept apart >&2", stdin=data)
        self.assertEqual(end.code, 0, end)
        self.assertEqual((len(end.out), harness.sha256(end.out)), (len(data), harness.sha256(data)))
        self.assertEqual(harness.sha256(end.err), harness.sha256(data + b"kept apart\n"))

    def test_the_guest_sees_1_2_and_4_vcpus(self):
        for count in (1, 2, 4):
            with self.subTest(vcpus=count):
                end = self.run_guest("--vcpus", count, "--json", "--", "nproc")
                self.assertEqual((end.code, end.out), (0, b"%d\n" % count), end)
                report = json.loads(end.err)
                self.assertEqual((report["exitCode"], report["vm"]["guest"]["cpuCount"]), (0, count))
                self.assertTrue({"create and start", "command", "total"} <= {row["name"] for row in report["times"]})

    def test_an_initrd_alone_is_a_guest(self):
        path = self.file("busybox.cpio", harness.busybox_initrd())
        end = self.run_guest("--initrd", path, "--timing", "--", "/bin/busybox", "sh", "-c",
                             "busybox ls /; busybox test ! -e /dev/vda")
        self.assertEqual(end.code, 0, end)
        self.assertEqual({"bin", "dev", "proc"} - set(end.out.decode().split()), set(), end)
        self.assertRegex(end.err.decode(), r"(?m)^guest ready, command started +[\d.]+ ms$")

    def test_a_root_that_cannot_be_mounted_is_said_so_with_the_way_out(self):
        end = self.run_guest("--rootfs", self.file("empty.img", size=8 << 20), "--", "true")
        self.assertEqual((end.code, end.out), (125, b""), end)
        self.assertIn(b"/dev/vda", end.err)

    def test_a_guest_that_panics_fails_the_run_and_shows_its_console(self):
        # No init at all: the kernel itself gives up.
        end = self.run_guest("--cmdline", "rdinit=/nowhere init=/nowhere", "--", "true")
        self.assertEqual((end.code, end.out), (125, b""), end)
        self.assertIn(b"panic", end.err)

    # Interruptions. Case checks after each test that no process and no directory is left.

    def start_guest(self, *arguments, **options):
        return self.work.popen([harness.MAYFLY, "run", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               **options)

    def test_sigint_goes_to_the_command_and_ends_the_vm(self):
        child = self.start_guest("--", "/bin/sh", "-c", "echo ready; sleep 1000")
        self.assertEqual(child.stdout.readline(), b"ready\n")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=harness.PATIENCE)
        self.assertEqual((child.returncode, out, err), (128 + signal.SIGINT, b"", b""))

    def test_a_second_sigint_ends_a_command_that_ignores_the_first(self):
        child = self.start_guest("--", "/bin/sh", "-c", "trap 'echo no' INT; echo ready; while :; do sleep 1; done")
        self.assertEqual(child.stdout.readline(), b"ready\n")
        child.send_signal(signal.SIGINT)
        self.assertEqual(child.stdout.readline(), b"no\n")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=harness.PATIENCE)
        self.assertEqual((child.returncode, out, err), (128 + signal.SIGINT, b"", b""))

    def test_sigterm_while_the_guest_boots_ends_everything(self):
        child = self.start_guest("--", "true")
        harness.wait_until(self.work.monitors, "the monitor runs")
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=harness.PATIENCE)
        self.assertEqual((child.returncode, out), (128 + signal.SIGTERM, b""))

    def test_sigkill_of_the_cli_ends_its_daemon_and_its_vm(self):
        child = self.start_guest("--", "/bin/sh", "-c", "echo ready; sleep 1000")
        self.assertEqual(child.stdout.readline(), b"ready\n")
        self.assertEqual(len(self.work.processes()), 3, self.work.processes())
        child.kill()
        child.wait()

    def test_a_closed_stdout_ends_the_run(self):
        child = self.start_guest("--", "/bin/sh", "-c", "echo ready; exec yes")
        self.assertEqual(child.stdout.readline(), b"ready\n")
        child.stdout.close()
        code = child.wait(harness.PATIENCE)
        self.assertNotEqual(code, 0)

    def test_a_timeout_ends_a_run_with_124(self):
        end = self.run_guest("--timeout", 4, "--", "sleep", "1000")
        self.assertEqual((end.code, end.out), (124, b""), end)
        self.assertIn(b"DEADLINE_EXCEEDED", end.err.upper().replace(b" ", b"_"))
