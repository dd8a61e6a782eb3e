// SPDX-License-Identifier: Apache-2.0
// Kernel images from anybody: ELF and bzImage headers. No input may do more than fail.
#include "vmm/boot/kernel.h"

#include <cstdint>

#include <unistd.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  constexpr uint64_t kMemorySize = 4 * 1024 * 1024;
  static const Fd* const ram = new Fd(*Fd::memfd("ram", kMemorySize));
  static const GuestMemory* const memory =
      new GuestMemory(*GuestMemory::create(ram->ref(), kMemorySize));
  const Fd file = *Fd::memfd("kernel", 0);
  if (!write_all(file.ref(), std::as_bytes(std::span(data, size)))) return 0;
  const FdRef initrds[] = {file.ref()};
  (void)boot::load_kernel(*memory, {file.ref(), initrds, "quiet"});
  return 0;
}
