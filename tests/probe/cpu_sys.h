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

// In start.S.
extern "C" {
extern uint64_t idt[][2];
extern volatile uint32_t timer_interrupts;
extern const uint8_t other_start[], other_start_end[];
void timer_entry();
}

// From now on interrupt `vector` goes to `entry`, in ring 0; the table ends at 0x40.
inline void set_gate(uint8_t vector, void (*entry)()) {
  // SAFETY: code is identity-mapped, so its pointer is what a gate wants.
  const auto address = reinterpret_cast<uint64_t>(entry);
  idt[vector][1] = address >> 32;
  idt[vector][0] = (address & 0xffff) | uint64_t{0x10} << 16 | uint64_t{0x8e} << 40 |
                   (address >> 16 & 0xffff) << 48;
}

// Puts the code that further processors begin with to `address`.
inline void copy_other_start(uint64_t address) {
  // SAFETY: RAM below 1 MiB that nothing else uses.
  auto* to = reinterpret_cast<volatile uint8_t*>(address);
  for (const uint8_t* from = other_start; from != other_start_end; ++from) *to++ = *from;
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

// SAFETY: the caller has that RAM to itself.
inline volatile uint64_t* memory_at(uint64_t address) {
  return reinterpret_cast<volatile uint64_t*>(address);
}

// SAFETY: the bytes end with a zero that their reader has put there.
inline const char* text_of(const uint8_t* bytes) { return reinterpret_cast<const char*>(bytes); }

}  // namespace probe
