// SPDX-License-Identifier: Apache-2.0
#include "snapshot/disk_file_sys.h"
#include "snapshot/files.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::content_of;
using testing::kSampleDiskBytes;
using testing::sample_disk;
using testing::TempDirectory;

uint64_t stored_bytes(FdRef file) {
  struct stat status;
  REQUIRE_EQ(::fstat(file.number(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

Digest digest_of(FdRef file) { return *digest_disk(file, nullptr); }

void put(FdRef file, uint64_t offset, uint8_t value, size_t size = 1) {
  const std::vector<std::byte> bytes(size, std::byte{value});
  REQUIRE(write_at(file, bytes, offset).has_value());
}

TEST_CASE("a copy is the same to the byte, whatever was there before, and holes stay holes") {
  const TempDirectory directory;
  const Fd disk = sample_disk();
  const Fd copy = *nameless_file_in(directory.fd());
  put(copy.ref(), 0, 0xff, 2 * kSampleDiskBytes);
  REQUIRE(copy_disk(disk.ref(), copy.ref(), kSampleDiskBytes, nullptr).has_value());
  CHECK(content_of(copy.ref()) == content_of(disk.ref()));
  CHECK_LE(stored_bytes(copy.ref()), 4 * kDiskPieceBytes);
  // From a file of the same file system, too: in the kernel.
  const Fd second = *nameless_file_in(directory.fd());
  REQUIRE(copy_disk(copy.ref(), second.ref(), kSampleDiskBytes, nullptr).has_value());
  CHECK(content_of(second.ref()) == content_of(disk.ref()));
  CHECK(digest_of(second.ref()) == digest_of(disk.ref()));
  CHECK_EQ(std::filesystem::is_empty(directory.path()), true);
}

TEST_CASE("where a file cannot be made without a name it loses that at once") {
  const TempDirectory directory;
  const Fd file = *named_and_unlinked_in(directory.fd());
  CHECK(std::filesystem::is_empty(directory.path()));
  put(file.ref(), 100, 1);
  CHECK_EQ(*file_size(file.ref()), 101);
}

TEST_CASE("a large sparse disk costs what is on it") {
  const TempDirectory directory;
  const uint64_t size = uint64_t{1} << 36;
  const Fd disk = *nameless_file_in(directory.fd());
  REQUIRE_EQ(::ftruncate(disk.number(), static_cast<off_t>(size)), 0);
  for (const uint64_t offset : {uint64_t{0}, size / 2 + 5, size - 1}) put(disk.ref(), offset, 7);
  const Fd copy = *nameless_file_in(directory.fd());
  REQUIRE(copy_disk(disk.ref(), copy.ref(), size, nullptr).has_value());
  CHECK(digest_of(copy.ref()) == digest_of(disk.ref()));
  CHECK_EQ(*file_size(copy.ref()), size);
  CHECK_LE(stored_bytes(copy.ref()), 1 << 20);
}

TEST_CASE("stored zeroes do not change the digest, and settling gives them back") {
  const TempDirectory directory;
  const Fd disk = *nameless_file_in(directory.fd());
  put(disk.ref(), 0, 1, 3 * kDiskPieceBytes);
  const Digest before = digest_of(disk.ref());
  put(disk.ref(), 3 * kDiskPieceBytes, 0, 20 * kDiskPieceBytes);
  CHECK_GE(stored_bytes(disk.ref()), 20 * kDiskPieceBytes);
  CHECK(digest_of(disk.ref()) == before);
  CHECK(*settle_disk(disk.ref(), nullptr) == before);
  CHECK_LE(stored_bytes(disk.ref()), 4 * kDiskPieceBytes);
  CHECK_EQ(*file_size(disk.ref()), 23 * kDiskPieceBytes);
  // Any byte does, and where a piece is.
  put(disk.ref(), 23 * kDiskPieceBytes - 1, 1);
  CHECK_FALSE(digest_of(disk.ref()) == before);
  const Fd moved = *nameless_file_in(directory.fd());
  REQUIRE_EQ(::ftruncate(moved.number(), 23 * kDiskPieceBytes), 0);
  put(moved.ref(), kDiskPieceBytes, 1, 3 * kDiskPieceBytes);
  CHECK_FALSE(digest_of(moved.ref()) == before);
}

TEST_CASE("a disk that has become shorter is refused, of one that has grown its part is copied") {
  const TempDirectory directory;
  const Fd disk = sample_disk();
  const Fd copy = *nameless_file_in(directory.fd());
  const auto longer = copy_disk(disk.ref(), copy.ref(), kSampleDiskBytes + 512, nullptr);
  CHECK_EQ(longer.error().reason(), "DISK_MISMATCH");
  REQUIRE(copy_disk(disk.ref(), copy.ref(), kDiskPieceBytes, nullptr).has_value());
  CHECK_EQ(*file_size(copy.ref()), kDiskPieceBytes);
}

TEST_CASE("who asks may end it in the middle") {
  const TempDirectory directory;
  const Fd disk = *nameless_file_in(directory.fd());
  put(disk.ref(), 0, 1, 40 << 20);
  const Fd copy = *nameless_file_in(directory.fd());
  for (const bool copies : {true, false}) {
    int asked = 0;
    const GoOn go_on = [&]() -> Result<> {
      if (++asked < 3) return {};
      return fail({Code::kCancelled, "CANCELLED"}, "enough");
    };
    const Error error = copies ? copy_disk(disk.ref(), copy.ref(), 40 << 20, go_on).error()
                               : digest_disk(disk.ref(), go_on).error();
    CHECK_EQ(error.reason(), "CANCELLED");
  }
}

bool own_mounts() {
  const bool mine = ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
  return mine && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

TEST_CASE("a full disk is told of") {
  const TempDirectory place;
  if (!own_mounts() || ::mount("disk-test", place.path().c_str(), "tmpfs", 0, "size=262144") != 0) {
    std::printf("SKIPPED: a full disk: no tmpfs may be mounted here\n");
    return;
  }
  const Fd directory = *Fd::open(place.path().c_str(), O_RDONLY | O_DIRECTORY);
  const Fd disk = *Fd::memfd("disk", 1 << 20);
  put(disk.ref(), 0, 1, 1 << 20);
  const auto copied =
      copy_disk(disk.ref(), nameless_file_in(directory.ref())->ref(), 1 << 20, nullptr);
  CHECK_EQ(copied.error().reason(), "NO_SPACE");
  CHECK_EQ(copied.error().code(), Code::kResourceExhausted);
  ::umount2(place.path().c_str(), MNT_DETACH);
}

// Of a file system of this kind in a file of our own.
void share_on(const char* kind, const char* mkfs) {
  const TempDirectory place;
  const std::string image = place.path("image"), mounted = place.path("mounted");
  std::filesystem::create_directory(mounted);
  REQUIRE_EQ(::system(("truncate -s 400M " + image).c_str()), 0);
  if (!own_mounts() || ::system((std::string(mkfs) + " " + image + " > /dev/null 2>&1").c_str()) ||
      ::system(("mount -o loop " + image + " " + mounted + " 2> /dev/null").c_str())) {
    std::printf("SKIPPED: shared blocks on %s: it cannot be made or mounted here\n", kind);
    return;
  }
  {
    const Fd directory = *Fd::open(mounted.c_str(), O_RDONLY | O_DIRECTORY);
    const Fd disk = *nameless_file_in(directory.ref());
    put(disk.ref(), 0, 1, 20 << 20);
    const Fd copy = *nameless_file_in(directory.ref());
    put(copy.ref(), 0, 9, 100);
    const auto way = copy_disk(disk.ref(), copy.ref(), 20 << 20, nullptr);
    REQUIRE(way.has_value());
    CHECK_EQ(*way, CopyWay::kShared);
    CHECK(content_of(copy.ref()) == content_of(disk.ref()));
    // Told apart from now on.
    put(disk.ref(), 5, 3);
    CHECK_EQ(content_of(copy.ref())[5], std::byte{1});
    // Of a length that is no whole number of blocks.
    CHECK(copy_disk(disk.ref(), copy.ref(), (10 << 20) + 512, nullptr).has_value());
    CHECK_EQ(*file_size(copy.ref()), (10 << 20) + 512);
    // Another file system's file is copied.
    const Fd elsewhere = sample_disk();
    CHECK_EQ(*copy_disk(elsewhere.ref(), copy.ref(), kSampleDiskBytes, nullptr), CopyWay::kCopied);
    CHECK(content_of(copy.ref()) == content_of(elsewhere.ref()));
    std::printf("%s shares blocks\n", kind);
  }
  CHECK_EQ(::system(("umount " + mounted).c_str()), 0);
}

TEST_CASE("blocks are shared on xfs") { share_on("xfs", "mkfs.xfs -q -m reflink=1"); }
TEST_CASE("blocks are shared on btrfs") { share_on("btrfs", "mkfs.btrfs -q"); }

}  // namespace
}  // namespace mayfly::snapshot
