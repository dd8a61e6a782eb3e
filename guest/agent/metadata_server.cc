// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/metadata_server.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include <sys/socket.h>

namespace mayfly::guest {
namespace {

constexpr uint32_t kMaxTtlS = 21600;
constexpr int kMaxRestReads = 16;
constexpr const char* kText = "text/plain";

// 0: it is none.
uint32_t ttl_of(const HttpRequest& request) {
  uint32_t seconds = 0;
  const std::string& text = request.ttl ? *request.ttl : std::string();
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, seconds);
  return error == std::errc() && stop == end && seconds <= kMaxTtlS ? seconds : 0;
}

std::string refusal_of(MetadataAnswer::Status status) {
  switch (status) {
    case MetadataAnswer::Status::kUnauthorized:
      return refusal(401, "a token of this VM's is needed: PUT /latest/api/token");
    case MetadataAnswer::Status::kNotFound:
      return refusal(404, "nothing is there");
    case MetadataAnswer::Status::kBadPath:
      return refusal(400, "no such path");
    default:
      return refusal(503, "too much was asked for lately", "Retry-After: 1");
  }
}

}  // namespace

void MetadataServer::offer(const MetadataOffer& offer) {
  if (!offer.is_there) {
    listeners_.clear();
  } else if (listeners_.empty() && listen_) {
    listeners_ = listen_();
  }
  // They stand for none that was there when the set was collected.
  listener_slots_.clear();
}

void MetadataServer::collect(PollSet& set) {
  listener_slots_.clear();
  const bool has_room = clients_.size() < kMaxClients;
  for (const auto& listener : listeners_) {
    listener_slots_.push_back(has_room ? set.add(listener->fd(), POLLIN) : PollSet::kNone);
  }
  for (const auto& client : clients_) {
    const short events = client->stage == Stage::kReading   ? POLLIN
                         : client->stage == Stage::kWriting ? POLLOUT
                                                            : 0;
    client->slot = set.add(client->socket.ref(), events);
  }
}

uint64_t MetadataServer::deadline_ns() const {
  uint64_t deadline = kNever;
  for (const auto& client : clients_) deadline = std::min(deadline, client->deadline_ns);
  return deadline;
}

void MetadataServer::handle(const PollSet& set, uint64_t now_ns, ControlLink& link) {
  for (const auto& client : clients_) {
    const short events = set.events(std::exchange(client->slot, PollSet::kNone));
    const bool is_idle = client->stage == Stage::kWaiting || client->stage == Stage::kAsked;
    if (is_idle && (events & (POLLHUP | POLLERR)) != 0) client->stage = Stage::kDone;
    if (client->stage == Stage::kReading && events != 0) read(*client);
    // At once, without waiting for the socket to say that there is room.
    if (client->stage == Stage::kWriting) write(*client);
    if (now_ns >= client->deadline_ns) expire(*client, now_ns);
  }
  bool has_new = false;
  for (const PollSet::Slot slot : listener_slots_) has_new = has_new || set.events(slot) != 0;
  if (has_new) accept_waiting(now_ns);
  ask_next(link);
  std::erase_if(clients_, [](const auto& client) { return client->stage == Stage::kDone; });
}

void MetadataServer::accept_waiting(uint64_t now_ns) {
  for (const auto& listener : listeners_) {
    while (clients_.size() < kMaxClients) {
      std::optional<Fd> socket = listener->accept();
      if (!socket) break;
      clients_.push_back(std::make_unique<Client>(
          Client{.socket = std::move(*socket), .deadline_ns = now_ns + kClientNs}));
    }
  }
}

void MetadataServer::read(Client& client) {
  char buffer[4096];
  const size_t room = std::min(sizeof(buffer), kMaxHeadBytes - client.in.size());
  const ssize_t count = ::recv(client.socket.number(), buffer, room, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    client.stage = Stage::kDone;
    return;
  }
  client.in.append(buffer, static_cast<size_t>(count));
  HttpHead head = parse_head(client.in);
  if (auto* request = std::get_if<HttpRequest>(&head)) {
    decide(client, std::move(*request));
  } else if (const auto* refused = std::get_if<HttpRefusal>(&head)) {
    respond(client, refusal(refused->status, refused->text));
  }
}

