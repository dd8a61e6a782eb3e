// SPDX-License-Identifier: Apache-2.0
//
// What a test of the probe guest is written with. A test is a function; it says what it saw, and
// returns or ends the VM. One vCPU, ring 3, no interrupts, no heap, no exceptions. How tests are
// chosen and what the host sees: README.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace probe {

/// From the command line, as `probe.NAME=value`; numbers in decimal or 0x hexadecimal.
uint64_t number_option(const char* name, uint64_t otherwise);
/// Whether the option's value is exactly `value`.
bool option_is(const char* name, const char* value);
void set_command_line(const char* line);

/// A line of output, put together from parts: `Line() << "status " << hex(4)`; written at its end.
struct Hex {
  uint64_t value;
};
inline Hex hex(uint64_t value) { return {value}; }

class Line {
 public:
  Line() = default;
  ~Line();
  Line(const Line&) = delete;
  Line& operator<<(const char* text);
  Line& operator<<(uint64_t number);
  Line& operator<<(Hex number);

 private:
  void put(char c);

  static constexpr size_t kMax = 160;
  char text_[kMax];
  size_t size_ = 0;
};

/// Lets lines go to a virtio-console, where there is one.
void start_report();
/// Waits for input to the console, however long it takes; after start_report().
size_t read_console(uint8_t* bytes, size_t size);

/// Ends the test badly: says `FAIL test: why` and panics (pvpanic), so that the exit report shows
/// it too.
[[noreturn]] void fail(const char* why);
inline void require(bool condition, const char* why) {
  if (!condition) fail(why);
}

[[noreturn]] void power_off();
[[noreturn]] void reset();
[[noreturn]] void panic();
/// As Linux does: it reports the panic first, goes on printing, and resets itself.
[[noreturn]] void panic_and_reset();
/// Spins: what is left when the VM does not end as asked.
[[noreturn]] void forever();

/// As long as anything here waits for a device: a second or so.
inline constexpr uint64_t kPatience = 3'000'000'000;

bool equal(const char* a, const char* b);
/// Bytes that tell where they belong.
void fill_pattern(uint8_t* bytes, size_t size, uint64_t seed);
bool has_pattern(const uint8_t* bytes, size_t size, uint64_t seed);

// The tests, one file each.
void test_churn();
void test_console();
void test_echo();
void test_touch();
void test_pages();
/// A command of test_pages() for a balloon; false: it is none. Says what came of it.
bool balloon_command(uint8_t command, uint64_t first, uint64_t count);
void test_blk();
void test_blk_read_only();
void test_blk_bad();
void test_bench();
void test_blk_load();
void test_net_load();
void test_vsock_load();
void test_rng();
void test_vsock();
void test_registers();
void test_timer();
void test_tsc();
void test_smp();

}  // namespace probe
