// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint16_t kSleepControlPort = 0x600;
constexpr uint8_t kSoftOff = 1 << 5 | 5 << 2;  // SLP_EN, SLP_TYP 5
constexpr uint16_t kResetPort = 0x602;
constexpr uint16_t kPvpanicPort = 0x505;

const char* command_line = "";

// What follows `probe.name=`, or null.
const char* find_option(const char* name) {
  for (const char* word = command_line; *word != '\0';) {
    const char* at = word;
    const char* wanted = "probe.";
    while (*wanted != '\0' && *at == *wanted) ++at, ++wanted;
    if (*wanted == '\0') {
      wanted = name;
      while (*wanted != '\0' && *at == *wanted) ++at, ++wanted;
      if (*wanted == '\0' && *at == '=') return at + 1;
    }
    while (*word != '\0' && *word != ' ') ++word;
    while (*word == ' ') ++word;
  }
  return nullptr;
}

bool ends_word(char c) { return c == '\0' || c == ' ' || c == '\n'; }

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return 99;
}

}  // namespace

void set_command_line(const char* line) { command_line = line; }

uint64_t number_option(const char* name, uint64_t otherwise) {
  const char* text = find_option(name);
  if (text == nullptr) return otherwise;
  const uint64_t base = text[0] == '0' && text[1] == 'x' ? 16 : 10;
  if (base == 16) text += 2;
  uint64_t value = 0;
  for (; !ends_word(*text); ++text) {
    if (static_cast<uint64_t>(digit(*text)) >= base) fail("a probe option is not a number");
    value = value * base + static_cast<uint64_t>(digit(*text));
  }
  return value;
}

bool option_is(const char* name, const char* value) {
  const char* text = find_option(name);
  if (text == nullptr) return false;
  while (*value != '\0' && *text == *value) ++text, ++value;
  return *value == '\0' && ends_word(*text);
}

bool equal(const char* a, const char* b) {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return *a == *b;
}

void power_off() {
  out8(kSleepControlPort, kSoftOff);
  forever();
}

void reset() {
  out8(kResetPort, 1);
  forever();
}

void panic() {
  out8(kPvpanicPort, 1);
  forever();
}

void panic_and_reset() {
  out8(kPvpanicPort, 1);
  {
    Line() << "after the panic";
  }
  reset();
}

void forever() {
  for (;;) relax();
}

void fail(const char* why) {
  {
    Line() << "FAIL " << why;
  }
  panic();
}

void fill_pattern(uint8_t* bytes, size_t size, uint64_t seed) {
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(seed * 31 + i * 7 + (i >> 8));
}

bool has_pattern(const uint8_t* bytes, size_t size, uint64_t seed) {
  for (size_t i = 0; i < size; ++i) {
    if (bytes[i] != static_cast<uint8_t>(seed * 31 + i * 7 + (i >> 8))) return false;
  }
  return true;
}

}  // namespace probe

// The compiler may call these even where the source does not.
extern "C" void* memset(void* to, int value, size_t size) {
  auto* bytes = static_cast<volatile uint8_t*>(to);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(value);
  return to;
}

extern "C" void* memcpy(void* to, const void* from, size_t size) {
  auto* out = static_cast<volatile uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  for (size_t i = 0; i < size; ++i) out[i] = in[i];
  return to;
}
