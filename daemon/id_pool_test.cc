// SPDX-License-Identifier: Apache-2.0
#include "daemon/id_pool.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

struct Scratch {
  std::filesystem::path path;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "id_pool.XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  void write(const char* name, const std::string& text) const {
    std::ofstream(path / name) << text;
  }
};

std::string reason_of(const std::string& text) {
  const auto range = parse_id_range(text);
  return range ? "" : range.error().reason();
}

}  // namespace

TEST_CASE("a range is two ordinary ids in order") {
  const auto range = parse_id_range("900000-965535");
  REQUIRE(range);
  CHECK(range->first == 900'000);
  CHECK(range->last == 965'535);
  CHECK(parse_id_range("70000")->last == 70'000);
  CHECK(reason_of("4294967293-4294967294") == "");
  for (const char* bad : {"", "-", "5-", "-5", "a-b", "1 -2", "10-9", "0-10", "65000-66000",
                          "65535", "4294967295", "1-4294967296", "1-2-3", "+1-2", "0x10-0x20"}) {
    CAPTURE(bad);
    CHECK(reason_of(bad) == "UID_RANGE");
  }
}

TEST_CASE("a range in which an id has an owner is refused with the owner's name") {
  const Scratch etc;
  const IdRange range{.first = 1000, .last = 1999};
  CHECK(check_ids_unowned(range, etc.path));  // No tables at all.
  etc.write("passwd", "root:x:0:0::/:/bin/sh\nbroken\nlow:x:999:1::\nhigh:x:2000:1::\n");
  etc.write("group", "root:x:0:\n");
  etc.write("subuid", "low:100:900\nhigh:2000:65536\n");
  etc.write("subgid", "");
  CHECK(check_ids_unowned(range, etc.path));
  const auto refused = [&](const char* table, const char* line, const char* name) {
    CAPTURE(line);
    const std::filesystem::path file = etc.path / table;
    std::filesystem::copy_file(file, etc.path / "kept");
    std::ofstream(file, std::ios::app) << line;
    const auto result = check_ids_unowned(range, etc.path);
    std::filesystem::remove(file);
    std::filesystem::rename(etc.path / "kept", file);
    REQUIRE_FALSE(result);
    CHECK(result.error().reason() == "UID_RANGE_OWNED");
    CHECK(result.error().message().find(name) != std::string::npos);
    CHECK(result.error().message().find(table) != std::string::npos);
  };
  refused("passwd", "eve:x:1000:100::/:/bin/sh\n", "eve");
  refused("passwd", "adam:x:1999:100::/:/bin/sh", "adam");
  refused("group", "wheel:x:1500:\n", "wheel");
  refused("subuid", "pods:500:501\n", "pods");
  refused("subgid", "pods:0:4000000000\n", "pods");
}

TEST_CASE("a container's map must hold the whole range") {
  const IdRange range{.first = 1000, .last = 1999};
  CHECK(check_ids_mapped(range, "         0          0 4294967295\n", "map"));
  CHECK(check_ids_mapped(range, "0 500 1\n1000 70000 1000\n", "map"));
  for (const char* map :
       {"", "0 1000 1000\n", "1000 70000 999\n", "1001 70000 5000\n", "nonsense\n"}) {
    CAPTURE(map);
    const auto result = check_ids_mapped(range, map, "/proc/self/uid_map");
    REQUIRE_FALSE(result);
    CHECK(result.error().reason() == "UID_RANGE_UNMAPPED");
    CHECK(result.error().message().find("1000-1999") != std::string::npos);
  }
}

TEST_CASE("no two have the same id, none is lost, and an empty range says so") {
  const Scratch scratch;
  const auto pool = IdPool::open({.first = 70'000, .last = 70'009}, scratch.path / "locks");
  REQUIRE(pool);
  std::vector<IdLease> leases;
  std::set<uid_t> seen;
  for (int i = 0; i < 10; ++i) {
    auto lease = (*pool)->take();
    REQUIRE(lease);
    CHECK(seen.insert(lease->id()).second);
    CHECK(lease->id() >= 70'000);
    CHECK(lease->id() <= 70'009);
    leases.push_back(*std::move(lease));
  }
  const auto none = (*pool)->take();
  REQUIRE_FALSE(none);
  CHECK(none.error().code() == Code::kResourceExhausted);
  CHECK(none.error().message().find("70000-70009") != std::string::npos);
  const uid_t freed = leases[3].id();
  leases.erase(leases.begin() + 3);
  CHECK((*pool)->take()->id() == freed);
  CHECK((*pool)->take()->id() == freed);  // The one before was given back at once.
}

TEST_CASE("an id that was given back is used again last") {
  const Scratch scratch;
  const auto pool = *IdPool::open({.first = 70'000, .last = 70'002}, scratch.path / "locks");
  const uid_t first = pool->take()->id();
  const uid_t second = pool->take()->id();
  const uid_t third = pool->take()->id();
  CHECK(std::set<uid_t>{first, second, third}.size() == 3);
  CHECK(pool->take()->id() == first);
}

TEST_CASE("daemons that share a range share no id") {
  const Scratch scratch;
  const IdRange range{.first = 70'000, .last = 70'003};
  const auto one = *IdPool::open(range, scratch.path / "locks");
  const auto other = *IdPool::open(range, scratch.path / "locks");
  std::vector<IdLease> leases;
  std::set<uid_t> seen;
  for (int i = 0; i < 2; ++i) {
    for (IdPool* pool : {one.get(), other.get()}) {
      leases.push_back(*pool->take());
      seen.insert(leases.back().id());
    }
  }
  CHECK(seen.size() == 4);
  CHECK_FALSE(one->take());
  CHECK_FALSE(other->take());
  leases.clear();
  CHECK(one->take());
}

TEST_CASE("a lock file that others could write to or that is a link is refused") {
  const Scratch scratch;
  const IdRange range{.first = 70'000, .last = 70'003};
  scratch.write("open", "");
  ::chmod((scratch.path / "open").c_str(), 0666);
  CHECK(IdPool::open(range, scratch.path / "open").error().reason() == "UID_LOCKS");
  REQUIRE(::symlink("/etc/passwd", (scratch.path / "link").c_str()) == 0);
  CHECK_FALSE(IdPool::open(range, scratch.path / "link"));
}
