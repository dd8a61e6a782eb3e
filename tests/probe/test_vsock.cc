// SPDX-License-Identifier: Apache-2.0
//
// One connection to the host, by hand: REQUEST, then RST or RESPONSE, and where it stands, bytes
// both ways and an orderly end. Virtio 1.2, 5.10.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"
#include "tests/probe/vsock.h"

namespace probe {
namespace {

constexpr uint32_t kOwnPort = 5000;
constexpr uint32_t kOwnBuffer = 64 * 1024;

struct Packet {
  VsockHeader header;
  uint8_t data[4096 - sizeof(VsockHeader)];
};

constinit Queue receive_queue{};
constinit Queue transmit_queue{};
constinit Queue event_queue{};
alignas(4096) constinit Packet arrivals[8] = {};
alignas(4096) constinit Packet departure{};
constinit Device device(0);
uint32_t forwarded = 0;
uint32_t target_port = 0;

const char* name_of_operation(uint16_t operation) {
  constexpr const char* kNames[] = {"invalid",  "request", "response",      "rst",
                                    "shutdown", "rw",      "credit-update", "credit-request"};
  return operation < 8 ? kNames[operation] : "unknown";
}

void offer(Packet& packet) {
  receive_queue.add({{&packet, sizeof(packet), true}});
  device.kick(kVsockReceive);
}

void send(uint16_t operation, const char* text, uint32_t flags) {
  uint32_t length = 0;
  while (text[length] != '\0')
    departure.data[length] = static_cast<uint8_t>(text[length]), ++length;
  departure.header = {device.config64(0), kVsockHostCid, kOwnPort, target_port, length,
                      kVsockStream,       operation,     flags,    kOwnBuffer,  forwarded};
  UsedElement element;
  transmit_queue.add({{&departure, static_cast<uint32_t>(sizeof(VsockHeader) + length), false}});
  device.kick(kVsockTransmit);
  require(wait(device, transmit_queue, element, kPatience) == Outcome::kUsed,
          "a packet was not taken");
}

// The next packet from the host; its buffer is offered again before the next one is awaited.
Packet& receive() {
  static Packet* last = nullptr;
  if (last != nullptr) offer(*last);
  UsedElement element;
  require(wait(device, receive_queue, element, kPatience) == Outcome::kUsed, "no packet came");
  const uint64_t at = receive_queue.descriptors[element.id % receive_queue.size()].address;
  last = &arrivals[(at - address_of(arrivals)) / sizeof(Packet)];
  const VsockHeader& header = last->header;
  require(element.length == sizeof(VsockHeader) + header.length,
          "a packet's length is not its header's");
  require(header.source_cid == kVsockHostCid && header.target_port == kOwnPort,
          "a packet for another");
  Line() << "got " << name_of_operation(header.operation) << " length=" << header.length
         << " buffer=" << header.buffer << " forwarded=" << header.forwarded;
  return *last;
}

// Sends a line, returns what one RW packet brings, ends the connection.
void talk() {
  send(kVsockRw, "hello from the probe\n", 0);
  if (option_is("expect", "data")) {
    Packet* packet = &receive();
    while (packet->header.operation != kVsockRw) {
      require(packet->header.operation != kVsockRst, "reset instead of data");
      packet = &receive();
    }
    forwarded += packet->header.length;
    packet->data[packet->header.length < 100 ? packet->header.length : 100] = 0;
    Line() << "data " << text_of(packet->data);
  }
  send(kVsockShutdown, "", kVsockBothDirections);
  while (receive().header.operation != kVsockRst) {
  }
}

}  // namespace

void test_vsock() {
  start_report();
  device = Device::find(DeviceId::kVsock);
  require(device.exists(), "no vsock device");
  device.negotiate(0);
  device.set_up(kVsockReceive, receive_queue, 8);
  device.set_up(kVsockTransmit, transmit_queue, 8);
  device.set_up(kVsockEvent, event_queue, 8);
  device.go();
  target_port = static_cast<uint32_t>(number_option("vsock_port", 1024));
  {
    Line() << "cid " << device.config64(0);
  }
  for (Packet& packet : arrivals) offer(packet);
  send(kVsockRequest, "", 0);
  const uint16_t answer = receive().header.operation;
  require(answer == kVsockResponse || answer == kVsockRst, "neither response nor rst");
  if (option_is("expect", "rst")) require(answer == kVsockRst, "a connection nobody was to accept");
  if (option_is("expect", "data")) require(answer == kVsockResponse, "no connection");
  if (answer == kVsockResponse) talk();
}

}  // namespace probe
