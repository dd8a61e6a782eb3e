// SPDX-License-Identifier: Apache-2.0
//
// A wire whose other end is the test: frames that wait, and frames that were sent.
#pragma once

#include "virtio/net/backend.h"

#include <algorithm>
#include <cstddef>
#include <deque>
#include <optional>
#include <span>
#include <vector>

namespace mayfly::virtio::net::testing {

using Frame = std::vector<std::byte>;

class FakeBackend final : public Backend {
 public:
  explicit FakeBackend(const Offloads& offloads) : offloads_(offloads) {}

  void attach(BackendClient& client) override { client_ = &client; }
  Offloads offloads() const override { return offloads_; }
  Result<> let_guest_do(const Offloads& offloads) override {
    agreed.push_back(offloads);
    return {};
  }

  bool is_lost() const override { return lost; }
  IoResult receive(Header& header, std::span<const iovec> frame) override {
    if (waiting.empty()) return {IoStatus::kWouldBlock};
    header = next_header;
    const Frame bytes = waiting.front();
    waiting.pop_front();
    size_t done = 0;
    for (const iovec& piece : frame) {
      const size_t size = std::min(piece.iov_len, bytes.size() - done);
      std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(done), size,
                  static_cast<std::byte*>(piece.iov_base));
      done += size;
    }
    return {IoStatus::kMoved, bytes.size()};
  }

  IoResult send(const Header& header, std::span<const iovec> frame) override {
    if (refuses) return {*refuses};
    Frame bytes;
    for (const iovec& piece : frame) {
      const auto* data = static_cast<const std::byte*>(piece.iov_base);
      bytes.insert(bytes.end(), data, data + piece.iov_len);
    }
    sent_headers.push_back(header);
    sent.push_back(std::move(bytes));
    return {IoStatus::kMoved, sent.back().size()};
  }

  void frames_wait() { client_->on_frames_waiting(); }
  void room_to_send() { client_->on_room_to_send(); }

  std::deque<Frame> waiting;
  Header next_header = {};
  std::vector<Frame> sent;
  std::vector<Header> sent_headers;
  std::vector<Offloads> agreed;
  std::optional<IoStatus> refuses;
  bool lost = false;

 private:
  const Offloads offloads_;
  BackendClient* client_ = nullptr;
};

}  // namespace mayfly::virtio::net::testing
