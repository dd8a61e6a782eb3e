// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/http.h"

#include <algorithm>
#include <utility>

namespace mayfly::guest {
namespace {

constexpr size_t kMaxMethodBytes = 16;
constexpr std::string_view kScheme = "http://";

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool same_name(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

// RFC 9110, 5.6.2.
bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool is_visible(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~'; });
}

// Without control characters; what is above ASCII is for nobody here.
bool is_value(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
  });
}

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// The next line without its end (CRLF, or LF alone as RFC 9112, 2.2 lets one take it); nullopt: it
// is not whole.
std::optional<std::string_view> take_line(std::string_view& rest) {
  const size_t end = rest.find('\n');
  if (end == rest.npos) return std::nullopt;
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::optional<HttpRefusal> parse_target(std::string_view target, HttpRequest& request) {
  if (target.size() > kMaxTargetBytes) return HttpRefusal{414, "the path is too long"};
  if (same_name(target.substr(0, kScheme.size()), kScheme)) {
    target.remove_prefix(kScheme.size());
    target.remove_prefix(std::min(target.find('/'), target.size()));
    if (target.empty()) target = "/";
  }
  target = target.substr(0, target.find_first_of("?#"));
  if (!target.starts_with('/') || !is_visible(target)) return HttpRefusal{400, "no such path"};
  request.path = target;
  return std::nullopt;
}

std::optional<HttpRefusal> parse_request_line(std::string_view line, HttpRequest& request) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == line.npos || first == last) return HttpRefusal{400, "no request line"};
  const std::string_view method = line.substr(0, first);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method) || method.size() > kMaxMethodBytes) return HttpRefusal{400, "no method"};
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return HttpRefusal{505, "HTTP/1.1 is spoken here"};
  }
  request.method = method;
  return parse_target(line.substr(first + 1, last - first - 1), request);
}

std::optional<HttpRefusal> parse_field(std::string_view line, HttpRequest& request) {
  const size_t colon = line.find(':');
  const std::string_view name = line.substr(0, std::min(colon, line.size()));
  // Without one, with a space before it, or the continuation of a line before.
  if (colon == line.npos || !is_token(name)) return HttpRefusal{400, "a header field is malformed"};
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (!is_value(value)) return HttpRefusal{400, "a header field is malformed"};
  if (same_name(name, kTokenHeader)) {
    if (!request.token.empty()) return HttpRefusal{400, "two tokens"};
    if (value.size() > kMaxTokenBytes || !is_visible(value)) {
      return HttpRefusal{401, "the token is none of this VM's"};
    }
    request.token = value;
  } else if (same_name(name, kTtlHeader)) {
    if (request.ttl) return HttpRefusal{400, "two times to live"};
    request.ttl = value;
  } else if (same_name(name, "X-Forwarded-For")) {
    request.is_forwarded = true;
  } else if (same_name(name, "Accept")) {
    request.wants_json = request.wants_json || value.find("application/json") != value.npos;
  } else if (same_name(name, "Transfer-Encoding") ||
             (same_name(name, "Content-Length") && value != "0")) {
    return HttpRefusal{413, "a request here has no body"};
  }
  return std::nullopt;
}

const char* reason_of(int status) {
  static constexpr std::pair<int, const char*> kReasons[] = {
      {200, "OK"},
      {400, "Bad Request"},
      {401, "Unauthorized"},
      {403, "Forbidden"},
      {404, "Not Found"},
      {405, "Method Not Allowed"},
      {408, "Request Timeout"},
      {413, "Content Too Large"},
      {414, "URI Too Long"},
      {431, "Request Header Fields Too Large"},
      {503, "Service Unavailable"},
      {505, "HTTP Version Not Supported"},
  };
  for (const auto& [number, reason] : kReasons) {
    if (number == status) return reason;
  }
  return "Error";
}

}  // namespace

HttpHead parse_head(std::string_view bytes) {
  const bool is_full = bytes.size() >= kMaxHeadBytes;
  std::string_view rest = bytes.substr(0, kMaxHeadBytes);
  HttpRequest request;
  auto line = take_line(rest);
  if (line) {
    if (auto refused = parse_request_line(*line, request)) return *refused;
    while ((line = take_line(rest)) && !line->empty()) {
      if (auto refused = parse_field(*line, request)) return *refused;
    }
  }
  if (line) return request;
  if (is_full) return HttpRefusal{431, "the head of the request is too long"};
  return HttpMore{};
}

std::string response_head(int status, std::string_view content_type, size_t body_bytes,
                          std::string_view header) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + " " + reason_of(status) + "\r\n";
  head.append("Content-Type: ").append(content_type).append("\r\n");
  head += "Content-Length: " + std::to_string(body_bytes) + "\r\nConnection: close\r\n";
  if (!header.empty()) head.append(header).append("\r\n");
  return head + "\r\n";
}

std::string refusal(int status, std::string_view text, std::string_view header) {
  return response_head(status, "text/plain", text.size() + 1, header).append(text) + "\n";
}

}  // namespace mayfly::guest
