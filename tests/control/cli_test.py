# SPDX-License-Identifier: Apache-2.0
"""The command line: help, doctor, version, errors, and the commands against a daemon, with the probe as guest."""

import json
import os
import re
import subprocess

import harness
from harness import vm_pb

SUBCOMMANDS = ("run", "create", "start", "pause", "resume", "ls", "inspect", "wait", "stop", "rm", "exec", "console",
               "events", "doctor", "version")
PROBE_FLAGS = ("--kernel", harness.PROBE, "--rootfs", "none", "--replace-cmdline", "--allow-slow-kvm")


class AloneTest(harness.Case):
    """No daemon runs."""

    def assert_fails(self, end, *words, code=125):
        self.assertEqual((end.code, end.out), (code, b""), end)
        for word in words:
            self.assertIn(word, end.err.decode())

    def test_help_names_every_command_and_each_has_its_own(self):
        end = self.mayfly("--help")
        self.assertEqual((end.code, end.err), (0, b""), end)
        for name in SUBCOMMANDS:
            self.assertRegex(end.out.decode(), rf"(?m)^  {name} +\S")
            own = self.mayfly(name, "--help")
            self.assertEqual((own.code, own.err), (0, b""), own)
            self.assertIn(f"mayfly {name}", own.out.decode())
        self.assertIn("mayfly run -- uname -a", end.out.decode())

    def test_the_daemons_help_names_its_flags_and_limits(self):
        end = self.work.run([harness.MAYFLYD, "--help"])
        self.assertEqual((end.code, end.err), (0, b""), end)
        for flag in ("--socket", "--state-dir", "--vmm", "--agent-initrd", "--kvm-device", "--jail", "--uid-range",
                     "--cgroup-parent", "--verbose", "--version"):
            self.assertIn(flag, end.out.decode())
        version = self.work.run([harness.MAYFLYD, "--version"])
        self.assertRegex(version.out, rb"\Amayflyd \d+\.\d+\.\d+\n\Z")

    def test_version_works_without_a_daemon_and_says_that_there_is_none(self):
        missing = f"unix:{self.dir}/none.sock"
        end = self.mayfly("--socket", missing, "version")
        self.assertEqual(end.code, 0, end)
        self.assertRegex(end.out.decode(), rf"\Amayfly \d+\.\d+\.\d+\nno daemon answers on {missing}\n\Z")
        self.assertIsNone(json.loads(self.mayfly("--socket", missing, "--json", "version").out)["daemon"])

    def test_a_command_without_its_daemon_says_how_to_start_one(self):
        missing = f"unix:{self.dir}/none.sock"
        for arguments in (["ls"], ["inspect", "x"], ["start", "x"], ["console", "x"], ["events"],
                          ["create", "x", *PROBE_FLAGS]):
            with self.subTest(arguments[0]):
                self.assert_fails(self.mayfly("--socket", missing, *arguments), missing, "mayflyd", "NO_DAEMON")

    def test_wrong_usage_is_our_failure_with_a_word_about_the_flag(self):
        for arguments, word in ((["nonsense"], "nonsense"), (["run"], "command"), (["inspect"], "vm"), ([], "--help"),
                                (["run", "--vcpus", "many", "--", "true"], "--vcpus"),
                                (["wait", "x", "--state", "asleep"], "asleep is none of"),
                                (["run", "--no-such-flag", "--", "true"], "--no-such-flag")):
            with self.subTest(arguments):
                self.assert_fails(self.mayfly(*arguments), word)

    def test_errors_are_json_where_json_was_asked_for(self):
        missing = f"unix:{self.dir}/none.sock"
        for arguments, reason in (([*("--socket", missing), "ls"], "NO_DAEMON"), (["nonsense"], "USAGE"),
                                  ([], "USAGE"), (["run", "--allow-slow-kvm", "--kernel", "/none", "--", "true"],
                                   "FILE_NOT_FOUND")):
            with self.subTest(arguments):
                end = self.mayfly("--json", *arguments)
                self.assertEqual(end.code, 125, end)
                self.assertEqual(end.out, b"")
                error = json.loads(end.err.splitlines()[0])["error"]
                self.assertEqual(error["reason"], reason)
                self.assertTrue(error["message"])
                self.assertRegex(error["code"], r"\A[A-Z_]+\Z")

    def test_doctor_tells_people_what_mends_what_is_missing(self):
        end = self.mayfly("doctor")
        self.assertIn(end.code, (0, 1), end)
        lines = end.out.decode().splitlines()
        self.assertRegex(lines[0], r"^CHECK +STATUS +DETAIL$")
        self.assertEqual(end.code == 0, "This host runs Linux guests." in lines, end)
        for name in ("kvm", "guest-kernel-speed", "io-uring", "memory"):
            self.assertTrue(any(re.match(rf"{name} +(ok|warning|MISSING) +\S", line) for line in lines), end)
        for number, line in enumerate(lines):
            if re.match(r"\S+ +MISSING ", line):
                self.assertIn("mend: ", lines[number + 1])

    def test_doctor_says_the_same_as_json(self):
        end = self.mayfly("doctor", "--json")
        report = json.loads(end.out)
        self.assertEqual(end.code, 0 if report["runsLinuxGuests"] else 1)
        names = [check["name"] for check in report["checks"]]
        for name in ("kvm", "guest-kernel-speed", "io-uring", "huge-pages", "memfd-huge-pages", "cgroup-memory", "tun",
                     "open-files", "memory"):
            self.assertIn(name, names)
        for check in report["checks"]:
            self.assertTrue(check["detail"], check)
            self.assertIn(check["status"], ("CHECK_STATUS_OK", "CHECK_STATUS_WARNING", "CHECK_STATUS_MISSING"))

    def test_doctor_without_kvm_names_the_device_and_the_lab(self):
        self.work.env["MAYFLY_KVM_DEVICE"] = "/dev/no-kvm"
        end = self.mayfly("doctor", "--json")
        checks = {check["name"]: check for check in json.loads(end.out)["checks"]}
        self.assertEqual(end.code, 1, end)
        self.assertEqual(checks["kvm"]["status"], "CHECK_STATUS_MISSING")
        self.assertIn("/dev/no-kvm", checks["kvm"]["detail"])
        self.assertNotEqual(checks["kvm"]["remedy"], "")
        run = self.mayfly("run", *PROBE_FLAGS, "--", "true")
        self.assert_fails(run, "/dev/no-kvm", "KVM_MISSING", "scripts/lab")

    def test_a_linux_guest_on_a_kvm_that_only_emulates_is_refused_at_once(self):
        report = json.loads(self.mayfly("doctor", "--json").out)
        checks = {check["name"]: check for check in report["checks"]}
        if not checks["guest-kernel-speed"]["detail"].startswith("emulated"):
            self.skipTest(f"this host's KVM is {checks['guest-kernel-speed']['detail']}")
        end = self.mayfly("run", "--kernel", harness.PROBE, "--rootfs", "none", "--", "true")
        self.assert_fails(end, "KVM_EMULATES_GUEST_KERNEL", "ns per instruction", "scripts/lab", "slow KVM")

    def test_run_fails_with_the_reason_and_the_console_where_the_guest_ends_first(self):
        end = self.mayfly("run", *PROBE_FLAGS, "--cmdline", "probe.test=console probe.count=3", "--", "true")
        self.assert_fails(end, "VM_STOPPED", "powered off", "line 2 of 3\nPASS console\n")
        end = self.mayfly("run", *PROBE_FLAGS, "--cmdline", "probe.test=triple-fault", "--", "true")
        self.assert_fails(end, "VM_STOPPED", "triple", "printed nothing")

    def test_run_names_the_flag_whose_file_is_missing(self):
        for flags in (["--kernel", "/no/kernel"], ["--kernel", harness.PROBE, "--rootfs", "/no/image"],
                      ["--kernel", harness.PROBE, "--disk", "/no/image"],
                      ["--kernel", harness.PROBE, "--initrd", "/no/image"]):
            with self.subTest(flags):
                end = self.mayfly("run", "--allow-slow-kvm", *flags, "--", "true")
                self.assert_fails(end, flags[-1], "FILE_NOT_FOUND", "No such file")

    def test_a_run_that_is_interrupted_or_killed_leaves_nothing(self):
        for number, code in ((2, 130), (15, 143), (1, 129), (9, -9)):
            with self.subTest(signal=number):
                child = self.work.popen([harness.MAYFLY, "run", *PROBE_FLAGS, "--cmdline", "probe.test=spin", "--",
                                         "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                harness.wait_until(self.work.monitors, "the monitor runs")
                child.send_signal(number)
                out, _ = child.communicate(timeout=60)
                self.assertEqual((child.returncode, out), (code, b""))
                self.assertEqual(self.work.leftovers(), [])

    def test_twenty_runs_at_once_each_with_its_own_daemon(self):
        def one(index):
            end = self.mayfly("run", *PROBE_FLAGS, "--cmdline", f"probe.test=console probe.count={index + 1}", "--",
                              "true")
            self.assert_fails(end, f"line {index} of {index + 1}\nPASS console\n")
        harness.in_threads(20, one)

    def test_run_says_that_its_daemon_is_missing(self):
        self.work.env["MAYFLY_DAEMON"] = str(self.dir / "nowhere")
        self.assert_fails(self.mayfly("run", *PROBE_FLAGS, "--", "true"), "DAEMON_MISSING", str(self.dir / "nowhere"))
        self.work.env["MAYFLY_DAEMON"] = "/bin/false"
        self.assert_fails(self.mayfly("run", *PROBE_FLAGS, "--", "true"), "DAEMON_START", "ended before it was ready")
        del self.work.env["MAYFLY_DAEMON"]
        self.work.env["MAYFLY_VMM"] = "/bin/false"
        self.assert_fails(self.mayfly("run", *PROBE_FLAGS, "--", "true"), "exited with status 1")


class CommandsTest(harness.DaemonCase):
    """Against a daemon, which $MAYFLY_SOCKET names."""

    def setUp(self):
        super().setUp()
        self.work.env["MAYFLY_SOCKET"] = self.daemon.target

    def run_json(self, *arguments):
        end = self.mayfly("--json", *arguments)
        self.assertEqual((end.code, end.err), (0, b""), end)
        return json.loads(end.out)

    def create_probe(self, words, *flags, vm_id="cli"):
        return self.mayfly("create", vm_id, "--no-agent", *PROBE_FLAGS, "--cmdline", words, *flags)

    def test_a_life_by_commands(self):
        end = self.create_probe("probe.test=echo")
        self.assertEqual((end.code, end.out), (0, b"cli CREATED\n"), end)
        for command, said in (("start", b"cli RUNNING\n"), ("pause", b"cli PAUSED\n"), ("resume", b"cli RUNNING\n")):
            end = self.mayfly(command, "cli")
            self.assertEqual((end.code, end.out), (0, said), end)
        end = self.mayfly("rm", "cli")
        self.assertEqual((end.code, end.out), (125, b""), end)
        self.assertIn(b"VM_STATE", end.err)
        end = self.mayfly("console", "--attach", "cli", stdin=b"quit\n")
        self.assertEqual((end.code, end.out), (0, b"ready\necho quit\nPASS echo\n"), end)
        end = self.mayfly("wait", "cli")
        self.assertEqual((end.code, end.out), (0, b"cli STOPPED (guest-poweroff)\n"), end)
        end = self.mayfly("console", "cli", "--offset", 6)
        self.assertEqual((end.code, end.out), (0, b"echo quit\nPASS echo\n"), end)
        self.assertEqual(self.mayfly("rm", "cli").out, b"cli deleted\n")
        self.assertEqual(self.daemon.vms(), [])

    def test_ls_is_a_table_or_json(self):
        self.create_probe("probe.test=spin", "--start", vm_id="one")
        self.create_probe("probe.test=panic", "--start", vm_id="two")
        self.daemon.wait_stopped("two")
        lines = self.mayfly("ls").out.decode().splitlines()
        self.assertRegex(lines[0], r"^ID +STATE +VCPUS +MEMORY +AGE +PID +GUEST$")
        self.assertRegex(lines[1], r"^one +RUNNING +1 +128 MiB +\d+s +\d+ +-$")
        self.assertRegex(lines[2], r"^two +STOPPED +1 +128 MiB +\d+s +- +guest-panic")
        vms = self.run_json("ls")["vms"]
        self.assertEqual([(vm["vmId"], vm["state"]) for vm in vms],
                         [("one", "VM_STATE_RUNNING"), ("two", "VM_STATE_STOPPED")])
        self.assertEqual(self.run_json("inspect", "two")["exit"]["reason"], "EXIT_REASON_GUEST_PANIC")
        self.assertEqual(self.mayfly("rm", "--force", "one", "two").out, b"one deleted\ntwo deleted\n")

    def test_json_tells_times_and_errors_keep_stdout_empty(self):
        created = json.loads(self.create_probe("probe.test=spin", "--start", "--json").out)
        phases = [phase["name"] for phase in created["times"]["phases"]]
        self.assertEqual(sorted(set(phases)), sorted(phases))
        for name in ("validate", "open", "spawn", "memory", "vm", "kernel", "devices", "vcpus"):
            self.assertIn(name, phases)
        total = sum(int(phase["durationUs"]) for phase in created["times"]["phases"])
        self.assertLessEqual(total, int(created["times"]["totalUs"]))
        end = self.mayfly("--json", "inspect", "nobody")
        self.assertEqual((end.code, end.out), (125, b""), end)
        for word in (b"nobody", b"VM_NOT_FOUND"):
            self.assertIn(word, end.err)
        self.assertEqual(self.run_json("stop", "cli", "--grace", 0)["vm"]["exit"]["reason"], "EXIT_REASON_HOST_STOP")
        self.assertEqual(self.run_json("version")["daemon"]["pid"], self.daemon.pid)

    def test_events_are_followed_and_resumed(self):
        self.create_probe("exit", vm_id="eventful")
        self.mayfly("start", "eventful")
        self.daemon.wait_stopped("eventful")

        def watch(count, *flags):
            child = self.work.popen([harness.MAYFLY, "--json", "events", "--vm", "eventful", *flags],
                                    stdout=subprocess.PIPE)
            events = [json.loads(child.stdout.readline()) for _ in range(count)]
            child.terminate()
            return events

        events = watch(4, "--all")
        self.assertEqual([event["stateChanged"]["to"] for event in events[:3]],
                         ["VM_STATE_CREATED", "VM_STATE_RUNNING", "VM_STATE_STOPPED"])
        self.assertEqual(events[3]["exited"]["reason"], "EXIT_REASON_GUEST_POWEROFF")
        self.assertEqual(watch(3, "--resume", events[0]["resumeToken"]), events[1:])
        line = self.mayfly("--timeout", 1, "events", "--all", "--vm", "eventful").out.decode().splitlines()[0]
        self.assertRegex(line, r"^\d\d:\d\d:\d\d\.\d{6}  eventful  CREATING -> CREATED$")

    def test_a_timeout_ends_a_wait_with_124(self):
        self.create_probe("probe.test=spin", "--start")
        end = self.mayfly("--timeout", 0.5, "wait", "cli")
        self.assertEqual((end.code, end.out), (124, b""), end)
        self.assertEqual(self.daemon.get("cli").state, vm_pb.VM_STATE_RUNNING)

    def test_a_relative_path_is_the_callers(self):
        os.symlink(harness.PROBE, self.dir / "kernel")
        end = self.mayfly("create", "cli", "--no-agent", "--kernel", "kernel", "--rootfs", "none", "--replace-cmdline",
                          "--cmdline", "exit", "--allow-slow-kvm", cwd=self.dir)
        self.assertEqual(end.code, 0, end)
        self.assertEqual(self.daemon.get("cli").spec.kernel_path, str(self.dir / "kernel"))

    def test_a_vm_of_the_daemons_outlives_the_command_that_made_it(self):
        self.create_probe("probe.test=spin", "--start")
        self.assertTrue(harness.is_alive(self.daemon.get("cli").monitor_pid))
