// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/cmdline.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string line(data, data + size);
  const auto options = mayfly::guest::parse_cmdline(line);
  if (!options) return 0;
  // What was accepted must keep its promises.
  if (!options->root.empty() && options->root.find('/', 5) != std::string::npos) std::abort();
  if (!options->init.empty() && options->init[0] != '/') std::abort();
  if (options->hostname.size() > 64) std::abort();
  return 0;
}
