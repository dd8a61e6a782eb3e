# SPDX-License-Identifier: Apache-2.0
"""A monitor that has been taken over gets nowhere: every attempt of the escapee, against every layer by itself and
against all of them.

attempt.h says of each attempt what stops it by itself; these tests hold it to that in both directions. README.md lists
the layers."""

import functools
import json
import os
import signal
import subprocess
import tempfile
import unittest

import harness
from security import host

# What a jail is made of, beside the filters. Landlock counts where the host has it.
JAIL = {"root", "pids", "network", "ipc", "ids", "limits"}
# What makes a descriptor or the ring no way out by itself.
GIVEN = {"ring", "descriptor"}
UID = 910_000
ESCAPED, REFUSED, MISSING = 0, 10, 11
# Of the attempts, the part that a host may lack: modules, x32, ciphers...
MOST_MISSING = 0.1


def how(row):
    # It may still be killed after it has got what it wanted.
    if "ESCAPED" in row["said"]:
        return "escaped"
    if "signal" in row:
        return signal.Signals(row["signal"]).name
    return {ESCAPED: "escaped", REFUSED: "refused", MISSING: "missing"}.get(row["code"], f"broken ({row['code']})")


@functools.cache
def selected():
    """All attempts; on an emulated machine those that its kernel's part of the jail stops, as the filters do not
    depend on the machine."""
    if not host.is_emulated():
        return ()
    layers = {"root", "pids", "network", "ipc", "ids", "own-id", "limits", "landlock"}
    listed = subprocess.run([host.TRY_ESCAPE, "--list"], check=True, capture_output=True).stdout.splitlines()
    return tuple(row["attempt"] for row in map(json.loads, listed) if layers & set(row["layers"]))


def run_attempts(work, jail, policy, loose=False, every=1):
    """name -> what came of it. On an emulated machine only one of `every`."""
    with tempfile.TemporaryDirectory(dir=work.dir) as directory:
        uid = 0 if jail == "none" else UID
        os.chmod(directory, 0o755)
        if jail == "user":
            os.chown(directory, uid, uid)
        end = work.run([host.TRY_ESCAPE, f"--escapee={host.ESCAPEE}", f"--jailer={host.JAILER}",
                        f"--directory={directory}", f"--jail={jail}", f"--policy={policy}", f"--uid={uid}",
                        *(["--loose"] if loose else []), *(f"--attempt={name}" for name in selected()[::every])])
    if end.code != 0:
        raise AssertionError(f"try_escape failed: {end}")
    rows = [json.loads(line) for line in end.out.splitlines()]
    return {row["attempt"]: row | {"layers": set(row["layers"]), "how": how(row)} for row in rows}


class EscapeeTest(host.RootCase):
    @functools.cache
    def unconfined():  # pylint: disable=no-method-argument
        """The attempts where nothing is in their way. The same for all tests."""
        work = harness.Workplace()
        try:
            work.dir.chmod(0o755)
            return run_attempts(work, "none", "none", loose=True)
        finally:
            work.close()

    def missing(self):
        return {name for name, row in EscapeeTest.unconfined().items() if row["how"] in ("missing", "SIGSEGV")}

    def jail_layers(self, jail):
        layers = set(JAIL)
        if jail == "root":
            layers.add("own-id")
        if host.landlock_version() > 0:
            layers.add("landlock")
        return layers

    def assert_each(self, rows, expected):
        """`expected(row)`: what must come of it, of those that this host has."""
        missing = self.missing()
        wrong = [f"{name}: {row['how']}, not {expected(row)}; layers {sorted(row['layers'])}; {row['said']}"
                 for name, row in rows.items() if name not in missing and row["how"] != expected(row)]
        self.assertEqual(wrong, [])

    def test_unconfined_every_attempt_succeeds(self):
        rows = EscapeeTest.unconfined()
        self.assertGreater(len(rows), len(selected()) - 1 if host.is_emulated() else 200)
        self.assertLess(len(self.missing()), MOST_MISSING * len(rows), self.missing())
        self.assert_each(rows, lambda row: "escaped")
        harness.print_figures("escapee, nothing in its way", attempts=len(rows), missing_here=sorted(self.missing()))

    def test_what_descriptors_and_the_ring_forbid_they_forbid_alone(self):
        if host.is_emulated():
            self.skipTest("descriptors and rings do not depend on the machine: its host has tried this")
        rows = run_attempts(self.work, "none", "none")
        self.assert_each(rows, lambda row: "refused" if row["layers"] & GIVEN else "escaped")

    def test_filters_alone_deny_on_the_loop_thread(self):
        self.check_filters_alone("loop")

    def test_filters_alone_deny_on_a_vcpu_thread(self):
        self.check_filters_alone("vcpu")

    def test_filters_alone_deny_before_the_machine_runs_all_but_what_builds_it(self):
        self.check_filters_alone("start")

    def check_filters_alone(self, policy):
        if host.is_emulated():
            self.skipTest("filters do not depend on the machine: its host has tried this")
        # Loose: what else would stop them is not there.
        rows = run_attempts(self.work, "none", policy, loose=True)
        by_filter = {name: row for name, row in rows.items() if "seccomp" in row["layers"]}
        self.assertGreater(len(by_filter), 150)

        def expected(row):
            if row["attempt"] == "fork-by-clone3" and policy == "start":
                return "refused"  # ENOSYS, so that the C library takes clone
            return "escaped" if policy == "start" and "before-run" in row["layers"] else "SIGSYS"

        self.assert_each(by_filter, expected)

    def test_a_roots_jail_alone_stops_what_it_is_made_for(self):
        self.check_jail_alone("root")

    def test_a_users_jail_alone_stops_what_it_is_made_for(self):
        self.check_jail_alone("user")

    def check_jail_alone(self, jail):
        layers = self.jail_layers(jail) | GIVEN
        rows = run_attempts(self.work, jail, "none", every=1 if jail == "root" else 4)
        self.assert_each(rows, lambda row: "refused" if row["layers"] & layers else "escaped")

    def test_in_a_roots_jail_nothing_succeeds(self):
        self.check_all("root")

    def test_in_a_users_jail_nothing_succeeds(self):
        self.check_all("user")

    def check_all(self, jail):
        table = {}
        # Once is enough for what the modes have in common.
        policies = ["start", "loop", "vcpu"] if jail == "root" else ["loop", "vcpu"]
        if host.is_emulated():
            policies = ["loop"] if jail == "root" else ["vcpu"]
        for policy in policies:
            rows = run_attempts(self.work, jail, policy, every=4)
            # What builds a machine is no escape as long as there is none.
            built_with = {name for name, row in rows.items()
                          if policy == "start" and "before-run" in row["layers"]
                          and not row["layers"] & (self.jail_layers(jail) | GIVEN)}
            escaped = {name: row["said"] for name, row in rows.items()
                       if row["how"] not in ("SIGSYS", "refused") and name not in built_with | self.missing()}
            self.assertEqual(escaped, {}, f"{jail}, {policy}")
            for name, row in rows.items():
                table.setdefault(name, [sorted(row["layers"] - {"before-run"})]).append(row["how"])
        print(f"\n{'attempt, in a ' + jail + ' jail, as:':36} {' '.join(f'{name:8}' for name in policies)} layers")
        for name, (layers, *ends) in table.items():
            print(f"{name:36} {' '.join(f'{end:8}' for end in ends)} {' '.join(layers)}")


if __name__ == "__main__":
    unittest.main()
