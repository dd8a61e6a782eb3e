// SPDX-License-Identifier: Apache-2.0
//
// The host's side of an exec connection, for tests: one end of a socket pair whose other end a
// Service serves in the same thread. Every wait drives the service.
#pragma once

#include "guest/agent/service.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::guest {

/// Everything a command's connection has said.
struct Transcript {
  uint32_t started = 0;
  std::string stdout_bytes;
  std::string stderr_bytes;
  bool exited = false;
  uint32_t exit_code = 0;
  uint32_t signal = 0;
  bool failed = false;
  uint32_t guest_errno = 0;
  std::string failure;
  /// The agent has closed its side.
  bool closed = false;
  /// Something followed Exited or Failed, or Started came late: never right.
  bool misordered = false;
};

class TestHost {
 public:
  explicit TestHost(Service& service);

  void start(std::vector<std::string> argv, std::vector<std::string> env = {},
             const std::string& directory = {}, bool terminal = false);
  /// As that user and group, with `groups` besides.
  void start_as(std::vector<std::string> argv, uint32_t uid, uint32_t gid,
                std::vector<uint32_t> groups, const std::string& directory = {});
  void send_stdin(const std::string& bytes);
  void send_stdin_end();
  void send_signal(uint32_t number);
  void send_window(uint32_t rows, uint32_t columns);
  void send_raw(const std::string& bytes);
  void close() { fd_.reset(); }
  FdRef fd() const { return fd_.ref(); }

  /// Drives the service and reads until the connection closes or `timeout_ms` is over.
  const Transcript& finish(uint64_t timeout_ms = 10'000);
  /// ... or until standard output holds `text`.
  bool wait_for_output(const std::string& text, uint64_t timeout_ms = 10'000);
  bool wait_for_start(uint64_t timeout_ms = 10'000);
  /// Reads at most `limit` bytes that have arrived; false if the connection has closed.
  bool read_some(size_t limit);
  const Transcript& transcript() const { return transcript_; }

 private:
  void take_frames();

  Service& service_;
  Fd fd_;
  FrameDecoder decoder_;
  Transcript transcript_;
};

std::unique_ptr<Service> make_service(std::string failure = {});

/// Rounds of the service for `duration_ms`, or until it has no connection left.
void drive(Service& service, uint64_t duration_ms);

}  // namespace mayfly::guest
