// SPDX-License-Identifier: Apache-2.0
#include "image/tree.h"

#include "base/fd.h"
#include "image/layer.h"
#include "image/testing/image_files.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

using namespace mayfly;
using namespace mayfly::image;

namespace {

// Layers laid over one another, and what comes of it.
struct Stack {
  explicit Stack(const Limits& limits = {}) : tree(limits) {}

  Result<> add(const std::vector<Entry>& entries) {
    const std::string tar = make_tar(entries);
    auto file = Fd::memfd("layer", tar.size());
    REQUIRE(file);
    REQUIRE(write_all(file->ref(), std::as_bytes(std::span(tar))));
    FileStream bytes(file->ref(), 0, tar.size());
    return apply_layer(bytes, tree, spool, left_out);
  }

  /// "d /", "f /bin/sh", one below the other.
  std::string listing() const {
    std::string text;
    list(kRootNode, "", text);
    return text;
  }

  void list(NodeId id, const std::string& path, std::string& text) const {
    tree.for_each_child(id, [&](const std::string& name, NodeId child) {
      text += "dflcbp"[static_cast<int>(tree.attributes(child).type)];
      text += " " + path + "/" + name + "\n";
      list(child, path + "/" + name, text);
    });
  }

  std::string text_of(const std::string& path) {
    const auto id = tree.find(path);
    REQUIRE(id);
    std::string text(tree.attributes(*id).size, '\0');
    for (const Extent& extent : tree.attributes(*id).extents) {
      const auto piece =
          std::as_writable_bytes(std::span(text)).subspan(extent.offset, extent.size);
      REQUIRE(pread_exact(spool.file(), piece, extent.spool_offset));
    }
    return text;
  }

  Directory directory;
  Spool spool = *Spool::create(directory.path());
  Tree tree;
  uint64_t left_out = 0;
};

void check_refused(const Result<>& result, const char* reason, const char* part) {
  REQUIRE_FALSE(result);
  CHECK_EQ(result.error().reason(), reason);
  INFO(result.error().message());
  CHECK_NE(result.error().message().find(part), std::string::npos);
}

}  // namespace

TEST_CASE("a layer's entries are there, with directories that it left out") {
  Stack stack;
  REQUIRE(stack.add({{.path = "./bin/", .type = 'd', .mode = 0750, .uid = 7},
                     {.path = "bin/sh", .text = "shell", .mode = 04755},
                     {.path = "/usr/lib/x", .text = "x"},
                     {.path = "dev/null", .type = 'c', .major = 1, .minor = 3},
                     {.path = "lib", .type = 'l', .text = "usr/lib"}}));
  CHECK_EQ(stack.listing(),
           "d /bin\nf /bin/sh\nd /dev\nc /dev/null\nl /lib\nd /usr\nd /usr/lib\nf /usr/lib/x\n");
  CHECK_EQ(stack.text_of("bin/sh"), "shell");
  CHECK_EQ(stack.tree.attributes(*stack.tree.find("bin/sh")).mode, 04755);
  CHECK_EQ(stack.tree.attributes(*stack.tree.find("bin")).uid, 7);
  CHECK_EQ(stack.tree.attributes(*stack.tree.find("bin")).mode, 0750);
  CHECK_EQ(stack.text_of("lib/x"), "x");
}

TEST_CASE("an upper layer's directory keeps what is below, and anything else takes its place") {
  Stack stack;
  REQUIRE(stack.add({{.path = "a", .type = 'd'}, {.path = "a/x", .text = "old"}, {.path = "b/y"}}));
  REQUIRE(stack.add({{.path = "a", .type = 'd', .mode = 0700}, {.path = "a/z"}, {.path = "b"}}));
  CHECK_EQ(stack.listing(), "d /a\nf /a/x\nf /a/z\nf /b\n");
  CHECK_EQ(stack.tree.attributes(*stack.tree.find("a")).mode, 0700);
  REQUIRE(stack.add({{.path = "a/x", .text = "new"}, {.path = "b", .type = 'd'}, {.path = "b/c"}}));
  CHECK_EQ(stack.text_of("a/x"), "new");
  CHECK(stack.tree.find("b/c"));
}

