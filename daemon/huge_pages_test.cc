// SPDX-License-Identifier: Apache-2.0
#include "daemon/huge_pages_sys.h"

#include <doctest/doctest.h>

#include <cstdio>

#include <fcntl.h>
#include <sys/stat.h>

namespace mayfly::daemon {
namespace {

constexpr uint64_t kHuge = uint64_t{2} << 20;

uint64_t allocated(const Fd& file) {
  struct stat status = {};
  REQUIRE_EQ(::fstat(file.number(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

TEST_CASE("costs are measured, and a copy takes as long as some faults, not more than its pages") {
  const auto costs = measure_page_costs();
  REQUIRE(costs.has_value());
  CHECK_GT(costs->fault_ns, 0);
  CHECK_GT(costs->copy_ns, costs->fault_ns);
  CHECK_GT(costs->faults_of_copy(), 1);
  CHECK_LE(costs->faults_of_copy(), 512);
  std::printf("figures: a fault %llu ns, a copy %llu ns; huge: own memory %d, memfds %d\n",
              static_cast<unsigned long long>(costs->fault_ns),
              static_cast<unsigned long long>(costs->copy_ns), costs->has_anonymous_huge_pages,
              costs->has_memfd_huge_pages);
  CHECK_EQ(PageCosts{.fault_ns = 0, .copy_ns = 1 << 30}.faults_of_copy(), 512);
  CHECK_EQ(PageCosts{.fault_ns = 1000, .copy_ns = 1}.faults_of_copy(), 1);
}

TEST_CASE("a chunk is backed whole or by a page at most, and the memfd can be sealed afterwards") {
  const Fd file = *Fd::memfd("test", 3 * kHuge + 4096);
  {
    auto backing = HugeBacking::create(file.ref());
    REQUIRE(backing.has_value());
    const auto huge = backing->back(1);
    REQUIRE(huge.has_value());
    CHECK_EQ(allocated(file) >= kHuge, *huge);
    // Beyond the last whole one there is none.
    CHECK_EQ(backing->back(3), false);
    CHECK_EQ(backing->back(4), false);
    // Where one is given, all are.
    CHECK_EQ(backing->back(2), *huge);
  }
  CHECK_EQ(::fcntl(file.number(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  char byte = 1;
  REQUIRE(pread_exact(file.ref(), std::as_writable_bytes(std::span(&byte, 1)), kHuge));
  CHECK_EQ(byte, 0);
}

}  // namespace
}  // namespace mayfly::daemon
