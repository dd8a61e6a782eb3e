# SPDX-License-Identifier: Apache-2.0
"""A private mayflyd for measurements, and one VM's life through its API."""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples/python"))
import first_vm  # noqa: E402: the example is the client


class Daemon:
    """mayflyd in `directory`, for a with statement; the client whose call it gives is warm."""

    def __init__(self, directory):
        self.socket = directory / "mayflyd.sock"
        self.command = [ROOT / "out/mayflyd", "--socket", f"unix:{self.socket}", "--state-dir", directory / "state"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL)
        while not self.socket.exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"mayflyd ended with {self.process.returncode}")
            time.sleep(0.02)
        return Client(f"unix:{self.socket}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


class Client(first_vm.Mayfly):
    def boot_once(self, vm_id, kernel, image, cmdline, mark):
        """Seconds from the CreateVm call to `mark` on the console, and to the VM having stopped."""
        request = self.message("CreateVmRequest", vm_id=vm_id, start=True)
        request.spec.vcpus = 1
        request.spec.memory_mib = 128
        request.spec.kernel_path = kernel
        request.spec.rootfs.path = str(image)
        request.spec.rootfs.read_only = True
        request.spec.agent = False
        request.spec.cmdline = cmdline
        request.spec.replace_cmdline = True
        start = time.monotonic()
        self.call("VmService", "CreateVm", request, timeout=60)
        seen, output = None, b""
        read = self.message("ReadConsoleRequest", vm_id=vm_id, follow=True)
        for response in self.stream("ConsoleService", "ReadConsole", read, timeout=120):
            output += response.chunk.data
            if seen is None and mark in output:
                seen = time.monotonic()
        stopped = time.monotonic()
        self.call("VmService", "DeleteVm", self.message("DeleteVmRequest", vm_id=vm_id, force=True))
        if seen is None:
            raise RuntimeError(f"the guest ended without its mark; console: {output[-2000:]!r}")
        return seen - start, stopped - start
