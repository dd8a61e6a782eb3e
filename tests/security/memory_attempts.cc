// SPDX-License-Identifier: Apache-2.0
//
// Most want to execute what was written, and do: a page with "return 42" in it is called.
#include "tests/security/attempt.h"

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include <asm/ldt.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

constexpr size_t kPage = 4096;
constexpr int kReturned = 42;
constexpr std::array<unsigned char, 6> kCode = {0xb8, kReturned, 0, 0, 0, 0xc3};  // mov eax; ret

long map(void* at, int protection, int flags, int file, size_t offset = 0) {
  return ::syscall(SYS_mmap, at, kPage, protection, flags, file, offset);
}

// SAFETY: of this file: addresses that the kernel has just given, of a page each; a page with kCode
// in it is a function, which is the point.
Outcome call(const char* what, long page) {
  if (page == -1) return judge(what, -1);
  const int result = reinterpret_cast<int (*)()>(page)();
  return result == kReturned ? escaped() : refused(what, 0);
}

void write_code(long page) { std::memcpy(reinterpret_cast<void*>(page), &kCode, sizeof(kCode)); }

long writable_page() {
  const long page = map(nullptr, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (page != -1) write_code(page);
  return page;
}

Outcome executable_pages(World&) {
  const long page =
      map(nullptr, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  if (page != -1) write_code(page);
  return call("mmap", page);
}

Outcome data_becomes_code(World&) {
  const long page = writable_page();
  if (page == -1) return judge("mmap", -1);
  if (::syscall(SYS_mprotect, page, kPage, PROT_READ | PROT_EXEC) < 0) return judge("mprotect", -1);
  return call("mprotect", page);
}

Outcome data_becomes_code_by_key(World&) {
  const long page = writable_page();
  if (page == -1) return judge("mmap", -1);
  constexpr int kNoKey = -1;
  if (::syscall(SYS_pkey_mprotect, page, kPage, PROT_READ | PROT_EXEC, kNoKey) < 0) {
    return judge("pkey_mprotect", -1);
  }
  return call("pkey_mprotect", page);
}

Outcome code_becomes_writable(World&) {
  // SAFETY: the page of a function; it is only made writable, not written.
  const auto address = reinterpret_cast<uintptr_t>(&executable_pages) & ~(kPage - 1);
  return judge("mprotect",
               ::syscall(SYS_mprotect, address, kPage, PROT_READ | PROT_WRITE | PROT_EXEC));
}

// The same memory twice: written here, executed there.
Outcome execute_twice_mapped(const char* what, int file) {
  const long writable = map(nullptr, PROT_READ | PROT_WRITE, MAP_SHARED, file);
  if (writable == -1) return judge(what, -1);
  write_code(writable);
  return call(what, map(nullptr, PROT_READ | PROT_EXEC, MAP_SHARED, file));
}
Outcome execute_guest_memory(World&) { return execute_twice_mapped("mmap", kMemory); }
Outcome execute_new_memory(World&) {
  const long file = ::syscall(SYS_memfd_create, "code", MFD_CLOEXEC);
  if (file < 0) return judge("memfd_create", -1);
  if (::syscall(SYS_ftruncate, file, kPage) < 0) return judge("ftruncate", -1);
  return execute_twice_mapped("mmap", static_cast<int>(file));
}
Outcome execute_disk_pages(World&) {
  return judge("mmap", map(nullptr, PROT_READ | PROT_EXEC, MAP_PRIVATE, kReadOnlyDisk));
}
Outcome executable_segment(World&) {
  const long segment = ::syscall(SYS_shmget, IPC_PRIVATE, kPage, IPC_CREAT | 0700);
  if (segment < 0) return judge("shmget", -1);
  const long page = ::syscall(SYS_shmat, segment, nullptr, SHM_EXEC);
  ::syscall(SYS_shmctl, segment, IPC_RMID, nullptr);
  if (page != -1) write_code(page);
  return call("shmat", page);
}

// After this, all that can be read can be executed.
Outcome read_implies_execute(World&) {
  if (::syscall(SYS_personality, READ_IMPLIES_EXEC) < 0) return judge("personality", -1);
  return call("mmap", writable_page());
}

Outcome secret_memory(World&) { return judge("memfd_secret", ::syscall(SYS_memfd_secret, 0)); }

// Holds a thread inside the kernel for as long as it takes to exploit a race.
Outcome handle_faults(World&) {
  return judge("userfaultfd", ::syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY));
}

Outcome local_descriptors(World&) {
  user_desc entry = {};
  entry.limit = 0xfffff;
  entry.seg_32bit = 1;
  entry.limit_in_pages = 1;
  entry.useable = 1;
  constexpr int kWrite = 0x11;
  return judge("modify_ldt", ::syscall(SYS_modify_ldt, kWrite, &entry, sizeof(entry)));
}

Outcome lock_memory(World&) {
  constexpr size_t kSize = size_t{64} << 20;
  const long area = ::syscall(SYS_mmap, nullptr, kSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == -1) return judge("mmap", -1);
  return judge("mlock", ::syscall(SYS_mlock, area, kSize));
}
Outcome lock_all_memory(World&) {
  constexpr int kCurrentAndFuture = MCL_CURRENT | MCL_FUTURE;
  // Of a size that no unprivileged program may lock.
  const long area = ::syscall(SYS_mmap, nullptr, size_t{64} << 20, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == -1) return judge("mmap", -1);
  return judge("mlockall", ::syscall(SYS_mlockall, kCurrentAndFuture));
}

Outcome map_page_zero(World&) {
  const long page = ::syscall(SYS_mmap, nullptr, kPage, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return page == -1 ? judge("mmap", -1) : escaped();
}

// Where the host keeps our pages, which only CAP_SYS_ADMIN is told.
Outcome see_frames(World& world) {
  constexpr uint64_t kFrame = (uint64_t{1} << 55) - 1;
  uint64_t entry = 0;
  const auto here = reinterpret_cast<uintptr_t>(&entry) / kPage * sizeof(entry);
  const long size = ::syscall(SYS_pread64, world.pagemap.number(), &entry, sizeof(entry), here);
  if (size != sizeof(entry)) return judge("pread64", -1);
  return (entry & kFrame) != 0 ? escaped() : refused("pread64", 0);
}

// PAGEMAP_SCAN, of <linux/fs.h> from 6.7 on: a walk of page tables that can also write-protect.
Outcome scan_pages(World& world) {
  struct Scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
  } scan = {};
  scan.size = sizeof(scan);
  const long scanned = ::syscall(SYS_ioctl, world.pagemap.number(), _IOWR('f', 16, Scan), &scan);
  if (scanned < 0 && errno == ENOTTY) return missing("PAGEMAP_SCAN");
  return judge("ioctl PAGEMAP_SCAN", scanned);
}

constexpr Attempt kAttempts[] = {
    {"executable-pages", "code of its own", kSeccomp, executable_pages},
    {"data-becomes-code", "code of its own", kSeccomp, data_becomes_code},
    {"data-becomes-code-by-key", "code of its own", kSeccomp, data_becomes_code_by_key},
    {"code-becomes-writable", "other code", kSeccomp, code_becomes_writable},
    {"execute-guest-memory", "the guest's code outside of the guest", kSeccomp,
     execute_guest_memory},
    {"execute-new-memory", "code of its own", kSeccomp, execute_new_memory},
    {"execute-disk-pages", "code that lies on a disk", kSeccomp, execute_disk_pages},
    {"executable-segment", "code of its own", kSeccomp, executable_segment},
    {"read-implies-execute", "code of its own", kSeccomp, read_implies_execute},
    {"secret-memory", "memory that the host cannot look into", kSeccomp, secret_memory},
    {"handle-faults", "time inside the kernel", kSeccomp, handle_faults},
    {"local-descriptors", "segments", kSeccomp, local_descriptors},
    {"lock-memory", "memory that cannot be taken back", kSeccomp | kIds, lock_memory},
    {"lock-all-memory", "memory that cannot be taken back", kSeccomp | kIds, lock_all_memory},
    {"see-frames", "where in the host's memory its pages are", kIds, see_frames},
    {"scan-pages", "the kernel's page table walker", kSeccomp, scan_pages},
    {"map-page-zero", "what the kernel finds behind a null pointer", kSeccomp | kIds,
     map_page_zero},
};

}  // namespace

std::span<const Attempt> memory_attempts() { return kAttempts; }

}  // namespace mayfly::escape
