# SPDX-License-Identifier: Apache-2.0
"""A mayfly-vmm spoken to directly, as the daemon does or as it never would."""

import os
import socket
import time

from harness import PATIENCE, PROBE, VMM, control_pb


def layer_files(memory_bytes):
    """What a Save puts changed pages into: descriptors of their memory and of their bits."""
    layer = os.memfd_create("layer"), os.memfd_create("pages")
    os.truncate(layer[0], memory_bytes)
    os.truncate(layer[1], (memory_bytes // 4096 + 7) // 8)
    return layer


class Snapshot:
    """What a machine can be restored from: descriptors of its memory and state, and layers (memory, pages)."""

    def __init__(self, memory, state, layers=()):
        self.memory, self.state, self.layers = memory, state, list(layers)

    def layers_kept(self):
        return [(os.dup(memory), os.dup(pages)) for memory, pages in self.layers]

    def image(self, size=32 << 20):
        """All of RAM."""
        ram = bytearray(os.pread(self.memory, size, 0))
        for memory, pages in self.layers:
            for page in self.changed_pages(pages):
                ram[page << 12:page + 1 << 12] = os.pread(memory, 4096, page << 12)
        return bytes(ram)

    @staticmethod
    def changed_pages(pages):
        bits = os.pread(pages, os.fstat(pages).st_size, 0)
        return [page for page in range(len(bits) * 8) if bits[page // 8] >> page % 8 & 1]

    def close(self):
        for fd in (self.memory, self.state, *(fd for layer in self.layers for fd in layer)):
            os.close(fd)


class Monitor:
    """One monitor, and a connection to its control socket: protobuf over SOCK_SEQPACKET."""

    def __init__(self, workplace, *flags, name="m", under=()):
        """`under`: a program and its arguments that run the monitor."""
        path = workplace.dir / f"{name}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(path))
            listener.listen(1)
            self.errors = workplace.dir / f"{name}.err"
            with self.errors.open("wb") as errors:
                self.process = workplace.popen([*under, VMM, f"--control-fd={listener.fileno()}", *flags],
                                               pass_fds=[listener.fileno()], stderr=errors)
        self.path = path
        self.connection = self.connect()
        self.next_id = 1

    def configure(self, cmdline="", start=True, disks=(), ports=None, end_on_disconnect=False, kernel=PROBE,
                  initrds=(), restore=None, private_memory=True, generation_id=b"", park=False, copied=(), record=False,
                  is_mapped=False, answered=True, taps=(), **changes):
        """Sends a good Configure, with `changes` to the message; the reply. `ports`: vsock host port -> socket.
        `restore`: a Snapshot to go on from instead of a kernel; it keeps its files. `copied`: its chunks that are
        copied, as pairs (first, count). `is_mapped`: into the memory that MapMemory mapped. `taps`: pairs of a tap
        device's descriptor and the guest's MAC address. Not `answered`: no reply is waited for."""
        self.files = []

        def give(fd):
            self.files.append(fd)
            return len(self.files) - 1

        if restore is None:
            self.memory = os.memfd_create("mayfly-guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.truncate(self.memory, changes.get("memory_bytes", 32 << 20))
        else:
            self.memory = os.dup(restore.memory)
        self.ring = os.memfd_create("ring")
        os.truncate(self.ring, 4096 + (1 << 16))
        self.report = os.memfd_create("report")
        input_end, self.console_input = os.pipe()
        message = control_pb.Configure(
            vcpu_count=1, memory_bytes=32 << 20, cmdline=cmdline, start=start, end_on_disconnect=end_on_disconnect,
            kvm_fd=give(os.open("/dev/kvm", os.O_RDWR)), memory_fd=give(os.dup(self.memory)),
            kernel_fd=give(os.open(kernel, os.O_RDONLY)), exit_report_fd=give(self.report))
        message.console.ring_fd = give(self.ring)
        message.console.output_event_fd = give(os.eventfd(0))
        message.console.input_fd = give(input_end)
        for path in initrds:
            message.initrd_fds.append(give(os.open(path, os.O_RDONLY)))
        for path in disks:
            message.disks.add(fd=give(os.open(path, os.O_RDWR)))
        for tap, mac in taps:
            message.nets.add(tap_fd=give(os.dup(tap)), mac=mac, mtu=1500)
        if ports is not None:
            message.vsock.guest_cid = 3
            for port, end in ports.items():
                message.vsock.host_ports.add(port=port, fd=give(end.fileno()))
        if restore is not None:
            message.restore.state_fd = give(os.dup(restore.state))
            message.restore.private_memory = private_memory and not is_mapped
            message.restore.mapped_memory = is_mapped
            message.restore.generation_id = generation_id
            message.restore.park = park
            if record:
                message.restore.record_touched.has_userfault_device = os.access("/dev/userfaultfd", os.R_OK | os.W_OK)
                if message.restore.record_touched.has_userfault_device:
                    message.restore.record_touched.userfault_device_fd = give(os.open("/dev/userfaultfd", os.O_RDWR))
            for first, count in copied:
                message.restore.copied_chunks.add(first=first, count=count)
            for memory, pages in restore.layers:
                message.restore.layers.add(memory_fd=give(os.dup(memory)), pages_fd=give(os.dup(pages)))
        for name, value in changes.items():
            if isinstance(value, int):
                setattr(message, name, value)
            else:
                message.MergeFrom(control_pb.Configure(**{name: value}))
        try:
            return self.call(self.files, answered, configure=message)
        finally:
            for fd in self.files:
                if fd not in (self.ring, self.report) and not any(fd == end.fileno() for end in (ports or {}).values()):
                    os.close(fd)

    def park(self, snapshot, **options):
        """Restores up to where only a claim can go on; the reply."""
        return self.configure(restore=snapshot, park=True, start=False, **options)

    def claim(self, disks=(), cid=None, ports=None, start=True, generation_id=b"", read_only=False):
        """The reply to a Claim. `ports`: as in configure()."""
        files = [os.open(path, os.O_RDWR) for path in disks]
        message = control_pb.Claim(start=start, generation_id=generation_id)
        for place in range(len(files)):
            message.disks.add(fd=place, read_only=read_only)
        if cid is not None:
            message.vsock.guest_cid = cid
        given = list(files)
        for port, end in (ports or {}).items():
            message.vsock.host_ports.add(port=port, fd=len(given))
            given.append(end.fileno())
        try:
            return self.call(given, claim=message)
        finally:
            for fd in files:
                os.close(fd)

    def map_memory(self, memory_bytes=32 << 20, **changes):
        """Sends a good MapMemory, with `changes`; our end of the guard's socket, and the reply. `mapped`: the memfd."""
        ours, monitors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mapped = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.truncate(self.mapped, 32 << 20)
        device = os.open("/dev/userfaultfd", os.O_RDWR)
        message = control_pb.MapMemory(memory_fd=0, memory_bytes=memory_bytes, userfault_device_fd=1, guard_fd=2)
        for name, value in changes.items():
            setattr(message, name, value)
        reply = self.call([self.mapped, device, monitors.fileno()], map_memory=message)
        os.close(device)
        monitors.close()
        return ours, reply

    def console(self):
        """All that was printed, as long as the ring has not turned over."""
        written = int.from_bytes(os.pread(self.ring, 8, 16), "little")
        return os.pread(self.ring, written, 4096)

    def save(self, changed_from=None):
        """What a paused VM leaves behind, as a Snapshot, and the reply; with a Snapshot `changed_from`, its changes."""
        state = os.memfd_create("state")
        if changed_from is None:
            reply = self.call([state], save=control_pb.Save(state_fd=0, leave_memory=True))
            return Snapshot(os.dup(self.memory), state), reply
        layer = layer_files(os.fstat(changed_from.memory).st_size)
        changed = control_pb.ChangedPages(layer=control_pb.Layer(memory_fd=1, pages_fd=2))
        reply = self.call([state, *layer], save=control_pb.Save(state_fd=0, changed_pages=changed))
        return Snapshot(os.dup(changed_from.memory), state, [*changed_from.layers_kept(), layer]), reply

    def touched_pages(self, memory_bytes=32 << 20):
        """The reply, and the numbers of the pages that were touched and written."""
        files = [os.memfd_create(name) for name in ("touched", "written")]
        for fd in files:
            os.truncate(fd, (memory_bytes // 4096 + 7) // 8)
        reply = self.call(files, get_touched_pages=control_pb.GetTouchedPages(touched_fd=0, written_fd=1))
        pages = [Snapshot.changed_pages(fd) for fd in files]
        for fd in files:
            os.close(fd)
        return reply, *pages

    def exit_report(self):
        return control_pb.ExitReport.FromString(os.pread(self.report, 1 << 16, 0))

    def wait(self):
        """Its exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def close(self):
        self.connection.close()
        for name in ("ring", "report", "console_input", "memory", "mapped"):
            fd = self.__dict__.pop(name, None)
            if fd is not None:
                os.close(fd)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(PATIENCE)
        connection.connect(str(self.path))
        return connection

    def send(self, data, fds=()):
        self.sent_ns = time.monotonic_ns()
        socket.send_fds(self.connection, [data], fds)

    def receive(self):
        """The next reply, or None where the monitor has closed the connection."""
        data = self.connection.recv(1 << 17)
        return control_pb.Reply.FromString(data) if data else None

    def call(self, fds=(), answered=True, **what):
        request = control_pb.Request(id=self.next_id, **what)
        self.next_id += 1
        self.send(request.SerializeToString(), fds)
        if not answered:
            return None
        reply = self.receive()
        if reply is None:
            raise AssertionError(f"the monitor hung up on {request}; it said {self.errors.read_text()}")
        assert reply.id == request.id, reply
        return reply
