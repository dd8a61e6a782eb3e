// SPDX-License-Identifier: Apache-2.0
#include "jailer/testing/jailed.h"

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

std::string read_to_end(FdRef fd) {
  std::string text;
  std::array<char, 4096> buffer;
  ssize_t size = 0;
  while ((size = ::read(fd.number(), buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(size));
  }
  return text;
}

std::string read_link(const std::string& path) {
  std::array<char, 256> buffer;
  const ssize_t size = ::readlink(path.c_str(), buffer.data(), buffer.size());
  return size < 0 ? "" : std::string(buffer.data(), static_cast<size_t>(size));
}

}  // namespace

Programs Programs::open() {
  return {MUST(Fd::open("jailer/mayfly-jailer", O_RDONLY)),
          MUST(Fd::open("jailer/testing/jail_probe", O_RDONLY))};
}

Jailed::Jailed(Launched launched, Fd stay, Fd error)
    : launched_(std::move(launched)), stay_(std::move(stay)), error_pipe_(std::move(error)) {}

Result<Jailed> Jailed::start(const Programs& programs, const JailPlan& jail,
                             bool leaves_proc_self) {
  auto [report_read, report_write] = TRY(Fd::pipe());
  auto [stay_read, stay_write] = TRY(Fd::pipe());
  auto [error_read, error_write] = TRY(Fd::pipe());
  Launched launched = TRY(launch({
      .jailer = programs.jailer.ref(),
      .program = programs.probe.ref(),
      .arguments = {"jail_probe", "last argument"},
      .standard_error = error_write.ref(),
      .inherited = {report_write.ref(), stay_read.ref()},
      .leaves_proc_self = leaves_proc_self,
      .jail = jail,
  }));
  report_write.reset();
  error_write.reset();
  Jailed jailed(std::move(launched), std::move(stay_write), std::move(error_read));
  // The probe's end of the report stays open while it stays: read to its last line.
  std::string text;
  char byte = 0;
  while (!text.ends_with("\nend=\n") && ::read(report_read.number(), &byte, 1) == 1) text += byte;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    jailed.report_[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return jailed;
}

Jailed::~Jailed() { end(); }

int Jailed::end() {
  if (!launched_.pidfd.valid()) return -1;
  stay_.reset();
  error_ = read_to_end(error_pipe_.ref());
  siginfo_t info = {};
  ::waitid(P_PIDFD, static_cast<id_t>(launched_.pidfd.number()), &info, WEXITED);
  launched_.pidfd.reset();
  return info.si_code == CLD_EXITED ? info.si_status : 256 + info.si_status;
}

std::string Jailed::said(const std::string& name) const {
  const auto found = report_.find(name);
  return found == report_.end() ? "(not said)" : found->second;
}

std::string Jailed::proc(const std::string& name) const {
  return read_file("/proc/" + std::to_string(pid()) + "/" + name);
}

std::string Jailed::status(const std::string& key) const {
  std::istringstream lines(proc("status"));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(key + ":")) continue;
    std::istringstream words(line.substr(key.size() + 1));
    std::string value;
    for (std::string word; words >> word;) value += (value.empty() ? "" : " ") + word;
    return value;
  }
  return "(no such line)";
}

std::string Jailed::name_space(const std::string& kind) const {
  return read_link("/proc/" + std::to_string(pid()) + "/ns/" + kind);
}

std::string own_name_space(const std::string& kind) { return read_link("/proc/self/ns/" + kind); }

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string in_child(const std::function<std::string()>& body) {
  auto [read_end, write_end] = MUST(Fd::pipe());
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string text = body();
    const bool written = ::write(write_end.number(), text.data(), text.size()) >= 0;
    ::_exit(written ? 0 : 1);
  }
  write_end.reset();
  std::string text = read_to_end(read_end.ref());
  ::waitpid(child, nullptr, 0);
  return text;
}

}  // namespace mayfly::jailer
