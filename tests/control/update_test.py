# SPDX-License-Identifier: Apache-2.0
"""UpdateVm: what a mask may name, and that what cannot be is refused and changes nothing; a balloon by the API, whose
guest drives the device by hand."""

import pathlib

import harness
from control.snapshot_case import SnapshotCase
from google.protobuf import field_mask_pb2
from harness import console_pb, vm_pb

MEMORY_MIB = 64
FIRST, COUNT = 4096, 8192  # 32 MiB, far from what the probe itself uses.
TARGET = "balloon.target_mib"


def resident(pid):
    """Bytes of the guest's memory that the monitor holds."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(("RssShmem:", "RssAnon:")))


class UpdateTest(SnapshotCase):
    def pages(self, vm_id, **balloon):
        self.daemon.probe(vm_id, "probe.test=pages", memory_mib=MEMORY_MIB, balloon=vm_pb.Balloon(**balloon))
        self.wait_console(vm_id, b"ready\n")

    def wait_console(self, vm_id, text):
        harness.wait_until(lambda: text in self.daemon.console(vm_id), f"{vm_id} says {text!r}")

    def command(self, vm_id, words, answer):
        """Tells the guest a line, and waits for what it says to it."""
        before = len(self.daemon.console(vm_id))
        inputs = harness.Inputs()
        inputs.put(console_pb.AttachConsoleRequest(start=console_pb.AttachConsoleStart(vm_id=vm_id, from_end=True)))
        call = self.api.AttachConsole(iter(inputs))
        inputs.put(console_pb.AttachConsoleRequest(input=words.encode() + b"\n"))
        harness.wait_until(lambda: answer in self.daemon.console(vm_id)[before:], f"{vm_id} says {answer!r}")
        call.cancel()
        inputs.end()

    def update(self, vm_id, *paths, **spec):
        return self.daemon.api.UpdateVm(vm_pb.UpdateVmRequest(
            vm_id=vm_id, spec=vm_pb.VmSpec(**spec), update_mask=field_mask_pb2.FieldMask(paths=paths)))

    def set_target(self, vm_id, mib):
        return self.update(vm_id, TARGET, balloon=vm_pb.Balloon(target_mib=mib)).vm

    def refused(self, vm_id, code, reason, *words, paths=(TARGET,), mib=1):
        spec = {"balloon": vm_pb.Balloon(target_mib=mib)}
        self.assert_refused(lambda: self.update(vm_id, *paths, **spec), code, reason, *words)

    def test_what_cannot_be_is_refused_and_changes_nothing(self):
        self.pages("a", target_mib=5)
        self.daemon.probe("plain", "probe.test=spin")
        bad = "INVALID_ARGUMENT"
        self.refused("a", bad, "UPDATE_MASK", "update_mask", "no field", TARGET, paths=())
        for path in ("", "balloon", "balloon.", "vcpus", "balloon.target_mib.x", "Balloon.target_mib", "x" * 5000):
            with self.subTest(path[:20]):
                self.refused("a", bad, "UPDATE_MASK", "cannot be changed", TARGET, paths=(TARGET, path), mib=6)
        self.refused("a", bad, "BALLOON_TARGET", TARGET, "65", "64", mib=65)
        self.refused("a", bad, "BALLOON_TARGET", TARGET, mib=(1 << 64) - 1)
        self.refused("plain", "FAILED_PRECONDITION", "NO_BALLOON", TARGET, "plain")
        self.refused("nobody", "NOT_FOUND", "VM_NOT_FOUND", "nobody")
        self.refused("", "NOT_FOUND", "VM_NOT_FOUND", "vm_id")
        self.assertEqual(self.daemon.get("a").balloon.target_mib, 5)
        self.assertFalse(self.daemon.get("plain").HasField("balloon"))
        self.daemon.api.StopVm(vm_pb.StopVmRequest(vm_id="a"))
        self.refused("a", "FAILED_PRECONDITION", "VM_STOPPED", "update a")

    def test_a_balloon_that_cannot_be_is_not_made(self):
        def refused(reason, *words, **balloon):
            self.assert_refused(lambda: self.daemon.probe("a", "exit", memory_mib=MEMORY_MIB,
                                                          balloon=vm_pb.Balloon(**balloon)),
                                "INVALID_ARGUMENT", reason, *words)
        refused("BALLOON_TARGET", TARGET, "65", "64", target_mib=65)
        refused("BALLOON_STATS", "balloon.stats_interval_s", "86401", "86400", stats_interval_s=86401)
        self.assertEqual(list(self.daemon.vms()), [])

    def test_a_target_is_changed_in_each_state_and_the_guest_is_told(self):
        self.daemon.probe("a", "probe.test=pages", start=False, memory_mib=MEMORY_MIB, balloon=vm_pb.Balloon())
        self.assertEqual(self.set_target("a", 1).state, vm_pb.VM_STATE_CREATED)
        self.daemon.api.StartVm(vm_pb.StartVmRequest(vm_id="a"))
        self.wait_console("a", b"ready\n")
        self.daemon.api.PauseVm(vm_pb.PauseVmRequest(vm_id="a"))
        paused = self.set_target("a", 7)
        self.assertEqual((paused.state, paused.spec.balloon.target_mib), (vm_pb.VM_STATE_PAUSED, 7))
        self.daemon.api.ResumeVm(vm_pb.ResumeVmRequest(vm_id="a"))
        self.command("a", "t", b"target 1792\n")
        self.assertEqual(self.set_target("a", MEMORY_MIB).balloon.target_mib, MEMORY_MIB)
        self.command("a", "t", b"target 16384\n")

    def test_what_a_guest_gives_goes_back_to_the_host_and_a_clone_keeps_the_target(self):
        self.pages("a", deflate_on_oom=True, free_page_reporting=True)
        self.command("a", f"w {FIRST} {COUNT} 7", b"done 4096 0\n")
        pid = self.daemon.get("a").monitor_pid
        full = resident(pid)
        self.set_target("a", 32)
        self.command("a", f"i {FIRST} {COUNT}", b"balloon used target 8192\n")
        self.assertGreater(full - resident(pid), 31 << 20)
        self.command("a", f"a {COUNT}", b"balloon")
        harness.wait_until(lambda: self.daemon.get("a").balloon.actual_mib == 32, "the guest has given 32 MiB")
        status = self.daemon.get("a").balloon
        self.assertEqual((status.target_mib, status.inflated_bytes, status.HasField("stats")), (32, 32 << 20, False))
        self.save("a", "s")
        self.restore("s", "b")
        for vm_id in ("a", "b"):
            now = self.daemon.get(vm_id)
            self.assertEqual((now.balloon.target_mib, now.balloon.actual_mib), (32, 32), vm_id)
            self.assertEqual((now.spec.balloon.target_mib, now.spec.balloon.deflate_on_oom), (32, True), vm_id)
        self.set_target("b", 3)
        self.assertEqual(self.daemon.get("a").balloon.target_mib, 32)

    def test_metadata_is_checked_and_told_of_but_never_shown(self):
        mask = "metadata"
        self.pages("a", target_mib=5)
        bad = "INVALID_ARGUMENT"
        deep, large = "[" * 32 + "]" * 32, "x" * (256 << 10)
        for text in ("", "[]", '{"a": 1', '{"": 1}', f'{{"a":{deep}}}', f'{{"a":"{large}"}}'):
            with self.subTest(text[:20]):
                self.assert_refused(lambda t=text: self.update("a", mask, metadata=t), bad, "METADATA", mask)
        # The probe has no agent; nothing else of the call is done either.
        self.assert_refused(lambda: self.update("a", TARGET, mask, metadata="{}", balloon=vm_pb.Balloon(target_mib=6)),
                            "FAILED_PRECONDITION", "NO_AGENT", mask)
        self.assertEqual(self.daemon.get("a").balloon.target_mib, 5)
        self.assertFalse(self.update("a", mask).vm.HasField("metadata"))
        self.assert_refused(lambda: self.daemon.probe("b", "exit", metadata="{}"), bad, "NO_AGENT", mask)
        self.daemon.create("c", start=False, memory_mib=64, allow_slow_kvm=True, kernel_path=str(harness.PROBE),
                           rootfs=None, agent=True, metadata='{"a": "secret"}')
        made = self.daemon.get("c")
        self.assertEqual((made.metadata.version, made.metadata.size_bytes, made.spec.metadata), (1, 15, ""))
        self.assertEqual(self.update("c", mask, metadata='{"a": 1}').vm.metadata.size_bytes, 8)
        self.assertNotIn("secret", str(self.daemon.get("c")))
