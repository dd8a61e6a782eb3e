// SPDX-License-Identifier: Apache-2.0
//
// A document of a caller's, and what a guest asks of it: the text up to the first zero byte, and
// paths behind it, one up to each further one.
#include "daemon/metadata.h"

#include <cstdint>
#include <string>

using namespace mayfly;
using namespace mayfly::daemon;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(data, data + size);
  const size_t end = std::min(input.find('\0'), input.size());
  auto document = MetadataDocument::parse("metadata", input.substr(0, end));
  if (!document) {
    (void)document.error().describe();
    return 0;
  }
  Metadata metadata(*document);
  uint64_t now_ns = 1;
  const auto token = metadata.answer({.id = 1, .token_ttl_s = 60}, now_ns).content;
  for (size_t at = end; at < input.size();) {
    const size_t stop = std::min(input.find('\0', at + 1), input.size());
    const std::string path = input.substr(at + 1, stop - at - 1);
    at = stop;
    now_ns += 1'000'000;
    for (const bool as_json : {false, true}) {
      uint32_t offset = 0;
      for (;;) {
        const auto answer = metadata.answer(
            {.id = 2, .path = path, .token = token, .as_json = as_json, .offset = offset}, now_ns);
        CHECK(answer.content.size() <= kMaxMetadataPiece);
        CHECK(offset + answer.content.size() <= answer.total_bytes);
        CHECK(answer.total_bytes <= kMaxWrittenBytes);
        if (answer.content.empty()) break;
        offset += static_cast<uint32_t>(answer.content.size());
      }
    }
    CHECK(metadata.answer({.id = 3, .path = path, .token = "x"}, now_ns).content.empty());
  }
  return 0;
}
