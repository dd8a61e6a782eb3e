// SPDX-License-Identifier: Apache-2.0
#include "daemon/resident_memory.h"

#include "daemon/huge_pages_sys.h"
#include "daemon/memory_pages.h"
#include "daemon/vm_memory.h"
#include "snapshot/files.h"

#include <algorithm>
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
  const uint64_t pages = count_bits(memory.known_pages());
  const uint64_t available = available_bytes();
  if (pages * snapshot::kPageBytes <= available) return {};
  return fail({Code::kResourceExhausted, "HOST_MEMORY"},
              "the memory takes up to %llu MiB, and this host has %llu MiB to give",
              static_cast<ull>(pages * snapshot::kPageBytes >> 20),
              static_cast<ull>(available >> 20));
}

constexpr uint64_t kPagesOfChunk = kCopiedChunkBytes / snapshot::kPageBytes;

/// By 2 MiB; as many as the memory has.
std::vector<bool> touched_chunks(const snapshot::Snapshot& snapshot) {
  const uint64_t bytes = snapshot.manifest().machine.memory_bytes;
  std::vector<bool> touched((bytes + kCopiedChunkBytes - 1) / kCopiedChunkBytes);
  if (!snapshot.working_set()) return touched;
  for (const snapshot::TouchedRun& run : snapshot.working_set()->runs) {
    const uint64_t last = (uint64_t{run.first_page} + run.pages - 1) / kPagesOfChunk;
    for (uint64_t chunk = run.first_page / kPagesOfChunk; chunk <= last; ++chunk) {
      touched[chunk] = true;
    }
  }
  return touched;
}

bool is_zero(std::span<const std::byte> page) {
  return std::ranges::all_of(page, [](std::byte byte) { return byte == std::byte{}; });
}

uint64_t count_full(std::span<const std::byte> chunk) {
  uint64_t full = 0;
  for (size_t at = 0; at < chunk.size(); at += snapshot::kPageBytes) {
    full += is_zero(chunk.subspan(at, snapshot::kPageBytes)) ? 0 : 1;
  }
  return full;
}

/// The pages that are not zero, in runs.
Result<> write_full(FdRef memfd, std::span<const std::byte> chunk, uint64_t start) {
  constexpr size_t kPage = snapshot::kPageBytes;
  for (size_t at = 0; at < chunk.size();) {
    size_t end = at;
    while (end < chunk.size() && !is_zero(chunk.subspan(end, kPage))) end += kPage;
    if (end > at) TRY(snapshot::write_at(memfd, chunk.subspan(at, end - at), start + at));
    at = end + kPage;
  }
  return {};
}

}  // namespace

Result<ResidentMemory> make_resident(const snapshot::Chain& chain) {
  snapshot::LayeredMemory memory = chain.memory();
  TRY(check_room(memory));
  ResidentMemory made{.file = TRY(Fd::memfd("mayfly-template", memory.size())), .huge_chunks = {}};
  const std::vector<bool> touched = touched_chunks(chain.newest());
  {
    HugeBacking backing = TRY(HugeBacking::create(made.file.ref()));
    std::vector<std::byte> chunk(kCopiedChunkBytes);
    for (uint64_t next = TRY(memory.next_data(0)); next < memory.size();) {
      const uint64_t number = next / kCopiedChunkBytes;
      const uint64_t start = number * kCopiedChunkBytes;
      const auto bytes = std::span(chunk).first(std::min(kCopiedChunkBytes, memory.size() - start));
      TRY(memory.read(start, bytes));
      made.huge_chunks.resize(number + 1);
      if (touched[number] || count_full(bytes) >= kPagesOfChunk / 2) {
        made.huge_chunks[number] = TRY(backing.back(number));
      }
      TRY(write_full(made.file.ref(), bytes, start));
      if (bytes.size() < kCopiedChunkBytes || start + bytes.size() == memory.size()) break;
      next = TRY(memory.next_data(start + bytes.size()));
    }
  }
  TRY(seal_memfd(made.file.ref()));
  return made;
}

uint64_t huge_bytes(const std::vector<bool>& huge_chunks) {
  return static_cast<uint64_t>(std::ranges::count(huge_chunks, true)) * kCopiedChunkBytes;
}

Result<uint64_t> resident_bytes(FdRef memory) {
  struct stat status;
  if (::fstat(memory.number(), &status) != 0) {
    return fail_errno({Code::kInternal, "FSTAT"}, errno, "look at a template's memory");
  }
  return static_cast<uint64_t>(status.st_blocks) * kStatBlockBytes;
}

}  // namespace mayfly::daemon
