# SPDX-License-Identifier: Apache-2.0
"""What Linux guests read of their metadata: by curl, as they do in other clouds, and by the agent's own command; and
that a guest made from another one never reads that one's."""

import json

import harness
from google.protobuf import field_mask_pb2
from harness import snapshot_pb, vm_pb
from program_disk import make_program_disk

URL = "http://169.254.169.254"
AGENT = "/proc/1/exe metadata"
DOCUMENT = {
    "latest": {
        "meta-data": {"hostname": "one", "instance-id": "i-1", "network": {"mtu": 1500}, "tags": ["a", "b"]},
        "user-data": "#!/bin/sh\necho hello\n",
    },
}


def document_of(name):
    return json.dumps({"latest": {"meta-data": {"hostname": name}}})


class MetadataCase(harness.Case):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon("--snapshot-dir", self.dir / "snapshots")
        self.daemon.need_linux_guests()

    def boot(self, vm_id, metadata, **spec):
        if metadata is not None:
            spec["metadata"] = metadata
        self.daemon.create(vm_id, memory_mib=128, **spec)
        self.daemon.wait_ready(vm_id)

    def guest(self, vm_id, command, code=0):
        result = self.daemon.exec(vm_id, command)
        self.assertEqual(result.code, code, result)
        return result.out.decode()

    def hostname(self, vm_id):
        return self.guest(vm_id, f"{AGENT} /latest/meta-data/hostname").strip()


class CurlTest(MetadataCase):
    def setUp(self):
        super().setUp()
        image, self.curl = make_program_disk(self.dir, "curl", "64M")
        self.boot("one", json.dumps(DOCUMENT), disks=[vm_pb.Disk(path=str(image), read_only=True)])
        self.guest("one", "mount -o ro /dev/vdb /mnt")

    def ask(self, words, path):
        """(status, body), of a request that is a word of the shell's."""
        out = self.guest("one", f"{self.curl} -sS -m 10 -w '\\n%{{http_code}}' {words} {URL}{path}")
        body, status = out.rsplit("\n", 1)
        return int(status), body

    def token(self, ttl_s=60):
        status, token = self.ask(f"-X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: {ttl_s}'", "/latest/api/token")
        self.assertEqual(status, 200)
        return token

    def test_a_guest_reads_its_document_as_in_other_clouds(self):
        header = f"-H 'X-aws-ec2-metadata-token: {self.token()}'"
        self.assertEqual(self.ask(header, "/"), (200, "latest/"))
        self.assertEqual(self.ask(header, "/latest/meta-data/"), (200, "hostname\ninstance-id\nnetwork/\ntags"))
        self.assertEqual(self.ask(header, "/latest/meta-data/network/mtu"), (200, "1500"))
        self.assertEqual(self.ask(header, "/latest/user-data"), (200, DOCUMENT["latest"]["user-data"]))
        status, body = self.ask(header + " -H 'Accept: application/json'", "/latest/meta-data")
        self.assertEqual((status, json.loads(body)), (200, DOCUMENT["latest"]["meta-data"]))
        self.assertEqual(self.ask(header, "/latest/nothing")[0], 404)
        self.assertEqual(self.ask(header, "/%zz")[0], 400)
        self.assertEqual(self.ask(header + " -X POST", "/latest")[0], 405)
        self.assertEqual(self.ask(header, "/latest/api/token")[0], 405)
        self.assertEqual(self.ask(header + " -d body", "/latest")[0], 413)

    def test_without_a_token_that_lives_nothing_is_read(self):
        self.assertEqual(self.ask("", "/latest")[0], 401)
        self.assertEqual(self.ask("-H 'X-aws-ec2-metadata-token: 0123'", "/latest")[0], 401)
        put = "-X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: "
        self.assertEqual(self.ask(put + "0'", "/latest/api/token")[0], 400)
        self.assertEqual(self.ask(put + "21601'", "/latest/api/token")[0], 400)
        self.assertEqual(self.ask(put + "60' -H 'X-Forwarded-For: 10.0.0.1'", "/latest/api/token")[0], 403)
        header = f"-H 'X-aws-ec2-metadata-token: {self.token(1)}'"
        self.guest("one", "sleep 1.2")
        self.assertEqual(self.ask(header, "/latest")[0], 401)

    def test_slow_clients_are_no_trouble_to_others_and_the_address_is_loopback_only(self):
        self.guest("one", "for i in 1 2 3 4 5 6 7 8; do (sleep 9 | nc 169.254.169.254 80 >/dev/null 2>&1 &) ; done")
        status, _ = self.ask(f"-H 'X-aws-ec2-metadata-token: {self.token()}'", "/latest")
        self.assertEqual(status, 200)
        self.assertIn("inet 169.254.169.254/32", self.guest("one", "ip address show lo"))
        self.assertNotIn("169.254", self.guest("one", "ip route"))


class AgentCommandTest(MetadataCase):
    def test_the_agent_reads_it_without_a_network_and_a_large_document_whole(self):
        large = "x" * 200_000
        self.boot("one", json.dumps({"large": large, "b": {"c": [1, 2]}}))
        self.assertEqual(self.guest("one", f"{AGENT} /large | sha256sum").split()[0],
                         harness.sha256((large + "\n").encode()))
        self.assertEqual(self.guest("one", f"{AGENT} --json b"), '{"c":[1,2]}\n')
        self.assertEqual(self.guest("one", AGENT), "b/\nlarge\n")
        self.assertIn("404", self.guest("one", f"{AGENT} /none 2>&1", code=1))
        self.assertEqual(self.guest("one", f"{AGENT} --bad", code=2), "")

    def test_a_guest_without_metadata_has_no_address_for_it(self):
        self.boot("one", None)
        self.assertNotIn("169.254", self.guest("one", "ip address show lo"))
        self.assertIn("this guest has none", self.guest("one", f"{AGENT} / 2>&1", code=1))


