# SPDX-License-Identifier: Apache-2.0
"""Linux guests' networks through real tap devices: addresses by themselves, traffic both ways, and identity."""

import json
import os
import pathlib
import subprocess

import harness
from harness import snapshot_pb, template_pb, vm_pb
from program_disk import make_program_disk

AUTOMATIC = [vm_pb.Net(automatic=True)]
IPERF_S = 4


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def host_devices():
    return {device["ifname"] for device in json.loads(ip("-j", "link", "show"))}


class NetworkCase(harness.Case):
    def setUp(self):
        super().setUp()
        self.daemon = self.start_daemon("--snapshot-dir", self.dir / "snapshots")
        self.daemon.need_linux_guests()

    def boot(self, vm_id, nets=None, **spec):
        self.daemon.create(vm_id, memory_mib=128, nets=nets or AUTOMATIC, **spec)
        self.daemon.wait_ready(vm_id)
        return self.nets(vm_id)

    def nets(self, vm_id):
        return self.daemon.get(vm_id).spec.nets

    def guest(self, vm_id, command):
        result = self.daemon.exec(vm_id, command)
        self.assert_command(result, 0, err=b"")
        return result.out.decode()

    def assert_pings(self, vm_id, net, netns=()):
        """Both ways."""
        host, guest = net.host_address.split("/")[0], net.guest.address.split("/")[0]
        self.assertIn("3 packets received, 0% packet loss", self.guest(vm_id, f"ping -c 3 -A {host}").replace(
            "3 received", "3 packets received"))
        subprocess.run([*netns, "ping", "-c", "3", "-i", "0.2", guest], check=True, stdout=subprocess.DEVNULL)


class TapTest(NetworkCase):
    def test_a_guest_has_an_address_by_itself_and_is_reached_both_ways(self):
        before = host_devices()
        net, = self.boot("one")
        self.assertEqual(host_devices() - before, {net.tap})
        self.assertRegex(net.host_address, r"^10\.213\.\d+\.\d+/30$")
        shown = self.guest("one", "ip address show eth0; ip route")
        self.assertIn(f"inet {net.guest.address}", shown)
        self.assertIn(f"link/ether {net.mac}", shown)
        self.assertIn(f"mtu {net.mtu}", shown)
        self.assertIn(f"default via {net.guest.gateway}", shown)
        self.assert_pings("one", net)
        # The guest is not heard where it would change the host's routes.
        self.assertEqual(pathlib.Path(f"/proc/sys/net/ipv6/conf/{net.tap}/disable_ipv6").read_text().strip(), "1")
        self.daemon.delete("one", force=True)
        harness.wait_until(lambda: host_devices() == before, "the tap device has gone", 10)
        again, = self.boot("two")
        self.assertNotEqual(again.mac, net.mac)

    def test_two_devices_are_two_networks(self):
        first, second = self.boot("one", nets=[vm_pb.Net(automatic=True), vm_pb.Net(
            host_address="192.168.77.1/24", mac="02:00:00:00:77:02", mtu=1400,
            guest=vm_pb.GuestNetwork(address="192.168.77.2/24"))])
        shown = self.guest("one", "ip address show eth1")
        self.assertIn("192.168.77.2/24", shown)
        self.assertIn("link/ether 02:00:00:00:77:02", shown)
        self.assertIn("mtu 1400", shown)
        self.assert_pings("one", first)
        self.assert_pings("one", second)

    def test_a_device_that_is_there_is_taken_and_stays_in_a_namespace_and_on_a_bridge(self):
        name = f"mf-{os.getpid()}"
        ip("netns", "add", name)
        self.addCleanup(ip, "netns", "delete", name)
        inside = ("ip", "netns", "exec", name)
        ip("-n", name, "link", "add", "br0", "type", "bridge")
        ip("-n", name, "address", "add", "10.9.0.1/24", "dev", "br0")
        ip("-n", name, "link", "set", "br0", "up")
        ip("-n", name, "tuntap", "add", "own0", "mode", "tap", "vnet_hdr")
        ip("-n", name, "link", "set", "own0", "master", "br0", "up")
        guests = {}
        for number, net in enumerate((vm_pb.Net(tap="own0"), vm_pb.Net(tap="made0", bridge="br0")), 2):
            net.network_namespace = f"/run/netns/{name}"
            net.guest.address = f"10.9.0.{number}/24"
            guests[number], = self.boot(f"n{number}", nets=[net])
            guests[number].host_address = "10.9.0.1/24"
            self.assert_pings(f"n{number}", guests[number], inside)
        # Through the bridge, from one to the other.
        self.assertIn("2 packets transmitted", self.guest("n2", "ping -c 2 -A 10.9.0.3"))
        self.assert_refused(lambda: self.daemon.create("n4", nets=[vm_pb.Net(
            tap="own0", network_namespace=f"/run/netns/{name}")]), "FAILED_PRECONDITION", "NET_IN_USE")
        for vm_id in ("n2", "n3"):
            self.daemon.delete(vm_id, force=True)
        harness.wait_until(lambda: "made0" not in ip("-n", name, "link"), "what was made goes", 10)
        self.assertIn("own0", ip("-n", name, "link"))


