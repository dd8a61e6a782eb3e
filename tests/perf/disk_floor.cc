// SPDX-License-Identifier: Apache-2.0
//
// What a monitor's disk is measured against: the same requests to the same file from this process,
// by io_uring as the monitor uses it, as many in flight at all times.
#include <liburing.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <x86intrin.h>

namespace {

constexpr uint64_t kRequestBytes = 4096;
constexpr uint64_t kMaxDepth = 128;

struct Run {
  int file = -1;
  uint64_t chunks = 0;
  uint64_t count = 0;
  uint64_t depth = 0;
};

bool number(const char* text, uint64_t& value) {
  const char* end = text + std::strlen(text);
  return std::from_chars(text, end, value).ptr == end && value > 0;
}

uint64_t cpu_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// False: a request failed.
bool read_all(io_uring& ring, const Run& run) {
  std::vector<char> buffers(run.depth * kRequestBytes);
  uint64_t started = 0;
  const auto start = [&](uint64_t slot) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    io_uring_prep_read(entry, 0, &buffers[slot * kRequestBytes], kRequestBytes,
                       started++ % run.chunks * kRequestBytes);
    entry->flags |= IOSQE_FIXED_FILE;
    entry->user_data = slot;
  };
  for (uint64_t slot = 0; slot < run.depth; ++slot) start(slot);
  for (uint64_t done = 0; done < run.count;) {
    if (io_uring_submit_and_wait(&ring, 1) < 0) return false;
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring, &entry) == 0) {
      if (entry->res != static_cast<int>(kRequestBytes)) return false;
      const uint64_t slot = entry->user_data;
      io_uring_cqe_seen(&ring, entry);
      ++done;
      if (started < run.count) start(slot);
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Run run;
  struct stat status = {};
  if (argc != 4 || !number(argv[2], run.count) || !number(argv[3], run.depth) ||
      run.depth > kMaxDepth || run.count < run.depth ||
      (run.file = ::open(argv[1], O_RDONLY | O_CLOEXEC)) < 0 || ::fstat(run.file, &status) != 0 ||
      status.st_size < static_cast<off_t>(kRequestBytes)) {
    std::fputs(
        "usage: disk_floor FILE COUNT DEPTH\n"
        "Reads 4 KiB at a time, DEPTH (at most 128) at once; prints TSC cycles, and ns of CPU.\n",
        stderr);
    return 2;
  }
  run.chunks = static_cast<uint64_t>(status.st_size) / kRequestBytes;
  io_uring ring = {};
  if (io_uring_queue_init(kMaxDepth, &ring, 0) < 0 ||
      io_uring_register_files(&ring, &run.file, 1) < 0) {
    std::perror("disk_floor: io_uring");
    return 1;
  }
  const uint64_t begin = __rdtsc(), cpu_begin = cpu_ns();
  if (!read_all(ring, run)) {
    std::fputs("disk_floor: a read failed\n", stderr);
    return 1;
  }
  std::printf("%llu %llu\n", static_cast<unsigned long long>(__rdtsc() - begin),
              static_cast<unsigned long long>(cpu_ns() - cpu_begin));
  return 0;
}
