// SPDX-License-Identifier: Apache-2.0
//
// As much of HTTP/1.1 (RFC 9112) as the metadata service needs: the head of a request in, a whole
// response out. One request for each connection, and no request has a body. What comes in may be
// any program's of the guest, and hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace mayfly::guest {

/// Of a request's head, with the empty line behind it.
inline constexpr size_t kMaxHeadBytes = 8 << 10;
inline constexpr size_t kMaxTargetBytes = 2 << 10;
inline constexpr size_t kMaxTokenBytes = 128;

inline constexpr std::string_view kTokenPath = "/latest/api/token";
inline constexpr std::string_view kTokenHeader = "X-aws-ec2-metadata-token";
inline constexpr std::string_view kTtlHeader = "X-aws-ec2-metadata-token-ttl-seconds";

struct HttpRequest {
  std::string method;
  /// Begins with a `/`; without a query.
  std::string path;
  /// At most kMaxTokenBytes; empty: none.
  std::string token;
  /// As it stands there.
  std::optional<std::string> ttl;
  bool is_forwarded = false;
  bool wants_json = false;
};

/// A status that is no success, and why.
struct HttpRefusal {
  int status = 400;
  const char* text = "";
};

/// More bytes are needed.
struct HttpMore {};

using HttpHead = std::variant<HttpMore, HttpRequest, HttpRefusal>;

/// Looks at what has been read so far, at most kMaxHeadBytes of it.
HttpHead parse_head(std::string_view bytes);

/// Each of them ends its connection. `header` is one whole further line, or empty.
std::string response_head(int status, std::string_view content_type, size_t body_bytes,
                          std::string_view header = {});
/// A short text as the body.
std::string refusal(int status, std::string_view text, std::string_view header = {});

}  // namespace mayfly::guest