class TrafficTest(NetworkCase):
    def measure(self, command, *options):
        """Mbit/s that arrived, and how often TCP had to send again."""
        result = self.daemon.exec("one", f"{command} -c {self.host} -t {IPERF_S} -J {' '.join(options)}")
        self.assert_command(result, 0, err=b"")
        end = json.loads(result.out)["end"]
        return {"mbit_s": round(end["sum_received"]["bits_per_second"] / 1e6),
                "sent_again": end.get("sum_sent", {}).get("retransmits", 0)}

    def test_iperf3_both_ways(self):
        image, command = make_program_disk(self.dir, "iperf3")
        net, = self.boot("one", disks=[vm_pb.Disk(path=str(image), read_only=True)])
        self.host = net.host_address.split("/")[0]
        self.guest("one", "mount -o ro /dev/vdb /mnt")
        server = subprocess.Popen(["iperf3", "-s", "-B", self.host], stdout=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.terminate)
        figures = {"out": self.measure(command), "in": self.measure(command, "-R")}
        for name, figure in figures.items():
            self.assertGreater(figure["mbit_s"], 1, name)
        stats = self.stop("one")
        self.assertGreater(stats.net_rx_bytes, 1 << 20)
        self.assertGreater(stats.net_tx_bytes, 1 << 20)
        self.assertEqual(stats.net_dropped, 0)
        # Segments of the guest's TCP go through whole: frames are larger than the MTU.
        self.assertGreater(stats.net_tx_bytes / stats.net_tx_frames, 1514)
        per_frame = {"out": round(stats.net_tx_bytes / stats.net_tx_frames),
                     "in": round(stats.net_rx_bytes / stats.net_rx_frames)}
        harness.print_figures("iperf3 of a Linux guest through a tap device", **figures, bytes_per_frame=per_frame)

    def stop(self, vm_id):
        return self.daemon.api.StopVm(vm_pb.StopVmRequest(vm_id=vm_id, grace_ms=20_000)).vm.exit.stats


class IdentityTest(NetworkCase):
    def overrides(self, **fields):
        disks = [snapshot_pb.DiskOverride(index=0, path=str(harness.ROOTFS))]
        return snapshot_pb.RestoreOverrides(disks=disks, **fields)

    def test_restored_and_cloned_guests_have_addresses_of_their_own(self):
        original, = self.boot("one")
        api = self.daemon.api
        api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"))
        self.assert_pings("one", original)
        api.RestoreVm(snapshot_pb.RestoreVmRequest(snapshot_id="s", vm_id="two", start=True,
                                                   overrides=self.overrides()))
        named = vm_pb.Net(tap="mf-named", host_address="192.168.78.1/24", mac="02:00:00:00:78:02",
                          guest=vm_pb.GuestNetwork(address="192.168.78.2/24", gateway="192.168.78.1"))
        api.RestoreVm(snapshot_pb.RestoreVmRequest(
            snapshot_id="s", vm_id="three", start=True,
            overrides=self.overrides(nets=[snapshot_pb.NetOverride(index=0, net=named)])))
        clones = [snapshot_pb.Clone(vm_id=vm_id, overrides=self.overrides()) for vm_id in ("c0", "c1")]
        for response in api.CloneVm(snapshot_pb.CloneVmRequest(source_vm_id="one", clones=clones, start=True)):
            self.assertTrue(response.HasField("vm"), response)
        seen = {original.mac}
        for vm_id in ("two", "three", "c0", "c1"):
            self.daemon.wait_ready(vm_id)
            net, = self.nets(vm_id)
            self.assertNotIn(net.mac, seen)
            seen.add(net.mac)
            shown = self.guest(vm_id, "ip address show eth0; ip route")
            self.assertIn(f"inet {net.guest.address}", shown)
            self.assertIn(f"link/ether {net.mac}", shown)
            self.assertNotIn(original.guest.address.split("/")[0], shown)
            self.assert_pings(vm_id, net)
        self.assertEqual(self.nets("three")[0].tap, "mf-named")
        self.assert_pings("one", original)

    def test_a_parked_shell_gets_its_device_with_the_claim(self):
        self.boot("one")
        api = self.daemon.api
        api.CreateSnapshot(snapshot_pb.CreateSnapshotRequest(vm_id="one", snapshot_id="s"))
        api.PrepareTemplate(template_pb.PrepareTemplateRequest(template_id="t", snapshot_id="s", shells=1))
        asked = template_pb.GetTemplateRequest(template_id="t")
        harness.wait_until(lambda: api.GetTemplate(asked).template.shells.ready == 1, "a shell waits", 60)
        response = api.RestoreVm(snapshot_pb.RestoreVmRequest(template_id="t", vm_id="two", start=True,
                                                              overrides=self.overrides()))
        self.assertTrue(response.vm.from_shell)
        self.daemon.wait_ready("two")
        self.assert_pings("two", self.nets("two")[0])
