// SPDX-License-Identifier: Apache-2.0
#include "base/wire_table.h"

namespace mayfly {
namespace {

std::unexpected<Error> above(const char* name, uint64_t value, uint64_t max) {
  return fail({Code::kInvalidArgument, "BAD_MESSAGE"}, "%s: %llu is above the limit of %llu", name,
              static_cast<unsigned long long>(value), static_cast<unsigned long long>(max));
}

}  // namespace

// Here and not in the header: inlined, GCC 12 takes the error that is not there for uninitialised.
Result<> WireDecoder::take_result() && { return std::move(result_); }

void WireDecoder::fail_in(const char* name, Error error) {
  result_ = std::unexpected(std::move(error).with_context(name));
}

void WireDecoder::refuse_count(const char* name, size_t count, size_t limit) {
  result_ = fail({Code::kInvalidArgument, "BAD_MESSAGE"}, "%s: %zu of them, where %zu belong", name,
                 count, limit);
}

bool WireDecoder::read_number(const char* name, uint64_t max, uint64_t& value) {
  const Result<uint64_t> number = field_.u64();
  if (!number) {
    fail_in(name, number.error());
    return false;
  }
  if (*number > max) {
    result_ = above(name, *number, max);
    return false;
  }
  value = *number;
  return true;
}

bool WireDecoder::read_packed(const char* name, uint64_t max, size_t max_count,
                              std::vector<uint64_t>& values) {
  const auto bytes = field_.message();
  if (!bytes) {
    fail_in(name, bytes.error());
    return false;
  }
  for (WireReader reader(*bytes); !reader.at_end();) {
    const Result<uint64_t> number = reader.varint();
    if (!number) {
      fail_in(name, number.error());
      return false;
    }
    if (*number > max) {
      result_ = above(name, *number, max);
      return false;
    }
    if (values.size() == max_count) {
      refuse_count(name, max_count + 1, max_count);
      return false;
    }
    values.push_back(*number);
  }
  return true;
}

void WireDecoder::read_image(const char* name, std::span<std::byte> value) {
  const auto bytes = field_.message();
  if (!bytes) return fail_in(name, bytes.error());
  if (bytes->size() != value.size()) {
    result_ = fail({Code::kInvalidArgument, "BAD_MESSAGE"}, "%s: %zu bytes, where %zu belong", name,
                   bytes->size(), value.size());
    return;
  }
  std::memcpy(value.data(), bytes->data(), value.size());
}

void WireDecoder::text(uint32_t field, const char* name, std::string& value, size_t max_size) {
  if (!is(field)) return;
  const auto bytes = field_.message();
  if (!bytes) return fail_in(name, bytes.error());
  if (bytes->size() > max_size) {
    result_ = above(name, bytes->size(), max_size);
    return;
  }
  value = field_.text();
}

}  // namespace mayfly
