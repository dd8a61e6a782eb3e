#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Adds up what scripts/test ran and closes with `N passed, N failed, N skipped`.

usage: tests/summary.py DIRECTORY

Reads DIRECTORY/*.bazel.json (Bazel's build events) and DIRECTORY/*.jsonl (tests/run.py and single steps). Exits 0 only
where something passed and nothing failed.
"""

import collections
import json
import pathlib
import sys
import urllib.parse


def skipped_cases(result):
    """The cases of a passed test that say in its log why they cannot run here: `SKIPPED: case: why`."""
    for output in result.get("testActionOutput", []):
        if output["name"] == "test.log":
            log = pathlib.Path(urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path))
            for line in log.read_text(errors="replace").splitlines():
                if line.startswith("SKIPPED: "):
                    yield line.removeprefix("SKIPPED: ").split(": ", 1)


def bazel_rows(path):
    for line in path.read_text().splitlines():
        event = json.loads(line)
        identity = event.get("id", {})
        if "testSummary" in identity:
            status = event["testSummary"]["overallStatus"]
            outcome = "passed" if status in ("PASSED", "FLAKY") else "failed"
            yield identity["testSummary"]["label"], outcome, status
        elif "testResult" in event:
            for case, why in skipped_cases(event["testResult"]):
                yield f"{identity['testResult']['label']}: {case}", "skipped", why
        elif "aborted" in event and ("targetCompleted" in identity or "testResult" in identity):
            name = identity.get("targetCompleted", identity.get("testResult"))["label"]
            yield name, "failed", "not built"
        elif "targetCompleted" in identity and not event.get("completed", {}).get("success"):
            yield identity["targetCompleted"]["label"], "failed", "does not build"


def rows(directory):
    for path in sorted(directory.glob("*.bazel.json")):
        yield from bazel_rows(path)
    for path in sorted(directory.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            yield row["name"], row["outcome"], row.get("detail", "")


def main():
    counts = collections.Counter()
    for name, outcome, detail in rows(pathlib.Path(sys.argv[1])):
        counts[outcome] += 1
        if outcome != "passed":
            last = detail.strip().splitlines()[-1] if detail.strip() else ""
            print(f"{outcome}: {name}{': ' + last if last else ''}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 0 if counts["passed"] and not counts["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
