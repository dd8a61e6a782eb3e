// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/uring_backend.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::virtio::blk {
namespace {

struct Recorder final : BackendClient {
  void on_request_done(uint16_t request, Outcome outcome) override {
    done.emplace_back(request, outcome);
  }
  void on_turn() override { ++turns; }
  std::vector<std::pair<uint16_t, Outcome>> done;
  int turns = 0;
};

std::string reason_of(Loop& loop, Fd file, Access access) {
  const auto backend = UringBackend::create(loop, std::move(file), access);
  return backend ? "" : backend.error().reason();
}

void run_until_idle(Loop& loop, const Backend& backend) {
  while (!backend.idle()) REQUIRE(loop.run_once());
}

TEST_CASE("a file that is no disk is refused, with the size in the message") {
  auto loop = *Loop::create({});
  CHECK_EQ(reason_of(*loop, *Fd::memfd("d", 0), Access::kReadWrite), "DISK_SIZE");
  CHECK_EQ(reason_of(*loop, *Fd::memfd("d", 511), Access::kReadWrite), "DISK_SIZE");
  CHECK_EQ(reason_of(*loop, *Fd::memfd("d", 512), Access::kReadWrite), "");
  CHECK_EQ(reason_of(*loop, *Fd::open("/tmp", O_RDONLY), Access::kReadOnly), "IS_A_DIRECTORY");
  CHECK_EQ(reason_of(*loop, *Fd::open("/dev/null", O_RDWR), Access::kReadWrite), "NOT_A_FILE");
  const auto odd = UringBackend::create(*loop, *Fd::memfd("d", 1025), Access::kReadWrite);
  REQUIRE_FALSE(odd.has_value());
  CHECK(odd.error().message().find("1025") != std::string::npos);
}

TEST_CASE("the descriptor must allow what the disk promises") {
  auto loop = *Loop::create({});
  char path[] = "/tmp/mayfly_blk_XXXXXX";
  const Fd made(::mkstemp(path));
  REQUIRE_EQ(::ftruncate(made.number(), 4096), 0);
  CHECK_EQ(reason_of(*loop, *Fd::open(path, O_RDONLY), Access::kReadWrite), "DISK_ACCESS");
  CHECK_EQ(reason_of(*loop, *Fd::open(path, O_WRONLY), Access::kReadOnly), "DISK_ACCESS");
  CHECK_EQ(reason_of(*loop, *Fd::open(path, O_RDWR | O_APPEND), Access::kReadWrite), "DISK_ACCESS");
  CHECK_EQ(reason_of(*loop, *Fd::open(path, O_RDONLY), Access::kReadOnly), "");
  CHECK_EQ(reason_of(*loop, *Fd::open(path, O_RDWR), Access::kReadOnly), "");
  ::unlink(path);
}

TEST_CASE("a backend that is gone gives its file and client back") {
  auto loop = *Loop::create({.ring_entries = 8, .files = 1, .clients = 1});
  for (int i = 0; i < 5; ++i) {
    CHECK_EQ(reason_of(*loop, *Fd::memfd("d", 512), Access::kReadWrite), "");
  }
}

TEST_CASE("what is written in pieces is read back in other pieces") {
  auto loop = *Loop::create({});
  const auto backend =
      *UringBackend::create(*loop, *Fd::memfd("d", 1024 * 1024), Access::kReadWrite);
  Recorder recorder;
  backend->attach(recorder);
  std::vector<char> out(8192);
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i * 7 + i / 256);
  std::array<iovec, 3> writes{iovec{&out[0], 1}, iovec{&out[1], 5000}, iovec{&out[5001], 3191}};
  REQUIRE(backend->write(0, writes, 4096));
  run_until_idle(*loop, *backend);
  REQUIRE(backend->flush(1));
  run_until_idle(*loop, *backend);
  std::vector<char> in(8192);
  std::array<iovec, 2> reads{iovec{&in[0], 4000}, iovec{&in[4000], 4192}};
  REQUIRE(backend->read(127, reads, 4096));
  CHECK_FALSE(backend->idle());
  run_until_idle(*loop, *backend);
  CHECK(in == out);
  REQUIRE_EQ(recorder.done.size(), 3);
  for (const auto& [request, outcome] : recorder.done) CHECK(outcome == Outcome::kDone);
}

TEST_CASE("a file truncated behind our back fails the read that meets its end, and does not hang") {
  auto loop = *Loop::create({});
  Fd file = *Fd::memfd("d", 65536);
  const Fd same = *Fd::duplicate(file.ref());
  const auto backend = *UringBackend::create(*loop, std::move(file), Access::kReadWrite);
  Recorder recorder;
  backend->attach(recorder);
  REQUIRE_EQ(::ftruncate(same.number(), 1000), 0);
  std::vector<char> in(4096);
  std::array<iovec, 2> reads{iovec{&in[0], 512}, iovec{&in[512], 3584}};
  REQUIRE(backend->read(3, reads, 0));
  run_until_idle(*loop, *backend);
  REQUIRE_EQ(recorder.done.size(), 1);
  CHECK(recorder.done[0].second == Outcome::kFailed);
}

TEST_CASE("an abandoned operation is not taken up again after a short transfer") {
  auto loop = *Loop::create({});
  Fd file = *Fd::memfd("d", 65536);
  const Fd same = *Fd::duplicate(file.ref());
  const auto backend = *UringBackend::create(*loop, std::move(file), Access::kReadWrite);
  Recorder recorder;
  backend->attach(recorder);
  REQUIRE_EQ(::ftruncate(same.number(), 512), 0);
  std::vector<char> in(4096);
  std::array<iovec, 1> reads{iovec{in.data(), in.size()}};
  REQUIRE(backend->read(3, reads, 0));
  backend->abandon();
  REQUIRE(loop->run_once());
  // One step: the short read ended it.
  CHECK(backend->idle());
  REQUIRE_EQ(recorder.done.size(), 1);
  CHECK(recorder.done[0].second == Outcome::kFailed);
}

TEST_CASE("more operations than the ring has entries all end") {
  auto loop = *Loop::create({.ring_entries = 8, .files = 2, .clients = 2});
  const auto backend =
      *UringBackend::create(*loop, *Fd::memfd("d", 1024 * 1024), Access::kReadWrite);
  Recorder recorder;
  backend->attach(recorder);
  std::vector<char> in(512);
  std::vector<iovec> reads(kMaxRequests, iovec{in.data(), in.size()});
  for (uint16_t i = 0; i < kMaxRequests; ++i) {
    REQUIRE(backend->read(i, std::span(reads).subspan(i, 1), uint64_t{i} * 512));
  }
  run_until_idle(*loop, *backend);
  CHECK_EQ(recorder.done.size(), kMaxRequests);
}

}  // namespace
}  // namespace mayfly::virtio::blk
