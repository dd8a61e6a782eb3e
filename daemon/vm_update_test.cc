// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

constexpr uint64_t kPageBytes = 4096;

CreateRequest with_balloon(const Rig& rig, const std::string& id, const std::string& words = "") {
  CreateRequest request = rig.request(id, words);
  request.spec.balloon = BalloonSpec{
      .target_mib = 2,
      .options = {.deflate_on_oom = true, .free_page_reporting = true, .stats_interval_s = 5}};
  return request;
}

Result<VmOutcome> set_target(Rig& rig, const char* id, uint64_t target_mib) {
  return rig.manager->update(id, {.balloon_target_mib = target_mib, .metadata = {}}, soon());
}

void check_refused(const Result<VmOutcome>& result, Code code, const char* reason,
                   const char* text) {
  REQUIRE_FALSE(result);
  CHECK(result.error().code() == code);
  CHECK(result.error().reason() == reason);
  INFO(result.error().message());
  CHECK(std::string(result.error().message()).find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("a balloon has the target it was created with, then the one that it is given") {
  Rig rig;
  REQUIRE(rig.manager->create(with_balloon(rig, "a"), soon()));
  auto vm = rig.manager->get("a", soon());
  REQUIRE(vm);
  REQUIRE(vm->balloon);
  CHECK(vm->balloon->target_pages * kPageBytes == 2 << 20);
  CHECK(vm->balloon->actual_pages * kPageBytes == 1 << 20);
  CHECK(vm->balloon->inflated_pages == 3);
  CHECK(vm->balloon->reported_pages == 2);
  REQUIRE(vm->balloon->stats);
  CHECK(vm->balloon->stats->age_ns == 7'999'999);
  CHECK(vm->balloon->stats->values[4] == 12345);
  CHECK_FALSE(vm->balloon->stats->values[5]);

  const auto updated = set_target(rig, "a", 16);
  REQUIRE(updated);
  CHECK(updated->vm.spec.balloon->target_mib == 16);
  CHECK(updated->vm.balloon->target_pages * kPageBytes == 16 << 20);
  CHECK_FALSE(updated->times.phases.empty());
  // Who does not ask the monitor knows the target too.
  CHECK(rig.manager->list(10, "")->vms.at(0).spec.balloon->target_mib == 16);
  CHECK(rig.manager->pause("a", soon()));
  CHECK(set_target(rig, "a", 0)->vm.balloon->target_pages == 0);
  REQUIRE(rig.manager->stop("a", std::nullopt, soon()));
  vm = rig.manager->get("a", soon());
  CHECK_FALSE(vm->balloon);
  CHECK(vm->spec.balloon->target_mib == 0);
}

TEST_CASE("a VM that has not started can be updated") {
  Rig rig;
  CreateRequest request = with_balloon(rig, "a");
  request.start = false;
  REQUIRE(rig.manager->create(request, soon()));
  CHECK(set_target(rig, "a", 3)->vm.balloon->target_pages * kPageBytes == 3 << 20);
  CHECK(rig.manager->get("a", soon())->state == VmState::kCreated);
}

TEST_CASE("an update that cannot be is refused with the field, and changes nothing") {
  Rig rig;
  REQUIRE(rig.manager->create(with_balloon(rig, "a"), soon()));
  REQUIRE(rig.manager->create(rig.request("plain"), soon()));
  check_refused(set_target(rig, "a", 17), Code::kInvalidArgument, "BALLOON_TARGET",
                "balloon.target_mib: 17 is above the VM's memory of 16");
  check_refused(set_target(rig, "a", UINT64_MAX), Code::kInvalidArgument, "BALLOON_TARGET",
                "18446744073709551615");
  CHECK(rig.manager->get("a", soon())->balloon->target_pages * kPageBytes == 2 << 20);
  check_refused(set_target(rig, "plain", 1), Code::kFailedPrecondition, "NO_BALLOON", "plain");
  CHECK_FALSE(rig.manager->get("plain", soon())->balloon);
  check_refused(set_target(rig, "nobody", 1), Code::kNotFound, "VM_NOT_FOUND", "nobody");
  REQUIRE(rig.manager->stop("a", std::nullopt, soon()));
  check_refused(set_target(rig, "a", 1), Code::kFailedPrecondition, "VM_STOPPED", "update a");
}

TEST_CASE("a monitor that says nothing of its balloon is told of, and the VM is still seen") {
  Rig rig;
  REQUIRE(rig.manager->create(with_balloon(rig, "a", "fake.no_balloon"), soon()));
  check_refused(set_target(rig, "a", 1), Code::kUnavailable, "MONITOR_REPLY", "balloon");
  const auto vm = rig.manager->get("a", soon());
  REQUIRE(vm);
  CHECK(vm->state == VmState::kRunning);
  CHECK_FALSE(vm->balloon);
}
