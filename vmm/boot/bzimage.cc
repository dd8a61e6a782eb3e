// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/image_file.h"
#include "vmm/boot/kernel.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <cstring>

#include <asm/bootparam.h>

namespace mayfly::boot {
namespace {

constexpr uint64_t kSectorSize = 512;
constexpr uint64_t kSetupHeaderOffset = 0x1f1;
constexpr uint8_t kDefaultSetupSectors = 4;
constexpr uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint16_t kMinVersion = 0x020c;  // 2.12: xloadflags, the 64-bit entry
constexpr uint16_t kXloadKernel64 = 1 << 0;
constexpr uint64_t kEntry64Offset = 0x200;

static_assert(offsetof(boot_params, hdr) == kSetupHeaderOffset);
static_assert(offsetof(setup_header, header) == 0x202 - kSetupHeaderOffset);

Result<setup_header> read_setup_header(FdRef file) {
  const auto header = TRY(read_object<setup_header>(file, kSetupHeaderOffset));
  if (header.boot_flag != kBootFlag || header.header != kHeaderMagic) {
    return fail({Code::kInvalidArgument, "KERNEL_FORMAT"},
                "kernel: neither an ELF image nor a bzImage");
  }
  if (header.version < kMinVersion || (header.xloadflags & kXloadKernel64) == 0) {
    return fail({Code::kInvalidArgument, "KERNEL_ARCHITECTURE"},
                "kernel: bzImage of boot protocol %u.%u without a 64-bit entry; 2.12 with one is "
                "needed",
                header.version >> 8, header.version & 0xff);
  }
  return header;
}

}  // namespace

Result<LoadedKernel> load_bzimage(const GuestMemory& memory, FdRef kernel) {
  const setup_header header = TRY(read_setup_header(kernel));
  const uint64_t setup_sectors = header.setup_sects ? header.setup_sects : kDefaultSetupSectors;
  const uint64_t payload = (setup_sectors + 1) * kSectorSize;
  const uint64_t size = TRY(file_size(kernel));
  if (size <= payload + kEntry64Offset) {
    return fail({Code::kInvalidArgument, "IMAGE_TRUNCATED"},
                "kernel: the bzImage has %llu bytes, its setup code alone %llu",
                static_cast<unsigned long long>(size), static_cast<unsigned long long>(payload));
  }
  // syssize, in 16-byte units, is what the kernel itself says its protected-mode part is long.
  if (uint64_t{header.syssize} * 16 > size - payload + 15) {
    return fail({Code::kInvalidArgument, "IMAGE_TRUNCATED"},
                "kernel: the bzImage is truncated: it should hold %llu bytes behind its setup code "
                "and holds %llu",
                static_cast<unsigned long long>(header.syssize) * 16,
                static_cast<unsigned long long>(size - payload));
  }
  // The kernel decompresses in place, with init_size bytes from where it prefers to run.
  const uint64_t room = std::max<uint64_t>(header.init_size, size - payload);
  const Result<GuestSpan> span = memory.view({Gpa{header.pref_address}, room});
  if (!span || header.pref_address < kKernelFloor.value) {
    return fail({Code::kInvalidArgument, "KERNEL_OUTSIDE_MEMORY"},
                "kernel: the bzImage wants %llu bytes at 0x%llx, which is not in RAM above 1 MiB "
                "(the guest has %llu MiB)",
                static_cast<unsigned long long>(room),
                static_cast<unsigned long long>(header.pref_address),
                static_cast<unsigned long long>(memory.size() >> 20));
  }
  TRY(read_into(kernel, span->subspan(0, size - payload), payload));
  LoadedKernel loaded;
  loaded.entry = {Protocol::kLinux64, Gpa{header.pref_address + kEntry64Offset}};
  loaded.start = Gpa{header.pref_address};
  loaded.end = Gpa{header.pref_address + room};
  loaded.initrd_limit = std::min(kLowRamEnd, Gpa{uint64_t{header.initrd_addr_max} + 1});
  // The header's own size is its jump instruction's target (boot protocol, "The kernel header").
  const size_t used = std::min<size_t>(sizeof(header), 0x11u + (header.jump >> 8));
  loaded.setup_header.resize(used);
  std::memcpy(loaded.setup_header.data(), &header, used);
  return loaded;
}

}  // namespace mayfly::boot
