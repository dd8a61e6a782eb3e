// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_manager.h"

#include "base/log.h"
#include "daemon/random.h"

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr auto kShutdownStop = std::chrono::seconds(3);
constexpr auto kShutdownKill = std::chrono::seconds(10);

using Operation = Result<> (Vm::*)(const Call&, Stopwatch&);

Result<VmOutcome> operate(Registry& registry, const std::string& id, Operation operation,
                          const Call& call) {
  Stopwatch stopwatch;
  const VmPin vm = TRY(registry.find(id));
  TRY(((*vm).*operation)(call, stopwatch));
  return VmOutcome{.vm = vm->view(), .times = stopwatch.times()};
}

}  // namespace

Result<> VmManager::check_open() const {
  if (closing_) return fail({Code::kUnavailable, "DAEMON_STOPPING"}, "the daemon is stopping");
  return {};
}

Result<> VmManager::check_new(const std::string& vm_id, const std::string& request_id) const {
  TRY(check_open());
  TRY(validate_id("vm_id", vm_id));
  if (request_id.size() > kMaxRequestIdBytes) {
    return fail({Code::kInvalidArgument, "REQUEST_ID"},
                "request_id: %zu bytes are above the limit of %zu", request_id.size(),
                kMaxRequestIdBytes);
  }
  return {};
}

struct VmManager::NewVm {
  VmIdentity identity;
  const VmSpec& spec;
  LaunchPlan plan;
  std::optional<std::chrono::milliseconds> hold = {};
};

Result<VmOutcome> VmManager::create(const CreateRequest& request, const Call& call) {
  Stopwatch stopwatch;
  TRY(check_new(request.vm_id, request.request_id));
  TRY(validate(request.spec, host_memory_mib()));
  stopwatch.lap("validate");
  return make({.identity = {.id = request.vm_id,
                            .incarnation = random_token(),
                            .request_id = request.request_id},
               .spec = request.spec,
               .plan = {.start = request.start}},
              call, stopwatch);
}

Result<VmOutcome> VmManager::restore(const RestoreRequest& request, const Call& call,
                                     Stopwatch& stopwatch) {
  TRY(check_new(request.vm_id, request.request_id));
  TRY(validate_machine(request.spec, host_memory_mib()));
  stopwatch.lap("validate");
  return make(
      {.identity = {.id = request.vm_id,
                    .incarnation = random_token(),
                    .request_id = request.request_id},
       .spec = request.spec,
       .plan = {.start = request.start, .source = &request.source, .shells = request.shells},
       .hold = request.hold},
      call, stopwatch);
}

Result<VmOutcome> VmManager::make(NewVm what, const Call& call, Stopwatch& stopwatch) {
  const VmIdentity identity = what.identity;
  auto added =
      registry_.add(std::make_unique<Vm>(environment_, std::move(what.identity), what.spec));
  if (!added) {
    if (added.error().code() == Code::kAlreadyExists) {
      if (auto before = TRY(made_before(identity.id, identity.request_id, call)))
        return *std::move(before);
    }
    return std::unexpected(std::move(added).error());
  }
  const VmPin vm = *std::move(added);
  auto launched = gate_(what.spec);
  stopwatch.lap("check-host");
  // Also after a refusal by the gate: those who found it wait for launch() to be through.
  launched =
      launched ? vm->launch(what.plan, call, stopwatch) : vm->refuse(std::move(launched).error());
  if (what.plan.shells != nullptr) what.plan.shells->end();
  // A daemon that began to stop meanwhile may have missed this one.
  if (launched && closing_) {
    vm->kill();
    launched = check_open();
  }
  const bool held = launched && what.hold;
  if (held) launched = hold(*vm, *what.hold, call, stopwatch);
  if (!launched) {
    registry_.forget(vm);
    if (held) vm->forgotten();
    return std::unexpected(std::move(launched).error());
  }
  VmOutcome outcome{.vm = vm->view(), .times = stopwatch.times()};
  vm->set_create_times(outcome.times);
  return outcome;
}

Result<> VmManager::hold(Vm& vm, std::chrono::milliseconds limit, const Call& call,
                         Stopwatch& stopwatch) {
  auto reseeded = vm.wait_reseeded(limit, call);
  stopwatch.lap("reseed");
  if (reseeded) return {};
  // It may have another's secrets, and nobody was told that it is there.
  Stopwatch ignored;
  if (!vm.stop(std::chrono::milliseconds(0), Call(), ignored))
    log(LogLevel::kError, "vm %s does not end", vm.identity().id.c_str());
  return reseeded;
}

Result<std::optional<VmOutcome>> VmManager::made_before(const std::string& vm_id,
                                                        const std::string& request_id,
                                                        const Call& call) {
  const auto vm = registry_.find(vm_id);
  if (!vm) return std::nullopt;
  if (request_id.empty() || (*vm)->identity().request_id != request_id) {
    return fail({Code::kAlreadyExists, "VM_EXISTS"}, "vm_id: %s exists already", vm_id.c_str());
  }
  VmView view = TRY((*vm)->wait_created(call));
  return VmOutcome{.vm = std::move(view), .times = (*vm)->create_times()};
}

Result<VmOutcome> VmManager::start(const std::string& id, const Call& call) {
  return operate(registry_, id, &Vm::start, call);
}

