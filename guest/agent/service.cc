// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/service.h"

#include "base/clock.h"
#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

// What busybox's and sysvinit's poweroff, halt and reboot send to PID 1, and Ctrl-Alt-Del.
constexpr int kPowerOffSignals[] = {SIGUSR1, SIGUSR2, SIGPWR};
constexpr int kRebootSignals[] = {SIGTERM, SIGINT};
constexpr int kAcceptsPerRound = 16;

std::optional<ShutdownMode> mode_of(uint32_t number) {
  const auto is = [number](int signal) { return static_cast<uint32_t>(signal) == number; };
  if (std::ranges::any_of(kPowerOffSignals, is)) return ShutdownMode::kPowerOff;
  if (std::ranges::any_of(kRebootSignals, is)) return ShutdownMode::kReboot;
  return std::nullopt;
}

}  // namespace

Service::Service(ServiceOptions options, Fd signals)
    : options_(std::move(options)),
      metadata_(std::move(options_.listen_for_metadata)),
      signals_(std::move(signals)) {
  if (options_.link == nullptr) return;
  options_.link->on_metadata([this](const MetadataOffer& offer) { metadata_.offer(offer); },
                             [this](const MetadataAnswer& answer) { metadata_.answer(answer); });
}

Result<std::unique_ptr<Service>> Service::create(ServiceOptions options) {
  sigset_t mask;
  ::sigemptyset(&mask);
  ::sigaddset(&mask, SIGCHLD);
  if (options.shutdown_signals) {
    for (const int number : kPowerOffSignals) ::sigaddset(&mask, number);
    for (const int number : kRebootSignals) ::sigaddset(&mask, number);
  }
  ::sigprocmask(SIG_BLOCK, &mask, nullptr);
  Fd signals(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return fail_errno({Code::kInternal, "SIGNALFD"}, errno, "signalfd");
  return std::unique_ptr<Service>(new Service(std::move(options), std::move(signals)));
}

size_t Service::commands() const {
  return static_cast<size_t>(
      std::ranges::count_if(sessions_, [](const auto& session) { return !session->finishing(); }));
}

void Service::adopt(Fd connection) {
  if (sessions_.size() >= kMaxConnections)
    return;  // Closed without a word: there is no room for one.
  Refusal refusal;
  if (!options_.failure.empty()) {
    refusal = {ENODEV, "the guest could not be set up: " + options_.failure};
  } else if (commands() >= kMaxCommands) {
    refusal = {EAGAIN, format("%zu commands are running, which is the limit", kMaxCommands)};
  }
  sessions_.push_back(std::make_unique<Session>(std::move(connection), std::move(refusal)));
}

Result<> Service::step(uint64_t deadline_ns) {
  set_.clear();
  const PollSet::Slot signal_slot = set_.add(signals_.ref(), POLLIN);
  PollSet::Slot listener_slot = PollSet::kNone;
  if (options_.listener != nullptr) listener_slot = set_.add(options_.listener->fd(), POLLIN);
  if (options_.link != nullptr) {
    options_.link->collect(set_);
    metadata_.collect(set_);
    deadline_ns = std::min({deadline_ns, options_.link->deadline_ns(), metadata_.deadline_ns()});
  }
  for (const auto& session : sessions_) {
    session->collect(set_);
    deadline_ns = std::min(deadline_ns, session->deadline_ns());
  }
  TRY(set_.wait(deadline_ns));
  const uint64_t now = monotonic_ns();
  for (const auto& session : sessions_) session->handle(set_, now);
  if (options_.link != nullptr) {
    options_.link->handle(set_, now);
    metadata_.handle(set_, now, *options_.link);
    if (const auto mode = options_.link->take_shutdown()) shutdown_ = mode;
  }
  // After the sessions: a child that ended is reported once what it said before has been read.
  if (set_.events(signal_slot) != 0) handle_signals();
  std::erase_if(sessions_, [](const auto& session) { return session->done(); });
  if (set_.events(listener_slot) != 0) accept_waiting();
  return {};
}

void Service::accept_waiting() {
  for (int i = 0; i < kAcceptsPerRound; ++i) {
    std::optional<Fd> connection = options_.listener->accept();
    if (!connection) return;
    adopt(std::move(*connection));
  }
}

void Service::handle_signals() {
  signalfd_siginfo info;
  while (::read(signals_.number(), &info, sizeof(info)) == sizeof(info)) {
    if (const auto mode = mode_of(info.ssi_signo)) shutdown_ = mode;
  }
  reap();
}

bool Service::reap() {
  int wait_status = 0;
  pid_t pid = 0;
  while ((pid = ::waitpid(-1, &wait_status, WNOHANG)) > 0) {
    const auto session =
        std::ranges::find_if(sessions_, [pid](const auto& each) { return each->pid() == pid; });
    if (session != sessions_.end()) (*session)->on_exit(wait_status, monotonic_ns());
  }
  return !(pid < 0 && errno == ECHILD);
}

void Service::shutdown_failed(const std::string& message) {
  shutdown_.reset();
  if (options_.link != nullptr) options_.link->send_shutdown_failed(message);
}

}  // namespace mayfly::guest
