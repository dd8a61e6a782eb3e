// SPDX-License-Identifier: Apache-2.0
//
// Signals as calls on a thread: SIGINT, SIGTERM, SIGHUP and SIGWINCH are blocked in the whole
// program and taken from a descriptor. Made before any other thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <functional>
#include <thread>

namespace mayfly::cli {

class Interrupts {
 public:
  /// `on_signal` runs on a thread of its own, for one signal after the other.
  explicit Interrupts(std::function<void(int signal)> on_signal);
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

 private:
  void run();

  const std::function<void(int signal)> on_signal_;
  Fd signals_;
  Fd end_;
  std::thread thread_;
};

}  // namespace mayfly::cli
