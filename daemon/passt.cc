// SPDX-License-Identifier: Apache-2.0
#include "daemon/passt.h"

#include "daemon/passt_spawn_sys.h"
#include "daemon/process_sys.h"
#include "daemon/text.h"

#include <array>
#include <csignal>
#include <utility>

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr int kReadyMs = 10'000;
constexpr int kReapMs = 5'000;
constexpr size_t kOutputBytes = 16 << 10;
constexpr size_t kMaxLine = 300;
constexpr const char* kPrograms[] = {"/usr/bin/passt", "/usr/local/bin/passt"};
// The gateway's: what the host's own device has is nobody's business.
constexpr const char* kGatewayMac = "9a:55:9a:55:9a:55";

std::vector<std::string> arguments_of(const std::string& program, const PasstPlan& plan) {
  const std::string gateway = to_text(plan.gateway);
  std::vector<std::string> arguments = {
      program,
      "--foreground",
      "--quiet",
      "--ipv4-only",
      "--fd",
      std::to_string(kPasstSocket),
      // Written once it is ready.
      "--pid",
      format("/dev/fd/%d", kPasstReady),
      "--address",
      to_text(plan.address.address),
      "--netmask",
      std::to_string(plan.address.bits),
      "--gateway",
      gateway,
      "--mac-addr",
      kGatewayMac,
      "--mtu",
      std::to_string(plan.mtu),
      // Without it the gateway would be the host's loopback device, with all that trusts it.
      "--no-map-gw",
      "--dns-forward",
      gateway,
  };
  for (const PortForward& port : plan.tcp_ports) {
    arguments.push_back("--tcp-ports");
    arguments.push_back(to_text(port.host_address) + "/" + std::to_string(port.host_port) + ":" +
                        std::to_string(port.guest_port));
  }
  return arguments;
}

/// True: the first byte has come. False: its writer has gone, or it takes too long.
bool is_ready(FdRef pipe) {
  pollfd entry = {pipe.number(), POLLIN, 0};
  if (::poll(&entry, 1, kReadyMs) != 1) return false;
  char byte = 0;
  return ::read(pipe.number(), &byte, 1) == 1;
}

}  // namespace

std::string find_passt(const std::string& path) {
  if (!path.empty()) return path;
  for (const char* program : kPrograms) {
    if (::access(program, X_OK) == 0) return program;
  }
  return "";
}

Result<std::unique_ptr<Passt>> Passt::start(const std::string& field, const std::string& program,
                                            const PasstPlan& plan, Fd& guest_end) {
  auto [ours, theirs] = TRY(Fd::socket_pair(SOCK_STREAM));
  auto [ready, told] = TRY(Fd::pipe());
  Fd output = TRY(Fd::memfd("mayfly-passt", kOutputBytes));
  TRY(forbid_growth(output.ref()));
  Fd process =
      TRY(spawn_passt(arguments_of(program, plan),
                      {.socket = theirs.ref(), .ready = told.ref(), .error = output.ref()}));
  theirs.reset();
  told.reset();
  std::unique_ptr<Passt> passt(new Passt(std::move(process), std::move(output)));
  if (!is_ready(ready.ref())) {
    return fail({Code::kFailedPrecondition, "NET_PASST"}, "%s: %s did not start: %s", field.c_str(),
                program.c_str(), passt->last_line().c_str());
  }
  TRY(set_nonblocking(ours.ref(), true));
  guest_end = std::move(ours);
  return passt;
}

Passt::~Passt() {
  watch_.reset();
  if (is_reaped_) return;
  kill();
  (void)wait_and_reap(process_.ref(), kReapMs);
}

void Passt::kill() const { send_signal(process_.ref(), SIGKILL); }

Result<> Passt::watch(Reactor& reactor, Hook on_end) {
  on_end_ = std::move(on_end);
  watch_ = TRY(reactor.watch(process_.ref(), EPOLLIN, [this](uint32_t) { return on_ended(); }));
  return {};
}

WatchVerdict Passt::on_ended() {
  const auto end = reap(process_.ref());
  if (!end) return WatchVerdict::kKeep;
  is_reaped_ = true;
  const std::string how = end->signal != 0 ? format("signal %d ended it", end->signal)
                                           : format("it exited with status %d", end->exit_status);
  const std::string line = last_line();
  on_end_("passt: " + how + (line.empty() ? "" : ": " + line));
  return WatchVerdict::kEnd;
}

std::string Passt::last_line() const {
  std::array<char, kOutputBytes> bytes;
  const ssize_t size = ::pread(output_.number(), bytes.data(), bytes.size(), 0);
  std::string_view text(bytes.data(), size < 0 ? 0 : static_cast<size_t>(size));
  text = text.substr(0, text.find('\0'));
  while (text.ends_with('\n')) text.remove_suffix(1);
  return printable_tail(text.substr(text.rfind('\n') + 1), kMaxLine);
}

}  // namespace mayfly::daemon
