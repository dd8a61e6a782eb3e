// SPDX-License-Identifier: Apache-2.0
#include "vmm/seccomp/denial.h"

#include "proto/control.pb.h"

#include <doctest/doctest.h>

#include <string>

namespace mayfly::vmm {
namespace {

std::string text_of(const DenialText& text) {
  return std::string(text.bytes().begin(), text.bytes().end());
}

TEST_CASE("protobuf reads the report that was written by hand, whatever the number") {
  for (const uint32_t number : {0u, 1u, 127u, 128u, 300u, 16383u, 16384u, 0x4000'0000u, ~0u}) {
    for (size_t kind = 0; kind < kThreadKindCount; ++kind) {
      control::ExitReport report;
      REQUIRE(
          report.ParseFromString(text_of(denial_report(static_cast<ThreadKind>(kind), number))));
      CHECK_EQ(report.reason(), control::EXIT_REASON_SYSCALL_DENIED);
      CHECK_EQ(report.denied_syscall().thread(), kThreadKindNames[kind]);
      CHECK_EQ(report.denied_syscall().number(), number);
      // And nothing else: what is left is empty.
      report.clear_reason();
      report.clear_denied_syscall();
      CHECK_EQ(report.SerializeAsString(), "");
    }
  }
}

TEST_CASE("behind an ordinary report it adds the denial and wins over the reason") {
  control::ExitReport ordinary;
  ordinary.set_reason(control::EXIT_REASON_HOST_STOP);
  ordinary.mutable_stats()->set_exits_io(5);
  control::ExitReport both;
  REQUIRE(both.ParseFromString(ordinary.SerializeAsString() +
                               text_of(denial_report(ThreadKind::kVcpu, 59))));
  CHECK_EQ(both.reason(), control::EXIT_REASON_SYSCALL_DENIED);
  CHECK_EQ(both.stats().exits_io(), 5);
  CHECK_EQ(both.denied_syscall().number(), 59);
}

TEST_CASE("the line for people has the thread and the number") {
  CHECK_EQ(text_of(denial_line(ThreadKind::kLoop, 4'294'967'295)),
           "mayfly-vmm error seccomp: the loop thread may not make system call 4294967295\n");
  CHECK_EQ(text_of(denial_line(static_cast<ThreadKind>(200), 0)),
           "mayfly-vmm error seccomp: the unknown thread may not make system call 0\n");
}

TEST_CASE("what does not fit is left out") {
  DenialText text;
  for (int i = 0; i < 1000; ++i) text.add("0123456789");
  CHECK_EQ(text.bytes().size(), 128);
}

}  // namespace
}  // namespace mayfly::vmm
