// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/http.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

// A request as it comes: what is decided of a part of it stays so when more is there, and nothing
// of a request is longer than its limit.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly::guest;
  std::vector<char> copy(size);
  if (size != 0) std::memcpy(copy.data(), data, size);
  const std::string_view bytes(copy.data(), copy.size());
  const HttpHead whole = parse_head(bytes);
  if (size >= kMaxHeadBytes) check(!std::holds_alternative<HttpMore>(whole));
  if (const auto* request = std::get_if<HttpRequest>(&whole)) {
    check(request->path.starts_with('/') && request->path.size() <= kMaxTargetBytes);
    check(request->token.size() <= kMaxTokenBytes && !request->method.empty());
    check(request->path.find_first_of("\r\n") == std::string::npos);
  }
  const HttpHead half = parse_head(bytes.substr(0, size / 2));
  if (const auto* refused = std::get_if<HttpRefusal>(&half)) {
    const auto* later = std::get_if<HttpRefusal>(&whole);
    check(later != nullptr && later->status == refused->status);
  } else if (const auto* request = std::get_if<HttpRequest>(&half)) {
    const auto* later = std::get_if<HttpRequest>(&whole);
    check(later != nullptr && later->path == request->path);
  }
  return 0;
}
