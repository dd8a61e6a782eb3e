// SPDX-License-Identifier: Apache-2.0
#include "daemon/handler_source.h"

#include "daemon/text.h"
#include "daemon/unix_socket_sys.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace mayfly::daemon {

namespace {

constexpr auto kReadyLimit = std::chrono::seconds(10);
// So that a caller's going away is noticed.
constexpr int kPollSliceMs = 100;
constexpr size_t kHeadBytes = 2 * sizeof(uint32_t);

std::unexpected<Error> broken(const char* what) {
  return fail({Code::kUnavailable, "HANDLER_PROTOCOL"}, "the memory's handler: %s", what);
}

std::unexpected<Error> gone() {
  return fail({Code::kUnavailable, "HANDLER_GONE"},
              "the memory's handler ended before all of the memory was there");
}

/// The next packet, or nothing.
Result<std::optional<HandlerSays>> hear(FdRef socket) {
  // Room for one byte too many.
  std::array<std::byte, kHeadBytes + kMaxHandlerText + 1> buffer;
  const auto size = receive_packet(socket, buffer);
  if (!size) {
    if (size.error().reason() == "MONITOR_REPLY") return broken("its packet is too long");
    return gone();
  }
  if (!*size) return std::nullopt;
  if (**size == 0) return gone();
  return TRY(parse_handler(std::span(buffer).first(**size)));
}

class HandlerFill final : public MemoryFill {
 public:
  HandlerFill(Fd socket, MissingMemory memory, MemorySource::EndHook ended)
      : socket_(std::move(socket)),
        size_bytes_(memory.size_bytes),
        memory_(std::move(memory)),
        ended_(std::move(ended)) {}

  Result<> watch(Reactor& reactor) {
    watch_ = TRY(reactor.watch(socket_.ref(), EPOLLIN | EPOLLRDHUP,
                               [this](uint32_t) { return on_packet(); }));
    return {};
  }

  // It fills as it likes.
  void hurry() override {}
  void stop() override {
    is_stopped_ = true;
    // The handler sees that, and so does our own watch.
    ::shutdown(socket_.number(), SHUT_RDWR);
  }
  FillProgress progress() const override {
    return {.filled_bytes = is_complete_ ? size_bytes_ : 0, .source_bytes = size_bytes_};
  }

 private:
  WatchVerdict on_packet() {
    auto says = hear(socket_.ref());
    if (says && !*says) return WatchVerdict::kKeep;
    Result<> result = says ? take(**says) : std::unexpected(says.error());
    if (is_stopped_) result = fail({Code::kCancelled, "VM_GONE"}, "the VM has ended");
    is_complete_ = result.has_value();
    ended_(std::move(result));
    memory_.reset();
    return WatchVerdict::kEnd;
  }

  Result<> take(const HandlerSays& says) {
    if (says.word == HandlerWord::kFailed) {
      return fail({Code::kUnavailable, "HANDLER_FAILED"}, "the memory's handler: %s",
                  says.text.c_str());
    }
    if (says.word != HandlerWord::kComplete) return broken("it said twice that it is ready");
    for (const MonitorRegion& region : memory_->regions) {
      TRY(memory_->userfault.unwatch(region.address, region.size_bytes));
    }
    return {};
  }

  const Fd socket_;
  const uint64_t size_bytes_;
  std::optional<MissingMemory> memory_;
  MemorySource::EndHook ended_;
  std::atomic<bool> is_stopped_ = false;
  std::atomic<bool> is_complete_ = false;
  // Last: no callback runs on what is half destroyed.
  Watch watch_;
};

Result<> wait_ready(FdRef socket, const Call& call) {
  for (;;) {
    pollfd entry = {.fd = socket.number(), .events = POLLIN, .revents = 0};
    ::poll(&entry, 1, kPollSliceMs);
    if (const auto says = TRY(hear(socket))) {
      if (says->word == HandlerWord::kReady) return {};
      if (says->word == HandlerWord::kFailed) {
        return fail({Code::kUnavailable, "HANDLER_FAILED"}, "the memory's handler: %s",
                    says->text.c_str());
      }
      return broken("it is complete before it was ready");
    }
    TRY(call.check("waiting for the memory's handler to be ready"));
  }
}

class HandlerSource final : public MemorySource {
 public:
  HandlerSource(Reactor& reactor, std::string path, std::string vm_id)
      : reactor_(reactor), path_(std::move(path)), vm_id_(std::move(vm_id)) {}

