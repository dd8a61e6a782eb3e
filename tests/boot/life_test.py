# SPDX-License-Identifier: Apache-2.0
"""Linux guests through the API: how they end, what they keep on their disks, and many at once."""

import contextlib
import os
import shutil
import signal
import sys

import harness
from harness import vm_pb


class GuestCase(harness.DaemonCase):
    def end_guest(self, command):
        """A command that ends its guest, and so itself, by the agent's SIGTERM or with the whole VM."""
        with contextlib.suppress(harness.grpc.RpcError):
            result = self.daemon.exec(self.vm_id, f"{command}; sleep 1000")
            self.assertNotEqual(result.signal, 0, result)


class EndTest(GuestCase):
    """Each end has a reason of its own."""

    def boot_initrd(self, init, **spec):
        """A guest that is only an initrd, without the agent, whose /init does this."""
        path = self.file("init.cpio", harness.busybox_initrd(init))
        self.create(rootfs=None, initrd_paths=[str(path)], agent=False, memory_mib=64, **spec)
        return self.daemon.wait_stopped(self.vm_id)

    def test_poweroff_and_the_console_up_to_the_last_line(self):
        vm = self.boot_initrd("echo hello from init; /bin/busybox grep -c . /proc/cmdline; echo last words\n"
                              "/bin/busybox poweroff -f\n")
        self.assert_exit(vm, "GUEST_POWEROFF")
        self.assertEqual(self.daemon.console(self.vm_id).replace(b"\r", b""), b"hello from init\n1\nlast words\n")

    def test_panic_is_told_with_the_console(self):
        vm = self.boot_initrd("exit 3\n")
        self.assert_exit(vm, "GUEST_PANIC")
        self.assertIn(b"Attempted to kill init", self.daemon.console(self.vm_id))

    def test_reboot_from_the_agent(self):
        self.create()
        self.daemon.wait_ready(self.vm_id)
        self.end_guest("reboot")
        self.assert_exit(self.daemon.wait_stopped(self.vm_id), "GUEST_REBOOT")

    def test_stop_lets_the_guest_power_off_and_grace_0_does_not(self):
        self.create()
        self.daemon.wait_ready(self.vm_id)
        vm = self.api.StopVm(vm_pb.StopVmRequest(vm_id=self.vm_id, grace_ms=120_000), timeout=harness.PATIENCE).vm
        self.assert_exit(vm, "GUEST_POWEROFF")
        self.daemon.delete(self.vm_id, force=False)
        self.create()
        self.daemon.wait_ready(self.vm_id)
        vm = self.api.StopVm(vm_pb.StopVmRequest(vm_id=self.vm_id, grace_ms=0)).vm
        self.assert_exit(vm, "HOST_STOP")

    def test_a_killed_monitor_is_reported_and_the_other_guest_runs_on(self):
        for vm_id in ("victim", "other"):
            self.daemon.create(vm_id)
        for vm_id in ("victim", "other"):
            self.daemon.wait_ready(vm_id)
        call = harness.ExecCall(self.api, "victim", ["sleep", "1000"])
        next(response for response in call.responses() if response.HasField("started"))
        os.kill(self.daemon.get("victim").monitor_pid, signal.SIGKILL)
        self.assert_refused(call.finish, "ABORTED", "VM_STOPPED", "signal 9")
        vm = self.daemon.wait_stopped("victim")
        self.assert_exit(vm, "MONITOR_KILLED")
        self.assertEqual(vm.exit.signal, signal.SIGKILL)
        self.assert_command(self.daemon.exec("other", "echo alive"), 0, out=b"alive\n")

    def test_a_daemon_told_to_stop_lets_its_guests_write_out_and_leaves_nothing(self):
        image = self.dir / "root.ext4"
        shutil.copy(harness.ROOTFS, image)
        daemon = self.start_daemon(name="ending")
        daemon.create("writer", rootfs=vm_pb.Disk(path=str(image)))
        daemon.wait_ready("writer")
        self.assert_command(daemon.exec("writer", "echo kept > /kept"), 0)
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(daemon.process.wait(harness.PATIENCE), 0)
        self.assertEqual(daemon.stop(), (0, []))
        end = self.work.run(["/usr/sbin/debugfs", "-R", "cat /kept", image])
        self.assertEqual(end.out, b"kept\n", end)


