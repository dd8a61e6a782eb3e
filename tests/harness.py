# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: programs in a directory of their own, a daemon and its API, and the check that nothing
is left behind.

A `Case` gives its tests a `Workplace`. Whatever is started through it stays a descendant of this process, also when
its parent is killed; when the case ends, no process may be left of it, and no run-time directory.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import pathlib
import queue
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest

try:
    import grpc
    from google.protobuf import descriptor_pb2
except ImportError as error:
    sys.exit(f"{error}: the system tests need Debian's python3 (/usr/bin/python3, this is {sys.executable}) with "
             "python3-grpcio and python3-protobuf; scripts/setup test installs them")

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUT = pathlib.Path(os.environ.get("MAYFLY_OUT", ROOT / "out"))
MAYFLY = OUT / "mayfly"
MAYFLYD = OUT / "mayflyd"
VMM = OUT / "mayfly-vmm"
AGENT = OUT / "guest/agent.cpio"
KERNEL = OUT / "guest/vmlinux"
ROOTFS = OUT / "guest/rootfs.ext4"
STOCK_KERNEL = OUT / "guest/stock/vmlinuz"
STOCK_MODULES = OUT / "guest/stock/modules.cpio"
PROBE = OUT / "guest/probe.elf"

# Bounds every wait, in seconds. A Linux guest in the lab is ready in 5 to 10; only what is stuck waits this long.
PATIENCE = 150


def _load_messages():
    """The messages of proto/: those of mayfly/v1 (public), control and agent (private), and gRPC's status."""
    proto = ROOT / "proto"
    with tempfile.TemporaryDirectory(prefix="mayfly-proto-") as folder:
        files = [*proto.glob("mayfly/v1/*.proto"), *proto.glob("google/rpc/*.proto"), proto / "control.proto",
                 proto / "agent.proto"]
        subprocess.run(["protoc", f"-I{proto}", f"--python_out={folder}", *files], check=True)
        sys.path.insert(0, folder)
        try:
            from google.rpc import error_details_pb2, status_pb2
            from mayfly.v1 import (console_pb2, event_pb2, exec_pb2, memory_pb2, snapshot_pb2, system_pb2,
                                   template_pb2, vm_pb2)
            import agent_pb2
            import control_pb2
        finally:
            sys.path.remove(folder)
    return (vm_pb2, console_pb2, event_pb2, exec_pb2, memory_pb2, snapshot_pb2, system_pb2, template_pb2, control_pb2,
            agent_pb2, status_pb2, error_details_pb2)


(vm_pb, console_pb, event_pb, exec_pb, memory_pb, snapshot_pb, system_pb, template_pb, control_pb, agent_pb, status_pb,
 error_details_pb) = _load_messages()


def wait_until(condition, what, timeout=PATIENCE):
    """The condition's first true value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s still not: {what}")
        time.sleep(0.02)


def fd_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def is_alive(pid):
    """A zombie is not alive."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def cpu_ticks(pid):
    """The CPU time a process has used, in ticks of 10 ms."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def private_bytes(pid, without="memfd:mayfly-guest"):
    """Private memory, clean and dirty, of all mappings but the guest's RAM."""
    total, counted = 0, True
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            counted = without not in line
        elif counted and words[0] in ("Private_Clean:", "Private_Dirty:"):
            total += int(words[1]) << 10
    return total


def thread_names(pid):
    names = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        names.append((task / "comm").read_text().strip())
    return sorted(names)


def pattern(size, seed=1):
    """Bytes that no mistake reproduces: incompressible, and the same for the same seed."""
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def make_cpio(files):
    """A newc archive for an initrd. `files`: name -> bytes (program), None (directory), str (a symlink's target)."""
    archive = bytearray()
    for inode, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        mode = 0o040755 if data is None else 0o120777 if isinstance(data, str) else 0o100755
        content = b"" if data is None else data.encode() if isinstance(data, str) else data
        path = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += b"\0" * (-len(archive) % 4) + content
        archive += b"\0" * (-len(archive) % 4)
    return bytes(archive)


