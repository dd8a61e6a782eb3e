// SPDX-License-Identifier: Apache-2.0
#include "cli/run.h"

#include "base/clock.h"
#include "cli/client.h"
#include "cli/images.h"
#include "cli/interrupts.h"
#include "cli/output.h"
#include "cli/private_daemon.h"
#include "cli/remote_command.h"
#include "cli/vm_spec.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <functional>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include <unistd.h>

namespace mayfly::cli {

namespace {

constexpr size_t kConsoleTailBytes = 4096;
constexpr int kCommandNotFound = 127;
constexpr int kCommandNotRun = 126;

v1::ExecStart exec_start(const std::string& vm_id, const CommandFlags& flags) {
  v1::ExecStart start;
  start.set_vm_id(vm_id);
  for (const std::string& arg : flags.argv) start.add_argv(arg);
  for (const std::string& entry : flags.env) start.add_env(entry);
  start.set_working_directory(flags.workdir);
  start.set_terminal(flags.terminal);
  if (flags.ids) {
    start.mutable_user()->set_uid(flags.ids->uid);
    start.mutable_user()->set_gid(flags.ids->gid);
    for (const uint32_t group : flags.ids->groups) start.mutable_user()->add_groups(group);
  }
  return start;
}

int report_command_error(const GlobalFlags& global, const Error& error) {
  const int code = report_error(global, error);
  if (error.reason() == "COMMAND_NOT_FOUND") return kCommandNotFound;
  if (error.reason() == "COMMAND_FAILED") return kCommandNotRun;
  return code;
}

std::string fresh_id() {
  std::random_device random;
  return format("run-%d-%08x", static_cast<int>(::getpid()), random());
}

double ms_between(uint64_t from_ns, uint64_t to_ns) {
  return to_ns <= from_ns ? 0 : static_cast<double>(to_ns - from_ns) / 1e6;
}

/// What a signal does: the first goes to the command, if it runs, and anything else ends
/// everything.
class SignalTarget {
 public:
  void on_signal(int signal) {
    std::lock_guard lock(mutex_);
    if (signal == SIGWINCH) {
      if (command_ != nullptr) command_->send_window_size();
      return;
    }
    if (first_signal_ == 0 && command_ != nullptr && command_->send_signal(signal)) {
      first_signal_ = signal;
      return;
    }
    if (first_signal_ == 0) first_signal_ = signal;
    cancelled_ = true;
    if (client_ != nullptr) client_->cancel_all();
  }
  void set_client(Client* client) {
    std::lock_guard lock(mutex_);
    client_ = client;
    if (cancelled_ && client != nullptr) client->cancel_all();
  }
  void set_command(RemoteCommand* command) {
    std::lock_guard lock(mutex_);
    command_ = command;
  }
  /// From now on calls clean up, and signals do not end them.
  void begin_cleanup() {
    std::lock_guard lock(mutex_);
    if (client_ != nullptr) client_->allow_calls();
    client_ = nullptr;
    command_ = nullptr;
  }
  /// The signal that ended it all, or 0.
  int ended_by() {
    std::lock_guard lock(mutex_);
    return cancelled_ ? first_signal_ : 0;
  }

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  Client* client_ = nullptr;
  RemoteCommand* command_ = nullptr;
  int first_signal_ = 0;
  bool cancelled_ = false;
};

class Run {
 public:
  Run(const GlobalFlags& global, const RunFlags& flags)
      : global_(global), flags_(flags), command_(flags.command) {}

  int execute() {
    const uint64_t start_ns = monotonic_ns();
    SignalTarget signals;
    // Before any thread, those of gRPC included.
    const Interrupts interrupts([&](int signal) { signals.on_signal(signal); });
    int code = kExitFailure;
    if (auto ok = connect(); ok) {
      signals.set_client(client_.get());
      code = run_vm(signals);
      signals.begin_cleanup();
      clean_up();
    } else {
      code = report_error(global_, ok.error());
    }
    const uint64_t daemon_end_ns = monotonic_ns();
    client_.reset();  // A daemon that ends waits a little for its connections.
    daemon_.reset();
    if (own_daemon_) rows_.push_back({0, "daemon end", ms_between(daemon_end_ns, monotonic_ns())});
    rows_.push_back({0, "total", ms_between(start_ns, monotonic_ns())});
    if (const int signal = signals.ended_by(); signal != 0) code = 128 + signal;
    if (flags_.timing) std::fputs(timing_table(rows_).c_str(), stderr);
    if (global_.json) print_json(code);
    return code;
  }

