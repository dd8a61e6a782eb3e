// SPDX-License-Identifier: Apache-2.0
// Control packets from anybody who reached the socket.
#include "vmm/control/request.h"

#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  std::vector<Fd> descriptors;
  for (int i = 0; i < 8; ++i) descriptors.push_back(*Fd::event());
  const auto request =
      vmm::parse_request(std::as_bytes(std::span(data, size)), std::move(descriptors));
  if (!request) {
    (void)vmm::make_reply(request.error().id, std::unexpected(request.error().error));
  }
  return 0;
}
