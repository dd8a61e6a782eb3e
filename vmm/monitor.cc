// SPDX-License-Identifier: Apache-2.0
#include "vmm/monitor.h"

#include "base/clock.h"
#include "virtio/vsock/vsock.h"

#include <span>
#include <utility>
#include <variant>

namespace mayfly::vmm {
namespace {

// Queues of all slots, 8 disks, 4 taps, console input, the control sockets.
constexpr uint16_t kMachineFiles = 144;
constexpr Loop::Limits kLoopLimits = {
    .ring_entries = 256,
    .files = kMachineFiles + virtio::vsock::files_for(virtio::vsock::kMaxConnections),
    .clients = 64,
};

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};

Result<Answer> nothing(Result<> result) {
  TRY(std::move(result));
  return Answer(std::monostate());
}

}  // namespace

Result<std::unique_ptr<Monitor>> Monitor::create(Fd control, Fd pagemap, Confinement confinement,
                                                 uint64_t main_ns) {
  std::unique_ptr<Monitor> monitor(new Monitor(std::move(pagemap), confinement, main_ns));
  // Made before there is work, so that its cost is not part of a start.
  monitor->loop_ = TRY(Loop::create(kLoopLimits));
  monitor->server_ = TRY(Server::create(*monitor->loop_, std::move(control)));
  // Before the first byte from the control socket is read.
  TRY(confinement.enter(ThreadKind::kStart));
  return monitor;
}

Result<> Monitor::run() {
  while (!machine_ || !machine_->ended()) {
    TRY(serve_requests());
    if (machine_ && machine_->ended()) break;
    TRY(machine_ ? machine_->run_once() : loop_->run_once());
  }
  return report();
}

Result<> Monitor::serve_requests() {
  while (std::optional<Request> request = server_->next()) {
    const Result<Answer> result = answer(*request);
    server_->reply(request->id, result);
    if (!machine_ && std::holds_alternative<Configure>(request->call)) {
      return std::unexpected(result.error());
    }
  }
  const bool parked = machine_ && machine_->parked();
  if (!server_->take_disconnect() || !(end_on_disconnect_ || parked)) return {};
  if (machine_) {
    machine_->end(ExitReason::kHostStop, "the daemon closed the control connection");
    return {};
  }
  return fail({Code::kCancelled, "NO_CONFIG"},
              "the daemon went away before it sent a configuration");
}

Result<Machine*> Monitor::machine() {
  if (machine_) return machine_.get();
  return fail({Code::kFailedPrecondition, "NOT_CONFIGURED"}, "no machine has been configured");
}

Result<Machine*> Monitor::claimed() {
  Machine* machine = TRY(this->machine());
  if (!machine->parked()) return machine;
  return fail({Code::kFailedPrecondition, "NOT_CLAIMED"},
              "the machine is parked, it is no VM before it has been claimed");
}

Result<Answer> Monitor::answer(Request& request) {
  return std::visit(
      Overloaded{
          [&](Configure& call) { return configure(std::move(call.machine)); },
          [&](Claim& call) { return claim(std::move(call.what)); },
          [&](MapMemory& call) { return map_memory(std::move(call.memory)); },
          [&](Start&) -> Result<Answer> { return nothing(TRY(claimed())->start()); },
          [&](Pause&) -> Result<Answer> { return nothing(TRY(claimed())->pause()); },
          [&](Resume&) -> Result<Answer> { return nothing(TRY(claimed())->resume()); },
          [&](Stop&) -> Result<Answer> {
            TRY(machine())->end(ExitReason::kHostStop, "");
            return Answer(std::monostate());
          },
          [&](VsockConnect& call) -> Result<Answer> {
            return nothing(TRY(claimed())->connect_vsock(call.port, std::move(call.stream)));
          },
          [&](GetStats&) -> Result<Answer> { return Answer(TRY(machine())->stats()); },
          [&](Save& call) -> Result<Answer> {
            return Answer(TRY(TRY(claimed())->save(call.what)));
          },
          [&](GetTouchedPages& call) -> Result<Answer> {
            return Answer(TRY(TRY(claimed())->touched_pages(call.files)));
          },
          [&](GetPages& call) -> Result<Answer> {
            return Answer(TRY(TRY(claimed())->pages(call.query)));
          },
          [&](SetBalloon& call) -> Result<Answer> {
            Machine& machine = *TRY(claimed());
            TRY(machine.set_balloon(call.target_pages));
            return Answer(TRY(machine.balloon()));
          },
          [&](GetBalloon&) -> Result<Answer> { return Answer(TRY(TRY(claimed())->balloon())); },
          [&](GetMemory&) -> Result<Answer> {
            const Machine& machine = *TRY(claimed());
            return Answer(
                Memory{.file = machine.memory_file(),
                       .is_private = machine.memory_sharing() == MemorySharing::kPrivate});
          },
      },
      request.call);
}

