// SPDX-License-Identifier: Apache-2.0
//
// Requests for tests of what becomes of them, and that.
#pragma once

#include "proto/control.pb.h"
#include "vmm/control/request.h"

#include <doctest/doctest.h>

#include <expected>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::vmm::testing {

inline constexpr uint64_t kRequestId = 7;

/// What every configuration has, with the descriptors 0, 1 and 3 to 6: neither a kernel nor
/// something to go on from.
inline ::mayfly::control::Request base_request() {
  ::mayfly::control::Request request;
  request.set_id(kRequestId);
  auto& configure = *request.mutable_configure();
  configure.set_vcpu_count(2);
  configure.set_memory_bytes(64 << 20);
  configure.set_kvm_fd(0);
  configure.set_memory_fd(1);
  configure.set_exit_report_fd(3);
  configure.mutable_console()->set_ring_fd(4);
  configure.mutable_console()->set_output_event_fd(5);
  configure.mutable_console()->set_input_fd(6);
  return request;
}

/// One that boots: descriptor 2 is its kernel.
inline ::mayfly::control::Request boot_request() {
  ::mayfly::control::Request request = base_request();
  request.mutable_configure()->set_cmdline("quiet");
  request.mutable_configure()->set_kernel_fd(2);
  return request;
}

/// One that goes on from a state, descriptor 2, over private memory.
inline ::mayfly::control::Request restore_request() {
  ::mayfly::control::Request request = base_request();
  request.mutable_configure()->mutable_restore()->set_state_fd(2);
  request.mutable_configure()->mutable_restore()->set_private_memory(true);
  return request;
}

/// With the descriptors 0 to 7.
inline std::expected<Request, Refusal> parse(const ::mayfly::control::Request& request) {
  std::vector<Fd> fds;
  for (int i = 0; i < 8; ++i) fds.push_back(*Fd::event());
  const std::string bytes = request.SerializeAsString();
  return parse_request(std::as_bytes(std::span(bytes)), std::move(fds));
}

/// Why it is refused; empty: it is not.
inline std::string reason(const ::mayfly::control::Request& request) {
  const auto result = parse(request);
  if (result) return "";
  CHECK_EQ(result.error().id, kRequestId);
  return result.error().error.reason();
}

}  // namespace mayfly::vmm::testing
