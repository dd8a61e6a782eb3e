// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupts.h"

#include <csignal>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace mayfly::cli {

Interrupts::Interrupts(std::function<void(int signal)> on_signal)
    : on_signal_(std::move(on_signal)) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGWINCH}) sigaddset(&set, signal);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  // MUST: a process at its start has room for a descriptor.
  end_ = MUST(Fd::event());
  thread_ = std::thread([this] { run(); });
}

Interrupts::~Interrupts() {
  signal_event(end_.ref());
  thread_.join();
}

void Interrupts::run() {
  pollfd entries[] = {{.fd = signals_.number(), .events = POLLIN, .revents = 0},
                      {.fd = end_.number(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (::poll(entries, 2, -1) < 0) continue;
    if (entries[1].revents != 0) return;
    signalfd_siginfo info;
    if (::read(signals_.number(), &info, sizeof(info)) == sizeof(info)) {
      on_signal_(static_cast<int>(info.ssi_signo));
    }
  }
}

}  // namespace mayfly::cli
