// SPDX-License-Identifier: Apache-2.0
#include "cli/daemon_call.h"

#include "cli/private_daemon.h"
#include "cli/run.h"

namespace mayfly::cli {

std::unique_ptr<Client> connect(const GlobalFlags& global) {
  auto client = Client::connect(daemon_target(global.socket));
  client->set_deadline(deadline_of(global));
  return client;
}

/// gRPC's own words for a socket that nobody serves help nobody.
int failed(const GlobalFlags& global, const Error& error) {
  if (error.code() == Code::kUnavailable && error.reason() == "UNAVAILABLE") {
    return report_error(
        global,
        Error::received(Code::kUnavailable, "NO_DAEMON",
                        format("no daemon answers on %s (%s); start one with `mayflyd`, name its "
                               "socket with --socket, or use "
                               "`mayfly run`, which needs none",
                               daemon_target(global.socket).c_str(), error.message().c_str())));
  }
  return report_error(global, error);
}

void print_json(const google::protobuf::Message& message) {
  std::printf("%s\n", to_json(message, true).c_str());
}

void print_line(const v1::Vm& vm) {
  std::printf("%s %s", vm.vm_id().c_str(), short_name(vm.state()).c_str());
  if (vm.has_exit()) std::printf(" (%s)", describe_exit(vm.exit()).c_str());
  std::printf("\n");
}

}  // namespace mayfly::cli
