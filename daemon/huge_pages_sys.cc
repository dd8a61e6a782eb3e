// SPDX-License-Identifier: Apache-2.0
#include "daemon/huge_pages_sys.h"

#include "base/clock.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kPagesOfHuge = kHugePage / kPage;
constexpr uint64_t kStatBlock = 512;
constexpr uint64_t kFaultsMeasured = 128;
constexpr int kTries = 3;

/// Memory at an address that huge pages fit.
class Mapping {
 public:
  /// No file: of its own.
  static Result<Mapping> create(uint64_t bytes, FdRef file, int flags) {
    Mapping mapping;
    mapping.reserved_ = bytes + kHugePage;
    // SAFETY: a fresh, inaccessible reservation, unmapped with this object.
    mapping.start_ = ::mmap(nullptr, mapping.reserved_, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping.start_ == MAP_FAILED) return failed("reserve");
    const auto start = std::bit_cast<uintptr_t>(mapping.start_);
    const uintptr_t aligned = (start + kHugePage - 1) & ~(kHugePage - 1);
    // SAFETY: MAP_FIXED inside our own reservation.
    void* mapped = ::mmap(std::bit_cast<void*>(aligned), bytes, PROT_READ | PROT_WRITE,
                          flags | MAP_NORESERVE | MAP_FIXED, file.number(), 0);
    if (mapped == MAP_FAILED) return failed("map");
    mapping.bytes_ = static_cast<volatile char*>(mapped);
    mapping.size_ = bytes;
    return mapping;
  }
  ~Mapping() {
    // SAFETY: our own reservation, and all that was mapped into it.
    if (start_ != MAP_FAILED) ::munmap(start_, reserved_);
  }
  Mapping(Mapping&& other) noexcept
      : start_(std::exchange(other.start_, MAP_FAILED)),
        reserved_(other.reserved_),
        bytes_(other.bytes_),
        size_(other.size_) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void want_huge_pages() const {
    // SAFETY: advice on our own mapping. A kernel without huge pages refuses, and that is all.
    ::madvise(const_cast<char*>(bytes_), size_, MADV_HUGEPAGE);
  }
  volatile char& at(uint64_t offset) const { return bytes_[offset]; }
  std::span<std::byte> bytes() const {
    return {std::bit_cast<std::byte*>(const_cast<char*>(bytes_)), static_cast<size_t>(size_)};
  }

 private:
  Mapping() = default;
  static std::unexpected<Error> failed(const char* what) {
    return fail_errno({Code::kResourceExhausted, "MEMORY_MAP"}, errno, "%s memory", what);
  }

  void* start_ = MAP_FAILED;
  uint64_t reserved_ = 0;
  volatile char* bytes_ = nullptr;
  uint64_t size_ = 0;
};

Result<uint64_t> allocated_bytes(FdRef memfd) {
  struct stat status;
  if (::fstat(memfd.number(), &status) != 0) {
    return fail_errno({Code::kUnavailable, "FSTAT"}, errno, "look at a memfd");
  }
  return static_cast<uint64_t>(status.st_blocks) * kStatBlock;
}

Result<Fd> small_pages() {
  Fd file = TRY(Fd::memfd("mayfly-page-costs", kHugePage));
  const std::vector<char> page(kPage, 1);
  for (uint64_t at = 0; at < kHugePage; at += kPage) {
    if (::pwrite(file.number(), page.data(), kPage, static_cast<off_t>(at)) != kPage) {
      return fail_errno({Code::kResourceExhausted, "MEMORY"}, errno, "fill a memfd of 2 MiB");
    }
  }
  return file;
}

Result<uint64_t> time_faults(FdRef file) {
  const Mapping mapping = TRY(Mapping::create(kHugePage, file, MAP_PRIVATE));
  const uint64_t begin_ns = monotonic_ns();
  // Far apart: what the kernel maps around a fault shall not help the next.
  for (uint64_t i = 0; i < kFaultsMeasured; ++i) {
    mapping.at(i * (kPagesOfHuge / kFaultsMeasured) * kPage) = 2;
  }
  return (monotonic_ns() - begin_ns) / kFaultsMeasured;
}

Result<uint64_t> time_copy(FdRef file) {
  const uint64_t begin_ns = monotonic_ns();
  const Mapping mapping = TRY(Mapping::create(kHugePage, FdRef(), MAP_PRIVATE | MAP_ANONYMOUS));
  mapping.want_huge_pages();
  TRY(pread_exact(file, mapping.bytes(), 0));
  return monotonic_ns() - begin_ns;
}

/// A page that is huge is there whole after its first byte was touched.
Result<bool> has_anonymous_huge_pages() {
  const Mapping mapping = TRY(Mapping::create(kHugePage, FdRef(), MAP_PRIVATE | MAP_ANONYMOUS));
  mapping.want_huge_pages();
  mapping.at(0) = 1;
  unsigned char last = 0;
  // SAFETY: one page of our own mapping, and a byte for it.
  const int result = ::mincore(mapping.bytes().last(kPage).data(), kPage, &last);
  return result == 0 && (last & 1) != 0;
}

}  // namespace

uint32_t PageCosts::faults_of_copy() const {
  return static_cast<uint32_t>(
      std::clamp<uint64_t>(copy_ns / std::max<uint64_t>(fault_ns, 1), 1, kPagesOfHuge));
}

Result<PageCosts> measure_page_costs() {
  PageCosts costs{.fault_ns = UINT64_MAX, .copy_ns = UINT64_MAX};
  const Fd file = TRY(small_pages());
  for (int i = 0; i < kTries; ++i) {
    costs.fault_ns = std::min(costs.fault_ns, TRY(time_faults(file.ref())));
    costs.copy_ns = std::min(costs.copy_ns, TRY(time_copy(file.ref())));
  }
  costs.has_anonymous_huge_pages = TRY(has_anonymous_huge_pages());
  const Fd memfd = TRY(Fd::memfd("mayfly-page-costs", kHugePage));
  costs.has_memfd_huge_pages = TRY(TRY(HugeBacking::create(memfd.ref())).back(0));
  return costs;
}

struct HugeBacking::Mapped {
  FdRef memfd;
  Mapping mapping;
  uint64_t chunks;
  // One that asked in vain for its first page does not ask again.
  bool has_given_up = false;
};

HugeBacking::~HugeBacking() = default;
HugeBacking::HugeBacking(HugeBacking&& other) noexcept = default;

Result<HugeBacking> HugeBacking::create(FdRef memfd) {
  const uint64_t size = TRY(file_size(memfd));
  Mapping mapping = TRY(Mapping::create(size, memfd, MAP_SHARED));
  mapping.want_huge_pages();
  HugeBacking backing;
  backing.mapped_ = std::make_unique<Mapped>(
      Mapped{.memfd = memfd, .mapping = std::move(mapping), .chunks = size / kHugePage});
  return backing;
}

Result<bool> HugeBacking::back(uint64_t chunk) {
  if (chunk >= mapped_->chunks || mapped_->has_given_up) return false;
  const uint64_t before = TRY(allocated_bytes(mapped_->memfd));
  mapped_->mapping.at(chunk * kHugePage) = 0;
  const bool is_huge = TRY(allocated_bytes(mapped_->memfd)) - before >= kHugePage;
  mapped_->has_given_up = !is_huge;
  return is_huge;
}

}  // namespace mayfly::daemon
