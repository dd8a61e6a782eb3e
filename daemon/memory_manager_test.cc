// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_manager.h"

#include "daemon/testing/rig.h"
#include "daemon/unix_socket_sys.h"

#include <doctest/doctest.h>

#include <cstring>
#include <thread>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

constexpr uint64_t kPages = (16 << 20) / 4096;  // of the rig's VMs
using Runs = std::vector<PageRun>;

void make(Rig& rig, const std::string& vm_id, const std::string& words = "") {
  REQUIRE(rig.manager->create(rig.request(vm_id, words), soon()));
}

void save(Rig& rig, const std::string& vm_id, const std::string& id) {
  REQUIRE(rig.snapshots->create({.vm_id = vm_id, .snapshot_id = id}, soon()));
}

Result<std::vector<PageStretch>> query(Rig& rig, const PagesPlan& plan) {
  std::vector<PageStretch> stretches;
  TRY(rig.memory->query(
      plan,
      [&](const PageStretch& stretch) {
        stretches.push_back(stretch);
        return true;
      },
      soon()));
  return stretches;
}

PagesPlan plan_of(const std::string& vm_id, uint64_t first, uint64_t count, PageKind kind) {
  return {.vm_id = vm_id, .first_page = first, .page_count = count, .kinds = {kind}};
}

std::string reason_of(const auto& result) { return result ? "" : result.error().reason(); }

struct Fetched {
  std::string header;
  std::vector<Fd> files;
};

