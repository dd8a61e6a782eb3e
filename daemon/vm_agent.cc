// SPDX-License-Identifier: Apache-2.0
//
// What the agent in a VM's guest says, and what it is told: until it has set up the network and, in
// a restored VM, reseeded itself, the guest is not ready. The reactor's thread.
#include "base/clock.h"
#include "base/log.h"
#include "daemon/random.h"
#include "daemon/vm.h"

#include <utility>

namespace mayfly::daemon {

namespace {

constexpr size_t kEntropyBytes = 32;

}  // namespace

void Vm::on_agent(VmBody& body, const AgentMessage& message) {
  if (const auto* failed = std::get_if<AgentShutdownFailed>(&message)) {
    log(LogLevel::kWarning, "vm %s: the guest did not power off: %s", identity_.id.c_str(),
        failed->message.c_str());
  } else if (const auto* hello = std::get_if<AgentHello>(&message)) {
    // Each time: the agent, and its connection, may be others than before. Before the guest is
    // ready, so that a command finds the service.
    offer_metadata(body);
    on_hello(body, *hello);
  } else if (const auto* reseeded = std::get_if<AgentReseeded>(&message)) {
    on_reseeded(*reseeded);
  } else if (const auto* set = std::get_if<AgentNetworkSet>(&message)) {
    on_network_set(*set);
  } else if (const auto* request = std::get_if<AgentMetadataRequest>(&message)) {
    body.agent()->answer_metadata(metadata_.answer(*request, monotonic_ns()));
  }
}

void Vm::offer_metadata(const VmBody& body) {
  // One that boots listens to nobody until it is told to.
  const bool is_there = metadata_.is_there();
  if (!is_there && restored_from_.empty()) return;
  if (!body.agent()->offer_metadata(is_there)) {
    log(LogLevel::kWarning, "vm %s: its agent does not listen", identity_.id.c_str());
  }
}

Result<> Vm::check_metadata(const Metadata::Document& document) const {
  if (!document || spec_.agent) return {};
  return fail({Code::kFailedPrecondition, "NO_AGENT"},
              "metadata: %s was created without the agent, which would serve it",
              identity_.id.c_str());
}

void Vm::change_metadata(Metadata::Document document) {
  metadata_.set(std::move(document));
  // What is there now, also where another call has changed it meanwhile. An agent that has not
  // said Hello yet is told again when it does.
  if (body_->agent() != nullptr) (void)body_->agent()->offer_metadata(metadata_.is_there());
}

void Vm::on_hello(const VmBody& body, const AgentHello& hello) {
  std::vector<AgentInterface> interfaces;
  {
    std::lock_guard lock(mutex_);
    if (guest_ || waiting_guest_ || state_ == VmState::kStopped) return;  // The first one counts.
    interfaces = agent_interfaces();
    waiting_guest_ = GuestInfo{
        .agent_version = hello.agent_version,
        .kernel_release = hello.kernel_release,
        .cpu_count = hello.cpu_count,
        .init_us = hello.init_us,
        .ready_us = hello.ready_us,
        .start_to_ready_us = 0,
        .failure = hello.failure,
    };
    awaits_network_ = !interfaces.empty();
    // It has another's random numbers and time until it says otherwise.
    awaits_reseeded_ = !restored_from_.empty();
    set_guest_when_told();
  }
  bool listens = interfaces.empty() || body.agent()->tell_network(interfaces);
  if (!restored_from_.empty()) {
    listens = body.agent()->tell_restored(random_bytes(kEntropyBytes),
                                          static_cast<uint64_t>(unix_now_us()) * 1000) &&
              listens;
  }
  if (!listens) log(LogLevel::kWarning, "vm %s: its agent does not listen", identity_.id.c_str());
  changed_.notify_all();
}

std::vector<AgentInterface> Vm::agent_interfaces() const {
  std::vector<AgentInterface> interfaces;
  bool any = false;
  for (const VmNet& net : nets_) {
    interfaces.push_back({.mac = net.view.mac, .network = net.view.guest});
    // One that goes on from another's memory has that one's MAC address.
    any = any || net.view.guest || !restored_from_.empty();
  }
  return any ? interfaces : std::vector<AgentInterface>();
}

void Vm::on_network_set(const AgentNetworkSet& set) {
  {
    std::lock_guard lock(mutex_);
    if (!waiting_guest_ || !awaits_network_ || state_ == VmState::kStopped) return;
    awaits_network_ = false;
    if (waiting_guest_->failure.empty()) waiting_guest_->failure = set.failure;
    set_guest_when_told();
  }
  changed_.notify_all();
}

void Vm::on_reseeded(const AgentReseeded& reseeded) {
  {
    std::lock_guard lock(mutex_);
    if (!waiting_guest_ || !awaits_reseeded_ || state_ == VmState::kStopped) return;
    awaits_reseeded_ = false;
    reseeded_ = reseeded.failure.empty();
    if (waiting_guest_->failure.empty() && !reseeded.failure.empty()) {
      waiting_guest_->failure =
          "it may have another VM's random numbers or time: " + reseeded.failure;
    }
    set_guest_when_told();
  }
  changed_.notify_all();
}

void Vm::set_guest_when_told() {
  if (!awaits_reseeded_ && !awaits_network_) {
    set_guest(*std::exchange(waiting_guest_, std::nullopt));
  }
}

void Vm::set_guest(GuestInfo guest) {
  guest.start_to_ready_us = start_ns_ == 0 ? 0 : (monotonic_ns() - start_ns_) / 1000;
  guest_ = std::move(guest);
  // Before the reply that says so, the VM does not run yet for anyone else: set_state() tells
  // them then.
  if (published_ && state_ != VmState::kCreated) {
    ready_emitted_ = true;
    emit(*guest_);
  }
}

}  // namespace mayfly::daemon
