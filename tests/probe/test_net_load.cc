// SPDX-License-Identifier: Apache-2.0
//
// Frames that somebody sends back, `depth` of them under way at all times: UDP to kPeer, which the
// host at the device's other end routes to the guest again. Virtio 1.2, 5.1.
#include "tests/probe/load.h"

namespace probe {
namespace {

constexpr uint32_t kReceive = 0, kTransmit = 1;
constexpr uint16_t kReceiveBuffers = 64, kMaxDepth = 32;
constexpr uint16_t kQueueSize = 128;
constexpr uint32_t kSource = 0x0a4d0003, kPeer = 0x0a4d0002;  // 10.77.0.3 and 10.77.0.2
constexpr uint64_t kMacFeature = 1 << 5;
constexpr uint32_t kMaxFrame = 1514;
// Of Ethernet, IPv4 and UDP.
constexpr uint32_t kEthernet = 14, kIp = 20, kUdp = 8;

struct Frame {
  uint8_t header[12];  // of virtio-net; all zero: no offloads
  uint8_t bytes[2048 - 12];
};

constinit Queue receive_queue{};
constinit Queue transmit_queue{};
constinit Device device(0);
alignas(4096) Frame arrivals[kReceiveBuffers];
alignas(4096) Frame departures[kMaxDepth];

void put16(uint8_t* at, uint32_t value) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

void put32(uint8_t* at, uint32_t value) {
  put16(at, value >> 16);
  put16(at + 2, value);
}

void put_mac(uint8_t* at, uint64_t mac) {
  put16(at, static_cast<uint32_t>(mac >> 32));
  put32(at + 2, static_cast<uint32_t>(mac));
}

uint64_t own_mac() {
  uint64_t mac = 0;
  for (uint64_t i = 0; i < 6; ++i)
    mac = mac << 8 | read_register<uint8_t>(device.base() + kConfig + i);
  return mac;
}

uint16_t checksum(const uint8_t* bytes, uint32_t size) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < size; i += 2) sum += static_cast<uint32_t>(bytes[i] << 8 | bytes[i + 1]);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

// A frame of `size` bytes for the host's routes to send back.
void make_frame(uint8_t* frame, uint32_t size) {
  put_mac(frame, number_option("host_mac", 0));
  put_mac(frame + 6, own_mac());
  put16(frame + 12, 0x0800);
  uint8_t* ip = frame + kEthernet;
  ip[0] = 0x45;
  put16(ip + 2, size - kEthernet);
  ip[8] = 64;
  ip[9] = 17;
  put32(ip + 12, kSource);
  put32(ip + 16, kPeer);
  put16(ip + 10, checksum(ip, kIp));
  uint8_t* udp = ip + kIp;
  put16(udp, 9);
  put16(udp + 2, 9);
  put16(udp + 4, size - kEthernet - kIp);  // The checksum stays 0: none.
}

void start_device() {
  device = Device::find(DeviceId::kNet);
  require(device.exists(), "no network device");
  device.negotiate(kMacFeature | kEventIdxFeature);
  device.set_up(kReceive, receive_queue, kQueueSize);
  device.set_up(kTransmit, transmit_queue, kQueueSize);
  device.go();
}

// Others than the frame's echo, as the host's own, are passed over.
bool is_echo(const Frame& frame, uint32_t length, uint32_t size) {
  const uint8_t* ip = frame.bytes + kEthernet;
  return length == sizeof(frame.header) + size && ip[9] == 17 && ip[19] == (kPeer & 0xff);
}

}  // namespace

void test_net_load() {
  const uint64_t count = number_option("count", 10'000);
  const uint64_t depth = number_option("depth", kMaxDepth);
  const auto size = static_cast<uint32_t>(number_option("size", kMaxFrame));
  require(depth >= 1 && depth <= kMaxDepth && count >= depth, "probe.depth= is out of range");
  require(size >= 60 && size <= kMaxFrame, "probe.size= is out of range");
  start_device();
  for (uint16_t slot = 0; slot < kReceiveBuffers; ++slot) {
    receive_queue.descriptors[slot] = {address_of(&arrivals[slot]), sizeof(Frame), kWrite, 0};
    receive_queue.publish(slot);
  }
  device.kick(kReceive);
  for (uint16_t slot = 0; slot < depth; ++slot) {
    make_frame(departures[slot].bytes, size);
    transmit_queue.descriptors[slot] = {address_of(&departures[slot]),
                                        static_cast<uint32_t>(sizeof(Frame::header)) + size, 0, 0};
  }
  Load load;
  uint64_t sent = 0, back = 0;
  // A slot's descriptor is the device's from its turn to its return; frames leave in their order.
  uint64_t returned = 0;
  while (back < count) {
    UsedElement element;
    while (transmit_queue.take(element)) ++returned;
    while (sent < count && sent - back < depth && sent - returned < depth) {
      transmit_queue.publish(static_cast<uint16_t>(sent++ % depth));
    }
    load.kick(device, kTransmit, transmit_queue);
    if (!receive_queue.take(element)) {
      load.idle();
      continue;
    }
    load.progress(receive_queue);
    transmit_queue.put_off_interrupts();
    do {
      require(element.id < kReceiveBuffers, "a buffer that was never made available");
      if (is_echo(arrivals[element.id], element.length, size)) ++back;
      receive_queue.publish(static_cast<uint16_t>(element.id));
    } while (receive_queue.take(element));
    load.kick(device, kReceive, receive_queue);
  }
  load.report(back, back * size);
}

}  // namespace probe
