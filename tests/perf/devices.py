# SPDX-License-Identifier: Apache-2.0
"""Requests to a disk, frames, bytes of a socket: what each costs in exits and CPU, beside QEMU and the host. Goal 11.

The probe guest polls, so a vCPU's time is part of every figure, ours and QEMU's alike.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import threading

import harness
from control.monitor_client import Monitor
from perf import place, stats

DEPTH = 32
LEAST = DEPTH
DISK_BYTES = 64 << 20
MEMORY_BYTES = 128 << 20
FRAME_BYTES = 1514
HOST_PORT = 1024
# QEMU's places of the devices.
QEMU_PLACES = "probe.mmio=0xfeb00000 probe.stride=0x200 probe.slots=24"
QEMU_DISK = ["-object", "iothread,id=t", "-device", "virtio-blk-device,drive=d,iothread=t"]
LOAD = re.compile(rb"load requests=(\d+) bytes=(\d+) kicks=(\d+) cycles=(\d+)")
# <linux/if_tun.h>
TUNSETIFF, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CLONE_NEWNET = 0x40000000


def _result(console, process):
    """What the probe said, and what its monitor used; reaps the monitor."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    found = LOAD.search(console())
    if not found:
        raise RuntimeError(f"the probe: {console()[-300:]!r}")
    requests, size, kicks, cycles = (int(word) for word in found.groups())
    return {"requests": requests, "bytes": size, "kicks": kicks, "cycles": cycles,
            "cpu_s": usage.ru_utime + usage.ru_stime}


def _ours(where, words, host_port=None, **options):
    """The probe in a mayfly-vmm; `host_port` is what the guest's connection is of."""
    monitor = Monitor(where.work, name=f"load{len(where.work.children)}")
    reply = monitor.configure(words, memory_bytes=MEMORY_BYTES, ports={HOST_PORT: host_port} if host_port else None,
                              **options)
    if reply.HasField("status"):
        raise RuntimeError(f"mayfly-vmm: {reply}")
    if host_port:
        host_port.close()
    sample = _result(monitor.console, monitor.process)
    counters = monitor.exit_report().stats
    sample["exits_to_monitor"] = counters.exits_io + counters.exits_mmio + counters.exits_other
    monitor.close()
    return sample


def _qemu(where, words, devices, **options):
    console = where.dir / "qemu.console"
    process = where.work.popen(
        [place.QEMU, *place.QEMU_MACHINE.split(), "-device", "isa-debug-exit,iobase=0x505,iosize=4", "-kernel",
         harness.PROBE, "-append", f"{QEMU_PLACES} {words}", "-global", "virtio-mmio.force-legacy=false",
         "-device", "virtio-serial-device", "-chardev", f"file,id=c,path={console}",
         "-device", "virtconsole,chardev=c", *devices], **options)
    return _result(console.read_bytes, process)


def _disk(where, rounds):
    path, count = where.dir / "load-disk", where.rounds(100_000, 400_000)
    path.write_bytes(os.urandom(DISK_BYTES))
    words = f"probe.test=blk-load probe.depth={DEPTH}"

    def host(count):
        done = where.work.run([place.PROGRAMS / "disk_floor", path, count, DEPTH])
        if done.code != 0:
            raise RuntimeError(f"disk_floor: {done}")
        cycles, cpu_ns = (int(word) for word in done.out.split())
        return {"requests": count, "bytes": count * 4096, "cycles": cycles, "cpu_s": cpu_ns / 1e9}

    drive = f"id=d,file={path},format=raw,if=none,cache=writeback,aio=io_uring"
    return _interleaved({
        "host": host,
        "mayfly": lambda count: _ours(where, f"{words} probe.count={count}", disks=[path]),
        "qemu": lambda count: _qemu(where, f"{words} probe.count={count}", ["-drive", drive, *QEMU_DISK])},
        count, rounds)


class _Echo:
    """A tap device in a network namespace of its own, whose routes send back what comes for GUEST."""

    HOST, GUEST, MAC = "10.77.0.1", "10.77.0.2", "02:00:00:00:00:77"

    def __init__(self, where):
        self.where = where
        self.child = where.work.popen(["unshare", "--net", "sleep", "infinity"])
        self.path = f"/proc/{self.child.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")
        harness.wait_until(lambda: os.readlink(self.path) != own, "the network namespace is there")
        self.tap = self._make_tap()
        self._run("ip", "link", "set", "load0", "up")
        self._run("ip", "address", "add", f"{self.HOST}/24", "dev", "load0")
        self._run("ip", "neighbour", "add", self.GUEST, "lladdr", self.MAC, "dev", "load0", "nud", "permanent")
        for setting in ("ip_forward=1", "conf.all.send_redirects=0", "conf.load0.send_redirects=0",
                        "conf.all.rp_filter=0", "conf.load0.rp_filter=0"):
            self._run("sysctl", "-q", "-w", f"net.ipv4.{setting}")
        device, = json.loads(self._run("ip", "-json", "link", "show", "load0"))
        self.host_mac = int(device["address"].replace(":", ""), 16)

    def _run(self, *command):
        done = self.where.work.run(["nsenter", f"--net={self.path}", *command])
        if done.code != 0:
            raise RuntimeError(f"{' '.join(command)}: {done}")
        return done.out

    def _make_tap(self):
        made = []

        def make():  # In a thread: it alone enters the namespace.
            with open(self.path) as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"load0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
            made.append(tap)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if not made:
            raise RuntimeError("no tap device")
        return made[0]

    def close(self):
        os.close(self.tap)
        self.child.kill()
        self.child.wait()


