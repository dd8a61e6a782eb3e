// SPDX-License-Identifier: Apache-2.0
// Runs the steps for real, in a child that becomes /bin/sh.
#include "base/fd.h"
#include "jailer/jail_spec.h"
#include "jailer/jail_sys.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

struct Outcome {
  int status;
  std::string output;
};

// What `script` prints in the jail, with `extra` descriptors open that nobody listed.
Outcome run_in_jail(const std::string& script, const std::vector<int>& kept) {
  auto pipe = *Fd::pipe();
  const pid_t child = ::fork();
  REQUIRE_GE(child, 0);
  if (child == 0) {
    ::dup2(pipe.second.number(), STDOUT_FILENO);
    ::setenv("LEAK", "secret", 1);
    JailSpec spec;
    spec.exec_fd = ::open("/bin/sh", O_RDONLY);
    spec.kept = kept;
    spec.arguments = {"sh", "-c", script};
    if (!close_other_descriptors(spec) || !limit_resources() || !forbid_new_privileges())
      ::_exit(99);
    (void)enter(spec);
    ::_exit(98);
  }
  pipe.second.reset();
  Outcome outcome{};
  std::array<char, 4096> buffer;
  ssize_t size = 0;
  while ((size = ::read(pipe.first.number(), buffer.data(), buffer.size())) > 0) {
    outcome.output.append(buffer.data(), static_cast<size_t>(size));
  }
  REQUIRE_EQ(::waitpid(child, &outcome.status, 0), child);
  return outcome;
}

TEST_CASE("only listed descriptors reach the program") {
  const Fd listed = *Fd::open("/dev/zero", O_RDONLY);
  const Fd high(::fcntl(listed.number(), F_DUPFD, 200));
  const Fd unlisted(::fcntl(listed.number(), F_DUPFD, 100));
  const Outcome outcome = run_in_jail("cd /proc/self/fd; for f in *; do readlink $f; done; true",
                                      {listed.number(), high.number()});
  CHECK_EQ(outcome.status, 0);
  size_t count = 0;
  for (size_t at = 0; (at = outcome.output.find("/dev/zero", at)) != std::string::npos; ++at)
    ++count;
  CHECK_EQ(count, 2);
  CHECK_EQ(outcome.output.find("/bin/"), std::string::npos);
}

TEST_CASE("the program has no environment, no core file and no new privileges") {
  const Outcome outcome = run_in_jail(
      "echo [$LEAK]; ulimit -c; while read k v; do "
      "[ $k = NoNewPrivs: ] && echo nnp $v; done < /proc/self/status; true",
      {});
  CHECK_EQ(outcome.status, 0);
  CHECK_EQ(outcome.output, "[]\n0\nnnp 1\n");
}

TEST_CASE("a descriptor that is not open is named") {
  JailSpec spec;
  spec.exec_fd = 1000;
  const auto result = close_other_descriptors(spec);
  REQUIRE_FALSE(result.has_value());
  CHECK(result.error().message().starts_with("descriptor 1000: "));
}

std::string reason(std::vector<const char*> arguments) {
  const auto spec = parse_arguments(arguments);
  return spec ? "" : spec.error().reason();
}

TEST_CASE("arguments are checked one by one") {
  CHECK_EQ(reason({"--exec-fd=5", "--keep-fd=3", "--", "vmm", "--control-fd=3"}), "");
  CHECK_EQ(reason({"--", "vmm"}), "NO_PROGRAM");
  CHECK_EQ(reason({"--exec-fd=5"}), "NO_ARGUMENTS");
  CHECK_EQ(reason({"--exec-fd=5", "--"}), "NO_ARGUMENTS");
  CHECK_EQ(reason({"--exec-fd=2", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--exec-fd=", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--exec-fd=5x", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--keep-fd=99999999999", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--chroot=/", "--", "vmm"}), "UNKNOWN_OPTION");
  std::vector<const char*> many(kMaxKept + 1, "--keep-fd=3");
  many.insert(many.end(), {"--exec-fd=5", "--", "vmm"});
  CHECK_EQ(reason(many), "TOO_MANY");
}

}  // namespace
}  // namespace mayfly::jailer
