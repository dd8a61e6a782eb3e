// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

namespace probe {
namespace {

constexpr uint32_t kReceive = 0;
constexpr uint32_t kTransmit = 1;

// The console is looked for once. A test that drives the console itself has it to itself until its
// end.
enum class Console : uint8_t { kUnknown, kAbsent, kReady } console = Console::kUnknown;
constinit Device console_device(0);
constinit Queue transmit_queue{};
constinit Queue receive_queue{};

void write_console(const char* text, size_t size) {
  if (console == Console::kUnknown) start_report();
  if (console != Console::kReady) return;
  UsedElement element;
  transmit_queue.add({{text, static_cast<uint32_t>(size), false}});
  console_device.kick(kTransmit);
  (void)wait(console_device, transmit_queue, element, kPatience);
}

}  // namespace

void start_report() {
  console = Console::kAbsent;
  console_device = Device::find(DeviceId::kConsole);
  if (!console_device.exists()) return;
  console_device.negotiate(0);
  console_device.set_up(kReceive, receive_queue, 8);
  console_device.set_up(kTransmit, transmit_queue, 8);
  console_device.go();
  console = Console::kReady;
}

size_t read_console(uint8_t* bytes, size_t size) {
  require(console == Console::kReady, "no console");
  UsedElement element;
  receive_queue.add({{bytes, static_cast<uint32_t>(size), true}});
  console_device.kick(kReceive);
  const Outcome outcome = wait(console_device, receive_queue, element, UINT64_MAX);
  require(outcome == Outcome::kUsed, "the console broke while waiting for input");
  return element.length;
}

Line::~Line() {
  text_[size_++] = '\n';
  if (const auto port = static_cast<uint16_t>(number_option("port", 0)); port != 0) {
    for (size_t i = 0; i < size_; ++i) out8(port, static_cast<uint8_t>(text_[i]));
  }
  write_console(text_, size_);
}

void Line::put(char c) {
  if (size_ < kMax - 1) text_[size_++] = c;
}

Line& Line::operator<<(const char* text) {
  while (*text != '\0') put(*text++);
  return *this;
}

Line& Line::operator<<(uint64_t number) {
  char digits[20];
  size_t count = 0;
  do digits[count++] = static_cast<char>('0' + number % 10);
  while ((number /= 10) != 0);
  while (count > 0) put(digits[--count]);
  return *this;
}

Line& Line::operator<<(Hex number) {
  *this << "0x";
  bool shown = false;
  for (int shift = 60; shift >= 0; shift -= 4) {
    const auto digit = number.value >> shift & 0xf;
    shown = shown || digit != 0 || shift == 0;
    if (shown) put("0123456789abcdef"[digit]);
  }
  return *this;
}

}  // namespace probe
