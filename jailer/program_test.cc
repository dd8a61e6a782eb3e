// SPDX-License-Identifier: Apache-2.0
#include "jailer/program.h"

#include "jailer/testing/skipped.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr uid_t kSomebody = 65533;

/// A file of one byte in a directory of its own.
class TestFile {
 public:
  explicit TestFile(mode_t mode) {
    REQUIRE(::mkdtemp(directory_.data()) != nullptr);
    path_ = directory_ + "/program";
    fd_ = *Fd::open(path_.c_str(), O_RDWR | O_CREAT, 0700);
    REQUIRE_EQ(::write(fd_.number(), "x", 1), 1);
    REQUIRE_EQ(::fchmod(fd_.number(), mode), 0);
  }
  ~TestFile() {
    ::unlink((directory_ + "/other").c_str());
    ::unlink(path_.c_str());
    ::rmdir(directory_.c_str());
  }
  void link() { REQUIRE_EQ(::link(path_.c_str(), (directory_ + "/other").c_str()), 0); }
  FdRef ref() const { return fd_.ref(); }

  std::string verdict(JailMode mode, bool runs_as_other = false) const {
    const auto result = check_program("program", ref(), mode, runs_as_other);
    return result ? "" : result.error().reason();
  }

 private:
  std::string directory_ = "/tmp/mayfly_program.XXXXXX";
  std::string path_;
  Fd fd_;
};

TEST_CASE("an ordinary program may be run") {
  const TestFile file(0755);
  CHECK_EQ(file.verdict(JailMode::kRoot, true), "");
  CHECK_EQ(file.verdict(JailMode::kUser), "");
}

TEST_CASE("what is no program has a reason of its own") {
  CHECK_EQ(TestFile(0644).verdict(JailMode::kUser), "PROGRAM_NOT_EXECUTABLE");
  CHECK_EQ(TestFile(04755).verdict(JailMode::kUser), "PROGRAM_SET_ID");
  CHECK_EQ(TestFile(02755).verdict(JailMode::kOff), "PROGRAM_SET_ID");
  const TestFile empty(0755);
  REQUIRE_EQ(::ftruncate(empty.ref().number(), 0), 0);
  CHECK_EQ(empty.verdict(JailMode::kUser), "PROGRAM_EMPTY");
  const Fd directory = *Fd::open("/tmp", O_RDONLY);
  CHECK_EQ(check_program("program", directory.ref(), JailMode::kOff, false).error().reason(),
           "PROGRAM_NOT_A_FILE");
  CHECK_EQ(check_program("program", FdRef(), JailMode::kOff, false).error().reason(),
           "PROGRAM_DESCRIPTOR");
}

TEST_CASE("the ids of a jail must be able to execute it") {
  const TestFile file(0750);
  CHECK_EQ(file.verdict(JailMode::kRoot, false), "");
  CHECK_EQ(file.verdict(JailMode::kRoot, true), "PROGRAM_NOT_EXECUTABLE");
}

TEST_CASE("root runs nothing that everyone may write") {
  const TestFile file(0757);
  CHECK_EQ(file.verdict(JailMode::kRoot), "PROGRAM_WRITABLE");
  CHECK_EQ(file.verdict(JailMode::kUser), "");
}

TEST_CASE("root runs a file of several names only where nobody else may write it") {
  TestFile ours(0755);
  ours.link();
  CHECK_EQ(ours.verdict(JailMode::kRoot), "");
  TestFile group(0775);
  CHECK_EQ(group.verdict(JailMode::kRoot), "");
  group.link();
  CHECK_EQ(group.verdict(JailMode::kRoot), "PROGRAM_HARD_LINKED");
  CHECK_EQ(group.verdict(JailMode::kUser), "");
}

TEST_CASE("root runs no file of several names that belongs to somebody else") {
  if (::geteuid() != 0) return skipped("gives a file to another user, which needs root");
  TestFile file(0755);
  REQUIRE_EQ(::fchown(file.ref().number(), kSomebody, kSomebody), 0);
  CHECK_EQ(file.verdict(JailMode::kRoot), "");
  file.link();
  CHECK_EQ(file.verdict(JailMode::kRoot), "PROGRAM_HARD_LINKED");
}

}  // namespace
}  // namespace mayfly::jailer
