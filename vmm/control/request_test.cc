// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/request.h"

#include "proto/control.pb.h"

#include <doctest/doctest.h>

#include <unistd.h>

namespace mayfly::vmm {
namespace {

::mayfly::control::Request valid() {
  ::mayfly::control::Request request;
  request.set_id(7);
  auto& configure = *request.mutable_configure();
  configure.set_vcpu_count(2);
  configure.set_memory_bytes(64 << 20);
  configure.set_cmdline("quiet");
  configure.set_kvm_fd(0);
  configure.set_memory_fd(1);
  configure.set_kernel_fd(2);
  configure.set_exit_report_fd(3);
  configure.mutable_console()->set_ring_fd(4);
  configure.mutable_console()->set_output_event_fd(5);
  configure.mutable_console()->set_input_fd(6);
  auto& disk = *configure.add_disks();
  disk.set_fd(7);
  disk.set_read_only(true);
  return request;
}

std::expected<Request, Refusal> parse(const ::mayfly::control::Request& request) {
  std::vector<Fd> fds;
  for (int i = 0; i < 8; ++i) fds.push_back(*Fd::event());
  const std::string bytes = request.SerializeAsString();
  return parse_request(std::as_bytes(std::span(bytes)), std::move(fds));
}

std::string reason(const ::mayfly::control::Request& request) {
  const auto result = parse(request);
  if (result) return "";
  CHECK_EQ(result.error().id, 7);
  return result.error().error.reason();
}

TEST_CASE("a whole configuration comes through with its descriptors") {
  const auto request = parse(valid());
  REQUIRE(request.has_value());
  const auto& machine = std::get<Configure>(request->call).machine;
  CHECK_EQ(machine.vcpu_count, 2);
  CHECK_EQ(machine.command_line, "quiet");
  CHECK_EQ(machine.disks.size(), 1);
  CHECK_EQ(machine.disks[0].access, DiskAccess::kReadOnly);
  CHECK(machine.kernel.valid());
  CHECK_FALSE(machine.vsock.has_value());
}

TEST_CASE("numbers outside their limits are refused by field") {
  auto request = valid();
  request.mutable_configure()->set_vcpu_count(0);
  CHECK_EQ(reason(request), "VCPU_COUNT");
  request.mutable_configure()->set_vcpu_count(33);
  CHECK_EQ(parse(request).error().error.message(), "vcpu_count: 33 is not from 1 to 32");
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{1} << 20, (uint64_t{64} << 20) + 1, ~uint64_t{0}}) {
    request = valid();
    request.mutable_configure()->set_memory_bytes(bytes);
    CHECK_EQ(reason(request), "MEMORY_SIZE");
  }
  request = valid();
  request.mutable_configure()->mutable_vsock()->set_guest_cid(2);
  CHECK_EQ(reason(request), "GUEST_CID");
}

TEST_CASE("a descriptor that did not come, or is named twice, is refused") {
  auto request = valid();
  request.mutable_configure()->set_kernel_fd(8);
  CHECK_EQ(reason(request), "DESCRIPTOR_INDEX");
  request.mutable_configure()->set_kernel_fd(1);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
}

TEST_CASE("a request without a call, and bytes that are no request, are refused") {
  ::mayfly::control::Request request;
  request.set_id(7);
  CHECK_EQ(reason(request), "UNKNOWN_CALL");
  const std::byte garbage[] = {std::byte{0xff}, std::byte{0xff}};
  CHECK_EQ(parse_request(garbage, {}).error().error.reason(), "MALFORMED");
}

TEST_CASE("a refused packet closes every descriptor that came with it") {
  auto pipe = *Fd::pipe();
  std::vector<Fd> fds;
  fds.push_back(std::move(pipe.second));
  (void)parse_request({}, std::move(fds));
  char end;
  CHECK_EQ(::read(pipe.first.number(), &end, 1), 0);
}

}  // namespace
}  // namespace mayfly::vmm
