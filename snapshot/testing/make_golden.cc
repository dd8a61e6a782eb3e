// SPDX-License-Identifier: Apache-2.0
// usage: make_golden DIRECTORY
// Writes the golden snapshots as testdata keeps them, all versions' into one folder: for a new
// major version's.
#include "snapshot/files.h"
#include "snapshot/testing/golden.h"

#include <cstdio>
#include <filesystem>

#include <fcntl.h>

int main(int argc, char** argv) {
  using namespace mayfly;
  using namespace mayfly::snapshot;
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_golden DIRECTORY\n");
    return 2;
  }
  const std::filesystem::path target = argv[1];
  std::filesystem::create_directories(target);
  const Fd store = MUST(Fd::open(target.c_str(), O_RDONLY | O_DIRECTORY));  // a developer's tool
  MUST(testing::write_golden(store.ref()));
  for (const testing::Golden& golden : testing::golden_snapshots()) {
    const auto directory = target / golden.name;
    const Fd memory = MUST(Fd::open((directory / kMemoryName).c_str(), O_RDONLY));
    const Fd pages = MUST(Fd::open((directory / "pages").c_str(), O_WRONLY | O_CREAT, 0644));
    uint64_t offset = 0;
    for (const uint64_t page : golden.stored_pages) {
      std::vector<std::byte> bytes(kPageBytes);
      MUST(pread_exact(memory.ref(), bytes, page * kPageBytes));
      MUST(write_at(pages.ref(), bytes, offset));
      offset += kPageBytes;
    }
    std::filesystem::remove(directory / kMemoryName);
  }
  return 0;
}
