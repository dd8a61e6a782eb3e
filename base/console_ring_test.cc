// SPDX-License-Identifier: Apache-2.0
#include "base/console_ring.h"

#include <doctest/doctest.h>

#include <atomic>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <unistd.h>

namespace mayfly {
namespace {

constexpr uint64_t kCapacity = 4096;

struct Ring {
  Fd file = *Fd::memfd("ring", kConsoleRingHeaderSize + kCapacity);
  Fd event = *Fd::event();
  ConsoleRingWriter writer = *ConsoleRingWriter::create(file.ref(), event.ref());
  ConsoleRingReader reader = *ConsoleRingReader::create(file.ref());
};

void append(ConsoleRingWriter& writer, std::string_view text) {
  writer.append(std::as_bytes(std::span(text)));
}

std::string take(const ConsoleRingReader& reader, uint64_t& offset, uint64_t& lost, size_t room) {
  std::string text(room, '?');
  const ConsoleRead read = reader.read(offset, std::as_writable_bytes(std::span(text)));
  offset = read.next_offset;
  lost = read.lost;
  text.resize(read.bytes);
  return text;
}

void poke(const Ring& ring, uint64_t offset, uint64_t value) {
  REQUIRE_EQ(::pwrite(ring.file.number(), &value, 8, static_cast<off_t>(offset)), 8);
}

TEST_CASE("what is appended is read back, in pieces, and the event counts") {
  Ring ring;
  uint64_t offset = 0;
  uint64_t lost = 0;
  CHECK_EQ(take(ring.reader, offset, lost, 10), "");
  append(ring.writer, "hello ");
  append(ring.writer, "world");
  CHECK_EQ(ring.reader.written(), 11);
  CHECK_EQ(take(ring.reader, offset, lost, 7), "hello w");
  CHECK_EQ(take(ring.reader, offset, lost, 7), "orld");
  CHECK_EQ(offset, 11);
  CHECK_EQ(lost, 0);
  uint64_t count = 0;
  REQUIRE_EQ(::read(ring.event.number(), &count, 8), 8);
  CHECK_EQ(count, 2);
}

TEST_CASE("a reader that is too late is told how much it lost") {
  Ring ring;
  append(ring.writer, std::string(1000, 'a'));
  append(ring.writer, std::string(4096, 'b'));
  uint64_t offset = 10;
  uint64_t lost = 0;
  const std::string text = take(ring.reader, offset, lost, 10000);
  CHECK_EQ(lost, 990);
  CHECK_EQ(text, std::string(4096, 'b'));
  CHECK_EQ(offset, 5096);
}

TEST_CASE("an append longer than the ring leaves its end") {
  Ring ring;
  append(ring.writer, std::string(3 * 4096, 'x') + std::string(4096, 'y'));
  uint64_t offset = 0;
  uint64_t lost = 0;
  CHECK_EQ(take(ring.reader, offset, lost, 10000), std::string(4096, 'y'));
  CHECK_EQ(lost, 3 * 4096);
}

TEST_CASE("bytes reserved by an append under way count as lost") {
  Ring ring;
  append(ring.writer, std::string(4096, 'a'));
  poke(ring, offsetof(ConsoleRingHeader, reserved), 4096 + 100);
  uint64_t offset = 0;
  uint64_t lost = 0;
  CHECK_EQ(take(ring.reader, offset, lost, 4096).size(), 3996);
  CHECK_EQ(lost, 100);
  CHECK_EQ(offset, 4096);
}

TEST_CASE("counters that lie garble the output and nothing else") {
  Ring ring;
  append(ring.writer, "text");
  uint64_t lost = 0;
  uint64_t offset = 0;
  poke(ring, offsetof(ConsoleRingHeader, capacity), ~uint64_t{0});
  CHECK_EQ(take(ring.reader, offset, lost, 100), "text");

  poke(ring, offsetof(ConsoleRingHeader, written), ~uint64_t{0});
  CHECK_EQ(take(ring.reader, offset, lost, 100).size(), 100);
  CHECK_EQ(offset, ~uint64_t{0} - 4096 + 100);

  poke(ring, offsetof(ConsoleRingHeader, reserved), ~uint64_t{0});
  poke(ring, offsetof(ConsoleRingHeader, written), 50);
  offset = 20;
  CHECK_EQ(take(ring.reader, offset, lost, 100), "");
  CHECK_EQ(lost, 30);
  CHECK_EQ(offset, 50);
  CHECK_EQ(take(ring.reader, offset, lost, 100), "");
  CHECK_EQ(offset, 50);
}

TEST_CASE("a file cut short under the reader is an end of output, not a signal") {
  Ring ring;
  append(ring.writer, "text");
  REQUIRE_EQ(::ftruncate(ring.file.number(), 4096), 0);
  uint64_t offset = 0;
  uint64_t lost = 0;
  CHECK_EQ(take(ring.reader, offset, lost, 100), "");
  CHECK_EQ(offset, 4);
  CHECK_EQ(lost, 4);
  REQUIRE_EQ(::ftruncate(ring.file.number(), 0), 0);
  CHECK_EQ(ring.reader.written(), 0);
  CHECK_EQ(take(ring.reader, offset, lost, 100), "");
  CHECK_EQ(offset, 4);
}

TEST_CASE("files of other sizes are refused") {
  const Fd event = *Fd::event();
  for (const uint64_t size :
       {uint64_t{0}, uint64_t{4096}, uint64_t{4096 + 2048}, uint64_t{4096 + 4097},
        uint64_t{4096 + 3 * 4096}, uint64_t{4096 + 32 * 1024 * 1024}}) {
    const Fd file = *Fd::memfd("ring", size);
    CHECK_FALSE(ConsoleRingWriter::create(file.ref(), event.ref()).has_value());
    CHECK_FALSE(ConsoleRingReader::create(file.ref()).has_value());
  }
}

TEST_CASE("a reader racing the writer never sees a torn byte") {
  Ring ring;
  constexpr uint64_t kTotal = 8 * 1024 * 1024;
  constexpr uint64_t kPeriod = 251;  // prime: every position of the ring sees every value
  std::atomic<bool> finished = false;
  std::thread writer([&] {
    std::vector<std::byte> piece(777);
    for (uint64_t at = 0; at < kTotal;) {
      for (size_t i = 0; i < piece.size(); ++i) piece[i] = std::byte((at + i) % kPeriod);
      ring.writer.append(piece);
      at += piece.size();
    }
    finished = true;
  });
  std::vector<std::byte> out(3000);
  uint64_t offset = 0;
  uint64_t good = 0;
  uint64_t lost = 0;
  uint64_t wrong = 0;
  bool last = false;
  while (!last) {
    last = finished;
    const ConsoleRead read = ring.reader.read(offset, out);
    const uint64_t first = read.next_offset - read.bytes;
    if (first - offset != read.lost) ++wrong;
    for (size_t i = 0; i < read.bytes; ++i) {
      if (out[i] != std::byte((first + i) % kPeriod)) ++wrong;
    }
    good += read.bytes;
    lost += read.lost;
    offset = read.next_offset;
    last = last && read.bytes == 0;
  }
  writer.join();
  CHECK_EQ(wrong, 0);
  CHECK_EQ(good + lost, ring.writer.written());
  CHECK_GT(good, 0);
}

}  // namespace
}  // namespace mayfly
