// SPDX-License-Identifier: Apache-2.0
//
// One mayfly-vmm process: waits for the daemon's Configure, runs the machine, answers requests, and
// reports how it ended. Everything happens on the main thread, which is the loop thread.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "vmm/control/request.h"
#include "vmm/control/server.h"
#include "vmm/machine/lazy_memory_sys.h"
#include "vmm/machine/machine.h"
#include "vmm/seccomp/confinement.h"

#include <memory>
#include <optional>
#include <utility>

namespace mayfly::vmm {

class Monitor {
 public:
  /// `control` is a listening SOCK_SEQPACKET socket, `pagemap` our own or invalid. From here on the
  /// thread is confined.
  static Result<std::unique_ptr<Monitor>> create(Fd control, Fd pagemap, Confinement confinement,
                                                 uint64_t main_ns);

  /// Until the machine has ended and its report is written. An Error: there was no machine, or no
  /// report could be written.
  Result<> run();

 private:
  Monitor(Fd pagemap, Confinement confinement, uint64_t main_ns)
      : pagemap_(std::move(pagemap)), confinement_(confinement), main_ns_(main_ns) {}

  Result<> serve_requests();
  Result<Answer> answer(Request& request);
  Result<Answer> map_memory(MissingMemoryConfig config);
  Result<Answer> configure(MachineConfig config);
  Result<Answer> claim(ClaimConfig config);
  Result<Answer> go(StartMode start);
  Result<> take_mapped(MachineConfig& config);
  Result<> confine_loop();
  Result<Machine*> machine();
  Result<Machine*> claimed();
  Result<> report();

  const Fd pagemap_;
  const Confinement confinement_;
  uint64_t main_ns_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<Server> server_;
  Fd exit_report_;
  bool end_on_disconnect_ = true;
  // Between map_memory() and configure().
  std::optional<MissingMemory> mapped_;
  std::unique_ptr<Machine> machine_;
};

}  // namespace mayfly::vmm