TEST_CASE("whiteouts hide what lower layers have, wherever they stand in their own") {
  Stack stack;
  const std::vector<Entry> base = {{.path = "a/old"}, {.path = "a/b/old"}, {.path = "c"}};
  REQUIRE(stack.add(base));
  REQUIRE(stack.add({{.path = "a/b/new"},
                     {.path = "a/.wh.b"},
                     {.path = ".wh.c"},
                     {.path = "c"},
                     {.path = ".wh.nothing"},
                     {.path = "no/such/.wh.place"}}));
  CHECK_EQ(stack.listing(), "d /a\nd /a/b\nf /a/b/new\nf /a/old\nf /c\n");
  REQUIRE(stack.add({{.path = ".wh.a"}}));
  CHECK_EQ(stack.listing(), "f /c\n");
}

TEST_CASE(
    "an opaque directory hides all that is below it in lower layers, and nothing of its own") {
  for (const bool marker_first : {true, false}) {
    Stack stack;
    REQUIRE(stack.add({{.path = "a/x"}, {.path = "a/b/x"}, {.path = "a/gone/x"}, {.path = "k"}}));
    const Entry marker = {.path = "a/.wh..wh..opq"};
    std::vector<Entry> upper = {{.path = "a", .type = 'd'}, {.path = "a/b/y"}, {.path = "a/z"}};
    upper.insert(marker_first ? upper.begin() : upper.end(), marker);
    REQUIRE(stack.add(upper));
    CHECK_EQ(stack.listing(), "d /a\nd /a/b\nf /a/b/y\nf /a/z\nf /k\n");
    // aufs's own files are no whiteouts of anything.
    REQUIRE(stack.add({{.path = ".wh..wh.plnk", .type = 'd'}, {.path = ".wh..wh.aufs"}}));
    CHECK_EQ(stack.listing(), "d /a\nd /a/b\nf /a/b/y\nf /a/z\nf /k\n");
  }
}

TEST_CASE("hard links share a file, across layers too, and one name can be hidden") {
  Stack stack;
  REQUIRE(stack.add({{.path = "a", .text = "one"}, {.path = "b", .type = 'h', .text = "a"}}));
  REQUIRE(stack.add({{.path = "d/c", .type = 'h', .text = "./b"},
                     {.path = ".wh.a"},
                     // It is of this layer, whatever it is a name of.
                     {.path = "d/.wh.c"}}));
  CHECK_EQ(stack.listing(), "f /b\nd /d\nf /d/c\n");
  CHECK_EQ(stack.tree.find("b"), stack.tree.find("d/c"));
  check_refused(stack.add({{.path = "x", .type = 'h', .text = "nowhere"}}), "IMAGE_PATH",
                "nowhere");
  check_refused(stack.add({{.path = "x", .type = 'h', .text = "d"}}), "IMAGE_PATH", "no file d");
  check_refused(stack.add({{.path = "x", .type = 'h', .text = "../../etc/shadow"}}), "IMAGE_PATH",
                "\"..\"");
}

TEST_CASE("links in a path lead where a guest would go, and never out of the image") {
  Stack stack;
  REQUIRE(stack.add({{.path = "usr/lib", .type = 'd'},
                     {.path = "lib", .type = 'l', .text = "usr/lib"},
                     {.path = "deep/up", .type = 'l', .text = "../../../../../usr"},
                     {.path = "abs", .type = 'l', .text = "/usr/lib"}}));
  REQUIRE(stack.add(
      {{.path = "lib/a"}, {.path = "deep/up/b"}, {.path = "abs/c"}, {.path = "deep/up/new/d"}}));
  CHECK_EQ(stack.listing(),
           "l /abs\nd /deep\nl /deep/up\nl /lib\nd /usr\nf /usr/b\nd /usr/lib\n"
           "f /usr/lib/a\nf /usr/lib/c\nd /usr/new\nf /usr/new/d\n");
  REQUIRE(stack.add({{.path = "lib/.wh.a"}}));
  CHECK_FALSE(stack.tree.find("usr/lib/a"));
  check_refused(stack.add({{.path = "me", .type = 'l', .text = "me"}, {.path = "me/x"}}),
                "IMAGE_LIMIT", "links in a path: above the limit of 40");
}

TEST_CASE("paths that climb, or that go through files, are refused") {
  Stack stack;
  check_refused(stack.add({{.path = "../etc/passwd"}}), "IMAGE_PATH", "holds \"..\"");
  check_refused(stack.add({{.path = "a/../../x"}}), "IMAGE_PATH", "holds \"..\"");
  check_refused(stack.add({{.path = "a/..", .type = 'd'}}), "IMAGE_PATH", "holds \"..\"");
  check_refused(stack.add({{.path = "a/.wh..."}}), "IMAGE_PATH", "names no file");
  check_refused(stack.add({{.path = ".wh."}}), "IMAGE_PATH", "names no file");
  check_refused(stack.add({{.path = "a/.wh.b/c"}}), "IMAGE_PATH", "a whiteout's name");
  check_refused(stack.add({{.path = "f"}, {.path = "f/x"}}), "IMAGE_PATH", "f is not a directory");
}

