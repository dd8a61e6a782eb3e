// SPDX-License-Identifier: Apache-2.0
//
// A command in a guest with our standard streams: input is forwarded, output and errors come out
// apart, byte for byte. run() belongs to one thread; the rest may come from any.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "cli/client.h"

#include <atomic>
#include <memory>
#include <string>

namespace mayfly::cli {

struct RemoteOptions {
  v1::ExecStart start;
  // Our standard input is not read, the command's is empty.
  bool no_stdin = false;
};

class RemoteCommand {
 public:
  RemoteCommand(Client& client, RemoteOptions options);
  ~RemoteCommand();

  /// Until the command has exited; gives its exit code.
  Result<int> run();

  /// False before the command has started.
  bool send_signal(int signal);
  void send_window_size();
  void cancel() { stream_->cancel(); }

  /// CLOCK_MONOTONIC when the guest said that the command runs; 0: it did not.
  uint64_t started_ns() const { return started_ns_; }

 private:
  void forward_stdin();
  Result<int> pass_output();

  RemoteOptions options_;
  const std::unique_ptr<ExecStream> stream_;
  Fd end_;
  std::atomic<uint64_t> started_ns_ = 0;
};

/// Puts the terminal into raw mode while it lives; does nothing where standard input is none.
class RawTerminal {
 public:
  RawTerminal();
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

/// Writes all of it to a descriptor of ours.
void write_out(int fd, const std::string& bytes);

}  // namespace mayfly::cli
