// SPDX-License-Identifier: Apache-2.0
#include "base/wire.h"

#include <limits>

namespace mayfly {
namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
constexpr uint32_t kTypeBits = 3;
constexpr int kMaxVarintBytes = 10;

std::unexpected<Error> malformed(const char* what) {
  return fail({Code::kInvalidArgument, "BAD_MESSAGE"}, "not a message: %s", what);
}

}  // namespace

std::string_view WireField::text() const {
  // Bytes are characters; void* is the way between them that needs no reinterpretation.
  return {static_cast<const char*>(static_cast<const void*>(bytes.data())), bytes.size()};
}

Result<uint64_t> WireReader::varint() {
  uint64_t value = 0;
  for (int i = 0; i < kMaxVarintBytes; ++i) {
    if (rest_.empty()) return malformed("it ends inside a number");
    const auto byte = std::to_integer<uint64_t>(rest_.front());
    rest_ = rest_.subspan(1);
    value |= (byte & 0x7f) << (7 * i);
    if ((byte & 0x80) == 0) return value;
  }
  return malformed("a number of more than 10 bytes");
}

Result<std::span<const std::byte>> WireReader::take(uint64_t count) {
  if (count > rest_.size()) return malformed("it ends inside a field");
  const std::span<const std::byte> bytes = rest_.first(count);
  rest_ = rest_.subspan(count);
  return bytes;
}

Result<std::optional<WireField>> WireReader::next() {
  while (!rest_.empty()) {
    const uint64_t tag = TRY(varint());
    WireField field;
    if (tag > std::numeric_limits<uint32_t>::max()) return malformed("a field number out of range");
    field.number = static_cast<uint32_t>(tag) >> kTypeBits;
    if (field.number == 0) return malformed("field number 0");
    switch (tag & ((1 << kTypeBits) - 1)) {
      case kVarint:
        field.value = TRY(varint());
        return field;
      case kBytes:
        field.is_bytes = true;
        field.bytes = TRY(take(TRY(varint())));
        return field;
      case kFixed64:
        TRY(take(sizeof(uint64_t)));
        break;
      case kFixed32:
        TRY(take(sizeof(uint32_t)));
        break;
      default:
        return malformed("an unknown wire type");
    }
  }
  return std::nullopt;
}

Result<uint64_t> WireField::u64() const {
  if (is_bytes) return malformed("text where a number belongs");
  return value;
}

Result<uint32_t> WireField::u32() const {
  const uint64_t wide = TRY(u64());
  if (wide > std::numeric_limits<uint32_t>::max()) return malformed("a number over 32 bits");
  return static_cast<uint32_t>(wide);
}

Result<> WireField::append_u32s(std::vector<uint32_t>& numbers) const {
  if (!is_bytes) {
    numbers.push_back(TRY(u32()));
    return {};
  }
  for (WireReader reader(bytes); !reader.at_end();) {
    WireField packed;
    packed.value = TRY(reader.varint());
    numbers.push_back(TRY(packed.u32()));
  }
  return {};
}

Result<std::span<const std::byte>> WireField::message() const {
  if (!is_bytes) return malformed("a number where a message belongs");
  return bytes;
}

void WireWriter::varint(uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>((value & 0x7f) | 0x80));
  bytes_.push_back(static_cast<char>(value));
}

void WireWriter::number(uint32_t field, uint64_t value) {
  if (value == 0) return;
  varint(uint64_t{field} << kTypeBits | kVarint);
  varint(value);
}

void WireWriter::begin_bytes(uint32_t field, size_t size) {
  varint(uint64_t{field} << kTypeBits | kBytes);
  varint(size);
}

void WireWriter::text(uint32_t field, std::string_view value) {
  if (value.empty()) return;
  begin_bytes(field, value.size());
  bytes_ += value;
}

void WireWriter::raw(uint32_t field, std::span<const std::byte> value) {
  begin_bytes(field, value.size());
  bytes_.append(static_cast<const char*>(static_cast<const void*>(value.data())), value.size());
}

void WireWriter::packed(uint32_t field, std::span<const uint64_t> values) {
  if (values.empty()) return;
  WireWriter inner;
  for (const uint64_t value : values) inner.varint(value);
  message(field, inner);
}

void WireWriter::message(uint32_t field, const WireWriter& inner) {
  begin_bytes(field, inner.bytes_.size());
  bytes_ += inner.bytes_;
}

void WireWriter::numbers(std::span<const uint64_t> values) {
  uint32_t field = 1;
  for (const uint64_t value : values) number(field++, value);
}

std::span<const std::byte> WireWriter::bytes() const { return std::as_bytes(std::span(bytes_)); }

}  // namespace mayfly