# /init of a guest without the agent: its standard streams become the console.
_CONSOLE_INIT = """#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
exec </dev/hvc0 >/dev/hvc0 2>&1
"""


def busybox_initrd(init=None):
    """The host's static BusyBox as an initrd; with `init`, also an /init that talks to the console and does that."""
    files = {"bin": None, "bin/busybox": pathlib.Path("/bin/busybox").read_bytes(), "bin/sh": "busybox", "dev": None,
             "proc": None}
    if init is not None:
        files["init"] = (_CONSOLE_INIT + init).encode()
    return make_cpio(files)


class Finished:
    """What a program left: its exit code (negative: the signal), stdout and stderr."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __str__(self):
        err = self.err[-4000:].decode(errors="replace")
        return f"exit code {self.code}\nstdout: {self.out[-4000:]!r}\nstderr: {err}"


def _adopt_orphans():
    """From now on we are the parent of every descendant whose own parent has ended."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


_adopt_orphans()


def _children():
    """All processes that are not zombies, by their parents."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                found.setdefault(int(parent), []).append((int(entry.name), state))
    return found


class Workplace:
    """A temporary directory, and the processes started in it."""

    open = []

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-test-"))
        # Private daemons make their directories here.
        self.run_dir = self.dir / "run"
        self.run_dir.mkdir(mode=0o700)
        self.env = {key: text for key, text in os.environ.items() if not key.startswith("MAYFLY_")}
        self.env |= {"XDG_RUNTIME_DIR": str(self.run_dir)}
        self.children = []
        Workplace.open.append(self)

    def popen(self, arguments, **options):
        options = {"stdin": subprocess.DEVNULL, "env": self.env} | options
        child = subprocess.Popen([str(argument) for argument in arguments], **options)
        self.children.append(child)
        return child

    def run(self, arguments, stdin=b"", timeout=PATIENCE, **options):
        """A program from start to end; past the timeout it is killed, and the test fails."""
        child = self.popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        try:
            out, err = child.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            end = Finished(child.returncode, out, err)
            raise AssertionError(f"not done after {timeout} s: {' '.join(map(str, arguments))}\n{end}") from None
        return Finished(child.returncode, out, err)

    def mayfly(self, *arguments, **options):
        return self.run([MAYFLY, *arguments], **options)

    def processes(self):
        """Those started here, those that they started, and orphans: pid -> command line."""
        children = _children()
        others = {child.pid for place in Workplace.open if place is not self for child in place.children}
        own = {child.pid for child in self.children}
        search = []
        for pid, state in children.get(os.getpid(), []):
            if state == "Z" and pid not in others | own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            elif pid not in others:
                search.append((pid, state))
        found = {}
        while search:
            pid, state = search.pop()
            search += children.get(pid, [])
            if state != "Z":
                with contextlib.suppress(OSError):
                    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace").strip()
        return found

    def monitors(self):
        return [pid for pid, words in self.processes().items() if "--control-fd=" in words]

    def leftovers(self, grace=10):
        """What is still there after the grace: a list of sentences."""
        deadline = time.monotonic() + grace
        while True:
            for child in self.children:
                child.poll()
            left = [f"process {pid}: {words}" for pid, words in self.processes().items()]
            # os.walk() stands that a directory goes while it looks: a daemon may still be cleaning up.
            left += [f"file {where}/{name}" for where, folders, files in os.walk(self.run_dir)
                     for name in sorted(folders + files)]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

    def close(self):
        """Ends and removes everything; returns what should not have been there any more."""
        left = self.leftovers()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self.children:
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()
        Workplace.open.remove(self)
        shutil.rmtree(self.dir, ignore_errors=True)
        return left


def reason_of(error):
    """ErrorInfo.reason of a refused call."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb.ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return ""