/// What whoever connects is given; nothing where nobody gives anything.
std::optional<Fetched> fetch(const std::string& path) {
  const auto socket = connect_unix(path, SOCK_SEQPACKET);
  if (!socket) return std::nullopt;
  char bytes[256];
  alignas(cmsghdr) char ancillary[CMSG_SPACE(8 * sizeof(int))] = {};
  iovec part = {bytes, sizeof(bytes)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = ancillary;
  message.msg_controllen = sizeof(ancillary);
  const ssize_t size = ::recvmsg(socket->number(), &message, MSG_CMSG_CLOEXEC);
  if (size <= 0) return std::nullopt;
  Fetched fetched{.header = std::string(bytes, static_cast<size_t>(size)), .files = {}};
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  REQUIRE(header != nullptr);
  for (size_t i = 0; i < (header->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
    fetched.files.emplace_back(fd);
  }
  return fetched;
}

uint64_t number_at(const std::string& header, size_t at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<uint8_t>(header[at + i]);
  return value;
}

bool is_writable(const Fd& file) {
  return (::fcntl(file.number(), F_GETFL) & O_ACCMODE) != O_RDONLY;
}

}  // namespace

TEST_CASE("runs are the set bits, whatever their place in a byte") {
  CHECK(runs_of("", 0, 0).empty());
  CHECK(runs_of(std::string(2, '\0'), 5, 16).empty());
  CHECK(runs_of("\xff\xff", 8, 16) == Runs{{8, 16}});
  CHECK(runs_of("\x81\x01", 100, 9) == Runs{{100, 1}, {107, 2}});
  CHECK(runs_of("\x05", 0, 3) == Runs{{0, 1}, {2, 1}});
  CHECK(count_bits("\xff\x01\x80") == 10);
}

TEST_CASE("allocated pages of a sparse file are those that were written") {
  const Fd file = *Fd::memfd("memory", 64 << 12);
  const char byte = 1;
  for (const off_t page : {3, 4, 9, 63})
    REQUIRE(::pwrite(file.number(), &byte, 1, page << 12) == 1);
  CHECK(runs_of(*allocated_pages(file.ref(), 0, 64), 0, 64) == Runs{{3, 2}, {9, 1}, {63, 1}});
  CHECK(runs_of(*allocated_pages(file.ref(), 4, 6), 4, 6) == Runs{{4, 1}, {9, 1}});
  CHECK(count_bits(*allocated_pages(file.ref(), 10, 53)) == 0);
}

TEST_CASE("what a monitor says of pages is told in stretches that do not ask too much of it") {
  Rig rig;
  make(rig, "a");
  save(rig, "a", "s");
  const auto changed = query(rig, plan_of("a", 10, 9, PageKind::kChanged));
  REQUIRE(changed);
  REQUIRE(changed->size() == 1);
  CHECK(runs_of((*changed)[0].pages.own, 10, 9) == Runs{{10, 1}, {12, 1}, {18, 1}});
  CHECK((*changed)[0].state == VmState::kRunning);
  auto request = rig.request("big", "");
  request.spec.memory_mib = 300;
  REQUIRE(rig.manager->create(request, soon()));
  const auto whole = query(rig, plan_of("big", 1, 0, PageKind::kResident));
  REQUIRE(whole);
  REQUIRE(whole->size() == 2);
  CHECK((*whole)[0].page_count == kMaxQueryPages);
  CHECK((*whole)[1].first_page == 1 + kMaxQueryPages);
  CHECK((*whole)[1].page_count == 300 * 256 - 1 - kMaxQueryPages);
  CHECK(query(rig, plan_of("big", 0, 0, PageKind::kZero))->size() == 10);
}

TEST_CASE("all that is in a memory that nobody shares counts as changed") {
  Rig rig;
  make(rig, "a");
  // The fake touches nothing of its memory until it is saved.
  CHECK(count_bits((*query(rig, plan_of("a", 0, 0, PageKind::kChanged)))[0].pages.own) == 0);
  const auto described = rig.memory->describe("a", true, soon());
  REQUIRE(described);
  CHECK_FALSE(described->memory.is_private);
  CHECK_FALSE(described->base);
  CHECK(described->pages->changed == 0);
  CHECK(described->pages->resident == kPages / 4);
  CHECK(described->pages->swapped == kPages / 8);
}

TEST_CASE("a range that is not the memory's is refused with the numbers") {
  Rig rig;
  make(rig, "a");
  const auto refusal = [&](uint64_t first, uint64_t count) {
    return reason_of(query(rig, plan_of("a", first, count, PageKind::kResident)));
  };
  CHECK(refusal(kPages - 1, 1) == "");
  CHECK(refusal(kPages, 0) == "PAGE_RANGE");
  CHECK(refusal(kPages - 1, 2) == "PAGE_RANGE");
  CHECK(refusal(~uint64_t{0}, 1) == "PAGE_RANGE");
  CHECK(refusal(1, ~uint64_t{0}) == "PAGE_RANGE");
  CHECK(reason_of(query(rig, plan_of("b", 0, 1, PageKind::kResident))) == "VM_NOT_FOUND");
}

TEST_CASE("a monitor that contradicts itself is found out, and its VM goes on") {
  Rig rig;
  for (const char* how :
       {"no_pages", "pages=long", "pages=beyond", "pages=both", "pages=absent_zero"}) {
    CAPTURE(how);
    const std::string id = "liar";
    make(rig, id, std::string("fake.") + how);
    // Not a multiple of eight: there are bits that are nobody's.
    for (int twice = 0; twice < 2; ++twice) {
      CHECK(reason_of(query(rig, plan_of(id, 0, 5, PageKind::kZero))) == "MONITOR_REPLY");
    }
    CHECK(rig.manager->get(id)->state == VmState::kRunning);
    REQUIRE(rig.manager->remove(id, true, soon()));
  }
}

TEST_CASE("usage is the kernel's, and a memory that VMs share is one base") {
  Rig rig;
  make(rig, "a");
  save(rig, "a", "s");
  for (const char* id : {"b", "c"}) {
    REQUIRE(rig.snapshots->restore({.snapshot_id = "s", .vm_id = id, .start = true}, soon()));
  }
  make(rig, "d");
  const auto first = rig.memory->usage(3, "");
  REQUIRE(first);
  REQUIRE(first->usages.size() == 3);
  CHECK(first->next_page_token == "c");
  CHECK(first->usages[0].vm_id == "a");
  CHECK(first->usages[0].unique_bytes > 0);
  CHECK(first->usages[1].base == first->usages[2].base);
  CHECK(first->usages[0].base != first->usages[1].base);
  REQUIRE(first->bases.size() == 2);
  for (const MemoryBase& base : first->bases) {
    const bool restored = base.file == first->usages[1].base;
    CHECK(base.vm_count == (restored ? 2 : 1));
    CHECK(base.origin == (restored ? "s" : "a"));
  }
  const auto rest = rig.memory->usage(3, "c");
  REQUIRE(rest);
  REQUIRE(rest->usages.size() == 1);
  CHECK_FALSE(rest->usages[0].base);
  CHECK(rest->bases.empty());
  CHECK(rest->next_page_token.empty());
  CHECK(reason_of(rig.memory->usage(1001, "")) == "PAGE_SIZE");
}

TEST_CASE("/proc/PID/status is read by its names") {
  const auto memory = parse_process_status(
      "Name:\tx\nVmRSS:\t  99 kB\nRssAnon:\t      12 kB\nRssFile:\t 3 kB\nRssShmem:\t 4 kB\n"
      "VmSwap:\t       5 kB\n");
  REQUIRE(memory);
  CHECK(memory->anonymous_bytes == 12 << 10);
  CHECK(memory->file_bytes == 3 << 10);
  CHECK(memory->shared_memory_bytes == 4 << 10);
  CHECK(memory->swapped_bytes == 5 << 10);
  CHECK_FALSE(parse_process_status("Name:\tx\nState:\tZ (zombie)\n"));
  CHECK_FALSE(parse_process_status("\nRssAnon:\t"));
}

TEST_CASE("an export is handed over once, cannot be written through, and leaves nothing") {
  Rig rig;
  make(rig, "a");
  const auto live = rig.memory->offer({.vm_id = "a"}, soon());
  REQUIRE(live);
  struct stat socket = {};
  REQUIRE(::stat(live->socket_path.c_str(), &socket) == 0);
  CHECK((socket.st_mode & 07777) == 0600);
  const auto fetched = fetch(live->socket_path);
  REQUIRE(fetched);
  CHECK(fetched->header == encode_export_header(live->header));
  CHECK(fetched->header.substr(0, 8) == "MAYFLYME");
  CHECK(number_at(fetched->header, 10, 2) == 1);
  CHECK(number_at(fetched->header, 16, 8) == 16 << 20);
  REQUIRE(fetched->files.size() == 1);
  CHECK_FALSE(is_writable(fetched->files[0]));
  CHECK_FALSE(fetch(live->socket_path));
  CHECK(count_entries(rig.exports_dir()) == 0);

  const auto frozen = rig.memory->offer({.vm_id = "a", .is_frozen = true}, soon());
  REQUIRE(frozen);
  CHECK_FALSE(frozen->header.is_live);
  CHECK(fetch(frozen->socket_path)->files.size() == 1);
  CHECK(rig.memory->describe("a", false, soon())->memory.is_sealed);
  // From then on with what has changed.
  const auto layered = rig.memory->offer({.vm_id = "a"}, soon());
  REQUIRE(layered);
  CHECK(layered->header.layer_page_count == 1);
  const auto three = fetch(layered->socket_path);
  REQUIRE(three);
  REQUIRE(three->files.size() == 3);
  CHECK(number_at(three->header, 10, 2) == 2);
  CHECK(number_at(three->header, 24, 8) == 1);
  for (const Fd& file : three->files) CHECK_FALSE(is_writable(file));
  CHECK(rig.manager->get("a")->state == VmState::kRunning);
}

TEST_CASE("an export that nobody fetches ends, and they are bounded") {
  Rig rig;
  make(rig, "a");
  const size_t descriptors = open_descriptors();
  const auto brief = rig.memory->offer({.vm_id = "a", .timeout_s = 1}, soon());
  REQUIRE(brief);
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  CHECK_FALSE(fetch(brief->socket_path));
  std::string last;
  for (size_t i = 0; i < kMaxExports; ++i)
    last = rig.memory->offer({.vm_id = "a"}, soon())->socket_path;
  CHECK(reason_of(rig.memory->offer({.vm_id = "a"}, soon())) == "TOO_MANY_EXPORTS");
  CHECK(fetch(last));
  // The reactor's thread is told of its end after us.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool offered = false;
  while (!offered && std::chrono::steady_clock::now() < until) {
    offered = rig.memory->offer({.vm_id = "a"}, soon()).has_value();
  }
  CHECK(offered);
  CHECK(reason_of(rig.memory->offer({.vm_id = "a", .timeout_s = 601}, soon())) == "EXPORT_TIMEOUT");
  CHECK(reason_of(rig.memory->offer({.vm_id = "b"}, soon())) == "VM_NOT_FOUND");
  rig.memory.reset();
  rig.exports.reset();
  CHECK_FALSE(std::filesystem::exists(rig.exports_dir()));
  CHECK(open_descriptors() == descriptors);
}
