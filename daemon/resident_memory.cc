// SPDX-License-Identifier: Apache-2.0
#include "daemon/resident_memory.h"

#include "daemon/vm_memory.h"

#include <bit>
#include <cerrno>
#include <fstream>
#include <string>

#include <sys/stat.h>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;

constexpr uint64_t kStatBlockBytes = 512;

/// What the kernel thinks it can give without swapping; no limit where it does not say.
uint64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  uint64_t kib = 0;
  for (std::string name, rest; file >> name; std::getline(file, rest)) {
    if (name == "MemAvailable:" && file >> kib) return kib << 10;
  }
  return UINT64_MAX;
}

Result<> check_room(const snapshot::LayeredMemory& memory) {
  uint64_t pages = 0;
  for (const uint64_t word : memory.known_pages())
    pages += static_cast<uint64_t>(std::popcount(word));
  const uint64_t available = available_bytes();
  if (pages * snapshot::kPageBytes <= available) return {};
  return fail({Code::kResourceExhausted, "HOST_MEMORY"},
              "the memory takes up to %llu MiB, and this host has %llu MiB to give",
              static_cast<ull>(pages * snapshot::kPageBytes >> 20),
              static_cast<ull>(available >> 20));
}

}  // namespace

Result<Fd> make_resident(const snapshot::Chain& chain) {
  snapshot::LayeredMemory memory = chain.memory();
  TRY(check_room(memory));
  Fd file = TRY(Fd::memfd("mayfly-template", memory.size()));
  TRY(memory.apply_to(file.ref()));
  TRY(seal_memfd(file.ref()));
  return file;
}

Result<uint64_t> resident_bytes(FdRef memory) {
  struct stat status;
  if (::fstat(memory.number(), &status) != 0) {
    return fail_errno({Code::kInternal, "FSTAT"}, errno, "look at a template's memory");
  }
  return static_cast<uint64_t>(status.st_blocks) * kStatBlockBytes;
}

}  // namespace mayfly::daemon
