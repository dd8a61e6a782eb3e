// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/touched_pages_sys.h"

#include "vmm/machine/memory_layer_sys.h"
#include "vmm/machine/pagemap.h"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace mayfly {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPagesAtOnce = 8192;

// Linux 6.7; newer than our headers. With it files of every kind can be registered.
constexpr uint64_t kWriteProtectAsync = uint64_t{1} << 15;

using PageBits = std::array<std::byte, kPagesAtOnce / 8>;

void add(PageBits& bits, size_t page, uint64_t& count) {
  bits[page / 8] |= std::byte{1} << (page % 8);
  ++count;
}

// Nothing is ever protected, so that nobody has to handle anything. What counts is that the kernel
// maps no neighbours of a page into a mapping whose protection somebody could ask for.
bool register_all(const GuestMemory& memory, FdRef userfault) {
  uffdio_api api = {.api = UFFD_API, .features = kWriteProtectAsync, .ioctls = 0};
  // SAFETY (both): the request's own structure, which outlives the call.
  if (::ioctl(userfault.number(), UFFDIO_API, &api) != 0) return false;
  return std::ranges::all_of(memory.regions(), [&](const GuestMemory::Region& region) {
    uffdio_register request = {.range = {.start = region.host_address, .len = region.size},
                               .mode = UFFDIO_REGISTER_MODE_WP,
                               .ioctls = 0};
    return ::ioctl(userfault.number(), UFFDIO_REGISTER, &request) == 0;
  });
}

}  // namespace

Fd begin_record(const GuestMemory& memory, FdRef userfault_device) {
  for (const GuestMemory::Region& region : memory.regions()) {
    // A kernel without huge pages says EINVAL, and maps none.
    // SAFETY: advice on RAM's own mapping.
    ::madvise(std::bit_cast<void*>(region.host_address), region.size, MADV_NOHUGEPAGE);
  }
  if (!userfault_device.valid()) return Fd();
  // SAFETY: the request takes flags and no pointer.
  Fd userfault(::ioctl(userfault_device.number(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!userfault.valid() || !register_all(memory, userfault.ref())) return Fd();
  return userfault;
}

Result<TouchedPages> write_touched(const GuestMemory& memory, FdRef pagemap,
                                   const TouchedFiles& files) {
  const uint64_t bitmap_bytes = (memory.size() / kPageBytes + 7) / 8;
  TRY(expect_length(files.touched.ref(), bitmap_bytes, "get_touched_pages.touched_fd"));
  TRY(expect_length(files.written.ref(), bitmap_bytes, "get_touched_pages.written_fd"));
  TouchedPages found;
  std::vector<PagemapEntry> entries;
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t pages = region.size / kPageBytes;
    for (uint64_t first = 0; first < pages; first += kPagesAtOnce) {
      entries.resize(std::min(kPagesAtOnce, pages - first));
      TRY(read_pagemap(pagemap, region.host_address + first * kPageBytes, entries));
      PageBits touched = {};
      PageBits written = {};
      for (size_t page = 0; page < entries.size(); ++page) {
        if (!entries[page].is_present() && !entries[page].is_swapped()) continue;
        add(touched, page, found.touched_count);
        if (entries[page].is_private()) add(written, page, found.written_count);
      }
      const size_t bytes = (entries.size() + 7) / 8;
      const uint64_t at = (region.file_offset / kPageBytes + first) / 8;
      TRY(write_file_at(files.touched.ref(), std::span(touched).first(bytes), at));
      TRY(write_file_at(files.written.ref(), std::span(written).first(bytes), at));
    }
  }
  return found;
}

}  // namespace mayfly
