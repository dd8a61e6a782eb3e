// SPDX-License-Identifier: Apache-2.0
//
// The protobuf encoding (protobuf.dev, "Encoding"), as much of it as proto/agent.proto needs. The
// agent speaks it by hand because the library would be most of the program, and every guest carries
// and starts the program. What is read comes from the host and is not trusted. convert_test holds
// this against the library.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mayfly::guest {

/// One field as it came. The other wire types are skipped by the reader: no message of ours has
/// them.
struct WireField {
  uint32_t number = 0;
  /// A length-delimited field; otherwise a varint, in `value`.
  bool is_bytes = false;
  uint64_t value = 0;
  std::span<const std::byte> bytes;

  std::string_view text() const;
};

class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> message) : rest_(message) {}
  /// The next varint or length-delimited field; nullopt at the end. kInvalidArgument where the
  /// bytes are no message; then nothing more can be read.
  Result<std::optional<WireField>> next();

 private:
  Result<uint64_t> varint();
  Result<std::span<const std::byte>> take(uint64_t count);

  std::span<const std::byte> rest_;
};

/// Appends fields to a message. A zero or an empty text is left out: that is how proto3 says it.
class WireWriter {
 public:
  void number(uint32_t field, uint64_t value);
  void text(uint32_t field, std::string_view value);
  /// Also where it is empty: a message that is there.
  void message(uint32_t field, const WireWriter& inner);
  /// Only the beginning of a length-delimited field; its `size` bytes are to follow.
  void begin_bytes(uint32_t field, size_t size);
  std::span<const std::byte> bytes() const;

 private:
  void varint(uint64_t value);

  std::string bytes_;
};

}  // namespace mayfly::guest
