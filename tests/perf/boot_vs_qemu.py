#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""create -> guest init, Mayfly beside QEMU's microvm machine, interleaved on one machine.

usage: scripts/build && scripts/guest_files && scripts/lab --out out/perf /usr/bin/python3 tests/perf/boot_vs_qemu.py

Both boot the same kernel, root image and command line, with disk, console and entropy devices (Mayfly has vsock
as well) and one vCPU of
128 MiB. The end mark is the guest's: its init writes a line to the console. The start mark is the client's: for Mayfly
the CreateVm call to a running mayflyd (which spawns the monitor), for QEMU the spawn of its process. Also: spawn ->
process reaped, for the guest's whole life. Medians of per-round ratios; absolute times mean nothing here.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARK = b"MAYFLY-INIT"
ROUND_TIMEOUT = 60
COMMAND_LINE = "console=hvc0 quiet loglevel=0 panic=-1 reboot=t root=/dev/vda rootfstype=ext4 ro init=/mark"


def prepare_image(directory):
    image = directory / "root.ext4"
    shutil.copyfile(ROOT / "out/guest/rootfs.ext4", image)
    mark = ROOT / "out/guest/mark_init"
    tool = shutil.which("debugfs", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    subprocess.run([tool, "-w", "-f", "-", image], check=True, capture_output=True, text=True,
                   input=f"write {mark} mark\nset_inode_field mark mode 0100755\n")
    return image


class Hung(Exception):
    """A round of QEMU's that did not end by itself."""


class Qemu:
    name = "qemu microvm"

    def __init__(self, kernel, image):
        self.command = [
            "qemu-system-x86_64", "-M", "microvm,acpi=on,pic=off,pit=off,rtc=off,isa-serial=off,x-option-roms=off",
            "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "128", "-nodefaults", "-no-user-config", "-nographic",
            "-no-reboot", "-kernel", kernel, "-append", COMMAND_LINE,
            "-drive", f"id=root,file={image},format=raw,if=none,readonly=on", "-device", "virtio-blk-device,drive=root",
            "-chardev", "stdio,id=console", "-device", "virtio-serial-device", "-device", "virtconsole,chardev=console",
            "-device", "virtio-rng-device",
        ]

    def round(self):
        start = time.monotonic()
        process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        # A guest of QEMU's has been seen to stop for good under shadow paging: that must not be the end of the run.
        watchdog = threading.Timer(ROUND_TIMEOUT, process.kill)
        watchdog.start()
        seen, output = None, b""
        while chunk := os.read(process.stdout.fileno(), 4096):
            output += chunk
            if seen is None and MARK in output:
                seen = time.monotonic()
        code = process.wait()
        watchdog.cancel()
        if seen is None or code != 0:
            raise Hung(f"{self.name} ended with {code} and said: {output.decode(errors='replace')[-500:]}")
        return seen - start, time.monotonic() - start


class Mayfly:
    name = "mayfly"

    def __init__(self, kernel, image, stubs):
        self.kernel, self.image, self.stubs, self.count = kernel, image, stubs, 0

    def round(self):
        self.count += 1
        return self.stubs.boot_once(f"perf-{self.count}", self.kernel, self.image, COMMAND_LINE, MARK)


def interleave(monitors, rounds):
    times = {m.name: [] for m in monitors}
    for number in range(rounds + 1):
        order = list(monitors)
        random.Random(number).shuffle(order)
        try:
            row = {m.name: m.round() for m in order}
        except Hung as hung:
            print(f"round {number:2} does not count: {hung}", flush=True)
            continue
        print(f"round {number:2}: " + "  ".join(f"{k} {v[0] * 1e3:7.1f} ms" for k, v in row.items()), flush=True)
        if number:  # the first one warms the caches
            for name, value in row.items():
                times[name].append(value)
    return times


def report(times):
    def ratio(index):
        return statistics.median(m[index] / q[index] for m, q in zip(times[Mayfly.name], times[Qemu.name]))

    def median_ms(name, index):
        return round(statistics.median(t[index] for t in times[name]) * 1e3, 1)

    return {
        "rounds": len(times[Mayfly.name]),
        "create_to_init_ratio": round(ratio(0), 3),
        "create_to_reaped_ratio": round(ratio(1), 3),
        "median_ms": {name: {"init": median_ms(name, 0), "reaped": median_ms(name, 1)} for name in times},
        "kernel": os.uname().release,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kernel", default=str(ROOT / "out/guest/vmlinux"))
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "out/perf/boot_vs_qemu.json")
    options = parser.parse_args()
    import mayfly_client
    with tempfile.TemporaryDirectory(prefix="mayfly-perf-") as name:
        directory = pathlib.Path(name)
        image = prepare_image(directory)
        with mayfly_client.Daemon(directory) as stubs:
            monitors = [Mayfly(options.kernel, image, stubs), Qemu(options.kernel, image)]
            times = interleave(monitors, options.rounds)
    result = report(times)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
