// SPDX-License-Identifier: Apache-2.0
//
// The instructions C++ has no words for: ports, device registers, the time-stamp counter, ordering.
#pragma once

#include <cstdint>

namespace probe {

// SAFETY: the probe has the machine to itself; a port it may not use ends the VM, which a test
// sees.
inline void out8(uint16_t port, uint8_t value) {
  asm volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}

inline uint64_t cycles() {
  uint32_t low = 0;
  uint32_t high = 0;
  // SAFETY: reads the time-stamp counter into the two registers named.
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return uint64_t{high} << 32 | low;
}

// SAFETY: a hint; nothing but time changes.
inline void relax() { asm volatile("pause"); }

// SAFETY: invalid by definition: a fault, and without an IDT a triple fault.
[[noreturn]] inline void fault() {
  asm volatile("ud2");
  __builtin_unreachable();
}

// SAFETY: device registers are at fixed, identity-mapped addresses; one access of the named width
// each.
template <typename T>
T read_register(uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}

template <typename T>
void write_register(uint64_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}

// SAFETY: memory is identity-mapped, so a pointer is its guest-physical address.
inline uint64_t address_of(const volatile void* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

// SAFETY: the bytes end with a zero that their reader has put there.
inline const char* text_of(const uint8_t* bytes) { return reinterpret_cast<const char*>(bytes); }

}  // namespace probe
