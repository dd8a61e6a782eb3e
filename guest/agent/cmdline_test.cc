// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/cmdline.h"

#include <doctest/doctest.h>

namespace mayfly::guest {
namespace {

TEST_CASE("an empty line asks for nothing: the guest stays in its initramfs") {
  const auto options = parse_cmdline("");
  REQUIRE(options.has_value());
  CHECK_UNARY(options->root.empty());
  CHECK_UNARY(!options->root_writable);
  CHECK_UNARY(options->init.empty());
}

TEST_CASE("the root and how to mount it are read from among the kernel's own words") {
  const auto options = parse_cmdline(
      "console=hvc0 quiet root=/dev/vda rootfstype=ext4 rw rootflags=data=ordered,noload reboot=t "
      "mayfly.hostname=box-1 mayfly.init=/sbin/init\n");
  REQUIRE(options.has_value());
  CHECK_EQ(options->root, "/dev/vda");
  REQUIRE_EQ(options->root_types.size(), 1u);
  CHECK_EQ(options->root_types[0], "ext4");
  CHECK_EQ(options->root_flags, "data=ordered,noload");
  CHECK_UNARY(options->root_writable);
  CHECK_EQ(options->hostname, "box-1");
  CHECK_EQ(options->init, "/sbin/init");
}

TEST_CASE("the last of two equal words counts") {
  const auto options =
      parse_cmdline("rw root=/dev/vda ro root=/dev/vdb rootfstype=a rootfstype=b,c");
  REQUIRE(options.has_value());
  CHECK_EQ(options->root, "/dev/vdb");
  CHECK_UNARY(!options->root_writable);
  REQUIRE_EQ(options->root_types.size(), 2u);
  CHECK_EQ(options->root_types[0], "b");
  CHECK_EQ(options->root_types[1], "c");
}

TEST_CASE("words in quotes keep their spaces, and nothing after -- is for us") {
  const auto options =
      parse_cmdline("rootflags=\"a b\" dyndbg=\"root=/dev/x y\" -- root=/dev/vdc rw");
  REQUIRE(options.has_value());
  CHECK_EQ(options->root_flags, "a b");
  CHECK_UNARY(options->root.empty());
  CHECK_UNARY(!options->root_writable);
}

TEST_CASE("values the agent cannot follow are errors that name the word") {
  for (const char* line :
       {"root=", "root=/dev/", "root=UUID=abcd", "root=/dev/disk/by-id/x", "root=/dev/..",
        "root=vda", "mayfly.init=init", "mayfly.init=", "mayfly.hostname=", "mayfly.hostname=a/b",
        "rootfstype=a,b,c,d,e,f,g,h,i"}) {
    CAPTURE(line);
    const auto options = parse_cmdline(line);
    REQUIRE(!options.has_value());
    CHECK_EQ(options.error().code(), Code::kInvalidArgument);
    const std::string_view word(line);
    CHECK_UNARY(options.error().message().starts_with(word.substr(0, word.find('='))));
  }
  CHECK_UNARY(!parse_cmdline(std::string(kMaxCmdlineBytes + 1, 'a')).has_value());
  CHECK_UNARY(!parse_cmdline(std::string_view("a\0b", 3)).has_value());
  CHECK_UNARY(!parse_cmdline("mayfly.hostname=" + std::string(65, 'h')).has_value());
}

}  // namespace
}  // namespace mayfly::guest
