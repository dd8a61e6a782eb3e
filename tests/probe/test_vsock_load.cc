// SPDX-License-Identifier: Apache-2.0
//
// One connection to the host that carries bytes one way, as Linux would: packets of up to 64 KiB to
// the host, buffers of 4 KiB for what it sends, credit told when less than 64 KiB of it is left.
// Virtio 1.2, 5.10.
#include "tests/probe/load.h"
#include "tests/probe/vsock.h"

namespace probe {
namespace {

constexpr uint16_t kQueueSize = 128;
constexpr uint16_t kArrivals = 128, kDepartures = 32;
constexpr uint32_t kOutgoing = 64 * 1024;
constexpr uint32_t kOwnBuffer = 256 * 1024;
constexpr uint32_t kTellBelow = 64 * 1024;

struct Arrival {
  VsockHeader header;
  uint8_t data[4096];
};

constinit Queue receive_queue{};
constinit Queue transmit_queue{};
constinit Queue event_queue{};
constinit Device device(0);
Arrival arrivals[kArrivals];
VsockHeader departures[kDepartures];
alignas(4096) uint8_t data[kOutgoing];

/// One connection: what either side may send, and has.
struct Stream {
  Load* load = nullptr;
  uint64_t guest_cid = 0;
  uint32_t sent = 0;
  uint32_t received = 0;
  uint32_t told = 0;
  uint32_t peer_buffer = 0;
  uint32_t peer_forwarded = 0;
  uint16_t last_operation = 0;
  // Of departures, as a ring.
  uint32_t queued = 0;
  uint32_t returned = 0;

  uint32_t credit() const { return peer_buffer - (sent - peer_forwarded); }
  bool has_room() {
    UsedElement element;
    while (transmit_queue.take(element)) ++returned;
    return queued - returned < kDepartures;
  }
  void send(uint16_t operation, uint32_t length, uint32_t flags = 0);
  bool receive();
  void await(uint16_t operation);
};

// Two descriptors a packet: its header, and its bytes where it has any.
void Stream::send(uint16_t operation, uint32_t length, uint32_t flags) {
  while (!has_room()) load->idle();
  const auto slot = static_cast<uint16_t>(queued++ % kDepartures);
  departures[slot] = {.source_cid = guest_cid,
                      .target_cid = kVsockHostCid,
                      .source_port = 5000,
                      .target_port = static_cast<uint32_t>(number_option("vsock_port", 1024)),
                      .length = length,
                      .type = kVsockStream,
                      .operation = operation,
                      .flags = flags,
                      .buffer = kOwnBuffer,
                      .forwarded = received};
  const auto first = static_cast<uint16_t>(slot * 2), second = static_cast<uint16_t>(first + 1);
  const uint16_t flag = length > 0 ? kNext : 0;
  transmit_queue.descriptors[first] = {address_of(&departures[slot]), sizeof(VsockHeader), flag,
                                       second};
  transmit_queue.descriptors[second] = {address_of(data), length, 0, 0};
  transmit_queue.publish(first);
  load->kick(device, kVsockTransmit, transmit_queue);
  sent += length;
  told = received;
}

// Takes what the host has sent; whether there was anything.
bool Stream::receive() {
  UsedElement element;
  if (!receive_queue.take(element)) return false;
  load->progress(receive_queue);
  do {
    require(element.id < kArrivals, "a buffer that was never made available");
    const VsockHeader& header = arrivals[element.id].header;
    require(element.length == sizeof(VsockHeader) + header.length,
            "a packet's length is not its header's");
    peer_buffer = header.buffer;
    peer_forwarded = header.forwarded;
    received += header.length;
    last_operation = header.operation;
    receive_queue.publish(static_cast<uint16_t>(element.id));
  } while (receive_queue.take(element));
  load->kick(device, kVsockReceive, receive_queue);
  if (kOwnBuffer - (received - told) < kTellBelow) send(kVsockCreditUpdate, 0);
  return true;
}

void Stream::await(uint16_t operation) {
  while (last_operation != operation) {
    if (!receive()) load->idle();
  }
}

void start_device() {
  device = Device::find(DeviceId::kVsock);
  require(device.exists(), "no vsock device");
  device.negotiate(kEventIdxFeature);
  device.set_up(kVsockReceive, receive_queue, kQueueSize);
  device.set_up(kVsockTransmit, transmit_queue, kQueueSize);
  device.set_up(kVsockEvent, event_queue, 8);
  device.go();
  for (uint16_t slot = 0; slot < receive_queue.size(); ++slot) {
    receive_queue.descriptors[slot] = {address_of(&arrivals[slot]), sizeof(Arrival), kWrite, 0};
    receive_queue.publish(slot);
  }
  device.kick(kVsockReceive);
}

void send_all(Stream& stream, uint32_t total) {
  while (stream.sent < total) {
    uint32_t size = total - stream.sent;
    if (size > kOutgoing) size = kOutgoing;
    if (size > stream.credit()) size = stream.credit();
    if (size > 0 && stream.has_room()) {
      stream.send(kVsockRw, size);
    } else if (!stream.receive()) {
      stream.load->idle();
    }
  }
}

}  // namespace

void test_vsock_load() {
  const auto total = static_cast<uint32_t>(number_option("bytes", 16 << 20));
  const bool inwards = option_is("way", "in");
  start_report();
  start_device();
  Load load;
  Stream stream{.load = &load, .guest_cid = device.config64(0)};
  stream.send(kVsockRequest, 0);
  stream.await(kVsockResponse);
  if (inwards) {
    while (stream.received < total) {
      if (!stream.receive()) load.idle();
    }
  } else {
    send_all(stream, total);
  }
  // Its answer comes after all that was sent has been taken.
  stream.send(kVsockShutdown, 0, kVsockBothDirections);
  stream.await(kVsockRst);
  require(inwards ? stream.received == total : stream.sent == total, "bytes got lost");
  load.report((total + 4095) / 4096, total);
}

}  // namespace probe
