// SPDX-License-Identifier: Apache-2.0
// The input programs both sides of the device, step by step: packets with any header in chains of
// any shape, receive and event buffers of any size, peers that send, read, half close and vanish,
// resets of the device and of the transport, connections from the host.
#include "virtio/vsock/vsock.h"

#include "virtio/vsock/testing/guest_side.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace mayfly;
using namespace mayfly::virtio::vsock;
using mayfly::virtio::vsock::testing::GuestSide;

constexpr size_t kMaxInput = 2048;
constexpr int kMaxResets = 4;

class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  uint32_t take(size_t size = 1) {
    uint32_t value = 0;
    for (size_t i = 0; i < size && !bytes_.empty(); ++i) {
      value |= uint32_t{bytes_.front()} << (8 * i);
      bytes_ = bytes_.subspan(1);
    }
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
};

class Program {
 public:
  explicit Program(Input& input)
      : input_(input),
        guest_({.rx_buffers = 4 + input.take() % 16,
                .rx_bytes = 1 + input.take() * 16,
                .event_idx = input.take() % 2 == 0}) {}

  void run() {
    while (!input_.empty()) step();
    guest_.settle();
  }

 private:
  void step() {
    switch (input_.take() % 18) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
        send_packet();
        break;
      case 5:
        send_garbage();
        break;
      case 6:
        add_port();
        break;
      case 7:
        add_connection();
        break;
      case 8:
      case 9:
        host_send();
        break;
      case 10:
        host_read();
        break;
      case 11:
        ::shutdown(pick().number(), input_.take() % 2 == 0 ? SHUT_RD : SHUT_WR);
        break;
      case 12:
        pick().reset();
        break;
      case 13:
        guest_.hoard = !guest_.hoard;
        break;
      case 14:
        if (resets_++ < kMaxResets) {
          guest_.reset();
          if (input_.take() % 4 != 0) guest_.turn();
          guest_.activate();
          given_ = 20;
          events_ = 0;
        }
        break;
      case 16:
        guest_.device().reset_transport();
        break;
      case 17:
        give_event_buffer();
        break;
      default:
        receive();
    }
  }

  Fd& pick() { return hosts_[input_.take() % hosts_.size()]; }

  uint32_t guest_port() { return input_.take() % 3; }
  uint32_t host_port() {
    const uint32_t kind = input_.take() % 6;
    if (kind < 3) return kind;
    return kFirstEphemeralPort + kind - 3;
  }

  void send_packet() {
    if (guest_.tx_under_way() > 30) return;
    Header header = guest_.header(kOpRw, guest_port(), host_port());
    const uint32_t shape = input_.take();
    header.op = static_cast<uint16_t>(shape % 10);
    header.flags = input_.take() % 4;
    header.buf_alloc = input_.take() * 100;
    header.fwd_cnt = taken_;
    if ((shape & 0x40) != 0) header.fwd_cnt = input_.take(4);
    if ((shape & 0x60) == 0x60) header.type = static_cast<uint16_t>(input_.take());
    if (shape == 0xff) header.src_cid = input_.take();
    const size_t size = header.op == kOpRw ? input_.take() * 500 : 0;
    guest_.send(header, std::string(size, 'x'));
  }

  void send_garbage() {
    if (guest_.tx_under_way() > 30) return;
    Header header = guest_.header(kOpRw, guest_port(), host_port());
    header.len = input_.take(2);
    const auto bytes = std::as_bytes(std::span(&header, 1));
    const size_t cut = input_.take() % sizeof(Header);
    auto& tx = guest_.driver(kTxQueue);
    guest_.send_chain({tx.readable(bytes.first(cut)), tx.readable(bytes.subspan(cut)),
                       tx.readable(std::string(input_.take() * 8, 'g')), tx.writable(cut)});
  }

  void give_event_buffer() {
    const uint32_t shape = input_.take();
    if (++events_ > 15) return;
    if (shape % 16 != 15) {
      guest_.give_event_buffer(shape % 8);
    } else {
      guest_.driver(kEventQueue).add({guest_.driver(kEventQueue).readable("read me")});
    }
  }

  void add_port() {
    auto [ours, theirs] = MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    if (guest_.device().add_host_port(input_.take() % 3, std::move(theirs))) keep(std::move(ours));
  }

  void add_connection() {
    auto [ours, theirs] = MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    if (guest_.device().connect(guest_port(), std::move(theirs))) keep(std::move(ours));
  }

  void keep(Fd host) { hosts_[kept_++ % hosts_.size()] = std::move(host); }

  void host_send() {
    const std::string bytes(1 + input_.take() * 300, 'h');
    (void)::send(pick().number(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  void host_read() {
    std::string bytes(1 + input_.take() * 300, '\0');
    (void)::recv(pick().number(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  }

  void receive() {
    guest_.turn();
    if (guest_.hoard && given_ < 60) {
      guest_.give_buffers(2);
      given_ += 2;
    }
    for (int i = 0; i < 8; ++i) {
      const auto packet = guest_.next();
      if (!packet) break;
      taken_ += static_cast<uint32_t>(packet->payload.size());
    }
  }

  Input& input_;
  GuestSide guest_;
  std::array<Fd, 6> hosts_;
  size_t kept_ = 0;
  int resets_ = 0;
  int given_ = 20;
  int events_ = 0;
  uint32_t taken_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input input({data, std::min(size, kMaxInput)});
  Program(input).run();
  return 0;
}