 private:
  Result<> connect() {
    const uint64_t start_ns = monotonic_ns();
    installation_ = find_installation();
    VmFlags vm = flags_.vm;
    if (!flags_.image.empty()) {
      image_.emplace(TRY(ImageForRun::open(flags_.image, flags_.writable)));
      TRY(image_->complete(command_));
      vm.rootfs = image_->rootfs();
      vm.read_only = !flags_.writable;
    }
    spec_ = TRY(make_spec(vm, installation_));
    std::string target;
    if (!global_.socket.empty() || std::getenv("MAYFLY_SOCKET") != nullptr) {
      if (!flags_.jail.empty()) {
        return fail({Code::kInvalidArgument, "JAIL_MODE"},
                    "--jail: the daemon of this command runs already; `mayflyd --jail` says it");
      }
      target = daemon_target(global_.socket);
    } else {
      if (!flags_.jail.empty()) installation_.jail = flags_.jail;
      daemon_ = TRY(PrivateDaemon::start(installation_));
      target = daemon_->target();
      own_daemon_ = true;
      rows_.push_back({0, "daemon start", ms_between(start_ns, monotonic_ns())});
    }
    client_ = Client::connect(target);
    client_->set_deadline(deadline_of(global_));
    return {};
  }

  int run_vm(SignalTarget& signals) {
    const uint64_t create_ns = monotonic_ns();
    v1::CreateVmRequest request;
    request.set_vm_id(fresh_id());
    *request.mutable_spec() = spec_;
    request.set_start(true);
    auto created = client_->call(request);
    // The daemon holds the copy of an image's root; nobody needs its name any more.
    image_.reset();
    if (!created)
      return signals.ended_by() != 0 ? kExitFailure : report_error(global_, created.error());
    vm_id_ = request.vm_id();
    create_times_ = created->times();
    rows_.push_back({0, "create and start", ms_between(create_ns, monotonic_ns())});
    append_phases(create_times_, 1, rows_);

    std::thread console;
    std::unique_ptr<ConsoleStream> console_stream;
    if (flags_.console) console_stream = follow_console(console);
    const int code = run_in_guest(signals);
    if (console_stream) {
      console_stream->cancel();
      console.join();
      (void)console_stream->finish();
    }
    return code;
  }

  int run_in_guest(SignalTarget& signals) {
    const uint64_t exec_ns = monotonic_ns();
    RemoteCommand command(*client_,
                          {.start = exec_start(vm_id_, command_), .no_stdin = command_.no_stdin});
    signals.set_command(&command);
    std::unique_ptr<RawTerminal> raw;
    if (command_.terminal) raw = std::make_unique<RawTerminal>();
    auto result = command.run();
    raw.reset();
    signals.set_command(nullptr);
    const uint64_t end_ns = monotonic_ns();
    add_guest_rows(exec_ns, command.started_ns(), end_ns);
    if (result) return *result;
    if (signals.ended_by() != 0) return kExitFailure;
    const int code = report_command_error(global_, result.error());
    if (result.error().reason() == "VM_STOPPED" ||
        result.error().code() == Code::kDeadlineExceeded) {
      print_console_tail();
    }
    return code;
  }

  void add_guest_rows(uint64_t exec_ns, uint64_t started_ns, uint64_t end_ns) {
    if (!flags_.timing && !global_.json) return;
    v1::GetVmRequest request;
    request.set_vm_id(vm_id_);
    auto got = client_->call(request);
    if (got) vm_ = got->vm();
    if (started_ns == 0) return;
    rows_.push_back({0, "guest ready, command started", ms_between(exec_ns, started_ns)});
    if (vm_.has_guest()) {
      const v1::GuestInfo& guest = vm_.guest();
      rows_.push_back({1, "kernel to init (guest)", static_cast<double>(guest.init_us()) / 1e3});
      rows_.push_back(
          {1, "init to ready (guest)",
           static_cast<double>(guest.ready_us() - std::min(guest.init_us(), guest.ready_us())) /
               1e3});
      rows_.push_back(
          {1, "create to ready (host)", static_cast<double>(guest.start_to_ready_us()) / 1e3});
    }
    rows_.push_back({0, "command", ms_between(started_ns, end_ns)});
  }