class DiskTest(GuestCase):
    def test_64_mib_written_and_rebooted_are_read_back_by_the_next_vm(self):
        image = self.dir / "data.ext4"
        self.work.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", image, "96M"])
        disks = [vm_pb.Disk(path=str(image))]
        self.create(disks=disks)
        self.daemon.wait_ready(self.vm_id)
        written = self.daemon.exec(self.vm_id, "mount -t ext4 /dev/vdb /mnt && "
                                   "dd if=/dev/urandom of=/mnt/data bs=1M count=64 2>/dev/null && sha256sum /mnt/data")
        self.assert_command(written, 0)
        self.end_guest("sync; reboot")
        vm = self.daemon.wait_stopped(self.vm_id)
        self.assert_exit(vm, "GUEST_REBOOT")
        self.assertGreaterEqual(vm.exit.stats.disk_written_bytes, 64 << 20)
        self.assertGreater(vm.exit.stats.disk_flushes, 0)
        self.assertEqual(vm.exit.stats.disk_errors, 0)
        self.daemon.create("reader", disks=disks)
        self.daemon.wait_ready("reader")
        read = self.daemon.exec("reader", "mount -t ext4 /dev/vdb /mnt && sha256sum /mnt/data && stat -c %s /mnt/data")
        self.assert_command(read, 0, out=written.out + b"67108864\n")

    def test_disks_are_in_order_with_serials_and_read_only_means_it(self):
        data = [harness.pattern(1 << 20, seed=index) for index in range(3)]
        paths = [self.file(f"disk{index}", content) for index, content in enumerate(data)]
        self.create(disks=[vm_pb.Disk(path=str(paths[0]), serial="first"),
                           vm_pb.Disk(path=str(paths[1]), serial="second", read_only=True),
                           vm_pb.Disk(path=str(paths[2]))])
        self.daemon.wait_ready(self.vm_id)
        result = self.daemon.exec(self.vm_id, "cd /sys/block; for d in vda vdb vdc vdd; do "
                                  "echo $d $(cat $d/serial) $(cat $d/ro) $(cat $d/size); done")
        size = harness.ROOTFS.stat().st_size // 512
        self.assert_command(result, 0, err=b"",
                            out=f"vda 1 {size}\nvdb first 0 2048\nvdc second 1 2048\nvdd 0 2048\n".encode())
        for name, content in zip(("vdb", "vdc", "vdd"), data):
            result = self.daemon.exec(self.vm_id, f"sha256sum < /dev/{name}")
            self.assertEqual(result.out.split()[0].decode(), harness.sha256(content))
        refused = self.daemon.exec(self.vm_id, "dd if=/dev/zero of=/dev/vdc bs=4096 count=1 conv=fsync")
        self.assertNotEqual(refused.code, 0, refused)
        written = self.daemon.exec(self.vm_id, "dd if=/dev/zero of=/dev/vdd bs=4096 count=1 seek=3 conv=fsync,notrunc")
        self.assertEqual(written.code, 0, written)
        self.daemon.delete(self.vm_id)
        self.assertEqual([path.read_bytes() for path in paths[:2]], data[:2])
        self.assertEqual(paths[2].read_bytes(), data[2][:12288] + bytes(4096) + data[2][16384:])


