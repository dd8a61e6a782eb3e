// SPDX-License-Identifier: Apache-2.0
//
// The guest's metadata service: programs of the guest ask by HTTP, the host decides and answers
// over the control link. Nothing of a document or a token is kept here once its response is made,
// so that a guest made from another's memory has nothing of that one's to give out: what was asked
// for over a connection that has ended is asked for again, of the host that this guest has now.
//
// Clients are any programs of the guest. There are kMaxClients at most, each with one request, for
// kClientNs at most. One thread; never blocks.
#pragma once

#include "base/fd.h"
#include "guest/agent/control_link.h"
#include "guest/agent/http.h"
#include "guest/agent/listener.h"
#include "guest/agent/messages.h"
#include "guest/agent/poll_set.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::guest {

class MetadataServer {
 public:
  static constexpr size_t kMaxClients = 16;
  static constexpr uint64_t kClientNs = 10'000'000'000;

  /// Begins to listen in the guest; what it gives ends that when it is destroyed.
  using Listen = std::move_only_function<std::vector<std::unique_ptr<Listener>>()>;

  /// Without a `listen` nobody can ask.
  explicit MetadataServer(Listen listen) : listen_(std::move(listen)) {}

  void offer(const MetadataOffer& offer);
  void answer(const MetadataAnswer& answer);

  void collect(PollSet& set);
  uint64_t deadline_ns() const;
  void handle(const PollSet& set, uint64_t now_ns, ControlLink& link);

 private:
  enum class Stage : uint8_t { kReading, kWaiting, kAsked, kWriting, kDone };
  struct Client {
    Fd socket;
    uint64_t deadline_ns = 0;
    Stage stage = Stage::kReading;
    std::string in = {};
    // Of the question: a ttl_s where it is for a token.
    HttpRequest request = {};
    uint32_t ttl_s = 0;
    // What has come of the answer, and of which document.
    std::string body = {};
    uint64_t version = 0;
    std::string out = {};
    size_t sent = 0;
    PollSet::Slot slot = PollSet::kNone;
  };

  void accept_waiting(uint64_t now_ns);
  void read(Client& client);
  void decide(Client& client, HttpRequest request);
  void write(Client& client);
  void respond(Client& client, std::string response);
  void expire(Client& client, uint64_t now_ns);
  void ask_next(ControlLink& link);
  void add_piece(Client& client, const MetadataAnswer& answer);

  Listen listen_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<PollSet::Slot> listener_slots_;
  // In the order in which they came.
  std::vector<std::unique_ptr<Client>> clients_;
  // Of the question that the host has, and the connection that it was asked over.
  uint32_t asked_id_ = 0;
  uint64_t asked_generation_ = 0;
};

}  // namespace mayfly::guest