  std::unique_ptr<ConsoleStream> follow_console(std::thread& thread) {
    v1::ReadConsoleRequest request;
    request.set_vm_id(vm_id_);
    request.set_follow(true);
    auto stream = client_->read_console(request);
    thread = std::thread([raw = stream.get()] {
      v1::ReadConsoleResponse response;
      while (raw->read(response)) write_out(STDERR_FILENO, response.chunk().data());
    });
    return stream;
  }

  void print_console_tail() {
    client_->allow_calls();
    v1::ReadConsoleRequest request;
    request.set_vm_id(vm_id_);
    auto stream = client_->read_console(request);
    std::string tail;
    for (v1::ReadConsoleResponse response; stream->read(response);) {
      tail += response.chunk().data();
      if (tail.size() > kConsoleTailBytes) tail.erase(0, tail.size() - kConsoleTailBytes);
    }
    if (!stream->finish() || flags_.console) return;
    if (tail.empty()) {
      std::fputs("mayfly: the guest printed nothing on its console\n", stderr);
      return;
    }
    std::fputs("mayfly: the end of the guest's console:\n", stderr);
    write_out(STDERR_FILENO, tail.ends_with('\n') ? tail : tail + "\n");
  }

  void clean_up() {
    if (vm_id_.empty()) return;
    const uint64_t start_ns = monotonic_ns();
    // A guest that could write to a disk is given the time to write it out.
    bool writable = spec_.has_rootfs() && !spec_.rootfs().read_only();
    for (const v1::Disk& disk : spec_.disks()) writable = writable || !disk.read_only();
    if (writable) {
      v1::StopVmRequest stop;
      stop.set_vm_id(vm_id_);
      (void)client_->call(stop);
    }
    v1::DeleteVmRequest request;
    request.set_vm_id(vm_id_);
    request.set_force(true);
    auto deleted = client_->call(request);
    if (deleted) {
      vm_ = deleted->vm();
    } else if (!own_daemon_) {
      report_error(global_, deleted.error());
    }
    rows_.push_back({0, "stop and delete", ms_between(start_ns, monotonic_ns())});
  }

  /// One line on standard error: standard output is the command's.
  void print_json(int code) {
    std::string text = format("{\"exitCode\":%d,\"vm\":%s,\"create\":%s,\"times\":[", code,
                              to_json(vm_, false).c_str(), to_json(create_times_, false).c_str());
    for (size_t i = 0; i < rows_.size(); ++i) {
      text += format("%s{\"name\":\"%s\",\"depth\":%d,\"ms\":%.3f}", i == 0 ? "" : ",",
                     rows_[i].name.c_str(), rows_[i].depth, rows_[i].ms);
    }
    std::fprintf(stderr, "%s]}\n", text.c_str());
  }

  const GlobalFlags& global_;
  const RunFlags& flags_;
  CommandFlags command_;
  std::optional<ImageForRun> image_;
  Installation installation_;
  v1::VmSpec spec_;
  bool own_daemon_ = false;
  std::unique_ptr<PrivateDaemon> daemon_;
  std::unique_ptr<Client> client_;
  std::string vm_id_;
  v1::Vm vm_;
  v1::PhaseTimes create_times_;
  std::vector<TimingRow> rows_;
};

}  // namespace

std::chrono::system_clock::time_point deadline_of(const GlobalFlags& global) {
  if (global.timeout_s <= 0) return std::chrono::system_clock::time_point::max();
  const auto timeout = std::chrono::duration<double>(std::min(global.timeout_s, 1e8));
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::microseconds>(timeout);
}

int run(const GlobalFlags& global, const RunFlags& flags) { return Run(global, flags).execute(); }

int exec(const GlobalFlags& global, const std::string& vm_id, const CommandFlags& flags) {
  SignalTarget signals;
  const Interrupts interrupts([&](int signal) { signals.on_signal(signal); });
  const auto client = Client::connect(daemon_target(global.socket));
  client->set_deadline(deadline_of(global));
  signals.set_client(client.get());
  RemoteCommand command(*client, {.start = exec_start(vm_id, flags), .no_stdin = flags.no_stdin});
  signals.set_command(&command);
  std::unique_ptr<RawTerminal> raw;
  if (flags.terminal) raw = std::make_unique<RawTerminal>();
  auto result = command.run();
  raw.reset();
  signals.begin_cleanup();
  if (result) return *result;
  if (const int signal = signals.ended_by(); signal != 0) return 128 + signal;
  return report_command_error(global, result.error());
}

}  // namespace mayfly::cli