class Api:
    """Every call of mayfly.v1 as a method: api.CreateVm(request, timeout=...). The default timeout is PATIENCE."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[
            ("grpc.default_authority", "localhost"),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", 64 << 20),
        ])
        for module in (vm_pb, console_pb, event_pb, exec_pb, memory_pb, snapshot_pb, system_pb, template_pb):
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    setattr(self, method.name, self._call(module, service, method))

    def _call(self, module, service, method):
        shape = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(shape)
        kind = f"{'stream' if shape.client_streaming else 'unary'}_{'stream' if shape.server_streaming else 'unary'}"
        call = getattr(self.channel, kind)(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(module, method.output_type.name).FromString,
        )
        return functools.partial(call, timeout=PATIENCE)

    def close(self):
        self.channel.close()


class ExecCall:
    """One Exec call whose input is sent as the test goes along."""

    def __init__(self, api, vm_id, argv, env=(), workdir="", terminal=False, timeout=PATIENCE):
        self._requests = queue.SimpleQueue()
        start = exec_pb.ExecStart(vm_id=vm_id, argv=argv, env=env, working_directory=workdir, terminal=terminal)
        self._requests.put(exec_pb.ExecRequest(start=start))
        self.call = api.Exec(iter(self._requests.get, None), timeout=timeout)

    def send(self, **fields):
        self._requests.put(exec_pb.ExecRequest(**fields))

    def end(self):
        """Ends our side of the call."""
        self._requests.put(None)

    def responses(self):
        return self.call

    def finish(self):
        """Everything until the command's end: code, stdout, stderr, signal."""
        out, err, exited = bytearray(), bytearray(), None
        try:
            for response in self.call:
                out += response.stdout
                err += response.stderr
                if response.HasField("exited"):
                    exited = response.exited
                    self.end()
        finally:
            self.end()
        if exited is None:
            raise AssertionError(f"the call ended without the command's end; stderr {bytes(err)!r}")
        return ExecResult(exited.exit_code, bytes(out), bytes(err), exited.signal)


class ExecResult:
    def __init__(self, code, out, err, signal_number):
        self.code, self.out, self.err, self.signal = code, out, err, signal_number

    def __repr__(self):
        return f"code {self.code}, signal {self.signal}, stdout {self.out[-500:]!r}, stderr {self.err[-500:]!r}"


