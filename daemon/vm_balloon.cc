// SPDX-License-Identifier: Apache-2.0
//
// What a VM's balloon is to be like, and is.
#include "daemon/vm.h"

#include <chrono>

namespace mayfly::daemon {

namespace {

// A monitor that does not answer in time leaves its VM's view without a balloon.
constexpr auto kViewPatience = std::chrono::seconds(2);

}  // namespace

Result<MonitorBalloon> Vm::ask_balloon(std::optional<uint64_t> target_mib, const Call& call) {
  const ControlReply reply = TRY(body_->monitor().call(
      [&](uint64_t id) {
        return target_mib ? encode_set_balloon(id, *target_mib * kPagesOfMib)
                          : encode_get_balloon(id);
      },
      call, "ask for the balloon",
      [this, target_mib](const Result<ControlReply>& result) {
        if (!target_mib || !result || result->error) return;
        std::lock_guard lock(mutex_);
        balloon_target_mib_ = *target_mib;
      }));
  if (reply.balloon) return *reply.balloon;
  return fail({Code::kUnavailable, "MONITOR_REPLY"},
              "the monitor did not say what the balloon is like");
}

VmView Vm::view_with(const MonitorBalloon& balloon) const {
  VmView out = view();
  out.balloon = balloon;
  // Of a VM that was saved only the monitor knows it.
  if (out.spec.balloon) out.spec.balloon->target_mib = balloon.target_pages / kPagesOfMib;
  return out;
}

Result<> Vm::check_balloon_target(uint64_t target_mib) const {
  if (spec_.balloon) return validate_target(target_mib, spec_.memory_mib);
  return fail({Code::kFailedPrecondition, "NO_BALLOON"},
              "balloon.target_mib: %s was created without a balloon", identity_.id.c_str());
}

Result<VmView> Vm::asked_view(const Call& call) {
  VmView now = view();
  const bool can_ask = now.state == VmState::kCreated || now.state == VmState::kRunning ||
                       now.state == VmState::kPaused;
  if (!spec_.balloon || !can_ask) return now;
  const auto balloon = ask_balloon(std::nullopt, call.at_most(kViewPatience));
  return balloon ? view_with(*balloon) : view();
}

}  // namespace mayfly::daemon
