// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/chain.h"

#include "virtio/queue/testing/fake_driver.h"

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

namespace mayfly::virtio {
namespace {

// Three pieces, of 3, 4 and 5 bytes: "abc" "defg" "hijkl".
struct Pieces {
  GuestMemory memory = testing::make_memory(1024 * 1024);
  std::vector<GuestSpan> spans;
  Pieces() {
    std::string_view text = "abcdefghijkl";
    uint64_t at = 0x1000;
    for (const size_t size : {3, 4, 5}) {
      spans.push_back(*memory.view({Gpa{at}, size}));
      spans.back().write(0, std::as_bytes(std::span(text.substr(0, size))));
      text.remove_prefix(size);
      at += 0x1000;
    }
  }
};

std::string read(ChainReader& reader, size_t size) {
  std::string text(size, '?');
  if (!reader.read(std::as_writable_bytes(std::span(text)))) return "(error)";
  return text;
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST_CASE("a reader crosses pieces and counts what is left") {
  Pieces pieces;
  ChainReader reader(pieces.spans);
  CHECK_EQ(reader.remaining(), 12);
  CHECK_EQ(read(reader, 5), "abcde");
  CHECK(reader.skip(3).has_value());
  CHECK_EQ(reader.remaining(), 4);
  CHECK_EQ(read(reader, 5), "(error)");
  CHECK_EQ(reader.remaining(), 4);
  CHECK_FALSE(reader.skip(5).has_value());
  std::array<std::byte, 10> out;
  CHECK_EQ(reader.read_some(out), 4);
  CHECK_EQ(out[3], std::byte{'l'});
  CHECK_EQ(reader.remaining(), 0);
  CHECK_EQ(reader.read_some(out), 0);
  CHECK(reader.skip(0).has_value());
}

TEST_CASE("a writer crosses pieces, counts, and refuses what does not fit as a whole") {
  Pieces pieces;
  ChainWriter writer(pieces.spans);
  CHECK(writer.write(bytes("01234")).has_value());
  CHECK_FALSE(writer.write(bytes("01234567")).has_value());
  CHECK_EQ(writer.written(), 5);
  CHECK_EQ(writer.write_some(bytes("56789012345")), 7);
  CHECK_EQ(writer.written(), 12);
  CHECK_EQ(writer.remaining(), 0);
  ChainReader reader(pieces.spans);
  CHECK_EQ(read(reader, 12), "012345678901");
}

TEST_CASE("iovecs cover exactly the bytes asked for") {
  Pieces pieces;
  ChainReader reader(pieces.spans);
  std::array<iovec, 3> vectors;
  CHECK(reader.skip(1).has_value());
  CHECK_EQ(reader.take_iovecs(8, vectors).value(), 3);
  CHECK_EQ(vectors[0].iov_len, 2);
  CHECK_EQ(vectors[1].iov_len, 4);
  CHECK_EQ(vectors[2].iov_len, 2);
  CHECK_EQ(vectors[0].iov_base, pieces.spans[0].subspan(1, 2).as_iovec().iov_base);
  CHECK_EQ(reader.remaining(), 3);
  CHECK_FALSE(reader.take_iovecs(4, vectors).has_value());

  ChainWriter writer(pieces.spans);
  CHECK_FALSE(writer.take_iovecs(12, std::span(vectors).first(2)).has_value());
  CHECK_EQ(writer.remaining(), 12);
  CHECK_EQ(writer.take_iovecs(7, std::span(vectors).first(2)).value(), 2);
  CHECK_EQ(writer.written(), 7);
  CHECK_EQ(writer.take_iovecs(0, {}).value(), 0);
}

TEST_CASE("the tail is found wherever the pieces are cut") {
  Pieces pieces;
  ChainWriter writer(pieces.spans);
  const GuestSpan last = writer.take_tail(1).value();
  last.store(0, '!');
  CHECK_EQ(writer.remaining(), 11);
  CHECK_EQ(writer.written(), 0);
  CHECK(writer.write(bytes("0123456")).has_value());
  CHECK_EQ(writer.take_tail(4).value().size(), 4);
  CHECK_EQ(writer.remaining(), 0);
  CHECK_FALSE(writer.take_tail(1).has_value());
  ChainReader reader(pieces.spans);
  CHECK_EQ(read(reader, 12), "0123456hijk!");

  ChainWriter split(pieces.spans);
  CHECK_FALSE(split.take_tail(6).has_value());
  CHECK_EQ(split.take_tail(5).value().size(), 5);
  CHECK_EQ(split.take_tail(4).value().size(), 4);
  CHECK(split.write(bytes("z")).has_value());
  CHECK_FALSE(split.take_tail(3).has_value());
  CHECK_EQ(split.take_tail(2).value().size(), 2);
  CHECK_EQ(split.remaining(), 0);
  CHECK_EQ(split.take_tail(0).value().size(), 0);
}

TEST_CASE("a chain without bytes reads and writes nothing") {
  ChainReader reader;
  ChainWriter writer;
  CHECK_EQ(reader.remaining(), 0);
  CHECK_FALSE(reader.read_object<uint8_t>().has_value());
  CHECK_FALSE(writer.write_object(uint8_t{1}).has_value());
  CHECK_FALSE(writer.take_tail(1).has_value());
}

}  // namespace
}  // namespace mayfly::virtio
