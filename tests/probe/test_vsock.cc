// SPDX-License-Identifier: Apache-2.0
//
// One connection to the host, by hand: REQUEST, then RST or RESPONSE, and where it stands, bytes
// both ways and an orderly end. Virtio 1.2, 5.10.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

namespace probe {
namespace {

constexpr uint32_t kReceive = 0, kTransmit = 1, kEvent = 2;
constexpr uint16_t kStream = 1;
constexpr uint64_t kHostCid = 2;
constexpr uint32_t kOwnPort = 5000;
constexpr uint32_t kOwnBuffer = 64 * 1024;
constexpr uint16_t kRequest = 1, kResponse = 2, kRst = 3, kShutdown = 4, kRw = 5;
constexpr uint32_t kBothDirections = 3;

struct Header {
  uint64_t source_cid;
  uint64_t target_cid;
  uint32_t source_port;
  uint32_t target_port;
  uint32_t length;
  uint16_t type;
  uint16_t operation;
  uint32_t flags;
  uint32_t buffer;
  uint32_t forwarded;
} __attribute__((packed));
static_assert(sizeof(Header) == 44);

struct Packet {
  Header header;
  uint8_t data[4096 - sizeof(Header)];
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
  device.kick(kReceive);
}

void send(uint16_t operation, const char* text, uint32_t flags) {
  uint32_t length = 0;
  while (text[length] != '\0')
    departure.data[length] = static_cast<uint8_t>(text[length]), ++length;
  departure.header = {device.config64(0), kHostCid, kOwnPort,   target_port, length, kStream,
                      operation,          flags,    kOwnBuffer, forwarded};
  UsedElement element;
  transmit_queue.add({{&departure, static_cast<uint32_t>(sizeof(Header) + length), false}});
  device.kick(kTransmit);
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
  const Header& header = last->header;
  require(element.length == sizeof(Header) + header.length,
          "a packet's length is not its header's");
  require(header.source_cid == kHostCid && header.target_port == kOwnPort, "a packet for another");
  Line() << "got " << name_of_operation(header.operation) << " length=" << header.length
         << " buffer=" << header.buffer << " forwarded=" << header.forwarded;
  return *last;
}

// Sends a line, returns what one RW packet brings, ends the connection.
void talk() {
  send(kRw, "hello from the probe\n", 0);
  if (option_is("expect", "data")) {
    Packet* packet = &receive();
    while (packet->header.operation != kRw) {
      require(packet->header.operation != kRst, "reset instead of data");
      packet = &receive();
    }
    forwarded += packet->header.length;
    packet->data[packet->header.length < 100 ? packet->header.length : 100] = 0;
    Line() << "data " << text_of(packet->data);
  }
  send(kShutdown, "", kBothDirections);
  while (receive().header.operation != kRst) {
  }
}

}  // namespace

void test_vsock() {
  start_report();
  device = Device::find(DeviceId::kVsock);
  require(device.exists(), "no vsock device");
  device.negotiate(0);
  device.set_up(kReceive, receive_queue, 8);
  device.set_up(kTransmit, transmit_queue, 8);
  device.set_up(kEvent, event_queue, 8);
  device.go();
  target_port = static_cast<uint32_t>(number_option("vsock_port", 1024));
  {
    Line() << "cid " << device.config64(0);
  }
  for (Packet& packet : arrivals) offer(packet);
  send(kRequest, "", 0);
  const uint16_t answer = receive().header.operation;
  require(answer == kResponse || answer == kRst, "neither response nor rst");
  if (option_is("expect", "rst")) require(answer == kRst, "a connection nobody was to accept");
  if (option_is("expect", "data")) require(answer == kResponse, "no connection");
  if (answer == kResponse) talk();
}

}  // namespace probe