def _net(where, rounds):
    echo, count = _Echo(where), where.rounds(50_000, 200_000)
    words = (f"probe.test=net-load probe.depth={DEPTH} probe.size={FRAME_BYTES} "
             f"probe.host_mac={echo.host_mac:#x}")
    mac = bytes.fromhex(echo.MAC.replace(":", ""))
    device = ["-netdev", f"tap,id=n,fd={echo.tap},vhost=off", "-device", f"virtio-net-device,netdev=n,mac={echo.MAC}"]
    with contextlib.closing(echo):
        return _interleaved({
            "mayfly": lambda count: _ours(where, f"{words} probe.count={count}", taps=[(echo.tap, mac)]),
            "qemu": lambda count: _qemu(where, f"{words} probe.count={count}", device, pass_fds=[echo.tap])},
            count, rounds)


def _sink(end):
    buffer = bytearray(1 << 18)
    while end.recv_into(buffer):
        pass


def _source(end, size):
    piece = bytes(1 << 18)
    while size > 0:
        size -= end.send(piece[:size])


def _vsock(where, rounds):
    size = where.rounds(64 << 20, 512 << 20)

    def one(way, size):
        ours, theirs = socket.socketpair()
        with ours:
            peer = threading.Thread(target=_sink if way == "out" else _source, daemon=True,
                                    args=(ours,) if way == "out" else (ours, size))
            peer.start()
            sample = _ours(where, f"probe.test=vsock-load probe.way={way} probe.bytes={size}", host_port=theirs)
            peer.join()
        return sample

    return _interleaved({way: lambda size, way=way: one(way, size) for way in ("out", "in")}, size, rounds)


def _interleaved(contenders, count, rounds):
    """The samples of each contender, after a round that does not count. One takes a number of requests, or of bytes,
    and the CPU time of its monitor's start and end is left out."""
    least = {name: min(run(LEAST)["cpu_s"] for _ in range(2)) for name, run in contenders.items()}
    samples, names = {name: [] for name in contenders}, list(contenders)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            sample = contenders[name](count)
            if number > 0:
                samples[name].append(sample | {"cpu_s": sample["cpu_s"] - least[name]})
    return samples


def _each(samples, key):
    return [sample[key] for sample in samples]


def _exits(samples):
    """Kicks, which the host's kernel takes, and the exits that reach the monitor, for each request."""
    return stats.median_figure((sample["kicks"] + sample["exits_to_monitor"]) / sample["requests"]
                               for sample in samples)


def _row(name, samples):
    kicks = stats.quantile([sample["kicks"] / sample["requests"] for sample in samples], 0.5) if (
        "kicks" in samples[0]) else 0
    cpu_us, cycles = (stats.quantile([sample[key] * scale / sample["requests"] for sample in samples], 0.5)
                      for key, scale in (("cpu_s", 1e6), ("cycles", 1)))
    return [name, f"{kicks:.4f}", f"{cpu_us:.3f}", f"{cycles:.0f}"]


def measure(where):
    where.need_kvm()
    rounds = where.rounds(3, 9)
    table, figures, absent = [["", "kicks each", "CPU µs each", "TSC cycles each"]], {}, {}
    where.progress(f"disk, network and socket loads: {rounds} rounds")
    disk, net, vsock = _disk(where, rounds), _net(where, rounds), _vsock(where, rounds)
    for kind, samples in (("disk, 4 KiB", disk), ("frame there and back", net), ("vsock, 4 KiB", vsock)):
        table += [_row(f"{kind}: {name}", each) for name, each in samples.items()]
    figures["disk_exits"] = _exits(disk["mayfly"])
    figures["disk_to_host"] = stats.ratio_figure(_each(disk["host"], "cycles"), _each(disk["mayfly"], "cycles"))
    figures["net_exits"] = _exits(net["mayfly"])
    figures["vsock_exits"] = _exits(vsock["in"] + vsock["out"])
    figures["vsock_in_to_out"] = stats.ratio_figure(_each(vsock["out"], "cycles"), _each(vsock["in"], "cycles"))
    for key, samples in (("disk_per_cpu_to_qemu", disk), ("net_per_cpu_to_qemu", net)):
        if "qemu" in samples:
            figures[key] = stats.ratio_figure(_each(samples["qemu"], "cpu_s"), _each(samples["mayfly"], "cpu_s"))
        else:
            absent[key] = place.NO_QEMU
    return {"figures": figures, "absent": absent, "samples": {"disk": disk, "net": net, "vsock": vsock},
            "table": table, "notes": []}
