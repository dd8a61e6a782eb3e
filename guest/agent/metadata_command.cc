// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/metadata_command.h"

#include "guest/agent/http.h"
#include "guest/agent/messages.h"

#include <cerrno>
#include <cstdio>
#include <string_view>

#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

const Failure kFailed{Code::kUnavailable, "METADATA"};
constexpr size_t kMaxResponse = kMaxHeadBytes + kMaxMetadataBytes;

// The body of a success.
Result<std::string> ask(const std::string& request, const ConnectToMetadata& connect) {
  const Fd socket = TRY(connect());
  TRY(write_all(socket.ref(), std::as_bytes(std::span(request))));
  std::string response;
  char buffer[4096];
  ssize_t count = 0;
  while (response.size() < kMaxResponse &&
         ((count = ::recv(socket.number(), buffer, sizeof(buffer), 0)) > 0 ||
          (count < 0 && errno == EINTR))) {
    if (count > 0) response.append(buffer, static_cast<size_t>(count));
  }
  const size_t end = response.find("\r\n\r\n");
  if (count != 0 || end == response.npos) {
    return fail(kFailed, "metadata: the service's answer is not whole");
  }
  const std::string status = response.substr(0, response.find("\r\n"));
  std::string body = response.substr(end + 4);
  if (status.starts_with("HTTP/1.1 200 ")) return body;
  return fail(kFailed, "metadata: %.80s", status.c_str());
}

}  // namespace

Result<std::string> read_metadata(const std::string& path, bool as_json,
                                  const ConnectToMetadata& connect) {
  const std::string token = TRY(ask(
      "PUT " + std::string(kTokenPath) + " HTTP/1.1\r\n" + std::string(kTtlHeader) + ": 60\r\n\r\n",
      connect));
  return ask("GET " + path + " HTTP/1.1\r\n" + std::string(kTokenHeader) + ": " + token + "\r\n" +
                 (as_json ? "Accept: application/json\r\n" : "") + "\r\n",
             connect);
}

int metadata_command(std::span<char* const> arguments, const ConnectToMetadata& connect) {
  bool as_json = false;
  std::string path;
  for (const std::string_view word : arguments) {
    if (word == "--json") {
      as_json = true;
    } else if (path.empty() && !word.starts_with("-")) {
      path = word.starts_with("/") ? word : "/" + std::string(word);
    } else {
      std::fprintf(stderr, "usage: mayfly-agent metadata [--json] [PATH]\n");
      return 2;
    }
  }
  const auto body = read_metadata(path.empty() ? "/" : path, as_json, connect);
  if (!body) {
    std::fprintf(stderr, "mayfly-agent: %s\n", body.error().message().c_str());
    return 1;
  }
  const bool is_written =
      write_all(FdRef(STDOUT_FILENO), std::as_bytes(std::span(*body))).has_value() &&
      (body->ends_with('\n') || ::write(STDOUT_FILENO, "\n", 1) == 1);
  return is_written ? 0 : 1;
}

}  // namespace mayfly::guest
