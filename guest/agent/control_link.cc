// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/control_link.h"

#include "base/log.h"
#include "guest/agent/convert.h"
#include "guest/agent/convert_metadata.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/socket.h>

namespace mayfly::guest {
namespace {

// The transport may still be coming up, so the first tries are close together. They never get far
// apart: a guest that was saved while the host did not want it is soon heard of when it is
// restored.
constexpr uint64_t kFirstRetryNs = 2'000'000;
constexpr uint64_t kLastRetryNs = 1'000'000'000;
// A connection that the host neither accepts nor refuses.
constexpr uint64_t kConnectTimeoutNs = 5'000'000'000;

}  // namespace

ControlLink::ControlLink(Connect connect, MakeHello make_hello, Reseed reseed,
                         SetNetwork set_network)
    : connect_(std::move(connect)),
      make_hello_(std::move(make_hello)),
      reseed_(std::move(reseed)),
      set_network_(std::move(set_network)),
      retry_ns_(kFirstRetryNs) {}

void ControlLink::collect(PollSet& set) {
  slot_ = PollSet::kNone;
  if (!socket_.valid()) return;
  const bool writes = !connected_ || !out_.empty();
  slot_ = set.add(socket_.ref(), static_cast<short>(POLLIN | (writes ? POLLOUT : 0)));
}

void ControlLink::handle(const PollSet& set, uint64_t now_ns) {
  if (now_ns >= deadline_ns_) {
    if (socket_.valid()) return lost(now_ns, "no answer");
    begin(now_ns);
  }
  const short events = set.events(slot_);
  if (!socket_.valid() || events == 0) return;
  if (!connected_) {
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(socket_.number(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return lost(now_ns, std::strerror(error));
    established();
  } else if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) {
    read(now_ns);
  }
  send(now_ns);
}

void ControlLink::begin(uint64_t now_ns) {
  Result<Fd> socket = connect_();
  if (!socket) return lost(now_ns, socket.error().message().c_str());
  socket_ = std::move(*socket);
  deadline_ns_ = now_ns + kConnectTimeoutNs;
}

void ControlLink::established() {
  connected_ = true;
  ++generation_;
  deadline_ns_ = kNever;
  decoder_.emplace();
  out_.clear();
  add_hello(out_, make_hello_());
}

void ControlLink::read(uint64_t now_ns) {
  const std::span<std::byte> room = decoder_->room();
  const ssize_t count = ::recv(socket_.number(), room.data(), room.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count < 0) return lost(now_ns, std::strerror(errno));
  if (count == 0) return lost(now_ns, "closed by the host");
  decoder_->filled(static_cast<size_t>(count));
  for (;;) {
    const auto frame = decoder_->next();
    if (!frame) return lost(now_ns, frame.error().message().c_str());
    if (!*frame) return;
    const Result<HostMessage> message = parse_host_message(**frame);
    if (message) {
      on_message(*message);
    } else {
      log(LogLevel::kWarning, "control: %s", message.error().describe().c_str());
    }
  }
}

void ControlLink::on_message(const HostMessage& message) {
  if (const auto* mode = std::get_if<ShutdownMode>(&message)) {
    shutdown_ = *mode;
  } else if (const auto* restored = std::get_if<Restored>(&message)) {
    add_reseeded(out_, reseed_(*restored));
  } else if (const auto* network = std::get_if<Network>(&message)) {
    add_network_set(out_, set_network_(*network));
  } else if (const auto* offer = std::get_if<MetadataOffer>(&message)) {
    if (on_offer_) on_offer_(*offer);
  } else if (const auto* answer = std::get_if<MetadataAnswer>(&message)) {
    if (on_answer_) on_answer_(*answer);
  }
}

void ControlLink::send(uint64_t now_ns) {
  while (connected_ && !out_.empty()) {
    const std::span<const std::byte> bytes = out_.pending();
    const ssize_t count =
        ::send(socket_.number(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) return lost(now_ns, std::strerror(errno));
    out_.sent(static_cast<size_t>(count));
    if (out_.empty()) {
      announced_ = true;
      retry_ns_ = kFirstRetryNs;
    }
  }
}

void ControlLink::lost(uint64_t now_ns, const char* why) {
  log(LogLevel::kDebug, "control: %s; next try in %llu ms", why,
      static_cast<unsigned long long>(retry_ns_ / 1'000'000));
  socket_.reset();
  connected_ = false;
  deadline_ns_ = now_ns + retry_ns_;
  retry_ns_ = std::min(retry_ns_ * 2, kLastRetryNs);
}

std::optional<ShutdownMode> ControlLink::take_shutdown() {
  return std::exchange(shutdown_, std::nullopt);
}

void ControlLink::send_shutdown_failed(std::string_view message) {
  if (connected_) add_shutdown_failed(out_, message);
}

void ControlLink::on_metadata(OnOffer on_offer, OnAnswer on_answer) {
  on_offer_ = std::move(on_offer);
  on_answer_ = std::move(on_answer);
}

bool ControlLink::ask_metadata(const MetadataRequest& request) {
  if (connected_) add_metadata_request(out_, request);
  return connected_;
}

}  // namespace mayfly::guest
