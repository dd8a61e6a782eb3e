// SPDX-License-Identifier: Apache-2.0
//
// One command in a guest, over its own stream to the agent. One thread sends (input, signals),
// another takes the output; cancel() may come from either. The guest's output is taken only as fast
// as it is asked for, so a slow reader stops the command and nobody else.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/agent_codec.h"
#include "daemon/call.h"
#include "daemon/vm.h"

#include <memory>
#include <optional>
#include <string>

namespace mayfly::daemon {

class ExecSession {
 public:
  /// Waits for the guest to be ready, within `call`, and starts the command. `vm` outlives the
  /// session.
  static Result<std::unique_ptr<ExecSession>> open(Vm& vm, const ExecStart& start,
                                                   const Call& call);

  // The sending thread's. Each blocks while the agent does not read, until cancel().
  Result<> send_stdin(std::string_view bytes);
  Result<> send_stdin_end();
  Result<> send_signal(uint32_t signal);
  Result<> send_window_size(const WindowSize& size);

  /// The receiving thread's: what the command says next. ExecExited and ExecFailed are the last.
  /// Fails with VM_STOPPED where the VM ends under the command.
  Result<ExecOutput> next(const Call& call);

  /// Ends both directions; the agent then kills the command.
  void cancel();

 private:
  ExecSession(Vm& vm, Fd stream) : vm_(vm), stream_(std::move(stream)) {}
  Result<> send(const std::string& frame);
  Error connection_ended();

  Vm& vm_;
  const Fd stream_;
  FrameReader reader_;
};

}  // namespace mayfly::daemon
