// SPDX-License-Identifier: Apache-2.0
#include "daemon/testing/fake_commands.h"

#include "proto/agent.pb.h"

#include <csignal>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

namespace mayfly {
namespace {

/// The process groups of commands that run.
std::mutex commands_mutex;
std::set<pid_t> commands;

/// Runs one command for the daemon, on this host.
class Command {
 public:
  explicit Command(Fd stream) : stream_(std::move(stream)) {}

  void run() {
    agent::ExecInput input;
    if (!read_frame(stream_.ref(), input) || !input.has_start()) return;
    auto in = Fd::pipe();
    auto out = Fd::pipe();
    auto err = Fd::pipe();
    const int error = spawn(input.start(), in->first, out->second, err->second);
    in->first.reset();
    out->second.reset();
    err->second.reset();
    agent::ExecOutput message;
    if (error != 0) {
      message.mutable_failed()->set_guest_errno(static_cast<uint32_t>(error));
      message.mutable_failed()->set_message(input.start().argv(0) + ": " + std::strerror(error));
      send_frame(stream_.ref(), message);
      return;
    }
    {
      std::lock_guard lock(commands_mutex);
      commands.insert(pid_);
    }
    message.mutable_started()->set_pid(static_cast<uint32_t>(pid_));
    send_frame(stream_.ref(), message);
    std::thread feeder([this, fd = std::move(in->second)]() mutable { feed(std::move(fd)); });
    pump(out->first, err->first);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    {
      std::lock_guard lock(commands_mutex);
      commands.erase(pid_);
    }
    message.Clear();
    message.mutable_exited()->set_exit_code(
        static_cast<uint32_t>(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)));
    message.mutable_exited()->set_signal(
        WIFSIGNALED(status) ? static_cast<uint32_t>(WTERMSIG(status)) : 0);
    send_frame(stream_.ref(), message);
    ::shutdown(stream_.number(), SHUT_RDWR);
    feeder.join();
  }

 private:
  int spawn(const agent::ExecInput::Start& start, const Fd& in, const Fd& out, const Fd& err) {
    std::vector<char*> argv;
    for (const std::string& arg : start.argv()) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    std::vector<char*> env = {const_cast<char*>("PATH=/usr/sbin:/usr/bin:/sbin:/bin")};
    for (const std::string& entry : start.env()) env.push_back(const_cast<char*>(entry.c_str()));
    env.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in.number(), 0);
    posix_spawn_file_actions_adddup2(&actions, out.number(), 1);
    posix_spawn_file_actions_adddup2(&actions, err.number(), 2);
    if (!start.working_directory().empty()) {
      posix_spawn_file_actions_addchdir_np(&actions, start.working_directory().c_str());
    }
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    return ::posix_spawnp(&pid_, argv[0], &actions, &attributes, argv.data(), env.data());
  }

  void feed(Fd command_input) {
    agent::ExecInput input;
    while (read_frame(stream_.ref(), input)) {
      if (input.has_stdin() && command_input.valid()) {
        (void)write_all(command_input.ref(), std::as_bytes(std::span(input.stdin())));
      }
      if (input.has_stdin_end()) command_input.reset();
      if (input.has_signal()) ::kill(-pid_, static_cast<int>(input.signal()));
    }
    if (command_input.valid()) ::kill(-pid_, SIGKILL);  // The host has gone.
  }

  void pump(const Fd& out, const Fd& err) {
    pollfd entries[] = {{out.number(), POLLIN, 0}, {err.number(), POLLIN, 0}};
    while (entries[0].fd >= 0 || entries[1].fd >= 0) {
      ::poll(entries, 2, -1);
      for (int i = 0; i < 2; ++i) {
        if (entries[i].fd < 0 || entries[i].revents == 0) continue;
        char buffer[16384];
        const ssize_t size = ::read(entries[i].fd, buffer, sizeof(buffer));
        if (size <= 0) {
          entries[i].fd = -1;
          continue;
        }
        agent::ExecOutput message;
        (i == 0 ? message.mutable_stdout() : message.mutable_stderr())
            ->assign(buffer, static_cast<size_t>(size));
        send_frame(stream_.ref(), message);
      }
    }
  }

  Fd stream_;
  pid_t pid_ = 0;
};

}  // namespace

void kill_commands() {
  std::lock_guard lock(commands_mutex);
  for (const pid_t pid : commands) ::kill(-pid, SIGKILL);
}

void run_command(Fd stream) { Command(std::move(stream)).run(); }

}  // namespace mayfly
