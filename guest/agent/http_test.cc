// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/http.h"

#include <doctest/doctest.h>

#include <string>

namespace mayfly::guest {
namespace {

HttpRequest request_of(const std::string& text) {
  const HttpHead head = parse_head(text);
  REQUIRE_UNARY(std::holds_alternative<HttpRequest>(head));
  return std::get<HttpRequest>(head);
}

int status_of(const std::string& text) {
  const HttpHead head = parse_head(text);
  const auto* refused = std::get_if<HttpRefusal>(&head);
  return refused == nullptr ? 0 : refused->status;
}

TEST_CASE("a request is what its head says, whatever the case and order of its fields") {
  const HttpRequest get = request_of(
      "GET /latest/meta-data/hostname?x=1 HTTP/1.1\r\nHost: 169.254.169.254\r\n"
      "x-AWS-ec2-Metadata-Token:  abc= \r\nACCEPT: text/html, application/json;q=0.9\r\n"
      "Content-Length: 0\r\n\r\n");
  CHECK_EQ(get.method, "GET");
  CHECK_EQ(get.path, "/latest/meta-data/hostname");
  CHECK_EQ(get.token, "abc=");
  CHECK(get.wants_json);
  CHECK_FALSE(get.is_forwarded);
  const HttpRequest put = request_of(
      "PUT http://169.254.169.254/latest/api/token HTTP/1.0\n"
      "X-aws-ec2-metadata-token-ttl-seconds: 60\nX-Forwarded-For: 10.0.0.1\n\n");
  CHECK_EQ(put.path, kTokenPath);
  CHECK_EQ(put.ttl.value_or(""), "60");
  CHECK(put.is_forwarded);
  CHECK_EQ(request_of("GET http://169.254.169.254 HTTP/1.1\r\n\r\n").path, "/");
}

TEST_CASE("a head that is not whole is waited for, byte by byte") {
  const std::string whole = "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n";
  for (size_t size = 0; size < whole.size(); ++size) {
    CHECK_UNARY(std::holds_alternative<HttpMore>(parse_head(whole.substr(0, size))));
  }
  CHECK_UNARY(std::holds_alternative<HttpRequest>(parse_head(whole)));
}

TEST_CASE("what is no request is refused, with the status that says why") {
  CHECK_EQ(status_of("\r\n"), 400);
  CHECK_EQ(status_of("GET /\r\n"), 400);
  CHECK_EQ(status_of("GET / HTTP/2\r\n"), 505);
  CHECK_EQ(status_of("G(T / HTTP/1.1\r\n"), 400);
  CHECK_EQ(status_of("GET relative HTTP/1.1\r\n"), 400);
  CHECK_EQ(status_of("GET /a b HTTP/1.1\r\n"), 400);
  CHECK_EQ(status_of("GET /\x01 HTTP/1.1\r\n"), 400);
  CHECK_EQ(status_of("GET /" + std::string(kMaxTargetBytes, 'a') + " HTTP/1.1\r\n"), 414);
  CHECK_EQ(status_of(std::string(kMaxHeadBytes, 'a')), 431);
  const std::string line = "GET / HTTP/1.1\r\n";
  CHECK_EQ(status_of(line + "no field\r\n"), 400);
  CHECK_EQ(status_of(line + "Name : value\r\n"), 400);
  CHECK_EQ(status_of(line + "A: b\r\n continued\r\n"), 400);
  CHECK_EQ(status_of(line + "A: \x02\r\n"), 400);
  CHECK_EQ(status_of(line + "Content-Length: 5\r\n"), 413);
  CHECK_EQ(status_of(line + "Content-Length: 00\r\n"), 413);
  CHECK_EQ(status_of(line + "Transfer-Encoding: chunked\r\n"), 413);
  const std::string token = std::string(kTokenHeader) + ": ";
  CHECK_EQ(status_of(line + token + std::string(kMaxTokenBytes + 1, 'a') + "\r\n"), 401);
  CHECK_EQ(status_of(line + token + "a\r\n" + token + "b\r\n"), 400);
  CHECK_EQ(
      status_of(line + std::string(kTtlHeader) + ": 1\r\n" + std::string(kTtlHeader) + ": 2\r\n"),
      400);
}

TEST_CASE("a response says how long it is and that it is the last") {
  CHECK_EQ(refusal(405, "no", "Allow: GET"),
           "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
           "Connection: close\r\nAllow: GET\r\n\r\nno\n");
  CHECK_UNARY(response_head(200, "application/json", 7).find("Content-Length: 7\r\n") !=
              std::string::npos);
}

}  // namespace
}  // namespace mayfly::guest
