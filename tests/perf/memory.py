# SPDX-License-Identifier: Apache-2.0
"""What a restored VM's first request costs for its memory, what clones share, how long a fork stands still. Goals 4,
5, 6, 9. With the probe guest, by the monitors' control sockets: no daemon is in the figures."""

import ctypes
import os
import pathlib
import re
import time

import harness
from control import memory_test
from control.monitor_client import Monitor
from harness import control_pb
from perf import stats

MIB = 1 << 20
PAGE = 4096
CHUNK_PAGES = 512
AREA = 16 * MIB
PAGES = 24 * MIB // PAGE
MEMORY = 64 * MIB
# A chunk is copied from so many faults on, about what hosts measure (CheckHost's page-costs).
FAULTS_OF_COPY = 40
FORK_PAGES = 16 * MIB // PAGE
F_ADD_SEALS, SEALS = 1033, 2 | 4 | 8
NO_HUGE_PAGES = "shmem_enabled cannot be set to advise here"


class Guest:
    """Templates of one guest, and its clones."""

    def __init__(self, where, memory=MEMORY, **options):
        self.where, self.memory, self.options = where, memory, {"pages": PAGES, "every": 0, "written": 0} | options

    def ok(self, reply):
        if reply.HasField("status"):
            raise RuntimeError(str(reply))
        return reply

    def start(self, **options):
        self.where.monitors = getattr(self.where, "monitors", 0) + 1
        monitor = Monitor(self.where.work, name=f"memory{self.where.monitors}")
        self.phases = self.ok(monitor.configure(memory_bytes=self.memory, **options)).phases
        return monitor

    def template(self):
        words = " ".join(f"probe.{name}={value}" for name, value in self.options.items())
        monitor = self.start(cmdline=f"probe.test=touch probe.at={AREA} {words}")
        harness.wait_until(lambda: b"ready\n" in monitor.console(), "the guest is ready")
        self.ok(monitor.call(pause=control_pb.Pause()))
        snapshot, reply = monitor.save()
        self.tsc_khz = self.ok(reply).saved.tsc_khz
        monitor.close()
        return snapshot

    def touch(self, monitor):
        """What it took the guest, in ns."""
        said = monitor.console().count(b"\n")
        os.write(monitor.console_input, b"go\n")
        harness.wait_until(lambda: monitor.console().count(b"\n") > said, "the guest has touched its pages")
        return int(re.findall(rb"touched \d+ (\d+)\n", monitor.console())[-1]) * 1e6 / self.tsc_khz

    def first_request(self, snapshot, **options):
        """ns of making its memory and of touching it; faults of the latter."""
        monitor = self.start(restore=snapshot, **options)
        made = self.phases.memory_ns - self.phases.received_ns
        faults = memory_test.minor_faults(monitor.process.pid)
        touched = self.touch(monitor)
        faults = memory_test.minor_faults(monitor.process.pid) - faults
        monitor.close()
        return made + touched, faults

    def recorded(self, snapshot):
        """The chunks that a run shows to be worth a copy, for those who want the least time."""
        monitor = self.start(restore=snapshot, record=True)
        self.touch(monitor)
        _, touched, written = monitor.touched_pages(self.memory)
        monitor.close()
        chunks = {}
        for page in touched:
            chunks.setdefault(page // CHUNK_PAGES, []).append(page)
        hot = {page // CHUNK_PAGES for page in written}
        return chunks, hot


def _hot(chunks, hot):
    return [(chunk, 1) for chunk, pages in sorted(chunks.items()) if chunk in hot and len(pages) >= FAULTS_OF_COPY]


def _first_requests(where, figures, samples, absent):
    """Goals 4 and 5."""
    mixed, clean = Guest(where, every=5), Guest(where)
    image, clean_image = mixed.template(), clean.template()
    copies = _hot(*mixed.recorded(image))
    contenders = {
        "lazy": lambda: mixed.first_request(image),
        "recorded": lambda: mixed.first_request(image, copied=copies),
        "clean, 4 KiB": lambda: clean.first_request(clean_image),
    }
    try:
        with memory_test.shmem_huge_pages(NoTest):
            huge_image = clean.template()
        contenders["clean, huge"] = lambda: clean.first_request(huge_image)
    except NoTest.Skipped:
        absent.update(clean_faults=NO_HUGE_PAGES, clean_time=NO_HUGE_PAGES)
    rows = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(where.rounds(6, 60) + 1):
        for name in names[number % len(names):] + names[:number % len(names)]:
            sample = contenders[name]()
            if number > 0:
                rows[name].append(sample)
    times = {name: [time_ns for time_ns, _ in row] for name, row in rows.items()}
    faults = {name: [count for _, count in row] for name, row in rows.items()}
    samples["first request, ns"], samples["first request, faults"] = times, faults
    figures["first_request"] = stats.ratio_figure(times["recorded"], times["lazy"])
    if "clean, huge" in rows:
        figures["clean_faults"] = stats.ratio_figure(faults["clean, huge"], faults["clean, 4 KiB"])
        figures["clean_time"] = stats.ratio_figure(times["clean, huge"], times["clean, 4 KiB"])
    return [[name, f"{stats.quantile(times[name], 0.5) / 1e6:.2f}", f"{stats.quantile(faults[name], 0.5):.0f}"]
            for name in rows]


class NoTest:
    """What memory_test asks to be skipped by."""

    class Skipped(Exception):
        pass

    @classmethod
    def skipTest(cls, reason):
        raise cls.Skipped(reason)


def _shared(where, figures, samples):
    """Goal 6."""
    guest = Guest(where, written=PAGES // 5)
    image = guest.template()
    chunks, hot = guest.recorded(image)
    copies = [(chunk, 1) for chunk in sorted(hot) if AREA // PAGE <= chunk * CHUNK_PAGES]
    clones = []
    for _ in range(where.rounds(20, 200)):
        clones.append(guest.start(restore=image, copied=copies))
        guest.touch(clones[-1])
        # It would wait for its next line by looking at the queue.
        guest.ok(clones[-1].call(pause=control_pb.Pause()))
    copied = len(copies) * CHUNK_PAGES * PAGE
    clean = PAGES * PAGE - copied
    private, shared = [], []
    for clone in clones:
        memory = memory_test.guest_memory(clone.process.pid)
        # What the guest's console and stack wrote beside its set is dirtied, too.
        private.append((memory["Anonymous"] - copied) / (PAGES // 5 * PAGE))
        shared.append((memory["Shared_Clean"] + memory["Shared_Dirty"]) / clean)
    for clone in clones:
        clone.close()
    samples["clones"] = {"beside copies, of dirtied": private, "shared, of clean": shared}
    figures["clones_private"] = stats.counted(max(private))
    figures["clones_shared"] = stats.counted(min(1.0, *shared))
    return [["clones", str(len(clones)), f"{copied / MIB:.0f} MiB copied each"]]


def _memcpy_ns(size):
    """Between buffers that are there."""
    source, target = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    best = None
    for _ in range(5):
        begin = time.monotonic_ns()
        ctypes.memmove(target, source, size)
        best = min(best or 1 << 60, time.monotonic_ns() - begin)
    return best


def _forks(where, figures, samples):
    """Goal 9: what a fork of a VM with private memory stands still for."""
    sizes = {"128 MiB": 128 * MIB, "1 GiB": 1 << 30}
    guests = {name: Guest(where, memory=size, pages=FORK_PAGES, written=FORK_PAGES) for name, size in sizes.items()}
    images = {name: guest.template() for name, guest in guests.items()}
    pauses = {name: [] for name in sizes}
    copies = []
    for number in range(where.rounds(5, 40) + 1):
        for name, guest in guests.items():
            monitor = guest.start(restore=images[name])
            guest.touch(monitor)
            guest.ok(monitor.call(pause=control_pb.Pause()))
            child, reply = monitor.save(images[name])
            saved = guest.ok(reply).saved
            child.close()
            monitor.close()
            if number > 0:
                pauses[name].append(saved.state_ns + saved.memory_ns)
        if number > 0:
            copies.append(_memcpy_ns(FORK_PAGES * PAGE))
    samples["fork, ns"] = pauses | {"memcpy": copies}
    figures["fork_pause"] = stats.ratio_figure([max(0, ns - 1e6) for ns in pauses["1 GiB"]], copies)
    figures["fork_scale"] = stats.ratio_figure(pauses["1 GiB"], pauses["128 MiB"])
    return [[f"fork of {name}, {FORK_PAGES * PAGE // MIB} MiB dirty", f"{stats.quantile(ns, 0.5) / 1e6:.2f}", ""]
            for name, ns in pauses.items()] + [["memcpy of that", f"{stats.quantile(copies, 0.5) / 1e6:.2f}", ""]]


def measure(where):
    where.need_kvm()
    where.progress("first requests, clones and forks")
    figures, samples, absent = {}, {}, {}
    table = [["", "ms", "faults"], *_first_requests(where, figures, samples, absent),
             *_shared(where, figures, samples), *_forks(where, figures, samples)]
    shmem = pathlib.Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled").read_text().strip()
    return {"figures": figures, "absent": absent, "samples": samples, "table": table,
            "notes": [f"shmem_enabled outside of the measurement: {shmem}",
                      "ms of a first request: making the memory, and the guest's own time over 24 MiB"]}
