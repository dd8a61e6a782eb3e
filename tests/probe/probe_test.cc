// SPDX-License-Identifier: Apache-2.0
//
// The probe in a real mayfly-vmm on this host's KVM device, whatever that can do. Tagged `kvm`:
// without a device it fails.
#include "proto/control.pb.h"
#include "tests/probe/launch_sys.h"

#include <doctest/doctest.h>

#include <cstdlib>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::probe {
namespace {

LaunchOptions options_for(const std::string& command_line) {
  LaunchOptions options;
  options.monitor = "vmm/mayfly-vmm";
  options.kernel = "tests/probe/probe.elf";
  options.command_line = command_line;
  return options;
}

std::string scratch_disk(uint64_t size_bytes) {
  const char* directory = std::getenv("TEST_TMPDIR");
  const std::string path = std::string(directory != nullptr ? directory : "/tmp") + "/disk";
  const auto file = Fd::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  REQUIRE_UNARY(file.has_value());
  REQUIRE_EQ(::ftruncate(file->number(), static_cast<off_t>(size_bytes)), 0);
  return path;
}

LaunchResult run(const LaunchOptions& options) {
  const auto result = launch(options);
  REQUIRE_UNARY(result.has_value());
  CAPTURE(result->console);
  CHECK_EQ(result->refusal, "");
  CHECK_UNARY(WIFEXITED(result->wait_status));
  return *result;
}

void passes(const LaunchOptions& options, const std::string& test) {
  const LaunchResult result = run(options);
  CAPTURE(result.console);
  CHECK_EQ(result.exit_reason, control::EXIT_REASON_GUEST_POWEROFF);
  CHECK_UNARY(result.console.ends_with("PASS " + test + "\n"));
}

TEST_CASE("every way a guest can end has its own reason") {
  CHECK_EQ(run(options_for("exit")).exit_reason, control::EXIT_REASON_GUEST_POWEROFF);
  CHECK_EQ(run(options_for("probe.test=exit")).exit_reason, control::EXIT_REASON_GUEST_POWEROFF);
  CHECK_EQ(run(options_for("probe.test=reset")).exit_reason, control::EXIT_REASON_GUEST_REBOOT);
  CHECK_EQ(run(options_for("probe.test=panic")).exit_reason, control::EXIT_REASON_GUEST_PANIC);
  CHECK_EQ(run(options_for("probe.test=triple-fault")).exit_reason,
           control::EXIT_REASON_TRIPLE_FAULT);
}

TEST_CASE("a guest that halts or spins can be killed, and leaves no report") {
  for (const char* line : {"halt", "probe.test=spin"}) {
    LaunchOptions options = options_for(line);
    options.timeout_ms = 300;
    const auto result = launch(options);
    REQUIRE_UNARY(result.has_value());
    CHECK_UNARY(WIFSIGNALED(result->wait_status));
    CHECK_EQ(result->exit_reason, 0);
  }
}

TEST_CASE("the console takes every line") {
  const LaunchResult result = run(options_for("probe.test=console probe.count=500"));
  CHECK_UNARY(result.console.starts_with("line 0 of 500\n"));
  CHECK_UNARY(result.console.ends_with("line 499 of 500\nPASS console\n"));
}

TEST_CASE("entropy is handed out") { passes(options_for("probe.test=rng"), "rng"); }

TEST_CASE("a disk keeps what is written, and its serial number is the one it was given") {
  LaunchOptions options = options_for("probe.test=blk");
  options.disks = {{scratch_disk(8 << 20), false}};
  passes(options, "blk");
  options.disks[0].read_only = true;
  options.command_line = "probe.test=blk-read-only";
  passes(options, "blk-read-only");
}

TEST_CASE("requests in a batch cost one kick") {
  LaunchOptions options = options_for("probe.test=bench probe.count=320 probe.depth=32");
  options.disks = {{scratch_disk(8 << 20), false}};
  const LaunchResult result = run(options);
  CHECK_UNARY(result.console.find("requests=320 depth=32 kicks=10 ") != std::string::npos);
}

TEST_CASE("a vsock connection that nobody waits for is refused") {
  LaunchOptions options = options_for("probe.test=vsock probe.expect=rst");
  options.guest_cid = 7;
  passes(options, "vsock");
}

TEST_CASE("registers survive every kind of access") {
  LaunchOptions options = options_for("probe.test=registers");
  options.disks = {{scratch_disk(1 << 20), false}};
  options.guest_cid = 7;
  passes(options, "registers");
}

TEST_CASE("a block device answers every broken driver and works again after a reset") {
  LaunchOptions options = options_for("probe.test=blk-bad");
  options.disks = {{scratch_disk(1 << 20), false}};
  passes(options, "blk-bad");
}

}  // namespace
}  // namespace mayfly::probe
