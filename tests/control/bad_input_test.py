# SPDX-License-Identifier: Apache-2.0
"""Bad input to CreateVm: refused with the field or file, the value and the limit, and nothing is left of it."""

import os
import socket
import struct

import harness
from harness import vm_pb

ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
PT_LOAD, PT_NOTE = 1, 4


def elf(load_at=1 << 20, load_size=4096, file_size=16, machine=62, bits=2, entry=1 << 20, headers=2, note_type=18):
    """A kernel of 16 bytes with a PVH entry note, wrong where asked for."""
    note = struct.pack("<III4sI", 4, 4, note_type, b"Xen\0", entry)
    offset = ELF_HEADER.size + 2 * PROGRAM_HEADER.size
    identity = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    return b"".join([
        ELF_HEADER.pack(identity, 2, machine, 1, entry, ELF_HEADER.size, 0, 0, ELF_HEADER.size, PROGRAM_HEADER.size,
                        headers, 0, 0, 0),
        PROGRAM_HEADER.pack(PT_NOTE, 4, offset, 0, 0, len(note), len(note), 4),
        PROGRAM_HEADER.pack(PT_LOAD, 7, offset + len(note), load_at, load_at, file_size, load_size, 4096),
        note,
        b"\xf4" * 16,
    ])


class BadInputTest(harness.DaemonCase):
    def setUp(self):
        super().setUp()
        self.assert_nothing_of_a_vm()
        self.fds = harness.fd_count(self.daemon.pid)

    def tearDown(self):
        self.assert_nothing_of_a_vm()
        harness.wait_until(lambda: harness.fd_count(self.daemon.pid) <= self.fds,
                           f"the daemon has no more than {self.fds} descriptors again", 10)

    def assert_nothing_of_a_vm(self):
        self.assertEqual([vm.vm_id for vm in self.daemon.vms() if vm.vm_id not in self.shared], [])
        self.assertEqual(os.listdir(self.daemon.state / "vms"), [])
        self.assertEqual(self.class_work.monitors(), [])

    def assert_create_refused(self, code, reason, *words, vm_id=None, **spec):
        self.assert_refused(lambda: self.daemon.probe(vm_id or self.vm_id, "exit", **spec), code, reason, *words)

    def assert_kernel_refused(self, data, reason, *words, **spec):
        path = self.file("kernel", data)
        self.assert_create_refused("INVALID_ARGUMENT", reason, *words, kernel_path=str(path), **spec)

    # Kernels.

    def test_a_kernel_made_here_is_taken(self):
        """Or the refusals below would say nothing."""
        created = self.daemon.probe(self.vm_id, "exit", start=False, kernel_path=str(self.file("kernel", elf())))
        self.assertEqual(created.vm.state, vm_pb.VM_STATE_CREATED)
        self.daemon.delete(self.vm_id)

    def test_a_kernel_that_is_missing_or_no_file(self):
        self.assert_create_refused("NOT_FOUND", "FILE_NOT_FOUND", "kernel_path", "/no/such/kernel",
                                   kernel_path="/no/such/kernel")
        self.assert_create_refused("INVALID_ARGUMENT", "NOT_A_FILE", "kernel_path", str(self.dir), "directory",
                                   kernel_path=str(self.dir))
        self.assert_create_refused("INVALID_ARGUMENT", "NOT_A_FILE", "kernel_path", "/dev/null",
                                   kernel_path="/dev/null")
        self.assert_create_refused("INVALID_ARGUMENT", "PATH_MISSING", "kernel_path", kernel_path="")
        self.assert_create_refused("INVALID_ARGUMENT", "PATH_NOT_ABSOLUTE", "kernel_path", "out/vmlinux",
                                   kernel_path="out/vmlinux")
        self.assert_create_refused("INVALID_ARGUMENT", "PATH_TOO_LONG", "kernel_path", "5001", "4095",
                                   kernel_path="/" + "k" * 5000)
        fifo = self.dir / "fifo"
        os.mkfifo(fifo)
        self.assert_create_refused("INVALID_ARGUMENT", "NOT_A_FILE", "kernel_path", str(fifo), kernel_path=str(fifo))

    def test_a_kernel_that_is_empty_or_none_or_cut_off(self):
        self.assert_kernel_refused(b"", "FILE_EMPTY", "kernel_path", str(self.dir / "kernel"), "empty")
        self.assert_kernel_refused(b"#!/bin/sh\nexit 0\n" * 4096, "KERNEL_FORMAT", "neither an ELF image nor a bzImage")
        self.assert_kernel_refused(b"\x7fELF", "IMAGE_TRUNCATED", "kernel")
        whole = elf()
        for size in (3, 40, ELF_HEADER.size + 20, len(whole) - 20, len(whole) - 1):
            with self.subTest(size=size):
                self.assert_kernel_refused(whole[:size], "IMAGE_TRUNCATED", "kernel")
        probe = harness.PROBE.read_bytes()
        self.assert_kernel_refused(probe[:len(probe) // 2], "IMAGE_TRUNCATED", "kernel")

    def test_a_bzimage_that_is_cut_off_or_not_for_64_bits(self):
        image = bytearray(65536)
        struct.pack_into("<B", image, 0x1f1, 4)              # setup_sects
        struct.pack_into("<I", image, 0x1f4, 1 << 20 >> 4)   # syssize: 1 MiB in all
        struct.pack_into("<H", image, 0x1fe, 0xaa55)
        struct.pack_into("<H4sH", image, 0x200, 0x6aeb, b"HdrS", 0x20f)
        struct.pack_into("<H", image, 0x236, 1)              # xloadflags: a 64-bit entry
        self.assert_kernel_refused(bytes(image), "IMAGE_TRUNCATED", "bzImage", "1048576")
        struct.pack_into("<H", image, 0x236, 0)
        self.assert_kernel_refused(bytes(image), "KERNEL_ARCHITECTURE", "2.15", "64-bit")
        struct.pack_into("<H", image, 0x206, 0x206)
        self.assert_kernel_refused(bytes(image), "KERNEL_ARCHITECTURE", "2.6", "2.12")

    def test_a_kernel_for_another_machine(self):
        self.assert_kernel_refused(elf(machine=183), "KERNEL_ARCHITECTURE", "183", "62")
        self.assert_kernel_refused(elf(bits=1, machine=3), "KERNEL_ARCHITECTURE", "class 1", "64-bit")

    def test_a_kernel_without_a_pvh_entry_or_with_one_outside_itself(self):
        self.assert_kernel_refused(elf(note_type=1), "KERNEL_NO_PVH", "PVH")
        self.assert_kernel_refused(elf(entry=0x5000_0000), "KERNEL_ENTRY", "0x50000000")

    def test_elf_headers_that_point_outside_memory_or_the_file(self):
        for load_at in (0, 0xf_f000, (32 << 20) - 2048, 0xd000_0000, 1 << 40, (1 << 64) - 4096, (1 << 64) - 100):
            with self.subTest(load_at=hex(load_at)):
                self.assert_kernel_refused(elf(load_at=load_at), "KERNEL_OUTSIDE_MEMORY", hex(load_at), "32 MiB")
        for load_size in (32 << 20, 1 << 40, (1 << 64) - 1):
            with self.subTest(load_size=load_size):
                self.assert_kernel_refused(elf(load_size=load_size), "KERNEL_OUTSIDE_MEMORY", str(load_size), "32 MiB")
        self.assert_kernel_refused(elf(file_size=8192, load_size=8192), "IMAGE_TRUNCATED", "kernel")
        self.assert_kernel_refused(elf(file_size=8192), "KERNEL_ELF", "4096", "8192")
        self.assert_kernel_refused(elf(headers=0), "KERNEL_ELF", "0 program headers", "64")
        self.assert_kernel_refused(elf(headers=65000), "KERNEL_ELF", "65000", "64")
        self.assert_kernel_refused(elf(headers=20), "IMAGE_TRUNCATED", "kernel")

    def test_an_initrd_that_is_empty_missing_or_too_large_for_the_memory(self):
        self.assert_create_refused("NOT_FOUND", "FILE_NOT_FOUND", "initrd_paths[0]", "/no/initrd",
                                   initrd_paths=["/no/initrd"])
        small = self.file("small", b"0" * 512)
        self.assert_create_refused("INVALID_ARGUMENT", "FILE_EMPTY", "initrd_paths[1]",
                                   initrd_paths=[str(small), str(self.file("empty"))])
        large = self.file("large", size=40 << 20)
        self.assert_create_refused("INVALID_ARGUMENT", "INITRD_TOO_LARGE", "initrd", str(40 << 20), "memory",
                                   initrd_paths=[str(large)])
        self.assert_create_refused("INVALID_ARGUMENT", "INITRD_COUNT", "initrd_paths", "4", "3",
                                   initrd_paths=[str(small)] * 4)

    # Sizes.

    def test_a_command_line_that_is_too_long(self):
        self.assert_create_refused("INVALID_ARGUMENT", "CMDLINE_TOO_LONG", "cmdline", "2048", "2047",
                                   cmdline="x" * 2048)
        self.assert_create_refused("INVALID_ARGUMENT", "CMDLINE_TOO_LONG", "cmdline", "2000", "2047",
                                   cmdline="x" * 2000, replace_cmdline=False)
        self.assert_create_refused("INVALID_ARGUMENT", "CMDLINE_BAD", "cmdline", "0x0a", cmdline="quiet\nroot=/dev/vdb")
        self.daemon.probe(self.vm_id, "", cmdline="exit " + "x" * 2042)
        self.assert_exit(self.daemon.wait_stopped(self.vm_id), "GUEST_POWEROFF")
        self.daemon.delete(self.vm_id)

    def test_memory_of_0_of_1_mib_and_above_the_hosts(self):
        host = self.api.GetCapabilities(harness.system_pb.GetCapabilitiesRequest()).max_memory_mib
        for size in (0, 1, 15):
            self.assert_create_refused("INVALID_ARGUMENT", "MEMORY_SIZE", "memory_mib", str(size), "16",
                                       memory_mib=size)
        for size in (host + 1, 1 << 30, (1 << 64) - 1):
            self.assert_create_refused("INVALID_ARGUMENT", "MEMORY_SIZE", "memory_mib", str(size), str(host),
                                       memory_mib=size)

    def test_0_and_33_vcpus(self):
        for count in (0, 33, (1 << 32) - 1):
            self.assert_create_refused("INVALID_ARGUMENT", "VCPU_COUNT", "vcpus", str(count), "32", vcpus=count)

    def test_a_console_that_is_no_power_of_two_or_out_of_range(self):
        for size in (0, 2, 12, 32768):
            self.assert_create_refused("INVALID_ARGUMENT", "CONSOLE_SIZE", "console_kib", str(size), "4", "16384",
                                       console_kib=size)

    # Disks.

    def disk(self, path, **fields):
        return vm_pb.Disk(path=str(path), **fields)

    def test_a_disk_that_is_missing_a_directory_or_of_a_wrong_size(self):
        self.assert_create_refused("NOT_FOUND", "FILE_NOT_FOUND", "rootfs", "/no/image", rootfs=self.disk("/no/image"))
        self.assert_create_refused("INVALID_ARGUMENT", "NOT_A_FILE", "rootfs", str(self.dir), "directory",
                                   rootfs=self.disk(self.dir))
        self.assert_create_refused("INVALID_ARGUMENT", "NOT_A_FILE", "rootfs", "/dev/null",
                                   rootfs=self.disk("/dev/null"))
        for size in (0, 100, 511, 513, (1 << 20) + 1):
            with self.subTest(size=size):
                image = self.file("image", size=size)
                self.assert_create_refused("INVALID_ARGUMENT", "DISK_SIZE", "rootfs", str(image), str(size), "512",
                                           rootfs=self.disk(image))
        self.assert_create_refused("INVALID_ARGUMENT", "PATH_MISSING", "disks[1].path",
                                   disks=[self.disk(self.file("good", size=512)), vm_pb.Disk()])

    def test_a_read_only_file_opened_read_write(self):
        image = self.file("image", size=1 << 20)
        image.chmod(0o444)
        self.assert_create_refused("PERMISSION_DENIED", "DISK_READ_ONLY", "rootfs", str(image), "0444",
                                   rootfs=self.disk(image))
        self.daemon.probe(self.vm_id, "probe.test=blk-read-only", rootfs=self.disk(image, read_only=True))
        self.assert_exit(self.daemon.wait_stopped(self.vm_id), "GUEST_POWEROFF")
        self.daemon.delete(self.vm_id)

    def test_the_same_file_twice_where_one_writes(self):
        image = self.file("image", size=1 << 20)
        self.assert_create_refused("FAILED_PRECONDITION", "DISK_IN_USE", "disks[1]", str(image),
                                   disks=[self.disk(image), self.disk(image)])

    def test_nine_disks_and_serials_that_do_not_fit(self):
        disks = [self.disk(self.file(f"disk{i}", size=512)) for i in range(9)]
        self.assert_create_refused("INVALID_ARGUMENT", "DISK_COUNT", "disks", "9", "8",
                                   rootfs=disks[0], disks=disks[1:])
        self.assert_create_refused("INVALID_ARGUMENT", "DISK_SERIAL", "disks[0].serial", "21", "20",
                                   disks=[self.disk(disks[0].path, serial="s" * 21)])
        self.assert_create_refused("INVALID_ARGUMENT", "DISK_SERIAL", "rootfs.serial", "0xc3",
                                   rootfs=self.disk(disks[0].path, serial="ä"))

    # Ids and messages.

    def test_networks_that_cannot_be(self):
        def refused(code, reason, *words, **net):
            self.assert_create_refused(code, reason, *words, nets=[vm_pb.Net(**net)])
        refused("INVALID_ARGUMENT", "NET_NAME", "nets[0].tap", "15", tap="a-name-of-sixteen")
        refused("INVALID_ARGUMENT", "NET_NAME", "nets[0].bridge", bridge="br/0")
        refused("INVALID_ARGUMENT", "NET_ADDRESS", "nets[0].mac", mac="02:00")
        refused("INVALID_ARGUMENT", "NET_MAC", "nets[0].mac", mac="01:00:00:00:00:01")
        refused("INVALID_ARGUMENT", "NET_ADDRESS", "nets[0].host_address", host_address="10.0.0.1")
        refused("INVALID_ARGUMENT", "NET_MTU", "67", "68", mtu=67)
        refused("INVALID_ARGUMENT", "NO_AGENT", "nets[0].guest", guest=vm_pb.GuestNetwork(address="10.0.0.2/24"))
        refused("INVALID_ARGUMENT", "NET_AUTOMATIC", "nets[0].tap", automatic=True, tap="t")
        refused("NOT_FOUND", "NET_NAMESPACE", "/run/netns/no-such", network_namespace="/run/netns/no-such")
        refused("FAILED_PRECONDITION", "NET_NAMESPACE", "/etc/passwd", network_namespace="/etc/passwd")
        refused("FAILED_PRECONDITION", "NET_BRIDGE", "no-bridge", bridge="no-bridge")
        refused("FAILED_PRECONDITION", "NET_TAP", "lo", tap="lo")
        self.assert_create_refused("INVALID_ARGUMENT", "NET_COUNT", "5", "4", nets=[vm_pb.Net()] * 5)

    def test_ids_that_are_bad(self):
        self.assert_create_refused("INVALID_ARGUMENT", "ID_TOO_LONG", "vm_id", "64", "63", vm_id="a" * 64)
        for vm_id in ("A", "-a", ".a", "..", "a/b", "a b", "ä", "a\n", "../../tmp/a"):
            with self.subTest(vm_id):
                self.assert_create_refused("INVALID_ARGUMENT", "ID_BAD", "vm_id", "[a-z0-9]", vm_id=vm_id)
        request = vm_pb.CreateVmRequest(spec=vm_pb.VmSpec(kernel_path=str(harness.PROBE)))
        self.assert_refused(lambda: self.api.CreateVm(request), "INVALID_ARGUMENT", "ID_MISSING", "vm_id")
        self.daemon.probe("a" * 63, "exit")
        self.daemon.delete("a" * 63)

    def test_an_id_that_is_taken(self):
        self.daemon.probe(self.vm_id, "probe.test=spin")
        self.assert_create_refused("ALREADY_EXISTS", "VM_EXISTS", "vm_id", self.vm_id)
        self.assertEqual(self.daemon.get(self.vm_id).state, vm_pb.VM_STATE_RUNNING)
        self.daemon.delete(self.vm_id)

    def test_an_id_that_is_made_twenty_times_at_once_is_made_once(self):
        def one(_):
            try:
                return self.daemon.probe("contested", "probe.test=spin").vm.incarnation
            except harness.grpc.RpcError as error:
                self.assertEqual(harness.reason_of(error), "VM_EXISTS", error)
                return None
        made = [incarnation for incarnation in harness.in_threads(20, one) if incarnation]
        self.assertEqual(made, [self.daemon.get("contested").incarnation])
        self.daemon.delete("contested")

    def test_a_repeated_request_id_gets_the_vm_that_was_made(self):
        spec = vm_pb.VmSpec(kernel_path=str(harness.PROBE), agent=False, cmdline="probe.test=spin",
                            replace_cmdline=True, allow_slow_kvm=True, memory_mib=32)
        request = vm_pb.CreateVmRequest(vm_id=self.vm_id, spec=spec, request_id="one")
        first = self.api.CreateVm(request)
        again = self.api.CreateVm(request)
        self.assertEqual((again.vm.incarnation, again.times), (first.vm.incarnation, first.times))
        request.request_id = "two"
        self.assert_refused(lambda: self.api.CreateVm(request), "ALREADY_EXISTS", "VM_EXISTS", self.vm_id)
        self.daemon.delete(self.vm_id)

    def test_fields_that_are_unknown(self):
        unknown = b"\xf8\x3f\x01"  # Field 1023, a varint.
        create = self.api.channel.unary_unary("/mayfly.v1.VmService/CreateVm")
        spec = vm_pb.VmSpec(kernel_path=str(harness.PROBE), allow_slow_kvm=True).SerializeToString()
        inner = b"\x12" + bytes([len(spec) + len(unknown)]) + spec + unknown
        for request in (b"\x0a\x01x" + unknown, b"\x0a\x01x" + inner):
            self.assert_refused(lambda request=request: create(request, timeout=harness.PATIENCE),
                                "INVALID_ARGUMENT", "UNKNOWN_FIELD", "1023")
        info = self.api.channel.unary_unary("/mayfly.v1.SystemService/GetInfo")
        self.assert_refused(lambda: info(unknown, timeout=harness.PATIENCE),
                            "INVALID_ARGUMENT", "UNKNOWN_FIELD", "1023")

    def test_a_vm_that_is_unknown(self):
        nobody = "nobody"
        wait = vm_pb.WaitVmRequest(vm_id=nobody, states=[vm_pb.VM_STATE_STOPPED])
        for call in (lambda: self.daemon.get(nobody), lambda: self.daemon.delete(nobody),
                     lambda: self.api.StartVm(vm_pb.StartVmRequest(vm_id=nobody)),
                     lambda: self.api.PauseVm(vm_pb.PauseVmRequest(vm_id=nobody)),
                     lambda: self.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id=nobody)),
                     lambda: self.api.StopVm(vm_pb.StopVmRequest(vm_id=nobody)),
                     lambda: self.api.WaitVm(wait), lambda: self.daemon.console(nobody),
                     lambda: self.daemon.exec(nobody, ["true"])):
            self.assert_refused(call, "NOT_FOUND", "VM_NOT_FOUND", nobody)

    def test_calls_in_a_wrong_state(self):
        self.daemon.probe(self.vm_id, "probe.test=spin", start=False)
        start = vm_pb.StartVmRequest(vm_id=self.vm_id)
        pause = vm_pb.PauseVmRequest(vm_id=self.vm_id)
        resume = vm_pb.ResumeVmRequest(vm_id=self.vm_id)
        wrong = ("FAILED_PRECONDITION", "VM_STATE", self.vm_id)
        self.assert_refused(lambda: self.api.PauseVm(pause), *wrong, "CREATED", "RUNNING")
        self.assert_refused(lambda: self.api.ResumeVm(resume), *wrong, "CREATED", "PAUSED")
        self.assert_refused(lambda: self.daemon.delete(self.vm_id, force=False), *wrong, "STOPPED")
        self.api.StartVm(start)
        self.assert_refused(lambda: self.api.StartVm(start), *wrong, "RUNNING", "CREATED")
        self.assert_refused(lambda: self.daemon.exec(self.vm_id, ["true"]),
                            "FAILED_PRECONDITION", "NO_AGENT", self.vm_id)
        self.assert_refused(lambda: self.api.StopVm(vm_pb.StopVmRequest(vm_id=self.vm_id, grace_ms=600_001)),
                            "INVALID_ARGUMENT", "GRACE", "600001", "600000")
        self.api.StopVm(vm_pb.StopVmRequest(vm_id=self.vm_id, grace_ms=0))
        self.assert_refused(lambda: self.api.StartVm(start), "FAILED_PRECONDITION", "VM_STOPPED", self.vm_id)
        self.daemon.delete(self.vm_id, force=False)

    # Sockets.

    def test_a_socket_path_that_is_too_long_in_use_or_no_socket(self):
        long_path = self.dir / ("s" * 100)
        state = self.dir / "state"

        def refused(path, *words):
            end = self.work.run([harness.MAYFLYD, "--socket", f"unix:{path}", "--state-dir", state], timeout=30)
            self.assertEqual(end.code, 1, end)
            for word in words:
                self.assertIn(word, end.err.decode())
            self.assertFalse(state.exists(), "the state directory stayed")

        refused(long_path, "--socket", str(long_path), str(len(str(long_path))), "107")
        refused("relative.sock", "--socket", "relative.sock", "absolute")
        refused(self.daemon.socket, "--socket", str(self.daemon.socket), "in use")
        refused(self.file("plain", b"text"), "--socket", "plain", "not a socket")
        self.assertEqual((self.dir / "plain").read_bytes(), b"text")
        end = self.work.run([harness.MAYFLYD, "--socket", self.dir / "other.sock", "--state-dir", self.daemon.state])
        self.assertEqual(end.code, 1, end)
        self.assertIn(f"--state-dir: {self.daemon.state} is in use", end.err.decode())
        self.daemon.get_info()

    def test_a_socket_left_by_a_dead_daemon_is_taken_over(self):
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(self.dir / "d.sock"))
            stale.listen(1)
        self.assertTrue((self.dir / "d.sock").is_socket())
        self.assertEqual(self.start_daemon().get_info().vm_count, 0)
