// SPDX-License-Identifier: Apache-2.0
#include "tests/security/escapee.h"

#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include <pthread.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

constexpr std::array<std::pair<std::string_view, Place>, 4> kPlaces = {{
    {"none", Place::kUnfiltered},
    {"start", Place::kStart},
    {"loop", Place::kLoop},
    {"vcpu", Place::kVcpu},
}};

// The vCPU thread's work. As the monitor's own threads, it uses nothing that the filters would
// deny: mutexes and condition variables.
struct Handover {
  std::mutex lock;
  std::condition_variable changed;
  bool ready = false;
  const Attempt* attempt = nullptr;
  World* world = nullptr;
  bool done = false;
  Outcome outcome;
};

Handover handover;

void vcpu_main(vmm::Confinement confinement) {
  const Result<> confined = confinement.enter(vmm::ThreadKind::kVcpu);
  std::unique_lock held(handover.lock);
  if (!confined) ::_exit(kBrokenCode);
  handover.ready = true;
  handover.changed.notify_all();
  handover.changed.wait(held, [] { return handover.attempt != nullptr; });
  handover.outcome = handover.attempt->make(*handover.world);
  handover.done = true;
  handover.changed.notify_all();
}

Outcome make_on_vcpu(const Attempt& attempt, World& world) {
  std::unique_lock held(handover.lock);
  handover.attempt = &attempt;
  handover.world = &world;
  handover.changed.notify_all();
  handover.changed.wait(held, [] { return handover.done; });
  return handover.outcome;
}

int tell(const Attempt& attempt, const Outcome& outcome) {
  std::string line = std::string(attempt.name) + ": ";
  int code = kEscapedCode;
  if (outcome.end == End::kEscaped) {
    line += "ESCAPED";
  } else {
    code = outcome.end == End::kRefused ? kRefusedCode : kMissingCode;
    line += format("%s: %s", outcome.what, strerrorname_np(outcome.os_errno));
  }
  line += '\n';
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  return code;
}

}  // namespace

Result<Place> parse_place(std::string_view name) {
  for (const auto& [known, place] : kPlaces) {
    if (name == known) return place;
  }
  return fail({Code::kInvalidArgument, "PLACE"}, "policy %.*s: not none, start, loop or vcpu",
              static_cast<int>(name.size()), name.data());
}

Result<> take_place(const vmm::Confinement& confinement, Place place) {
  if (place == Place::kUnfiltered) return {};
  TRY(confinement.enter(vmm::ThreadKind::kStart));
  if (place == Place::kStart) return {};
  if (place == Place::kVcpu) {
    std::thread(vcpu_main, confinement).detach();
    std::unique_lock held(handover.lock);
    handover.changed.wait(held, [] { return handover.ready; });
  }
  return confinement.enter(vmm::ThreadKind::kLoop);
}

int make_attempt(Place place, const Attempt& attempt, World& world) {
  return tell(attempt, place == Place::kVcpu ? make_on_vcpu(attempt, world) : attempt.make(world));
}

}  // namespace mayfly::escape
