// SPDX-License-Identifier: Apache-2.0
//
// Everything the daemon parses that a monitor or a guest wrote. The first byte chooses the parser.
#include "base/error.h"
#include "daemon/agent_codec.h"
#include "daemon/control_codec.h"
#include "daemon/memory_pages.h"

#include <cstddef>
#include <cstdint>

using namespace mayfly;
using namespace mayfly::daemon;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  if (data[0] % 3 == 0) {
    auto reply = parse_reply(bytes);
    if (reply && reply->error) (void)reply->error->describe();
    if (reply && reply->pages) {
      const PageQuery query{.first_page = data[0], .page_count = 13, .find_zero = data[0] % 2 == 0};
      if (check_pages(*reply->pages, query)) {
        for (const PageRun& run : runs_of(reply->pages->own, query.first_page, query.page_count)) {
          CHECK(run.first_page - query.first_page + run.page_count <= query.page_count);
        }
      }
    }
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
