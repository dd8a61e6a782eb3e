# SPDX-License-Identifier: Apache-2.0
"""A mayfly-vmm spoken to directly, as the daemon does or as it never would."""

import os
import socket

from harness import PATIENCE, PROBE, VMM, control_pb


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

    def configure(self, cmdline, start=True, disks=(), ports=None, end_on_disconnect=False, kernel=PROBE, **changes):
        """Sends a good Configure, with `changes` to the message; the reply. `ports`: vsock host port -> socket."""
        self.files = []

        def give(fd):
            self.files.append(fd)
            return len(self.files) - 1

        memory = os.memfd_create("mayfly-guest")
        os.truncate(memory, changes.get("memory_bytes", 32 << 20))
        self.ring = os.memfd_create("ring")
        os.truncate(self.ring, 4096 + (1 << 16))
        self.report = os.memfd_create("report")
        input_end, self.console_input = os.pipe()
        message = control_pb.Configure(
            vcpu_count=1, memory_bytes=32 << 20, cmdline=cmdline, start=start, end_on_disconnect=end_on_disconnect,
            kvm_fd=give(os.open("/dev/kvm", os.O_RDWR)), memory_fd=give(memory),
            kernel_fd=give(os.open(kernel, os.O_RDONLY)), exit_report_fd=give(self.report))
        message.console.ring_fd = give(self.ring)
        message.console.output_event_fd = give(os.eventfd(0))
        message.console.input_fd = give(input_end)
        for path in disks:
            message.disks.add(fd=give(os.open(path, os.O_RDWR)))
        if ports is not None:
            message.vsock.guest_cid = 3
            for port, end in ports.items():
                message.vsock.host_ports.add(port=port, fd=give(end.fileno()))
        for name, value in changes.items():
            if isinstance(value, int):
                setattr(message, name, value)
            else:
                message.MergeFrom(control_pb.Configure(**{name: value}))
        try:
            return self.call(self.files, configure=message)
        finally:
            for fd in self.files:
                if fd not in (self.ring, self.report) and not any(fd == end.fileno() for end in (ports or {}).values()):
                    os.close(fd)

    def console(self):
        """All that was printed, as long as the ring has not turned over."""
        written = int.from_bytes(os.pread(self.ring, 8, 16), "little")
        return os.pread(self.ring, written, 4096)

    def exit_report(self):
        return control_pb.ExitReport.FromString(os.pread(self.report, 1 << 16, 0))

    def wait(self):
        """Its exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE)

    def close(self):
        self.connection.close()
        for fd in (getattr(self, name, None) for name in ("ring", "report", "console_input")):
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
        socket.send_fds(self.connection, [data], fds)

    def receive(self):
        """The next reply, or None where the monitor has closed the connection."""
        data = self.connection.recv(1 << 17)
        return control_pb.Reply.FromString(data) if data else None

    def call(self, fds=(), **what):
        request = control_pb.Request(id=self.next_id, **what)
        self.next_id += 1
        self.send(request.SerializeToString(), fds)
        reply = self.receive()
        if reply is None:
            raise AssertionError(f"the monitor hung up on {request}; it said {self.errors.read_text()}")
        assert reply.id == request.id, reply
        return reply