void MetadataServer::decide(Client& client, HttpRequest request) {
  const bool is_put = request.method == "PUT";
  const bool is_token = request.path == kTokenPath;
  client.ttl_s = ttl_of(request);
  if (is_put ? !is_token : (is_token || request.method != "GET")) {
    return respond(client, refusal(405, "this is not to be had in this way",
                                   is_token ? "Allow: PUT" : "Allow: GET"));
  }
  if (is_put && request.is_forwarded) {
    return respond(client, refusal(403, "tokens are not given to proxies"));
  }
  if (is_put && client.ttl_s == 0) {
    return respond(client, refusal(400, "X-aws-ec2-metadata-token-ttl-seconds: not 1 to 21600"));
  }
  if (!is_put) client.ttl_s = 0;
  client.request = std::move(request);
  client.stage = Stage::kWaiting;
}

void MetadataServer::respond(Client& client, std::string response) {
  client.out = std::move(response);
  client.sent = 0;
  client.body.clear();
  client.stage = Stage::kWriting;
}

void MetadataServer::write(Client& client) {
  while (client.sent < client.out.size()) {
    const ssize_t count = ::send(client.socket.number(), client.out.data() + client.sent,
                                 client.out.size() - client.sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) break;
    client.sent += static_cast<size_t>(count);
  }
  // A socket that is closed over unread bytes may take back what it has sent.
  char rest[4096];
  for (int i = 0; i < kMaxRestReads; ++i) {
    if (::recv(client.socket.number(), rest, sizeof(rest), MSG_DONTWAIT) <= 0) break;
  }
  client.stage = Stage::kDone;
}

void MetadataServer::expire(Client& client, uint64_t now_ns) {
  if (client.stage == Stage::kWriting || client.stage == Stage::kDone) {
    client.stage = Stage::kDone;
    return;
  }
  // A last chance to take the response.
  respond(client, client.stage == Stage::kReading ? refusal(408, "the request did not come")
                                                  : refusal(503, "the host does not answer"));
  client.deadline_ns = now_ns + kClientNs;
}

void MetadataServer::ask_next(ControlLink& link) {
  // The host's end of the connection that a question went to is another VM's, or gone.
  for (const auto& client : clients_) {
    if (client->stage != Stage::kAsked || asked_generation_ == link.generation()) continue;
    client->stage = Stage::kWaiting;
    client->body.clear();
  }
  const auto in_stage = [this](Stage stage) {
    return std::ranges::find_if(clients_,
                                [stage](const auto& client) { return client->stage == stage; });
  };
  if (in_stage(Stage::kAsked) != clients_.end()) return;
  const auto next = in_stage(Stage::kWaiting);
  if (next == clients_.end()) return;
  Client& client = **next;
  if (++asked_id_ == 0) ++asked_id_;
  if (!link.ask_metadata({.id = asked_id_,
                          .token_ttl_s = client.ttl_s,
                          .path = client.request.path,
                          .token = client.request.token,
                          .wants_json = client.request.wants_json,
                          .offset = static_cast<uint32_t>(client.body.size())})) {
    return;
  }
  asked_generation_ = link.generation();
  client.stage = Stage::kAsked;
}

void MetadataServer::answer(const MetadataAnswer& answer) {
  const auto asked = std::ranges::find_if(
      clients_, [](const auto& client) { return client->stage == Stage::kAsked; });
  if (asked == clients_.end() || answer.id != asked_id_) return;
  Client& client = **asked;
  if (answer.status != MetadataAnswer::Status::kOk) {
    return respond(client, refusal_of(answer.status));
  }
  if (client.ttl_s != 0) {
    const std::string header = std::string(kTtlHeader) + ": " + std::to_string(client.ttl_s);
    respond(client, response_head(200, kText, answer.content.size(), header) + answer.content);
    return;
  }
  add_piece(client, answer);
}

void MetadataServer::add_piece(Client& client, const MetadataAnswer& answer) {
  // Another document than the pieces before are of: from the start.
  const bool is_other = !client.body.empty() && answer.version != client.version;
  if (is_other) client.body.clear();
  client.version = answer.version;
  client.stage = Stage::kWaiting;
  if (is_other) return;
  client.body += answer.content;
  if (client.body.size() < answer.total_bytes && !answer.content.empty()) return;
  if (client.body.size() != answer.total_bytes) {
    return respond(client, refusal(503, "the host's answer is not whole"));
  }
  std::string head =
      response_head(200, answer.is_json ? "application/json" : kText, client.body.size());
  respond(client, head + client.body);
}

}  // namespace mayfly::guest