TEST_CASE("what is too much is an error that names the limit") {
  const auto limited = [](auto set, const std::vector<Entry>& entries, const char* part) {
    Limits limits;
    set(limits);
    Stack stack(limits);
    check_refused(stack.add(entries), "IMAGE_LIMIT", part);
  };
  const std::vector<Entry> few = {{.path = "a"}, {.path = "b"}, {.path = "c/d/e/f"}};
  limited([](Limits& l) { l.entries = 3; }, few, "entries: above the limit of 3");
  limited([](Limits& l) { l.depth = 3; }, few, "depth of directories: above the limit of 3");
  limited([](Limits& l) { l.lookups = 2; }, few, "names looked up: above the limit of 2");
  limited([](Limits& l) { l.metadata_bytes = 100; }, few, "above the limit of 100");
  limited([](Limits& l) { l.metadata_bytes = 4000; },
          {{.path = "l", .type = 'l', .text = std::string(4000, 'x')}}, "above the limit of 4000");
  limited([](Limits&) {}, {{.path = std::string(256, 'n')}}, "256 bytes is above the limit of 255");
  std::string path;
  while (path.size() <= 4096) path += "some/";
  limited([](Limits&) {}, {{.path = path + "x"}}, "above the limit of 4096");
  limited([](Limits&) {}, {{.path = "l", .type = 'l', .text = std::string(4096, 'x')}},
          "not from 1 to the limit of 4095");
}

TEST_CASE("owners and devices that ext4 cannot have are refused, and unknown attributes counted") {
  Stack stack;
  check_refused(stack.add({{.path = "a", .uid = 1LL << 40}}), "IMAGE_ENTRY",
                "uid of an entry: 1099511627776 is not from 0 to 4294967294");
  check_refused(stack.add({{.path = "a", .gid = 0xffffffff}}), "IMAGE_ENTRY",
                "gid of an entry: 4294967295 is not from 0 to 4294967294");
  check_refused(stack.add({{.path = "a", .type = 'b', .major = 5000}}), "IMAGE_ENTRY",
                "device major of an entry: 5000 is not from 0 to 4095");
  REQUIRE(stack.add(
      {{.path = "a", .xattrs = {{"user.x", "1"}, {"security.capability", "2"}, {"odd.y", "3"}}}}));
  CHECK_EQ(stack.left_out, 1);
  CHECK_EQ(stack.tree.attributes(*stack.tree.find("a")).xattrs.size(), 2);
}

TEST_CASE("names are taken byte for byte, in any encoding") {
  Stack stack;
  // One letter in two Unicode forms, and what is no Unicode.
  const std::vector<std::string> names = {"caf\xc3\xa9", "cafe\xcc\x81", "\xff\xfe", "sp ace\n"};
  std::vector<Entry> entries;
  for (const std::string& name : names) entries.push_back({.path = name});
  REQUIRE(stack.add(entries));
  size_t count = 0;
  stack.tree.for_each_child(kRootNode, [&](const std::string& name, NodeId) {
    ++count;
    CHECK_NE(std::ranges::find(names, name), names.end());
  });
  CHECK_EQ(count, names.size());
}

TEST_CASE("an archive that is cut short is refused, wherever it ends in a file") {
  const std::string tar = make_tar({{.path = "a", .text = std::string(5000, 'a')}});
  const size_t data = tar.find("aaaa");
  const auto apply = [&](Stack& stack, size_t size) {
    auto file = Fd::memfd("layer", size);
    REQUIRE(write_all(file->ref(), std::as_bytes(std::span(tar)).first(size)));
    FileStream bytes(file->ref(), 0, size);
    return apply_layer(bytes, stack.tree, stack.spool, stack.left_out);
  };
  for (const size_t size : {size_t{100}, size_t{600}, data + 3000, data + 4999}) {
    Stack stack;
    check_refused(apply(stack, size), "IMAGE_ARCHIVE", "tar: ");
  }
  // What fills up the last block may be missing, and the end of the archive with it.
  Stack stack;
  REQUIRE(apply(stack, data + 5000));
  CHECK_EQ(stack.text_of("a"), std::string(5000, 'a'));
}
