#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Measures Mayfly against the floor, Firecracker's order of calls, QEMU and others. scripts/bench runs it; README.md
says how to read what it writes.

usage: tests/perf/bench.py [--short] [--only SECTION]... [--also NAME[:CODE]=COMMAND]... [--out DIRECTORY]
"""

import argparse
import datetime
import json
import pathlib
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
from perf import (counts, devices, diffs, footprint, goals, launches, linux_guest, memory, place, plots, report,
                  restores, self_check, starts)

FORMAT = 1
# In this order: what needs a quiet daemon comes first.
SECTIONS = {
    "restores": restores.measure,
    "starts": starts.measure,
    "counts": counts.measure,
    "footprint": footprint.measure,
    "memory": memory.measure,
    "diffs": diffs.measure,
    "rate": launches.rate,
    "many": launches.many,
    "devices": devices.measure,
    "linux": linux_guest.measure,
}


def run(where, names):
    """The sections' results, and why some have none."""
    result = {"format": FORMAT, "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
              "short": where.short, "asked": names, "host": self_check.host_facts(),
              "sections": {}, "skipped": {}, "failed": {}}
    for name in names:
        begin = time.monotonic()
        try:
            section = SECTIONS[name](where)
        except place.Skip as skip:
            where.progress(f"{name}: skipped: {skip}")
            result["skipped"][name] = str(skip)
            continue
        except Exception:  # noqa: BLE001: the other sections are measured all the same
            where.progress(f"{name}: failed")
            result["failed"][name] = traceback.format_exc()
            continue
        result["sections"][name] = {"absent": {}, "notes": []} | section | {"seconds": time.monotonic() - begin}
    if "daemon" in where.__dict__:
        result["daemon"] = self_check.daemon_facts(where.daemon)
    return result


def missed_gates(result):
    """A sentence for each gate that a figure misses."""
    for section in result["sections"].values():
        for key, figure in section["figures"].items():
            if not goals.BY_KEY[key].holds(figure["value"]):
                yield goals.BY_KEY[key].missed(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="few rounds: only what the gates need")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section; may be repeated")
    parser.add_argument("--also", action="append", default=[], metavar="NAME[:CODE]=COMMAND",
                        help="another monitor to time from spawn to reaped; it must end with CODE (0)")
    parser.add_argument("--out", type=pathlib.Path, default=harness.OUT / "bench")
    options = parser.parse_args()
    names = options.only or [name for name in SECTIONS if name not in goals.LONG_SECTIONS]
    if "linux" not in names:  # A guest's kernel has work for all CPUs, and the lab is alone on its machine.
        place.take_priority()
    with place.Place(options.short, options.also) as where:
        result = run(where, names)
    text = report.text(result)
    print(text, end="")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(result) + "\n")
    (options.out / "report.txt").write_text(text)
    for path in plots.write(result, options.out):
        where.progress(f"wrote {path}")
    missed = list(missed_gates(result))
    print("\n".join(missed), end="\n" if missed else "")
    return 1 if missed or result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