class UpdateTest(MetadataCase):
    def update(self, vm_id, **spec):
        request = vm_pb.UpdateVmRequest(vm_id=vm_id, spec=vm_pb.VmSpec(**spec),
                                        update_mask=field_mask_pb2.FieldMask(paths=["metadata"]))
        return self.daemon.api.UpdateVm(request).vm

    def test_a_document_comes_changes_and_goes_while_the_guest_runs(self):
        self.boot("one", None)
        self.assertFalse(self.daemon.get("one").HasField("metadata"))
        first = self.update("one", metadata=document_of("first"))
        harness.wait_until(lambda: "lo:mayfly" in self.guest("one", "ip address show lo"), "the guest listens", 20)
        self.assertEqual(self.hostname("one"), "first")
        second = self.update("one", metadata=document_of("second"))
        self.assertNotEqual(second.metadata.version, first.metadata.version)
        self.assertEqual(self.hostname("one"), "second")
        self.assert_refused(lambda: self.update("one", metadata="[]"), "INVALID_ARGUMENT", "METADATA", "JSON object")
        self.assertEqual(self.hostname("one"), "second")
        self.assertFalse(self.update("one").HasField("metadata"))
        harness.wait_until(lambda: "169.254" not in self.guest("one", "ip address show lo"), "the address goes", 20)
        self.assertIn("this guest has none", self.guest("one", f"{AGENT} / 2>&1", code=1))


class IdentityTest(MetadataCase):
    def overrides(self, **fields):
        disks = [snapshot_pb.DiskOverride(index=0, path=str(harness.ROOTFS))]
        return snapshot_pb.RestoreOverrides(disks=disks, **fields)

    def test_restored_and_cloned_guests_read_their_own_and_never_their_source_s(self):
        self.boot("one", document_of("one"))
        # One that reads all the time, over the save and what comes of it, each time by a token of its own.
        self.guest("one", f"(while :; do {AGENT} /latest/meta-data/hostname; done >/tmp/seen 2>&1 &)")
        harness.wait_until(lambda: self.hostname("one") == "one", "the guest reads", 30)
        api = self.daemon.api
        api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"))
        api.RestoreVm(snapshot_pb.RestoreVmRequest(snapshot_id="s", vm_id="two", start=True,
                                                   overrides=self.overrides(metadata=document_of("two"))))
        api.RestoreVm(snapshot_pb.RestoreVmRequest(snapshot_id="s", vm_id="none", start=True,
                                                   overrides=self.overrides()))
        clones = [snapshot_pb.Clone(vm_id=vm_id, overrides=self.overrides(metadata=document_of(vm_id)))
                  for vm_id in ("c0", "c1")]
        for response in api.CloneVm(snapshot_pb.CloneVmRequest(source_vm_id="one", clones=clones, start=True)):
            self.assertTrue(response.HasField("vm"), response)
        for vm_id in ("two", "c0", "c1"):
            self.daemon.wait_ready(vm_id)
            self.assertEqual(self.hostname(vm_id), vm_id)
            # Once it reads its own, it never reads another's again: what the loop saw is one name, then the other,
            # and between them no more than the refusals of tokens that were the source's.
            harness.wait_until(lambda v=vm_id: f"\n{v}\n" in self.guest(v, "cat /tmp/seen"), "the loop goes on", 30)
            seen = self.guest(vm_id, "cat /tmp/seen").splitlines()
            first = seen.index(vm_id)
            self.assertEqual({line for line in seen[:first] if "metadata:" not in line}, {"one"})
            self.assertEqual(set(seen[first:]), {vm_id})
        self.daemon.wait_ready("none")
        self.assertIn("metadata:", self.guest("none", f"{AGENT} / 2>&1", code=1))
        self.assertEqual(self.hostname("one"), "one")

    def test_a_source_s_token_is_void_in_its_clone(self):
        self.boot("one", document_of("one"))
        # The token of a request that the agent's command made is not shown, so that this one is made by hand.
        put = ("printf 'PUT /latest/api/token HTTP/1.1\\r\\nX-aws-ec2-metadata-token-ttl-seconds: 600\\r\\n\\r\\n' | "
               "nc 169.254.169.254 80 | tail -n 1 > /tmp/token")
        get = ("printf 'GET /latest/meta-data/hostname HTTP/1.1\\r\\nX-aws-ec2-metadata-token: %s\\r\\n\\r\\n' "
               "$(cat /tmp/token) | nc 169.254.169.254 80")
        self.guest("one", put)
        self.assertTrue(self.guest("one", get).endswith("\r\n\r\none"))
        clones = [snapshot_pb.Clone(vm_id="c0", overrides=self.overrides(metadata=document_of("c0")))]
        list(self.daemon.api.CloneVm(snapshot_pb.CloneVmRequest(source_vm_id="one", clones=clones, start=True)))
        self.daemon.wait_ready("c0")
        self.assertTrue(self.guest("c0", get).startswith("HTTP/1.1 401 "))
        self.guest("c0", put)
        self.assertTrue(self.guest("c0", get).endswith("\r\n\r\nc0"))
