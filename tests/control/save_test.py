# SPDX-License-Identifier: Apache-2.0
"""Saving a paused VM and restoring it, by the monitor's control socket: the probe guest goes on where it was."""

import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import socket
import time

import harness
from control import state_file
from control.monitor_client import Monitor, Snapshot, layer_files
from harness import control_pb

MULTIPLIER, INCREMENT = 6364136223846793005, 1442695040888963407
F_ADD_SEALS, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1033, 2, 4, 8


def values(count):
    """The numbers that the probe's churn says, by round."""
    value, found = 1, {}
    for number in range(count):
        value = (value * MULTIPLIER + INCREMENT) % (1 << 64)
        if number % 64 == 0:
            found[number] = value
    return found


def rounds(console):
    return [(int(number), int(value)) for number, value in re.findall(rb"^round (\d+) (\d+)$", console, re.MULTILINE)]


class SaveCase(harness.Case):
    # About a second's work, so that a VM which is to be paused amid it has not ended before.
    COUNT = 64000

    def monitor(self, *flags):
        monitor = Monitor(self.work, *flags, name=f"m{len(self.work.children)}")
        self.addCleanup(monitor.close)
        return monitor

    def configured(self, *words, **options):
        monitor = self.monitor()
        reply = monitor.configure(*words, **options)
        self.assertFalse(reply.HasField("status"), (reply, monitor.errors.read_text()))
        return monitor

    def ok(self, reply):
        self.assertFalse(reply.HasField("status"), reply)
        return reply

    def churn(self, disk, lines=5, **options):
        """A VM that is paused amid its work."""
        monitor = self.configured(f"probe.test=churn probe.count={self.COUNT}", disks=[disk], **options)
        self.run_on(monitor, lines)
        return monitor

    def run_on(self, monitor, lines):
        harness.wait_until(lambda: len(rounds(monitor.console())) >= lines, "the guest works")
        self.ok(monitor.call(pause=control_pb.Pause()))

    def save(self, monitor, changed_from=None):
        snapshot, reply = monitor.save(changed_from)
        self.addCleanup(snapshot.close)
        return snapshot, self.ok(reply).saved

    def seal(self, snapshot):
        fcntl.fcntl(snapshot.memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

    def assert_ends_well(self, monitor, after=b""):
        """`after`: what was on the console of the VM that this one goes on from."""
        self.assertEqual(monitor.wait(), 0)
        console = after + monitor.console()
        self.assertTrue(console.endswith(b"PASS churn\n"), (console[-200:], monitor.errors.read_text()))
        self.assertEqual(monitor.exit_report().reason, control_pb.EXIT_REASON_GUEST_POWEROFF)
        self.assertEqual(dict(rounds(console)), values(self.COUNT))
        self.assertEqual([number for number, _ in rounds(console)], list(range(0, self.COUNT, 64)))

    def copy_of(self, disk, name):
        return shutil.copy(disk, self.dir / name)

    def ram_of(self, monitor, size=32 << 20):
        """RAM as the monitor and its guest see it."""
        pid = monitor.process.pid
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
            start = next(int(line.split("-")[0], 16) for line in maps if "memfd:mayfly-guest" in line)
            memory.seek(start)
            return memory.read(size)

    def assert_refused(self, reply, reason, *words):
        self.assertEqual(reply.status.reason, reason, reply)
        for word in words:
            self.assertIn(word, reply.status.message)


def pages_of(image):
    return [image[at:at + 4096] for at in range(0, len(image), 4096)]


class SaveTest(SaveCase):
    def test_original_and_restored_go_on_independently_from_where_it_stood(self):
        for vcpus in (1, 2, 4):
            with self.subTest(vcpus=vcpus):
                disk = self.file(f"disk-{vcpus}", size=4 << 20)
                original = self.churn(disk, vcpu_count=vcpus)
                snapshot, saved = self.save(original)
                self.assertGreater(saved.tsc_khz, 0)
                self.seal(snapshot)
                before, said = hashlib.sha256(snapshot.image()).digest(), original.console()
                restored = self.configured(restore=snapshot, vcpu_count=vcpus, disks=[self.copy_of(disk, "copy")])
                self.ok(original.call(resume=control_pb.Resume()))
                self.assert_ends_well(original)
                self.assert_ends_well(restored, said)
                self.assertEqual(hashlib.sha256(snapshot.image()).digest(), before, "somebody wrote to what was left")

    def test_a_memory_that_is_the_vms_alone_needs_no_private_mapping(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, _ = self.save(original)
        said = original.console()
        original.close()
        restored = self.configured(restore=snapshot, private_memory=False, disks=[disk])
        self.assert_ends_well(restored, said)

    def run_and_save(self, words, until, pause_for=0.0, **options):
        """A VM that stands still since its console said `until`, and its snapshot."""
        vm = self.configured(words, **options)
        harness.wait_until(lambda: until in vm.console(), f"the guest says {until}")
        self.ok(vm.call(pause=control_pb.Pause()))
        time.sleep(pause_for)
        snapshot, _ = self.save(vm)
        return vm, snapshot

    def test_a_timer_fires_once_in_each_whether_it_ran_or_had_expired(self):
        for nanoseconds, pause_for in ((1_000_000_000, 0), (300_000_000, 0.6)):
            with self.subTest(nanoseconds=nanoseconds, pause_for=pause_for):
                words = f"probe.test=timer probe.wait={nanoseconds}"
                original, snapshot = self.run_and_save(words, b"armed\n", pause_for)
                self.assertEqual(original.console(), b"armed\n")
                restored = self.configured(restore=snapshot)
                self.ok(original.call(resume=control_pb.Resume()))
                for vm in (original, restored):
                    self.assertEqual(vm.wait(), 0)
                    self.assertTrue(vm.console().endswith(b"PASS timer\n"), vm.console())

    def test_processors_that_run_go_on_each_with_its_own_state(self):
        # Where each has a CPU of its own a round is soon over.
        for others, count in ((1, 1000), (3, 100)):
            with self.subTest(others=others):
                words = f"probe.test=smp probe.others={others} probe.count={count}"
                original, snapshot = self.run_and_save(words, b"round 20\n", vcpu_count=others + 1)
                said = original.console()
                states = [vcpu.mp_state for vcpu in state_file.read(snapshot.state).vcpus]
                self.assertEqual(states, [0] * (others + 1), "a processor that does not run")
                restored = self.configured(restore=snapshot, vcpu_count=others + 1)
                self.ok(original.call(resume=control_pb.Resume()))
                rounds_said = (b"all %d go on, round %d\n" % (others, round) for round in range(count))
                whole = b"".join(rounds_said) + b"PASS smp\n"
                for vm, before in ((original, b""), (restored, said)):
                    self.assertEqual(vm.wait(), 0)
                    self.assertEqual(before + vm.console(), whole)

    def test_three_saves_of_what_changed_each_go_on(self):
        disk = self.file("disk", size=4 << 20)
        vm = self.churn(disk, lines=3)
        snapshot, _ = self.save(vm)
        self.seal(snapshot)
        said = vm.console()
        for turn in range(3):
            disk = self.copy_of(disk, f"disk-{turn}")
            vm.close()
            vm = self.configured(restore=snapshot, disks=[disk])
            self.run_on(vm, 3)
            said += vm.console()
            # Changes are those since the memory became private: earlier layers are in the newest.
            snapshot, saved = self.save(vm, snapshot)
            self.assertEqual(len(Snapshot.changed_pages(snapshot.layers[-1][1])), saved.page_count)
            newest = Snapshot(snapshot.memory, snapshot.state, snapshot.layers[-1:])
            self.assertEqual(newest.image(), snapshot.image())
        last = self.configured(restore=snapshot, disks=[self.copy_of(disk, "last")])
        self.ok(vm.call(resume=control_pb.Resume()))
        self.assert_ends_well(last, said)
        self.assertEqual(vm.wait(), 0)

    def test_changed_pages_are_those_that_a_comparison_finds_and_disk_reads_are_among_them(self):
        depth = 32
        words = f"probe.test=bench probe.count=1000000000 probe.depth={depth}"
        vm = self.configured(words, disks=[self.file("before", harness.pattern(1 << 20, 1))])
        harness.wait_until(lambda: vm.call(get_stats=control_pb.GetStats()).stats.disk_reads > 1000, "the guest reads")
        self.ok(vm.call(pause=control_pb.Pause()))
        left, _ = self.save(vm)
        self.assertEqual(left.image(), self.ram_of(vm))
        disk = harness.pattern(1 << 20, 2)
        restored = self.configured(restore=left, disks=[self.file("after", disk)])
        harness.wait_until(lambda: restored.call(get_stats=control_pb.GetStats()).stats.disk_reads > 1000, "it reads")
        self.ok(restored.call(pause=control_pb.Pause()))
        saved, reply = self.save(restored, left)
        ram = self.ram_of(restored)
        self.assertEqual(saved.image(), ram)
        pages = zip(pages_of(left.image()), pages_of(ram))
        differ = {number for number, (before, after) in enumerate(pages) if before != after}
        copied = set(Snapshot.changed_pages(saved.layers[0][1]))
        self.assertLessEqual(differ, copied)
        chunks = set(pages_of(disk))
        read = {number for number, page in enumerate(pages_of(ram)) if page in chunks}
        self.assertEqual(len(read), depth)
        self.assertLessEqual(read, copied)
        # Pages that were written and are the same again may be there too: the requests' headers.
        self.assertLessEqual(len(copied), len(differ) + depth + 16)
        self.assertEqual(reply.page_count, len(copied))
        layer, _ = saved.layers[0]
        self.assertLessEqual(os.fstat(layer).st_blocks * 512, len(copied) * 4096)
        self.assertEqual(os.fstat(layer).st_size, 32 << 20)

    def test_what_is_saved_again_without_having_run_is_the_same_state(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk, vcpu_count=2, ports={})
        snapshot, _ = self.save(original)
        restored = self.configured(restore=snapshot, start=False, vcpu_count=2, ports={},
                                   disks=[self.copy_of(disk, "copy")])
        again, _ = self.save(restored, snapshot)
        one, other = state_file.read(snapshot.state), state_file.read(again.state)
        for before, after in zip(one.vcpus, other.vcpus):
            clocks = {0x10}  # The TSC goes on.
            self.assertEqual({msr.index: msr.data for msr in before.msrs if msr.index not in clocks},
                             {msr.index: msr.data for msr in after.msrs if msr.index not in clocks})
            for vcpu in (before, after):
                vcpu.ClearField("msrs")
        self.assertGreaterEqual(other.clock.clock_ns, one.clock.clock_ns)
        self.assertLess(other.clock.clock_ns - one.clock.clock_ns, 60_000_000_000)
        for state in (one, other):
            state.ClearField("clock")
        self.assertEqual(one, other)

    def test_restored_and_not_started_it_waits(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, _ = self.save(original)
        for number, go in enumerate(({"start": control_pb.Start()}, {"resume": control_pb.Resume()})):
            vm = self.configured(restore=snapshot, start=False, disks=[self.copy_of(disk, f"copy-{number}")])
            exits = self.ok(vm.call(get_stats=control_pb.GetStats())).stats
            self.assertEqual((exits.exits_mmio, exits.console_bytes), (0, 0))
            self.assert_refused(vm.call(pause=control_pb.Pause()), "VM_STATE", "paused")
            phases = self.ok(vm.call(**go))
            self.assertFalse(phases.HasField("status"))
            self.assert_refused(vm.call(**go), "VM_STATE", "running")
            self.assert_ends_well(vm, original.console())

    def test_the_new_generation_id_is_in_place_before_the_guest_runs(self):
        disk = self.file("disk", size=4 << 20)
        original = self.churn(disk)
        snapshot, _ = self.save(original)
        restore = control_pb.Restore(state_fd=99, private_memory=True, generation_id=b"0123456789abcdef")
        vm = self.configured(restore=snapshot, start=False, disks=[disk], generation_id=restore.generation_id)
        self.assertEqual(self.ram_of(vm)[0xef000:0xef010], restore.generation_id)
        self.assertNotEqual(snapshot.image()[0xef000:0xef010], restore.generation_id)
        # Its pin waits for the guest to unmask it.
        saved, _ = self.save(vm, snapshot)
        self.assertTrue(state_file.read(saved.state).ioapic.pending[1])
        vm = self.monitor()
        reply = vm.configure(restore=snapshot, start=False, disks=[disk], generation_id=b"short")
        self.assert_refused(reply, "GENERATION_ID", "5", "16")

    def test_memory_is_handed_out(self):
        vm = self.configured("probe.test=spin")

        def get_memory():
            vm.send(control_pb.Request(id=5, get_memory=control_pb.GetMemory()).SerializeToString())
            data, fds, _, _ = socket.recv_fds(vm.connection, 4096, 4)
            self.assertEqual(len(fds), 1)
            same = os.path.samestat(os.fstat(fds[0]), os.fstat(vm.memory))
            os.close(fds[0])
            return same, control_pb.Reply.FromString(data)

        self.assertEqual(get_memory(), (True, control_pb.Reply(id=5, memory=control_pb.Memory())))
        self.ok(vm.call(pause=control_pb.Pause()))
        self.save(vm)
        self.assertEqual(get_memory(), (True, control_pb.Reply(id=5, memory=control_pb.Memory(is_private=True))))

    def test_a_save_that_is_refused_leaves_a_vm_that_goes_on(self):
        early = self.monitor().call([os.dup(0)], save=control_pb.Save(state_fd=0, leave_memory=True))
        self.assert_refused(early, "NOT_CONFIGURED")
        disk = self.file("disk", size=4 << 20)
        vm = self.configured(f"probe.test=churn probe.count={self.COUNT}", disks=[disk])
        self.assert_refused(vm.save()[1], "VM_STATE", "running", "paused")
        self.run_on(vm, 1)

        def save(state, **what):
            what = what or {"leave_memory": True}
            return vm.call([state], save=control_pb.Save(state_fd=0, **what))

        empty, full = os.memfd_create("empty"), os.open("/dev/full", os.O_RDWR)
        pipe, write_end = os.pipe()
        read_only = os.open(self.file("read-only"), os.O_RDONLY)
        for fd in (empty, full, pipe, write_end, read_only):
            self.addCleanup(os.close, fd)
        self.assert_refused(save(state_file.file_of(b"x")), "FILE_LENGTH", "save.state_fd", "1")
        self.assert_refused(save(pipe), "NOT_A_FILE", "save.state_fd")
        self.assert_refused(save(read_only), "WRITE_FAILED", "save.state_fd")
        self.assert_refused(save(full), "NO_SPACE", "save.state_fd")
        self.assert_refused(save(empty, leave_memory=False), "SAVE_WHAT")
        changed = control_pb.ChangedPages(layer=control_pb.Layer(memory_fd=1, pages_fd=2))
        self.assert_refused(save(empty, changed_pages=changed), "DESCRIPTOR_INDEX", "changed_pages.layer.memory_fd")
        self.assert_refused(vm.save(Snapshot(empty, empty))[1], "MEMORY_SHARED")
        # The state alone leaves the memory as it is: shared, so that it can be left behind afterwards.
        alone = os.memfd_create("alone")
        self.addCleanup(os.close, alone)
        self.ok(save(alone, state_only=True))
        self.assertGreater(os.fstat(alone).st_size, 4096)
        snapshot, _ = self.save(vm)
        self.assert_refused(vm.save()[1], "MEMORY_PRIVATE")

        def save_changes(memory, pages):
            state = os.memfd_create("state")
            return vm.call([state, memory, pages], save=control_pb.Save(state_fd=0, changed_pages=changed))

        self.ok(vm.call(resume=control_pb.Resume()))
        self.run_on(vm, 20)
        layer, pages = layer_files(32 << 20)
        self.assert_refused(save_changes(os.open(f"/proc/self/fd/{layer}", os.O_RDONLY), pages), "WRITE_FAILED")
        self.assert_refused(save_changes(state_file.file_of(b"x"), pages), "FILE_LENGTH", "layer.memory_fd", "33554432")
        self.assert_refused(save_changes(layer, state_file.file_of(b"x")), "FILE_LENGTH", "layer.pages_fd", "1024")
        self.ok(vm.call(resume=control_pb.Resume()))
        self.assert_ends_well(vm)
        self.assertGreater(len(snapshot.image().rstrip(b"\0")), 0)


class RefusedRestoreTest(SaveCase):
    """Whatever is wrong is an answer with a reason, and the end of the monitor; nothing runs."""

    def setUp(self):
        super().setUp()
        self.disk = self.file("disk", size=4 << 20)
        self.original = self.churn(self.disk, vcpu_count=2, ports={})
        self.snapshot, _ = self.save(self.original)
        self.seal(self.snapshot)

    def restore(self, state=None, memory=None, layers=(), **options):
        monitor = self.monitor()
        snapshot = Snapshot(self.snapshot.memory if memory is None else memory,
                            self.snapshot.state if state is None else state, layers)
        options = {"vcpu_count": 2, "ports": {}, "disks": [self.disk]} | options
        return monitor, monitor.configure(restore=snapshot, **options)

    def refused(self, reason, *words, code=None, **options):
        monitor, reply = self.restore(**options)
        self.assert_refused(reply, reason, *words)
        if code is not None:
            self.assertEqual(reply.status.code, code, reply)
        monitor.connection.close()
        self.assertEqual(monitor.wait(), 1)
        self.assertNotIn("CHECK", monitor.errors.read_text())

    def changed(self, change):
        state = state_file.read(self.snapshot.state)
        change(state)
        return state_file.file_of(state_file.bytes_of(state))

    def test_the_configuration_is_not_the_states(self):
        self.refused("VCPU_COUNT", "2", "1", vcpu_count=1)
        self.refused("DEVICE_COUNT", "4", "3", disks=[])
        self.refused("DEVICE_COUNT", ports=None)
        self.refused("DEVICE_KIND", "devices[1]", no_rng=True, disks=[self.disk, self.file("second", size=512)])
        self.refused("DISK_SIZE", "devices[3]", "8192", disks=[self.file("small", size=1 << 20)])
        self.refused("MEMORY_FILE_TOO_SHORT", str(64 << 20), memory_bytes=64 << 20)

    def test_memory_and_layers_that_do_not_fit(self):
        short = os.memfd_create("short")
        os.truncate(short, (32 << 20) - 1)
        whole, pages, too_many, long = (os.memfd_create(name) for name in ("whole", "pages", "too-many", "long"))
        os.truncate(whole, 32 << 20)
        os.truncate(pages, 1024)
        os.truncate(long, 1025)
        self.refused("MEMORY_FILE_TOO_SHORT", memory=short)
        self.refused("FILE_LENGTH", "restore.layers[1]", "memory_fd", layers=[(whole, pages), (short, pages)])
        self.refused("FILE_LENGTH", "restore.layers[0]", "pages_fd", "1025", layers=[(whole, long)])
        self.refused("TOO_MANY", "restore.layers", "5", "4", layers=[(whole, pages)] * 5)
        # RAM of 32 MiB and 4 KiB ends in the middle of a byte of the bitmap.
        odd = (32 << 20) + 4096
        for fd in (whole, too_many):
            os.truncate(fd, odd)
        os.pwrite(long, b"\x02", 1024)
        self.refused("LAYER_PAGES", "8193", memory=too_many, memory_bytes=odd, layers=[(whole, long)])
        ring, _ = os.pipe()
        self.refused("NOT_A_FILE", memory=ring)

    def test_layers_need_a_private_memory(self):
        monitor = self.monitor()
        whole = os.memfd_create("whole")
        os.truncate(whole, 32 << 20)
        reply = monitor.configure(restore=Snapshot(self.snapshot.memory, self.snapshot.state, [(whole, whole)]),
                                  private_memory=False, vcpu_count=2, ports={}, disks=[self.disk])
        self.assert_refused(reply, "LAYERS_SHARED")

    def test_a_state_file_that_is_none(self):
        whole = os.pread(self.snapshot.state, 1 << 20, 0)
        for size in (0, 10, 63, 64, 100, len(whole) - 1):
            self.refused("PART_DAMAGED", "restore.state_fd", code=15, state=state_file.file_of(whole[:size]))
        long = whole + bytes((8 << 20) + 1 - len(whole))
        self.refused("PART_SIZE", str(len(long)), state=state_file.file_of(long))
        generator = random.Random(7)
        for _ in range(40):
            damaged = bytearray(whole)
            damaged[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            monitor, reply = self.restore(state=state_file.file_of(damaged))
            self.assertIn(reply.status.reason, ("PART_DAMAGED", "FORMAT_VERSION"), reply)
            self.assertEqual(monitor.wait(), 1)
        null = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, null)
        self.refused("NOT_A_FILE", "restore.state_fd", state=null)

    def test_hostile_values_are_refused_by_name(self):
        def transport(index, **fields):
            def change(state):
                for name, value in fields.items():
                    setattr(state.devices[index].transport, name, value)
            return self.changed(change)

        def queue(**fields):
            def change(state):
                for name, value in fields.items():
                    setattr(state.devices[3].transport.queues[0], name, value)
            return self.changed(change)

        self.refused("TRANSPORT_STATE", "devices[3]", "status", state=transport(3, status=0x1000))
        self.refused("TRANSPORT_STATE", "status", state=transport(0, status=4))
        self.refused("TRANSPORT_STATE", "driver_features", state=transport(3, driver_features=1 << 60))
        self.refused("TRANSPORT_STATE", "interrupt_status", state=transport(0, interrupt_status=8))
        self.refused("TRANSPORT_STATE", "type", state=transport(3, device_type=3))
        self.refused("QUEUE_SIZE", "devices[3]", "3", state=queue(size=3))
        self.refused("QUEUE_INDEX", "next_avail", state=queue(next_avail=1000, next_used=1))
        self.refused("GUEST_RANGE", "descriptor table", state=queue(descriptors=1 << 40))
        self.refused("GUEST_RANGE", "device area", state=queue(device_area=(32 << 20) - 4))
        self.refused("QUEUE_ALIGNMENT", "driver area", state=queue(driver_area=0x100001))
        self.refused("DISK_SERIAL", "devices[3]", state=self.changed(
            lambda state: setattr(state.devices[3].blk, "serial", b"\x01" * 20)))
        self.refused("CONSOLE_STATE", "devices[0]", state=self.changed(
            lambda state: setattr(state.devices[0].console, "rows", 5)))
        self.refused("VSOCK_PORT", "devices[2]", state=self.changed(
            lambda state: setattr(state.devices[2].vsock, "next_host_port", 5)))
        self.refused("KVM_VCPU_STATE", "vcpus[1]", "MP state", state=self.changed(
            lambda state: setattr(state.vcpus[1], "mp_state", 99)))
        self.refused("KVM_MSR", "vcpus[0]", "0x12345678", state=self.changed(
            lambda state: state.vcpus[0].msrs.add(index=0x12345678, data=1)))
        self.refused("DEVICE_UNKNOWN", "1", state=self.changed(lambda state: state.devices[1].ClearField("rng")))

    def test_states_of_noise_never_bring_the_monitor_down(self):
        """It refuses, or runs what it was given and can be stopped."""
        fields = ("regs", "sregs", "debug_regs", "xcrs", "lapic", "events", "xsave")
        generator = random.Random(11)
        refusals = 0
        for turn in range(60):
            state = state_file.read(self.snapshot.state)
            kind = turn % (len(fields) + 4)
            vcpu = state.vcpus[turn % 2]
            if kind < len(fields):
                noise = bytearray(getattr(vcpu, fields[kind]))
                for _ in range(generator.choice((1, 8, len(noise)))):
                    noise[generator.randrange(len(noise))] = generator.randrange(256)
                setattr(vcpu, fields[kind], bytes(noise))
            elif kind == len(fields):
                for msr in generator.sample(list(vcpu.msrs), 5):
                    msr.data = generator.randrange(1 << 64)
            elif kind == len(fields) + 1:
                for entry in generator.sample(list(vcpu.cpuid), 5):
                    entry.ecx = generator.randrange(1 << 32)
            elif kind == len(fields) + 2:
                state.ioapic.redirection[:] = [generator.randrange(1 << 64) for _ in range(24)]
                state.ioapic.pending[:] = [True] * 24
                state.ioapic.select = generator.randrange(1 << 32)
            else:
                state.clock.clock_ns = generator.randrange(1 << 64)
                queue = generator.choice(generator.choice(state.devices).transport.queues)
                queue.next_avail = queue.next_used = generator.randrange(1 << 16)
                queue.descriptors = generator.randrange(32 << 20) & ~15
            monitor, reply = self.restore(state=state_file.file_of(state_file.bytes_of(state)))
            if reply.HasField("status"):
                refusals += 1
                self.assertNotEqual(reply.status.reason, "")
                self.assertEqual(monitor.wait(), 1)
            else:
                with contextlib.suppress(AssertionError, OSError):  # It may have ended by itself.
                    monitor.call(stop=control_pb.Stop())
                self.assertEqual(monitor.wait(), 0, (turn, kind, monitor.errors.read_text()))
                self.assertNotEqual(monitor.exit_report().reason, 0)
            self.assertNotIn("CHECK", monitor.errors.read_text())
            monitor.close()
        harness.print_figures("states of noise", turns=60, refused=refusals)
