// SPDX-License-Identifier: Apache-2.0
#include "vmm/seccomp/denial.h"

#include <cstring>

namespace mayfly::vmm {
namespace {

// Field keys: number << 3 | wire type.
constexpr uint8_t kReasonKey = 1 << 3 | 0;
constexpr uint8_t kDeniedSyscallKey = 6 << 3 | 2;
constexpr uint8_t kThreadKey = 1 << 3 | 2;
constexpr uint8_t kNumberKey = 2 << 3 | 0;
constexpr uint8_t kSyscallDenied = 8;

const char* name_of(ThreadKind thread) {
  const auto index = static_cast<size_t>(thread);
  return index < kThreadKindNames.size() ? kThreadKindNames[index] : "unknown";
}

}  // namespace

void DenialText::add(uint8_t byte) {
  if (size_ < bytes_.size()) bytes_[size_++] = byte;
}

void DenialText::add(const char* text) {
  for (; *text != '\0'; ++text) add(static_cast<uint8_t>(*text));
}

void DenialText::add_decimal(uint32_t number) {
  if (number >= 10) add_decimal(number / 10);
  add(static_cast<uint8_t>('0' + number % 10));
}

void DenialText::add_varint(uint32_t number) {
  for (; number >= 0x80; number >>= 7) add(static_cast<uint8_t>(number | 0x80));
  add(static_cast<uint8_t>(number));
}

DenialText denial_report(ThreadKind thread, uint32_t number) {
  const char* name = name_of(thread);
  DenialText call;
  call.add(kThreadKey);
  call.add(static_cast<uint8_t>(std::strlen(name)));
  call.add(name);
  call.add(kNumberKey);
  call.add_varint(number);

  DenialText report;
  report.add(kReasonKey);
  report.add(kSyscallDenied);
  report.add(kDeniedSyscallKey);
  report.add(static_cast<uint8_t>(call.bytes().size()));
  for (const uint8_t byte : call.bytes()) report.add(byte);
  return report;
}

DenialText denial_line(ThreadKind thread, uint32_t number) {
  DenialText line;
  line.add("mayfly-vmm error seccomp: the ");
  line.add(name_of(thread));
  line.add(" thread may not make system call ");
  line.add_decimal(number);
  line.add(static_cast<uint8_t>('\n'));
  return line;
}

}  // namespace mayfly::vmm
