// SPDX-License-Identifier: Apache-2.0
//
// One exec connection: a stream to the host, at most one command, and the bytes between them. The
// stream may be any socket: vsock in a guest, a socket pair in tests. Runs on the agent's one
// thread; never blocks.
//
// Bounds: at most kMaxBacklog + a frame of input and kMaxPendingOutput + a frame of output are
// held; beyond them the side that would add more is not read, so the connection's own flow control
// stops its sender. What arrives on the connection is hostile: a malformed or misplaced message
// ends the session.
#pragma once

#include "base/fd.h"
#include "guest/agent/frame.h"
#include "guest/agent/messages.h"
#include "guest/agent/poll_set.h"
#include "guest/agent/spawn_sys.h"

#include <cstdint>
#include <string>

namespace mayfly::guest {

inline constexpr size_t kMaxBacklog = 256 * 1024;
inline constexpr size_t kMaxPendingOutput = 128 * 1024;

/// Why a session is not to run anything; `guest_errno` 0: it may.
struct Refusal {
  int guest_errno = 0;
  std::string message;
};

class Session {
 public:
  /// `connection` is a non-blocking stream. With a refusal the first message is answered with
  /// Failed.
  Session(Fd connection, Refusal refusal);
  Session(Session&&) = delete;

  /// Names what this session waits for in this round, and until when at most.
  void collect(PollSet& set);
  uint64_t deadline_ns() const { return deadline_ns_; }
  /// Does all that the round's events and the time allow.
  void handle(const PollSet& set, uint64_t now_ns);

  /// The command's process, -1 where there is none (any more).
  pid_t pid() const { return child_.pid; }
  /// The process was reaped; `wait_status` as of waitpid(2).
  void on_exit(int wait_status, uint64_t now_ns);

  /// Nothing is left to do: it can be destroyed.
  bool done() const { return state_ == State::kDone; }
  /// It has run its course as far as the command goes: only bytes to the host may be left.
  bool finishing() const { return state_ >= State::kReporting; }

 private:
  enum class State : uint8_t {
    kWaiting,   // for Start
    kStarting,  // forked; not known yet whether the program runs
    kRunning,
    kDraining,   // exited; what its pipes hold is still being read
    kHungUp,     // the host is gone; the command has been told and must end
    kReporting,  // the last message is queued
    kLingering,  // all is sent and our side closed; waiting for the host to close
    kDone,
  };

  // One of the command's output streams.
  struct Output {
    Fd fd;
    OutputStream stream = OutputStream::kStdout;
    PollSet::Slot slot = PollSet::kNone;
    // After the exit: how much more may be read. What a grandchild adds later is not waited for.
    size_t left = SIZE_MAX;
  };

  bool accepts_input() const;
  void read_connection(short events, uint64_t now_ns);
  void process_frames(uint64_t now_ns);
  void on_message(ExecInput message, uint64_t now_ns);
  void on_start(const ExecStart& start);
  void on_stdin_end();
  void learn_exec_status();
  void write_stdin();
  void pump(Output& output);
  void drain(uint64_t now_ns);
  void report_exit();
  void send(uint64_t now_ns);
  void fail_start(int guest_errno, const std::string& message);
  void hang_up(uint64_t now_ns);
  void signal_group(int number) const;
  void close_streams();

  Fd connection_;
  Refusal refusal_;
  State state_ = State::kWaiting;
  uint64_t deadline_ns_ = kNever;
  FrameDecoder decoder_;
  SendQueue out_;
  ExecStart start_;
  Child child_;
  Output outputs_[2];
  SendQueue backlog_;
  bool stdin_ended_ = false;
  int wait_status_ = 0;
  PollSet::Slot connection_slot_ = PollSet::kNone;
  PollSet::Slot stdin_slot_ = PollSet::kNone;
  PollSet::Slot status_slot_ = PollSet::kNone;
};

}  // namespace mayfly::guest
