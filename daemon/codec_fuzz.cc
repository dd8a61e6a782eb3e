// SPDX-License-Identifier: Apache-2.0
//
// Everything the daemon parses that a monitor or a guest wrote. The first byte chooses the parser.
#include "base/error.h"
#include "daemon/agent_codec.h"
#include "daemon/control_codec.h"

#include <cstddef>
#include <cstdint>

using namespace mayfly;
using namespace mayfly::daemon;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  if (data[0] % 3 == 0) {
    if (auto reply = parse_reply(bytes); reply && reply->error) (void)reply->error->describe();
    return 0;
  }
  if (data[0] % 3 == 1) {
    if (auto report = parse_exit_report(bytes)) (void)exit_reason_text(report->reason);
    return 0;
  }
  FrameReader reader;
  for (size_t at = 0; at < bytes.size(); at += 5) {
    reader.feed(bytes.subspan(at, std::min<size_t>(5, bytes.size() - at)));
    for (;;) {
      auto payload = reader.next();
      if (!payload) return 0;
      if (!*payload) break;
      CHECK((*payload)->size() <= kMaxFrameBytes);
      (void)parse_agent_message(**payload);
      (void)parse_exec_output(**payload);
    }
  }
  return 0;
}
