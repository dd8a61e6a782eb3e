#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the system tests of some folders below tests/ and records what became of each.

usage: tests/run.py [--results FILE] [--match TEXT] FOLDER...

A folder's tests are its *_test.py files (unittest). They drive the programs in out/ as users do, on whatever machine
this is called on: directly for the probe guest, inside scripts/lab for Linux guests. FILE gets one JSON line for each
test: {"name", "outcome": passed | failed | skipped, "seconds", "detail"}.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import time
import unittest

TESTS = pathlib.Path(__file__).resolve().parent


class Recorder(unittest.TestResult):
    """Prints a line as each test ends and keeps it for the results file."""

    def __init__(self, results):
        super().__init__()
        self.results = results
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def startTest(self, test):
        super().startTest(test)
        self.started = time.monotonic()

    def record(self, test, outcome, detail=""):
        seconds = time.monotonic() - getattr(self, "started", time.monotonic())
        self.counts[outcome] += 1
        name = test.id()
        print(f"{outcome:8} {seconds:6.1f} s  {name}", flush=True)
        if detail:
            print("    " + detail.strip().replace("\n", "\n    "), flush=True)
        row = {"name": name, "outcome": outcome, "seconds": round(seconds, 3), "detail": detail}
        self.results.write(json.dumps(row) + "\n")
        self.results.flush()

    def addSuccess(self, test):
        self.record(test, "passed")

    def addFailure(self, test, err):
        self.record(test, "failed", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        self.record(test, "failed", self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        self.record(test, "skipped", reason)

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.record(subtest, "failed", self._exc_info_to_string(err, test))


def load(folder):
    suite = unittest.TestSuite()
    for path in sorted((TESTS / folder).glob("*_test.py")):
        name = f"{folder}.{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(module))
    return suite


def each_test(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from each_test(item)
        else:
            yield item


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("/dev/null"))
    parser.add_argument("--match", default="", help="only tests whose name contains this")
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if options.results != pathlib.Path("/dev/null"):
        options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("w") as results:
        recorder = Recorder(results)
        selected = unittest.TestSuite()
        for folder in options.folders:
            if not (TESTS / folder).is_dir():
                sys.exit(f"tests/{folder}: no such folder")
            selected.addTests(t for t in each_test(load(folder)) if options.match in t.id())
        if selected.countTestCases() == 0:
            sys.exit("no test was selected")
        selected.run(recorder)
    counts = recorder.counts
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
