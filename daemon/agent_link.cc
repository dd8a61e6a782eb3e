// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_link.h"

#include "base/log.h"

#include <array>

#include <sys/epoll.h>
#include <sys/socket.h>

namespace mayfly::daemon {

Result<std::unique_ptr<AgentLink>> AgentLink::create(Reactor& reactor, Fd socket, Hook on_message) {
  std::unique_ptr<AgentLink> link(new AgentLink(std::move(socket), std::move(on_message)));
  link->watch_ = TRY(reactor.watch(link->socket_.ref(), EPOLLIN,
                                   [raw = link.get()](uint32_t) { return raw->on_readable(); }));
  return link;
}

bool AgentLink::ask_poweroff() const { return send(encode_poweroff()); }

bool AgentLink::tell_restored(std::string_view entropy, uint64_t realtime_ns) const {
  return send(encode_restored(entropy, realtime_ns));
}

bool AgentLink::tell_network(std::span<const AgentInterface> interfaces) const {
  return send(encode_network(interfaces));
}

bool AgentLink::offer_metadata(bool is_there) const {
  return send(encode_metadata_offer(is_there));
}

void AgentLink::answer_metadata(const AgentMetadataAnswer& answer) {
  // It asks one thing at a time, so that there is room for the answer.
  if (!send(encode_metadata_answer(answer))) is_deaf_ = true;
}

bool AgentLink::send(std::string_view frame) const {
  return ::send(socket_.number(), frame.data(), frame.size(), MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(frame.size());
}

WatchVerdict AgentLink::on_readable() {
  std::array<std::byte, 4096> buffer;
  const ssize_t size = ::recv(socket_.number(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (size < 0) return WatchVerdict::kKeep;
  if (size == 0) return WatchVerdict::kEnd;
  reader_.feed(std::span(buffer).first(static_cast<size_t>(size)));
  for (;;) {
    auto payload = reader_.next();
    if (payload && !*payload) return WatchVerdict::kKeep;
    auto message = payload ? parse_agent_message(**payload)
                           : Result<AgentMessage>(std::unexpected(payload.error()));
    if (!message) {
      log(LogLevel::kWarning, "agent: %s; not listening to it any more",
          message.error().message().c_str());
      return WatchVerdict::kEnd;
    }
    on_message_(*message);
    if (is_deaf_) {
      log(LogLevel::kWarning, "agent: it does not read its metadata; not listening to it any more");
      return WatchVerdict::kEnd;
    }
  }
}

}  // namespace mayfly::daemon
