# SPDX-License-Identifier: Apache-2.0
"""Linux guests, on real KVM or in the lab: a boot beside QEMU microvm's, a restore beside our own cold boot. Goal 13.

Mayfly and QEMU boot the same kernel, root image and command line, with disk, console and entropy devices (Mayfly has
vsock as well) and one vCPU of 128 MiB. The end mark is the guest's: its init writes a line to the console. The start
mark is the client's: for Mayfly the CreateVm call to a running mayflyd, which spawns the monitor; for QEMU the spawn of
its process. A cold boot with the agent and a restore end when the agent has answered.
"""

import os
import shutil
import subprocess
import threading
import time

import harness
from harness import console_pb, snapshot_pb, vm_pb
from perf import place, stats

MARK = b"MAYFLY-INIT"
ROUND_LIMIT_S = 60
COMMAND_LINE = "console=hvc0 quiet loglevel=0 panic=-1 reboot=t root=/dev/vda rootfstype=ext4 ro init=/mark"


def _image(directory):
    """The root image, with an init that says its mark and reboots."""
    image = directory / "root.ext4"
    shutil.copyfile(harness.ROOTFS, image)
    tool = shutil.which("debugfs", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    subprocess.run([tool, "-w", "-f", "-", image], check=True, capture_output=True, text=True,
                   input=f"write {harness.OUT}/guest/mark_init mark\nset_inode_field mark mode 0100755\n")
    return image


class _Hung(Exception):
    """A round that did not end by itself."""


def _qemu(image):
    """Seconds to the mark, and to reaped."""
    start = time.monotonic()
    process = subprocess.Popen(
        [place.QEMU, "-M", "microvm,acpi=on,pic=off,pit=off,rtc=off,isa-serial=off,x-option-roms=off",
         "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "128", "-nodefaults", "-no-user-config", "-nographic",
         "-no-reboot", "-kernel", harness.KERNEL, "-append", COMMAND_LINE,
         "-drive", f"id=root,file={image},format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=root",
         "-chardev", "stdio,id=console", "-device", "virtio-serial-device", "-device", "virtconsole,chardev=console",
         "-device", "virtio-rng-device"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # A guest of QEMU's has been seen to stop for good under shadow paging: that must not be the end of the run.
    watchdog = threading.Timer(ROUND_LIMIT_S, process.kill)
    watchdog.start()
    seen, output = None, b""
    while chunk := os.read(process.stdout.fileno(), 4096):
        output += chunk
        if seen is None and MARK in output:
            seen = time.monotonic()
    code = process.wait()
    watchdog.cancel()
    if seen is None or code != 0:
        raise _Hung(f"QEMU ended with {code} and said: {output.decode(errors='replace')[-500:]}")
    return seen - start, time.monotonic() - start


def _boot(daemon, image):
    """The same of ours."""
    start = time.monotonic()
    daemon.create("boot", agent=False, memory_mib=128, cmdline=COMMAND_LINE, replace_cmdline=True,
                  rootfs=vm_pb.Disk(path=str(image), read_only=True))
    seen, output = None, b""
    request = console_pb.ReadConsoleRequest(vm_id="boot", follow=True)
    for response in daemon.api.ReadConsole(request, timeout=ROUND_LIMIT_S):
        output += response.chunk.data
        if seen is None and MARK in output:
            seen = time.monotonic()
    stopped = time.monotonic()
    daemon.delete("boot")
    if seen is None:
        raise _Hung(f"the guest ended without its mark; its console: {output[-500:]!r}")
    return seen - start, stopped - start


def _ready(daemon, make):
    """Seconds from a call that makes a VM to its agent's answer."""
    start = time.monotonic()
    make()
    daemon.wait_ready("agent")
    took = time.monotonic() - start
    daemon.delete("agent")
    return took


def _cold(daemon):
    return _ready(daemon, lambda: daemon.create("agent", memory_mib=128))


def _restore(daemon):
    disk = snapshot_pb.DiskOverride(index=0, path=str(harness.ROOTFS))
    request = snapshot_pb.RestoreVmRequest(snapshot_id="warm", vm_id="agent", start=True,
                                           overrides=snapshot_pb.RestoreOverrides(disks=[disk]))
    return _ready(daemon, lambda: daemon.api.RestoreVm(request))


def _save(daemon):
    daemon.create("source", memory_mib=128)
    daemon.wait_ready("source")
    daemon.api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="source", snapshot_id="warm"))
    daemon.delete("source")


def measure(where):
    where.need_kvm()
    if not place.has_qemu():
        raise place.Skip(place.NO_QEMU)
    daemon, image = where.daemon, _image(where.dir)
    if not where.runs_linux_guests():
        raise place.Skip("this host's KVM does not run Linux guests; scripts/bench --linux measures in the lab")
    _save(daemon)
    contenders = {"qemu microvm": lambda: _qemu(image), "boot": lambda: _boot(daemon, image),
                  "cold boot to agent": lambda: (_cold(daemon),), "restore to agent": lambda: (_restore(daemon),)}
    samples, names, hung = {name: [] for name in contenders}, list(contenders), []
    for number in range(where.rounds(5, 10) + 1):
        try:
            turn = number % len(names)
            row = {name: contenders[name]() for name in names[turn:] + names[:turn]}
        except _Hung as error:
            hung.append(f"round {number} does not count: {error}")
            continue
        where.progress(f"round {number}: " + ", ".join(f"{name} {row[name][0] * 1e3:.0f} ms" for name in names))
        if number > 0:  # the first one warms the caches
            for name in names:
                samples[name].append(row[name])
    first = {name: [row[0] for row in rows] for name, rows in samples.items()}
    figures = {"boot_to_qemu": stats.ratio_figure(first["boot"], first["qemu microvm"]),
               "restore_to_cold_boot": stats.ratio_figure(first["restore to agent"], first["cold boot to agent"]),
               "restore_to_qemu": stats.ratio_figure(first["restore to agent"], first["qemu microvm"])}
    table = [["", "min ms", "p50 ms", "max ms"]]
    for name, values in first.items():
        each = stats.summary([value * 1e3 for value in values])
        table.append([name, f"{each['min']:.0f}", f"{each['p50']:.0f}", f"{each['max']:.0f}"])
    return {"figures": figures, "samples": first, "table": table, "notes": hung}