class Daemon:
    """A mayflyd with its socket and state in a workplace."""

    def __init__(self, workplace, *flags, name="d", under=()):
        """`under`: a program and its arguments that become the daemon."""
        self.workplace = workplace
        self.socket = workplace.dir / f"{name}.sock"
        self.state = workplace.dir / f"{name}.state"
        self.log = workplace.dir / f"{name}.log"
        self.target = f"unix:{self.socket}"
        self.found_state = self.state.exists()
        with self.log.open("ab") as log:
            self.process = workplace.popen(
                [*under, MAYFLYD, "--socket", self.target, "--state-dir", self.state, *flags], stderr=log, stdout=log)
        wait_until(self._is_up, f"mayflyd serves {self.socket}", 60)
        self.api = Api(self.target)
        self.pid = self.process.pid

    def _is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"mayflyd ended with {self.process.returncode}: {self.log_text()}")
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def log_text(self):
        return self.log.read_text(errors="replace")[-8000:]

    def stop(self, timeout=60):
        """SIGTERM; the exit code, once it has ended, and what it left behind."""
        self.api.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"mayflyd did not end {timeout} s after SIGTERM: {self.log_text()}") from None
        left = [str(path) for path in (self.socket, self.state, *self.state.rglob("*")) if path.exists()]
        if self.found_state and str(self.state) in left:
            left.remove(str(self.state))
        return code, left

    def kill(self):
        self.api.close()
        self.process.kill()
        self.process.wait()

    # What tests do most often.

    def create(self, vm_id, start=True, timeout=PATIENCE, **spec):
        """CreateVm. The kernel and the read-only root image are our own unless given; rootfs=None: none."""
        spec = {"kernel_path": str(KERNEL), "rootfs": vm_pb.Disk(path=str(ROOTFS), read_only=True)} | spec
        spec = {key: value for key, value in spec.items() if value is not None}
        request = vm_pb.CreateVmRequest(vm_id=vm_id, spec=vm_pb.VmSpec(**spec), start=start)
        return self.api.CreateVm(request, timeout=timeout)

    def probe(self, vm_id, words, start=True, **spec):
        """CreateVm of the probe guest: no agent, no root image, only `words` on the command line."""
        spec = {"kernel_path": str(PROBE), "rootfs": None, "agent": False, "cmdline": words, "replace_cmdline": True,
                "allow_slow_kvm": True, "memory_mib": 32} | spec
        return self.create(vm_id, start, **spec)

    def wait(self, vm_id, *states, ready=False, timeout=PATIENCE):
        request = vm_pb.WaitVmRequest(vm_id=vm_id, states=states, guest_ready=ready)
        return self.api.WaitVm(request, timeout=timeout).vm

    def wait_ready(self, vm_id, timeout=PATIENCE):
        return self.wait(vm_id, ready=True, timeout=timeout)

    def wait_stopped(self, vm_id, timeout=PATIENCE):
        return self.wait(vm_id, vm_pb.VM_STATE_STOPPED, timeout=timeout)

    def get(self, vm_id):
        return self.api.GetVm(vm_pb.GetVmRequest(vm_id=vm_id)).vm

    def delete(self, vm_id, force=True):
        return self.api.DeleteVm(vm_pb.DeleteVmRequest(vm_id=vm_id, force=force)).vm

    def get_info(self):
        return self.api.GetInfo(system_pb.GetInfoRequest())

    def need_linux_guests(self):
        """Skips the test where KVM runs them a thousand times too slowly; scripts/lab does not."""
        if not self.api.CheckHost(system_pb.CheckHostRequest()).runs_linux_guests:
            raise unittest.SkipTest("this host's KVM does not run Linux guests; the lab's does")

    def vms(self):
        return list(self.api.ListVms(vm_pb.ListVmsRequest(page_size=1000)).vms)

    def exec(self, vm_id, argv, stdin=None, **options):
        """One command to its end; a string is run by the shell."""
        call = ExecCall(self.api, vm_id, ["/bin/sh", "-c", argv] if isinstance(argv, str) else argv, **options)
        for at in range(0, len(stdin or b""), 32768):
            call.send(stdin=stdin[at:at + 32768])
        call.send(stdin_end=True)
        return call.finish()

    def console(self, vm_id, offset=0, follow=False, timeout=PATIENCE):
        request = console_pb.ReadConsoleRequest(vm_id=vm_id, offset=offset, follow=follow)
        return b"".join(response.chunk.data for response in self.api.ReadConsole(request, timeout=timeout))

    def console_end(self, vm_id):
        """The offset after the last byte printed."""
        chunks = [response.chunk for response in self.api.ReadConsole(console_pb.ReadConsoleRequest(vm_id=vm_id))]
        return chunks[-1].offset + len(chunks[-1].data) if chunks else 0

    def describe(self):
        """For a failed test: what the daemon said, and each VM with the end of its console."""
        text = [f"mayflyd's log:\n{self.log_text()}"]
        with contextlib.suppress(grpc.RpcError):
            for vm in self.vms():
                tail = self.console(vm.vm_id, timeout=10)[-1500:].decode(errors="replace")
                text.append(f"VM {vm.vm_id}: {vm_pb.VmState.Name(vm.state)} {vm.exit}\nits console ends:\n{tail}")
        return "\n".join(text)


