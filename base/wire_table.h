// SPDX-License-Identifier: Apache-2.0
//
// Messages as tables: one list of a struct's fields, read by an encoder and by a decoder, so that
// the two cannot disagree. A struct becomes a message by
//
//   template <>
//   struct WireTable<Disk> {
//     static void fields(auto& wire, auto& disk) {
//       wire.number(1, "size_bytes", disk.size_bytes);
//       wire.text(2, "serial", disk.serial, kMaxSerial);
//     }
//   };
//
// and goes through encode() and decode(). A name is for errors: the .proto file's. The encoding is
// proto3's, so a zero is left out, an unknown field is skipped, and a field that comes twice counts
// as it came last; lists only grow, up to the bound that the table names.
//
// decode() takes hostile bytes: what does not fit is an Error that names the field, the value and
// the limit. encode() is for values that fit.
#pragma once

#include "base/error.h"
#include "base/wire.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace mayfly {

template <typename Message>
struct WireTable;

template <typename Message>
WireWriter encode(const Message& message);
template <typename Message>
Result<> decode(std::span<const std::byte> bytes, Message& message);

/// What a table's `wire` is, in its two forms.
class WireEncoder {
 public:
  explicit WireEncoder(WireWriter& out) : out_(out) {}

  /// An unsigned integer or a bool.
  template <typename T>
  void number(uint32_t field, const char*, T value) {
    out_.number(field, value);
  }
  /// An enumerator, from 0 to `last`.
  template <typename T>
  void choice(uint32_t field, const char*, T value, T) {
    out_.number(field, static_cast<uint64_t>(value));
  }
  void text(uint32_t field, const char*, const std::string& value, size_t) {
    out_.text(field, value);
  }
  /// A struct as its bytes, all of them.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void image(uint32_t field, const char*, const T& value) {
    out_.raw(field, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  /// A list that always has all its numbers; packed.
  template <typename T, size_t N>
  void numbers(uint32_t field, const char*, const std::array<T, N>& values) {
    out_.packed(field, std::array<uint64_t, N>(widen(values, std::make_index_sequence<N>())));
  }
  /// At most so many numbers; packed.
  template <typename T>
  void packed(uint32_t field, const char*, const std::vector<T>& values, size_t) {
    out_.packed(field, std::vector<uint64_t>(values.begin(), values.end()));
  }
  template <typename T>
  void message(uint32_t field, const char*, const T& value) {
    out_.message(field, encode(value));
  }
  template <typename T>
  void optional(uint32_t field, const char* name, const std::optional<T>& value) {
    if (value) message(field, name, *value);
  }
  /// At most so many messages.
  template <typename T>
  void list(uint32_t field, const char* name, const std::vector<T>& values, size_t) {
    for (const T& value : values) message(field, name, value);
  }
  /// The same where the struct has an array and a count of its own.
  template <typename T, size_t N>
  void counted(uint32_t field, const char* name, uint32_t count, const std::array<T, N>& values) {
    for (const T& value : std::span(values).first(count)) message(field, name, value);
  }
  /// The variant's alternative T, if that is what it holds: a oneof has a line for each.
  template <typename T, typename... All>
  void alternative(uint32_t field, const char* name, const std::variant<All...>& value,
                   std::in_place_type_t<T>) {
    if (const T* held = std::get_if<T>(&value)) message(field, name, *held);
  }

 private:
  template <typename T, size_t N, size_t... I>
  static std::array<uint64_t, N> widen(const std::array<T, N>& values, std::index_sequence<I...>) {
    return {static_cast<uint64_t>(values[I])...};
  }

  WireWriter& out_;
};

/// Puts one field where the table says.
class WireDecoder {
 public:
  explicit WireDecoder(const WireField& field) : field_(field) {}

  Result<> take_result() &&;

  template <typename T>
  void number(uint32_t field, const char* name, T& value) {
    if (!is(field)) return;
    uint64_t wide = 0;
    if (read_number(name, std::numeric_limits<T>::max(), wide)) value = static_cast<T>(wide);
  }
  template <typename T>
  void choice(uint32_t field, const char* name, T& value, T last) {
    if (!is(field)) return;
    uint64_t wide = 0;
    if (read_number(name, static_cast<uint64_t>(last), wide)) value = static_cast<T>(wide);
  }
  void text(uint32_t field, const char* name, std::string& value, size_t max_size);
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void image(uint32_t field, const char* name, T& value) {
    if (is(field)) read_image(name, std::as_writable_bytes(std::span<T, 1>(&value, 1)));
  }
  template <typename T, size_t N>
  void numbers(uint32_t field, const char* name, std::array<T, N>& values) {
    if (!is(field)) return;
    std::vector<uint64_t> wide;
    if (!read_packed(name, std::numeric_limits<T>::max(), N, wide)) return;
    if (wide.size() != N) return refuse_count(name, wide.size(), N);
    for (size_t i = 0; i < N; ++i) values[i] = static_cast<T>(wide[i]);
  }
  template <typename T>
  void packed(uint32_t field, const char* name, std::vector<T>& values, size_t max_count) {
    if (!is(field)) return;
    std::vector<uint64_t> wide;
    const size_t room = max_count - values.size();
    if (!read_packed(name, std::numeric_limits<T>::max(), room, wide)) return;
    for (const uint64_t value : wide) values.push_back(static_cast<T>(value));
  }
  template <typename T>
  void message(uint32_t field, const char* name, T& value) {
    if (!is(field)) return;
    value = T{};
    read_message(name, value);
  }
  template <typename T>
  void optional(uint32_t field, const char* name, std::optional<T>& value) {
    if (is(field)) read_message(name, value.emplace());
  }
  template <typename T>
  void list(uint32_t field, const char* name, std::vector<T>& values, size_t max_count) {
    if (!is(field)) return;
    if (values.size() == max_count) return refuse_count(name, max_count + 1, max_count);
    read_message(name, values.emplace_back());
  }
  template <typename T, size_t N>
  void counted(uint32_t field, const char* name, uint32_t& count, std::array<T, N>& values) {
    if (!is(field)) return;
    if (count == N) return refuse_count(name, N + 1, N);
    read_message(name, values[count++]);
  }
  template <typename T, typename... All>
  void alternative(uint32_t field, const char* name, std::variant<All...>& value,
                   std::in_place_type_t<T>) {
    if (is(field)) read_message(name, value.template emplace<T>());
  }

 private:
  bool is(uint32_t field) const { return field_.number == field; }
  bool read_number(const char* name, uint64_t max, uint64_t& value);
  bool read_packed(const char* name, uint64_t max, size_t max_count, std::vector<uint64_t>& values);
  void read_image(const char* name, std::span<std::byte> value);
  void refuse_count(const char* name, size_t count, size_t limit);
  void fail_in(const char* name, Error error);
  template <typename T>
  void read_message(const char* name, T& value) {
    auto bytes = field_.message();
    if (!bytes) return fail_in(name, std::move(bytes).error());
    if (Result<> inner = decode(*bytes, value); !inner) fail_in(name, std::move(inner).error());
  }

  const WireField& field_;
  Result<> result_;
};

template <typename Message>
WireWriter encode(const Message& message) {
  WireWriter out;
  WireEncoder encoder(out);
  WireTable<Message>::fields(encoder, message);
  return out;
}

/// Fields go into `message` as it is; a fresh one is what callers want.
template <typename Message>
Result<> decode(std::span<const std::byte> bytes, Message& message) {
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    WireDecoder decoder(*field);
    WireTable<Message>::fields(decoder, message);
    TRY(std::move(decoder).take_result());
  }
  return {};
}

}  // namespace mayfly
