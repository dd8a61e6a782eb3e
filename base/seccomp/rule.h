// SPDX-License-Identifier: Apache-2.0
//
// One rule of a system call filter, as a value that stands beside the code which needs the call
// (x_rules.h beside x.cc). Rules are composed into policies (vmm/seccomp/policies.h) and compiled
// into programs when Mayfly is built; nothing here runs in a confined process.
//
// A call passes when its number and every listed argument match. Arguments are registers: a filter
// cannot look behind a pointer, so what a pointer leads to is never a condition.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace mayfly::seccomp {

/// (argument & mask) == value, over all 64 bits of the register.
struct Argument {
  uint8_t index = 0;
  bool is_own_pid = false;  // then `value` is the process's id, known when the filter is installed
  uint64_t mask = 0;
  uint64_t value = 0;

  bool operator==(const Argument&) const = default;
};

/// Stands for the process's id until then: above every id that Linux gives out (2^22).
inline constexpr uint32_t kOwnPidPlaceholder = 0x7fff'fffe;

/// For what the kernel takes as int or unsigned: it ignores the upper half, and so must the filter.
/// A compiler may leave anything there, and a 64-bit comparison would deny a good call.
constexpr Argument equals32(uint8_t index, uint32_t value) {
  return {.index = index, .mask = 0xffff'ffff, .value = value};
}

/// For what the kernel takes as long or as a pointer.
constexpr Argument equals64(uint8_t index, uint64_t value) {
  return {.index = index, .mask = ~uint64_t{0}, .value = value};
}

/// Of an int or unsigned, the bits of `mask`.
constexpr Argument masked32(uint8_t index, uint32_t mask, uint32_t value) {
  return {.index = index, .mask = mask, .value = value};
}

constexpr Argument own_pid(uint8_t index) {
  return {.index = index, .is_own_pid = true, .mask = 0xffff'ffff, .value = kOwnPidPlaceholder};
}

enum class Answer : uint8_t {
  kAllow,
  kNoSuchCall,  // ENOSYS: the C library then does the same by an older call
};

struct Rule {
  static constexpr size_t kMaxArguments = 4;

  uint32_t number = 0;  // __NR_...
  Answer answer = Answer::kAllow;
  const char* reason = "";  // who needs it, and for what
  std::array<Argument, kMaxArguments> arguments = {};
  size_t argument_count = 0;
};

constexpr Rule allow(uint32_t number, const char* reason,
                     std::initializer_list<Argument> arguments = {}) {
  Rule rule{.number = number, .reason = reason};
  for (const Argument& argument : arguments) rule.arguments[rule.argument_count++] = argument;
  return rule;
}

constexpr Rule no_such_call(uint32_t number, const char* reason) {
  return {.number = number, .answer = Answer::kNoSuchCall, .reason = reason};
}

}  // namespace mayfly::seccomp
