// SPDX-License-Identifier: Apache-2.0
//
// The protobuf encoding (protobuf.dev, "Encoding"), as much of it as our private messages need. The
// agent and the monitor speak it by hand: the library would be half of either program, since it
// brings C++'s streams and locales along, and there is one of them for each VM. A snapshot's parts
// are the third use, since the monitor writes them and reads them back: base/wire_table.h. What has
// room for the library uses the library. What is read is not trusted. The tests of
// guest/agent/convert, vmm/control/request and snapshot/ hold this against the library.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly {

/// One field as it came. The other wire types are skipped by the reader: no message of ours has
/// them.
struct WireField {
  uint32_t number = 0;
  /// A length-delimited field; otherwise a varint, in `value`.
  bool is_bytes = false;
  uint64_t value = 0;
  std::span<const std::byte> bytes;

  std::string_view text() const;

  // Refused where the field is of the other kind, or does not fit.
  Result<uint64_t> u64() const;
  Result<uint32_t> u32() const;
  /// An element of a repeated number, or several, packed.
  Result<> append_u32s(std::vector<uint32_t>& numbers) const;
  /// Also a text, of any bytes.
  Result<std::span<const std::byte>> message() const;
};

class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> message) : rest_(message) {}
  /// The next varint or length-delimited field; nullopt at the end. kInvalidArgument where the
  /// bytes are no message; then nothing more can be read.
  Result<std::optional<WireField>> next();

  /// For numbers that are packed without tags.
  Result<uint64_t> varint();
  bool at_end() const { return rest_.empty(); }

 private:
  Result<std::span<const std::byte>> take(uint64_t count);

  std::span<const std::byte> rest_;
};

/// Appends fields to a message. A zero or an empty text is left out: that is how proto3 says it.
class WireWriter {
 public:
  void number(uint32_t field, uint64_t value);
  /// Fields 1, 2, 3, ... of a message.
  void numbers(std::span<const uint64_t> values);
  void text(uint32_t field, std::string_view value);
  /// Also where it is empty.
  void raw(uint32_t field, std::span<const std::byte> value);
  /// A repeated number, zeroes and all; left out where there is none.
  void packed(uint32_t field, std::span<const uint64_t> values);
  /// Also where it is empty: a message that is there.
  void message(uint32_t field, const WireWriter& inner);
  /// Only the beginning of a length-delimited field; its `size` bytes are to follow.
  void begin_bytes(uint32_t field, size_t size);
  std::span<const std::byte> bytes() const;
  std::string take() && { return std::move(bytes_); }

 private:
  void varint(uint64_t value);

  std::string bytes_;
};

}  // namespace mayfly