Result<VmOutcome> VmManager::pause(const std::string& id, const Call& call) {
  return operate(registry_, id, &Vm::pause, call);
}

Result<VmOutcome> VmManager::resume(const std::string& id, const Call& call) {
  return operate(registry_, id, &Vm::resume, call);
}

Result<VmOutcome> VmManager::stop(const std::string& id, std::optional<uint32_t> grace_ms,
                                  const Call& call) {
  Stopwatch stopwatch;
  const auto grace = grace_ms ? std::chrono::milliseconds(*grace_ms) : kDefaultStopGrace;
  if (grace > kMaxStopGrace) {
    return fail({Code::kInvalidArgument, "GRACE"}, "grace_ms: %u is above the limit of %lld",
                *grace_ms, static_cast<long long>(kMaxStopGrace.count()));
  }
  const VmPin vm = TRY(registry_.find(id));
  TRY(vm->stop(grace, call, stopwatch));
  return VmOutcome{.vm = vm->view(), .times = stopwatch.times()};
}

Result<VmOutcome> VmManager::remove(const std::string& id, bool force, const Call& call) {
  Stopwatch stopwatch;
  const VmPin vm = TRY(registry_.find(id));
  const VmView before = TRY(vm->wait_created(call));
  if (before.state != VmState::kStopped) {
    if (!force) {
      return fail({Code::kFailedPrecondition, "VM_STATE"},
                  "delete %s: the VM is %s, it must be STOPPED; stop it first, or force it",
                  id.c_str(), state_name(before.state));
    }
    TRY(vm->stop(std::chrono::milliseconds(0), call, stopwatch));
  }
  registry_.forget(vm);
  vm->forgotten();
  stopwatch.lap("forget");
  return VmOutcome{.vm = vm->view(), .times = stopwatch.times()};
}

Result<VmOutcome> VmManager::update(const std::string& id, const Vm::Update& what,
                                    const Call& call) {
  Stopwatch stopwatch;
  const VmPin vm = TRY(registry_.find(id));
  VmView view = TRY(vm->update(what, call, stopwatch));
  return VmOutcome{.vm = std::move(view), .times = stopwatch.times()};
}

Result<VmView> VmManager::get(const std::string& id, const Call& call) {
  const VmPin vm = TRY(registry_.find(id));
  return vm->asked_view(call);
}

Result<size_t> checked_page(size_t page_size, const std::string& page_token) {
  if (page_size > kMaxPageSize) {
    return fail({Code::kInvalidArgument, "PAGE_SIZE"}, "page_size: %zu is above the limit of %zu",
                page_size, kMaxPageSize);
  }
  if (!page_token.empty()) TRY(validate_id("page_token", page_token));
  return page_size == 0 ? kDefaultPageSize : page_size;
}

Result<VmPage> VmManager::list(size_t page_size, const std::string& page_token) {
  page_size = TRY(checked_page(page_size, page_token));
  const std::vector<VmPin> pins = registry_.list(page_token, page_size + 1);
  VmPage page;
  for (const VmPin& pin : pins) {
    if (page.vms.size() == page_size) {
      page.next_page_token = page.vms.back().id;
      break;
    }
    page.vms.push_back(pin->view());
  }
  return page;
}

Result<VmView> VmManager::wait(const std::string& id, const WaitGoal& goal, const Call& call) {
  if (goal.states.empty() && !goal.guest_ready) {
    return fail({Code::kInvalidArgument, "WAIT_GOAL"},
                "states: is empty and guest_ready is not set");
  }
  const VmPin vm = TRY(registry_.find(id));
  return vm->wait(goal, call);
}

void VmManager::rebased(const BaseSnapshot& from, const snapshot::Digest& to) {
  for (const VmPin& pin : registry_.list("", kMaxVms)) pin->rebased(from, to);
}

size_t VmManager::running_count() {
  size_t count = 0;
  for (const VmPin& pin : registry_.list("", kMaxVms))
    count += pin->view().state == VmState::kRunning;
  return count;
}

void VmManager::shut_down(std::chrono::milliseconds grace) {
  closing_ = true;
  std::vector<VmPin> pins = registry_.list("", kMaxVms);
  if (pins.empty()) return;
  log(LogLevel::kInfo, "stopping %zu VMs", pins.size());
  const Call graceful = Call::within(grace);
  std::vector<bool> asked;
  for (const VmPin& pin : pins) asked.push_back(grace.count() > 0 && pin->ask_poweroff());
  for (size_t i = 0; i < pins.size(); ++i) {
    if (asked[i]) (void)pins[i]->wait_stopped(graceful);
  }
  // The ones that are left are told, all before any is waited for, so that none makes another late.
  for (const VmPin& pin : pins) pin->tell_stop();
  const Call stopping = Call::within(kShutdownStop);
  for (const VmPin& pin : pins) (void)pin->wait_stopped(stopping);
  for (const VmPin& pin : pins) pin->kill();
  const Call killing = Call::within(kShutdownKill);
  for (const VmPin& pin : pins) {
    if (!pin->wait_stopped(killing))
      log(LogLevel::kError, "vm %s does not end", pin->identity().id.c_str());
    registry_.forget(pin);
  }
}

}  // namespace mayfly::daemon
