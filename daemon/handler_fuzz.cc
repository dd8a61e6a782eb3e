// SPDX-License-Identifier: Apache-2.0
// What a memory's handler may say.
#include "daemon/handler_source.h"

#include <cstdint>

using namespace mayfly;
using namespace mayfly::daemon;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (const auto says = parse_handler(std::as_bytes(std::span(data, size)))) {
    CHECK(says->text.size() <= kMaxHandlerText);
    CHECK((says->word == HandlerWord::kFailed || says->text.empty()));
  }
  return 0;
}