class SizeTest(harness.DaemonCase):
    def test_memory_below_and_above_3_gib_is_what_the_guest_sees(self):
        host = self.api.GetCapabilities(harness.system_pb.GetCapabilitiesRequest()).max_memory_mib
        for size in (64, 3500):
            with self.subTest(mib=size):
                if size > host:
                    self.skipTest(f"this host has {host} MiB")
                vm_id = f"mem-{size}"
                self.daemon.create(vm_id, memory_mib=size)
                self.daemon.wait_ready(vm_id)
                result = self.daemon.exec(vm_id, "sed -n 's/^MemTotal: *//p' /proc/meminfo; "
                                          "grep 'System RAM' /proc/iomem")
                seen = int(result.out.split()[0]) >> 10
                self.assertLessEqual(seen, size)
                self.assertGreater(seen, size - 32 - size // 32, result)
                if size > 3328:
                    # What does not fit below the devices continues at 4 GiB.
                    self.assertIn(b"100000000-", result.out, result)
                self.daemon.delete(vm_id)

    def test_twenty_vms_at_once_all_finish_with_their_own_output_and_code(self):
        def one(index):
            vm_id = f"twenty-{index}"
            self.daemon.create(vm_id, timeout=3 * harness.PATIENCE)
            self.daemon.wait_ready(vm_id, timeout=3 * harness.PATIENCE)
            result = self.daemon.exec(vm_id, f"echo out {index}; echo err {index} >&2; exit {100 + index}")
            self.assert_command(result, 100 + index, out=b"out %d\n" % index, err=b"err %d\n" % index)
            self.assert_exit(self.daemon.delete(vm_id), "HOST_STOP")
        harness.in_threads(20, one)
        self.assertEqual(self.class_work.monitors(), [])

    def test_a_linux_guests_monitor_stays_small(self):
        for vm_id in (self.vm_id, "beside"):
            self.daemon.create(vm_id)
        for vm_id in (self.vm_id, "beside"):
            self.daemon.wait_ready(vm_id)
        self.daemon.exec(self.vm_id, "cat /bin/busybox > /dev/null; dd if=/dev/hwrng of=/dev/null bs=512 count=4")
        pid = self.daemon.get(self.vm_id).monitor_pid
        private, threads = harness.private_bytes(pid), harness.thread_names(pid)
        harness.print_figures("monitor, Linux guest, 1 vCPU", private_kib=private >> 10, threads=threads,
                              descriptors=harness.fd_count(pid))
        self.assertLessEqual(private, 3 << 19)
        self.assertLessEqual(len(threads), 3 + 1, threads)


class ExampleTest(harness.DaemonCase):
    def test_the_python_example_runs_as_documented(self):
        end = self.work.run([sys.executable, "examples/python/first_vm.py", "--socket", self.daemon.target, "--kernel",
                             harness.KERNEL, "--rootfs", harness.ROOTFS, "--timeout", harness.PATIENCE],
                            cwd=harness.ROOT)
        self.assertEqual((end.code, end.err), (0, b""), end)
        out = end.out.decode()
        for line in (r"created first in [\d.]+ ms", r"ready: Linux \S+, after [\d.]+ ms",
                     r"uname -a, exit code 0: Linux .*x86_64.*", r"deleted first"):
            self.assertRegex(out, rf"(?m)^{line}$")
        self.assertEqual(self.daemon.vms(), [])

    def test_the_readmes_first_commands_with_a_daemon_work(self):
        self.work.env["MAYFLY_SOCKET"] = self.daemon.target
        for arguments, pattern in ((["create", "--start", "one"], r"\Aone RUNNING\n\Z"),
                                   (["wait", "one", "--ready"], r"\Aone RUNNING\n\Z"),
                                   (["exec", "one", "--", "hostname"], r"\A\S+\n\Z"),
                                   (["console", "one"], r"\A"),
                                   (["rm", "--force", "one"], r"\Aone deleted\n\Z")):
            end = self.mayfly(*arguments)
            self.assertEqual(end.code, 0, end)
            self.assertRegex(end.out.decode(), pattern)
