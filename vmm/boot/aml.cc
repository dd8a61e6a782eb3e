// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/aml.h"

namespace mayfly::boot::aml {
namespace {

constexpr uint8_t kNameOp = 0x08;
constexpr uint8_t kBytePrefix = 0x0a;
constexpr uint8_t kWordPrefix = 0x0b;
constexpr uint8_t kDwordPrefix = 0x0c;
constexpr uint8_t kStringPrefix = 0x0d;
constexpr uint8_t kScopeOp = 0x10;
constexpr uint8_t kBufferOp = 0x11;
constexpr uint8_t kPackageOp = 0x12;
constexpr uint8_t kMethodOp = 0x14;
constexpr uint8_t kMethodSerialized = 1 << 3;
constexpr uint8_t kExtPrefix = 0x5b;
constexpr uint8_t kDeviceOp = 0x82;
constexpr uint8_t kNotifyOp = 0x86;
constexpr uint8_t kEndTag = 0x79;

void append(Term& to, const Term& from) { to.insert(to.end(), from.begin(), from.end()); }

void append_text(Term& to, std::string_view text) { to.insert(to.end(), text.begin(), text.end()); }

void append_little_endian(Term& to, uint32_t value, unsigned bytes) {
  for (unsigned i = 0; i < bytes; ++i) to.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

// PkgLength counts itself (20.2.4): 6 bits in one byte, or 4 bits and up to three bytes more.
Term with_package_length(const Term& body) {
  Term result;
  const auto size = static_cast<uint32_t>(body.size());
  if (size + 1 < 0x40) {
    result.push_back(static_cast<uint8_t>(size + 1));
  } else {
    const unsigned more = size + 2 < 0x1000 ? 1 : size + 3 < 0x10'0000 ? 2 : 3;
    const uint32_t total = size + 1 + more;
    result.push_back(static_cast<uint8_t>(more << 6 | (total & 0xf)));
    append_little_endian(result, total >> 4, more);
  }
  append(result, body);
  return result;
}

}  // namespace

Term sequence(const std::vector<Term>& terms) {
  Term result;
  for (const Term& term : terms) append(result, term);
  return result;
}

Term name(std::string_view text, const Term& value) {
  Term result{kNameOp};
  append_text(result, text);
  append(result, value);
  return result;
}

Term integer(uint32_t value) {
  if (value <= 1) return {static_cast<uint8_t>(value)};  // ZeroOp, OneOp
  Term result;
  const unsigned bytes = value <= 0xff ? 1 : value <= 0xffff ? 2 : 4;
  result.push_back(bytes == 1 ? kBytePrefix : bytes == 2 ? kWordPrefix : kDwordPrefix);
  append_little_endian(result, value, bytes);
  return result;
}

Term string(std::string_view text) {
  Term result{kStringPrefix};
  append_text(result, text);
  result.push_back(0);
  return result;
}

Term package(const std::vector<Term>& elements) {
  Term body{static_cast<uint8_t>(elements.size())};
  append(body, sequence(elements));
  Term result{kPackageOp};
  append(result, with_package_length(body));
  return result;
}

Term scope(std::string_view path, const Term& body) {
  Term named;
  append_text(named, path);
  append(named, body);
  Term result{kScopeOp};
  append(result, with_package_length(named));
  return result;
}

Term device(std::string_view text, const Term& body) {
  Term named;
  append_text(named, text);
  append(named, body);
  Term result{kExtPrefix, kDeviceOp};
  append(result, with_package_length(named));
  return result;
}

Term method(std::string_view text, uint8_t arguments, const Term& body) {
  Term named;
  append_text(named, text);
  named.push_back(arguments | kMethodSerialized);
  append(named, body);
  Term result{kMethodOp};
  append(result, with_package_length(named));
  return result;
}

Term notify(std::string_view object, uint8_t value) {
  Term result{kNotifyOp};
  append_text(result, object);
  append(result, integer(value));
  return result;
}

Term resource_template(const std::vector<Term>& resources) {
  Term data = sequence(resources);
  data.push_back(kEndTag);
  data.push_back(0);  // checksum 0: not checked (6.4.2.9)
  Term body = integer(static_cast<uint32_t>(data.size()));
  append(body, data);
  Term result{kBufferOp};
  append(result, with_package_length(body));
  return result;
}

Term memory32_fixed(uint32_t base, uint32_t size) {
  Term result{0x86, 9, 0, 1};  // 6.4.3.4: length 9, read-write
  append_little_endian(result, base, 4);
  append_little_endian(result, size, 4);
  return result;
}

Term edge_interrupt(uint32_t gsi) {
  Term result{0x89, 6, 0, 0x03, 1};  // 6.4.3.6: length 6, consumer + edge, one interrupt
  append_little_endian(result, gsi, 4);
  return result;
}

Term io_port(uint16_t port, uint8_t size) {
  Term result{0x47, 1};  // 6.4.2.5: 16-bit decode
  append_little_endian(result, port, 2);
  append_little_endian(result, port, 2);
  result.push_back(1);
  result.push_back(size);
  return result;
}

}  // namespace mayfly::boot::aml