Result<Answer> Monitor::map_memory(MissingMemoryConfig config) {
  if (machine_ || mapped_) {
    return fail({Code::kFailedPrecondition, "MAPPED"},
                "map_memory: there is memory already, it is mapped once");
  }
  mapped_.emplace(TRY(MissingMemory::create(std::move(config), confinement_)));
  const auto regions = mapped_->ram.regions();
  return Answer(MappedMemory{.regions = {regions.begin(), regions.end()}});
}

Result<> Monitor::take_mapped(MachineConfig& config) {
  if (!config.restore || !config.restore->is_mapped) return {};
  if (!mapped_) {
    return fail({Code::kFailedPrecondition, "NOT_MAPPED"},
                "restore.mapped_memory: no memory has been mapped");
  }
  if (mapped_->ram.size() != config.memory_bytes) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
                "memory_bytes: %llu, and what is mapped has %llu",
                static_cast<unsigned long long>(config.memory_bytes),
                static_cast<unsigned long long>(mapped_->ram.size()));
  }
  config.memory = std::move(mapped_->file);
  config.ram = std::make_unique<GuestMemory>(std::move(mapped_->ram));
  mapped_.reset();
  return {};
}

Result<Answer> Monitor::configure(MachineConfig config) {
  if (machine_) {
    return fail({Code::kFailedPrecondition, "CONFIGURED"}, "a monitor is configured once");
  }
  Phases phases;
  phases.main_ns = main_ns_;
  phases.received_ns = monotonic_ns();
  exit_report_ = std::move(config.exit_report);
  confinement_.report_to(exit_report_.ref());
  end_on_disconnect_ = config.end_on_disconnect;
  const StartMode start = config.start;
  TRY(take_mapped(config));
  machine_ = TRY(Machine::create(*loop_, pagemap_.ref(), std::move(config), phases, confinement_));
  // A parked one has system calls to make yet that its last filter denies.
  if (machine_->parked()) return Answer(machine_->phases());
  return go(start);
}

Result<Answer> Monitor::claim(ClaimConfig config) {
  Machine& machine = *TRY(this->machine());
  const StartMode start = config.start;
  TRY(machine.claim(std::move(config)));
  return go(start);
}

// The filter takes as long to put on as the guest to its first exit: they go at the same time. This
// thread looks at nothing that a guest can have said before it has the filter on.
Result<Answer> Monitor::go(StartMode start) {
  if (start == StartMode::kRunning) TRY(machine_->start());
  TRY(confine_loop());
  return Answer(machine_->phases());
}

Result<> Monitor::confine_loop() {
  Result<> confined = confinement_.enter(ThreadKind::kLoop);
  if (!confined) machine_->end(ExitReason::kMonitorError, confined.error().message());
  return confined;
}

Result<> Monitor::report() {
  Machine::End end = machine_->finish();
  const std::string bytes = make_exit_report({
      .reason = end.reason,
      .detail = std::move(end.detail),
      .stats = machine_->stats(),
      .phases = machine_->phases(),
      .ended_ns = end.at_ns,
  });
  return write_all(exit_report_.ref(), std::as_bytes(std::span(bytes)));
}

}  // namespace mayfly::vmm
