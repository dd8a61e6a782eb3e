// SPDX-License-Identifier: Apache-2.0
#include "cli/remote_command.h"

#include "base/clock.h"
#include "base/fd.h"
#include "cli/terminal_sys.h"

#include <cerrno>
#include <thread>

#include <poll.h>
#include <termios.h>
#include <unistd.h>

namespace mayfly::cli {

namespace {

constexpr size_t kChunkBytes = 32 * 1024;

void set_window_size(v1::WindowSize* out) {
  const auto size = terminal_size(FdRef(STDIN_FILENO));
  if (!size) return;
  out->set_rows(size->rows);
  out->set_columns(size->columns);
}

}  // namespace

struct RawTerminal::Saved {
  termios before;
};

RawTerminal::RawTerminal() {
  termios now = {};
  if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &now) != 0) return;
  saved_ = std::make_unique<Saved>(Saved{now});
  ::cfmakeraw(&now);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &now);
}

RawTerminal::~RawTerminal() {
  if (saved_) ::tcsetattr(STDIN_FILENO, TCSANOW, &saved_->before);
}

void write_out(int fd, const std::string& bytes) {
  // Nobody to tell where our own output is gone; the command's end is what counts.
  (void)write_all(FdRef(fd), std::as_bytes(std::span(bytes)));
}

RemoteCommand::RemoteCommand(Client& client, RemoteOptions options)
    : options_(std::move(options)),
      stream_(client.exec()),
      end_(MUST(Fd::event())) {  // MUST: there is room for a descriptor.
  if (options_.start.terminal()) set_window_size(options_.start.mutable_window_size());
}

RemoteCommand::~RemoteCommand() = default;

Result<int> RemoteCommand::run() {
  v1::ExecRequest request;
  *request.mutable_start() = options_.start;
  if (options_.no_stdin) {
    if (stream_->write(request)) {
      request.set_stdin_end(true);
      stream_->write(request);
    }
    return pass_output();
  }
  if (!stream_->write(request)) return pass_output();
  std::thread input([this] { forward_stdin(); });
  Result<int> result = pass_output();
  signal_event(end_.ref());
  stream_->cancel();  // The call has ended; this frees an input thread that is still writing.
  input.join();
  return result;
}

Result<int> RemoteCommand::pass_output() {
  v1::ExecResponse response;
  int exit_code = -1;
  while (stream_->read(response)) {
    switch (response.message_case()) {
      case v1::ExecResponse::kStarted:
        started_ns_ = monotonic_ns();
        break;
      case v1::ExecResponse::kStdout:
        write_out(STDOUT_FILENO, response.stdout());
        break;
      case v1::ExecResponse::kStderr:
        write_out(STDERR_FILENO, response.stderr());
        break;
      case v1::ExecResponse::kExited:
        exit_code = static_cast<int>(response.exited().exit_code());
        // An input thread in the middle of a write gets through it: the daemon reads on, and drops
        // what comes.
        signal_event(end_.ref());
        stream_->writes_done();
        break;
      default:
        break;
    }
  }
  auto finished = stream_->finish();
  if (exit_code >= 0) return exit_code;  // However the call ended after that.
  if (!finished) return std::unexpected(std::move(finished).error());
  return fail({Code::kInternal, "NO_EXIT"}, "the daemon ended the call without the command's exit");
}

bool RemoteCommand::send_signal(int signal) {
  if (started_ns_ == 0) return false;
  v1::ExecRequest request;
  request.set_signal(static_cast<uint32_t>(signal));
  return stream_->write(request);
}

void RemoteCommand::send_window_size() {
  if (!options_.start.terminal() || started_ns_ == 0) return;
  v1::ExecRequest request;
  set_window_size(request.mutable_window_size());
  stream_->write(request);
}

void RemoteCommand::forward_stdin() {
  v1::ExecRequest request;
  pollfd entries[] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                      {.fd = end_.number(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (::poll(entries, 2, -1) < 0) continue;
    if (entries[1].revents != 0) return;
    std::string& bytes = *request.mutable_stdin();
    bytes.resize(kChunkBytes);
    const ssize_t size = ::read(STDIN_FILENO, bytes.data(), bytes.size());
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (size <= 0) {
      request.set_stdin_end(true);
      stream_->write(request);
      return;
    }
    bytes.resize(static_cast<size_t>(size));
    if (!stream_->write(request)) return;
  }
}

}  // namespace mayfly::cli
