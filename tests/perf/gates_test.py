# SPDX-License-Identifier: Apache-2.0
"""The gates of goals.py, each as a test, on a short run of bench.py."""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from perf import goals

BENCH = pathlib.Path(__file__).with_name("bench.py")
LIMIT_S = 300


@functools.cache
def result():
    """Of one run for all tests. In a process of its own, which may take a priority that other tests must not have."""
    with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as directory:
        done = subprocess.run([sys.executable, BENCH, "--short", "--out", directory], capture_output=True, text=True,
                              timeout=LIMIT_S)
        path = pathlib.Path(directory, "result.json")
        if not path.exists():
            raise AssertionError(f"bench.py ended with {done.returncode}: {done.stderr[-4000:]}")
        print(pathlib.Path(directory, "report.txt").read_text(), flush=True)
        return json.loads(path.read_text())


class GatesTest(unittest.TestCase):
    def check(self, goal):
        found = result()
        if goal.section in found["skipped"]:
            self.skipTest(found["skipped"][goal.section])
        if goal.section in found["failed"]:
            self.fail(found["failed"][goal.section])
        section = found["sections"][goal.section]
        if goal.key in section["absent"]:
            self.skipTest(section["absent"][goal.key])
        figure = section["figures"][goal.key]
        if not goal.holds(figure["value"]):
            self.fail(goal.missed(figure))


for _goal in goals.GOALS:
    if _goal.section in goals.LONG_SECTIONS:
        continue
    setattr(GatesTest, f"test_goal_{_goal.number}_{_goal.key}", functools.partialmethod(GatesTest.check, _goal))