class Case(unittest.TestCase):
    """A test with a workplace of its own, which must be empty when it ends."""

    maxDiff = 4000

    def setUp(self):
        self.work = Workplace()
        self.dir = self.work.dir
        self.daemons = []
        self.addCleanup(self._close)

    def start_daemon(self, *flags, **options):
        daemon = Daemon(self.work, *flags, **options)
        self.daemons.append(daemon)
        return daemon

    def start_user_daemon(self, uid, *flags, under=()):
        """A daemon that is an ordinary user's, as the test's directory is from now on; as `under` of Daemon."""
        if os.geteuid() != 0:
            self.skipTest("only root can be any user")
        os.chown(self.dir, uid, uid)
        # A device node that this user may open, where /dev/kvm is root's alone.
        kvm = self.dir / "kvm"
        os.mknod(kvm, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
        kvm.chmod(0o666)
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        for path in (MAYFLYD, kvm):
            if self.work.run([*as_user, "test", "-r", path]).code != 0:
                self.skipTest(f"an ordinary user cannot read {path} here")
        return self.start_daemon("--kvm-device", kvm, *flags, under=[*under, *as_user])

    def mayfly(self, *arguments, **options):
        return self.work.mayfly(*arguments, **options)

    def file(self, name, data=b"", size=None):
        """A file in the test's directory; `size` makes it sparse."""
        path = self.dir / name
        path.write_bytes(data)
        if size is not None:
            os.truncate(path, size)
        return path

    def _callTestMethod(self, method):
        try:
            method()
        except unittest.SkipTest:
            raise
        except Exception as error:
            error.add_note("\n".join(daemon.describe() for daemon in self.running_daemons()))
            raise

    def running_daemons(self):
        return [daemon for daemon in self.daemons if daemon.process.poll() is None]

    def _close(self):
        problems = []
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                code, left = daemon.stop()
                problems += left + ([f"mayflyd ended with {code}: {daemon.log_text()}"] if code else [])
            daemon.api.close()
        problems += self.work.close()
        self.assertEqual(problems, [], "left behind")

    def assert_refused(self, call, code, reason, *words):
        """The call is refused with this gRPC code and reason, in a message that holds all the words."""
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        error = caught.exception
        said = f"{error.code().name} {reason_of(error)}: {error.details()}"
        self.assertEqual((error.code().name, reason_of(error)), (code, reason), said)
        for word in words:
            self.assertIn(word, error.details())
        return error

    def assert_command(self, result, code=0, out=None, err=None):
        self.assertEqual(result.code, code, result)
        if out is not None:
            self.assertEqual(result.out, out, result)
        if err is not None:
            self.assertEqual(result.err, err, result)


class DaemonCase(Case):
    """Tests that share one daemon. VMs that a test leaves are removed after it; those in `shared` stay."""

    shared = ()

    @classmethod
    def setUpClass(cls):
        cls.class_work = Workplace()
        cls.addClassCleanup(cls._close_class)
        cls.daemon = Daemon(cls.class_work)
        cls.api = cls.daemon.api

    @classmethod
    def _close_class(cls):
        problems = []
        if hasattr(cls, "daemon"):
            code, left = cls.daemon.stop()
            problems = left + ([f"mayflyd ended with {code}: {cls.daemon.log_text()}"] if code else [])
        problems += cls.class_work.close()
        if problems:
            raise AssertionError("left behind: " + "\n".join(problems))

    def setUp(self):
        super().setUp()
        self.addCleanup(self._remove_vms)
        self.vm_id = "vm-" + secrets.token_hex(3)

    def running_daemons(self):
        return [self.daemon, *super().running_daemons()]

    def _remove_vms(self):
        for vm in self.daemon.vms():
            if vm.vm_id not in self.shared:
                self.daemon.delete(vm.vm_id)

    def create(self, **options):
        return self.daemon.create(self.vm_id, **options)

    def assert_exit(self, vm, reason):
        name = vm_pb.ExitReason.Name(vm.exit.reason)
        self.assertEqual(name, f"EXIT_REASON_{reason}", vm.exit)


def print_figures(title, **figures):
    """One line of measured numbers, for people and for whoever collects them."""
    print(f"figures: {title}: {json.dumps(figures)}", flush=True)


def in_threads(count, work):
    """work(0) ... work(count - 1), each in a thread; the results in order, or the first error."""
    results = [None] * count

    def run(index):
        try:
            results[index] = (True, work(index))
        except BaseException as error:  # noqa: BLE001
            results[index] = (False, error)

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 3)
        if thread.is_alive():
            raise AssertionError(f"a thread of {count} still works")
    for ok, value in results:
        if not ok:
            raise value
    return [value for _, value in results]


class Inputs:
    """An iterator for the requests of a stream, fed as the test goes along."""

    def __init__(self):
        self._queue = queue.SimpleQueue()

    def __iter__(self):
        return iter(self._queue.get, None)

    def put(self, item):
        self._queue.put(item)

    def end(self):
        self._queue.put(None)