  Result<std::unique_ptr<MemoryFill>> begin(MissingMemory memory, EndHook ended,
                                            const Call& call) override {
    auto socket = connect_unix(path_, SOCK_SEQPACKET | SOCK_NONBLOCK);
    if (!socket) {
      return fail_errno({Code::kFailedPrecondition, "HANDLER_CONNECT"}, socket.error().os_errno(),
                        "memory_source.handler_socket: cannot connect to %s", path_.c_str());
    }
    for (const MonitorRegion& region : memory.regions) {
      TRY(memory.userfault.watch(region.address, region.size_bytes));
    }
    const std::string hello = make_handler_hello(vm_id_, memory);
    const FdRef descriptors[] = {memory.userfault.fd(), memory.file};
    if (!send_packet(socket->ref(), std::as_bytes(std::span(hello)), descriptors)) return gone();
    TRY(wait_ready(socket->ref(), call.at_most(kReadyLimit)));
    auto fill =
        std::make_unique<HandlerFill>(*std::move(socket), std::move(memory), std::move(ended));
    TRY(fill->watch(reactor_));
    return fill;
  }

 private:
  Reactor& reactor_;
  const std::string path_;
  const std::string vm_id_;
};

}  // namespace

Result<HandlerSays> parse_handler(std::span<const std::byte> packet) {
  uint32_t head[2];
  if (packet.size() < kHeadBytes || packet.size() > kHeadBytes + kMaxHandlerText) {
    return broken("its packet is of a wrong length");
  }
  std::memcpy(head, packet.data(), kHeadBytes);
  const auto text = packet.subspan(kHeadBytes);
  if (head[0] < static_cast<uint32_t>(HandlerWord::kReady) ||
      head[0] > static_cast<uint32_t>(HandlerWord::kFailed)) {
    return broken("it says what is no word");
  }
  HandlerSays says{.word = static_cast<HandlerWord>(head[0]), .text = {}};
  const bool has_text = says.word == HandlerWord::kFailed;
  if (head[1] != text.size() || (!has_text && !text.empty())) {
    return broken("its text is of another length than it says");
  }
  std::string raw(text.size(), '\0');
  std::memcpy(raw.data(), text.data(), text.size());
  says.text = printable(raw, kMaxHandlerText);
  return says;
}

std::string make_handler_hello(const std::string& vm_id, const MissingMemory& memory) {
  HandlerHello hello = {.magic = {},
                        .version = kHandlerVersion,
                        .region_count = static_cast<uint32_t>(memory.regions.size()),
                        .memory_bytes = memory.size_bytes,
                        .page_bytes = 4096,
                        .reserved = 0,
                        .vm_id = {}};
  std::ranges::copy(kHandlerMagic, hello.magic);
  std::copy_n(vm_id.data(), std::min(vm_id.size(), kHandlerNameBytes), hello.vm_id);
  std::string packet(sizeof(hello) + memory.regions.size() * sizeof(HandlerRegion), '\0');
  std::memcpy(packet.data(), &hello, sizeof(hello));
  size_t at = sizeof(hello);
  for (const MonitorRegion& region : memory.regions) {
    const HandlerRegion told = {.guest_address = region.guest_address,
                                .size_bytes = region.size_bytes,
                                .file_offset = region.file_offset,
                                .address = region.address};
    std::memcpy(packet.data() + at, &told, sizeof(told));
    at += sizeof(told);
  }
  return packet;
}

Result<std::unique_ptr<MemorySource>> handler_source(Reactor& reactor, std::string path,
                                                     std::string vm_id) {
  TRY(check_socket_path("memory_source.handler_socket", path));
  return std::make_unique<HandlerSource>(reactor, std::move(path), std::move(vm_id));
}

}  // namespace mayfly::daemon
