// SPDX-License-Identifier: Apache-2.0
#include "image/import.h"

#include "image/testing/image_files.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <sys/stat.h>

using namespace mayfly;
using namespace mayfly::image;

namespace {

std::string read_file(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool has(const std::string& text, const std::string& part) {
  INFO(text);
  const bool found = text.find(part) != text.npos;
  CHECK_MESSAGE(found, part);
  return found;
}

/// A store beside a source.
struct Place {
  Result<Imported> import(const ImportRequest& request, const Limits& limits = {}) {
    const Store images(store.path());
    auto draft = images.draft();
    REQUIRE(draft);
    return import_image(images, *std::move(draft), request, limits);
  }
  Result<Imported> import(const std::string& name = "img", uint64_t size_mib = 0) {
    return import({.source = source.path(), .name = name, .ref = "", .size_mib = size_mib});
  }
  Result<Imported> import(const Layout& layout) {
    layout.finish(source);
    return import();
  }
  std::string rootfs(const std::string& name = "img") const {
    return store.path(name + "/rootfs.ext4");
  }
  std::string debug(const std::string& command) const { return debugfs(rootfs(), command); }

  /// Refused with that reason, and the store is as it was.
  void check_refused(const Result<Imported>& result, const char* reason, const char* part,
                     const std::vector<std::string>& left = {}) {
    REQUIRE_FALSE(result);
    INFO(result.error().message());
    CHECK_EQ(result.error().reason(), reason);
    CHECK_NE(result.error().message().find(part), std::string::npos);
    CHECK_EQ(store.names(), left);
  }

  Directory source;
  Directory store;
};

Layout small_layout() {
  Layout layout;
  layout.add({{.path = "bin/sh", .text = "shell", .mode = 0755}});
  return layout;
}

}  // namespace

TEST_CASE("an image's files are in the file system with all that is said of them") {
  Place place;
  Layout layout;
  const std::string large(3'000'001, 'L');
  layout.add({{.path = "bin", .type = 'd', .mode = 0755},
              {.path = "bin/sh", .text = "shell", .mode = 04755, .uid = 70000, .gid = 9},
              {.path = "bin/also", .type = 'h', .text = "bin/sh"},
              {.path = "large", .text = large},
              {.path = "empty", .text = ""},
              {.path = "short", .type = 'l', .text = "bin/sh"},
              {.path = "long", .type = 'l', .text = std::string(300, 't')},
              {.path = "tty", .type = 'c', .mode = 0620, .major = 4, .minor = 300},
              {.path = "loop", .type = 'b', .mode = 0660, .major = 7, .minor = 1},
              {.path = "pipe", .type = 'p'}},
             Packing::kGzip);
  layout.add({{.path = "cap", .text = "c", .xattrs = {{"user.note", "hello"}}},
              {.path = "old", .text = "o", .mtime_s = -1000},
              {.path = "late", .text = "l", .mtime_s = 6'000'000'000},
              {.path = "holes", .text = "end", .sparse_size = 50'000'000}},
             Packing::kZstd);
  const auto made = place.import(layout);
  REQUIRE_MESSAGE(made, (made ? "" : made.error().message()));
  CHECK(is_clean(place.rootfs()));
  has(place.debug("stat /bin/sh"), "Mode:  04755");
  has(place.debug("stat /bin/sh"), "User: 70000   Group:     9");
  has(place.debug("stat /bin/sh"), "Links: 2");
  has(place.debug("stat /bin/also"), "Links: 2");
  CHECK_EQ(place.debug("cat /bin/sh").substr(place.debug("cat /bin/sh").find('\n') + 1), "shell");
  CHECK_EQ(run("PATH=$PATH:/sbin debugfs -R 'cat /large' " + place.rootfs() + " 2>/dev/null"),
           large);
  CHECK_EQ(run("PATH=$PATH:/sbin debugfs -R 'cat /holes' " + place.rootfs() +
               " 2>/dev/null | tail -c 5 | od -An -c"),
           "  \\0  \\0   e   n   d\n");
  has(place.debug("stat /holes"), "Size: 50000000");
  has(place.debug("stat /empty"), "Size: 0");
  has(place.debug("stat /short"), "Fast link dest: \"bin/sh\"");
  has(place.debug("stat /long"), "Size: 300");
  has(place.debug("stat /tty"), "04:300");
  has(place.debug("stat /loop"), "07:01");
  has(place.debug("stat /pipe"), "Type: FIFO");
  has(place.debug("ea_get /cap user.note"), "hello");
  has(place.debug("stat /old"), "mtime: 0xfffffc18:0");
  has(place.debug("stat /late"), "2160");
  has(place.debug("stat /tmp"), "Mode:  01777");
  has(place.debug("ls /"), "proc");
  CHECK_EQ(made->record.content_bytes, 5 + large.size() + 1 + 1 + 1 + 3);
  struct stat info = {};
  REQUIRE_EQ(::stat(place.rootfs().c_str(), &info), 0);
  CHECK_EQ(info.st_size, made->record.size_bytes);
  // Holes take no room: not those of the file, nor those of the image.
  CHECK_LT(info.st_blocks * 512, 8 << 20);
}

TEST_CASE("a directory of 3,000 names, long ones, and 200 directories below one another") {
  Place place;
  std::vector<Entry> entries;
  for (int i = 0; i < 3000; ++i) {
    entries.push_back({.path = "many/" + std::to_string(i) + std::string(240, 'n')});
  }
  std::string deep;
  for (int i = 0; i < 200; ++i) deep += "d/";
  entries.push_back({.path = deep + "x"});
  for (int i = 0; i < 300; ++i)
    entries.push_back({.path = "subs/" + std::to_string(i), .type = 'd'});
  Layout layout;
  layout.add(entries);
  REQUIRE(place.import(layout));
  CHECK(is_clean(place.rootfs()));
  const std::string names = run("PATH=$PATH:/sbin debugfs -R 'ls -p /many' " + place.rootfs() +
                                " 2>/dev/null | grep -c nnn");
  CHECK_EQ(names, "3000\n");
  has(place.debug("stat /subs"), "Links: 302");
  has(place.debug("stat /" + deep + "x"), "Type: regular");
}

TEST_CASE("the same source gives the same bytes") {
  Place place;
  small_layout().finish(place.source);
  REQUIRE(place.import("one"));
  REQUIRE(place.import("two"));
  CHECK_EQ(read_file(place.rootfs("one")), read_file(place.rootfs("two")));
  CHECK_EQ(place.store.names(),
           std::vector<std::string>{"one", "one/config.json", "one/rootfs.ext4", "two",
                                    "two/config.json", "two/rootfs.ext4"});
}

TEST_CASE("what the configuration says is kept, and its user looked up in the image") {
  Place place;
  Layout layout;
  layout.execution = R"({"Entrypoint":["/init"],"Cmd":["a","b"],"Env":["A=1","B=x=y"],)"
                     R"("WorkingDir":"/srv","User":"web","Labels":{"x":"y"}})";
  layout.add(
      {{.path = "etc/passwd", .type = 'l', .text = "../usr/passwd"},
       {.path = "usr/passwd", .text = "root:x:0:0::/root:/bin/sh\nweb:x:33:34:W:/var/www:/x\n"},
       {.path = "etc/group", .text = "root:x:0:\nlogs:x:55:other,web\nmore:x:56:other\n"}});
  const auto made = place.import(layout);
  REQUIRE(made);
  const auto record = Store(place.store.path()).get("img");
  REQUIRE(record);
  CHECK_EQ(record->execution.entrypoint, std::vector<std::string>{"/init"});
  CHECK_EQ(record->execution.cmd, std::vector<std::string>{"a", "b"});
  CHECK_EQ(record->execution.env, std::vector<std::string>{"A=1", "B=x=y"});
  CHECK_EQ(record->execution.working_dir, "/srv");
  CHECK_EQ(record->execution.user, "web");
  CHECK_EQ(record->uid, 33);
  CHECK_EQ(record->gid, 34);
  CHECK_EQ(record->groups, std::vector<uint32_t>{55});
  CHECK_EQ(record->home, "/var/www");
  CHECK_EQ(record->architecture, "amd64");
  CHECK_EQ(record->digest, made->record.digest);

  layout.execution = R"({"User":"nobody"})";
  place.check_refused(place.import(layout), "IMAGE_USER", "the user \"nobody\"",
                      {"img", "img/config.json", "img/rootfs.ext4"});
}

TEST_CASE("an image takes the place of the older one; an import that fails leaves that one") {
  Place place;
  REQUIRE(place.import(small_layout()));
  const std::string before = read_file(place.rootfs());
  Layout bad = small_layout();
  bad.add({{.path = "../x"}});
  place.check_refused(place.import(bad), "IMAGE_PATH", "layer 2 of 2, blobs/sha256/",
                      {"img", "img/config.json", "img/rootfs.ext4"});
  CHECK_EQ(read_file(place.rootfs()), before);
  Layout other = small_layout();
  other.add({{.path = "new", .text = "new"}});
  REQUIRE(place.import(other));
  has(place.debug("cat /new"), "new");
  CHECK_EQ(place.store.names(),
           std::vector<std::string>{"img", "img/config.json", "img/rootfs.ext4"});
}

TEST_CASE("blobs that are not what they are said to be are refused") {
  const auto blob_of = [](const std::string& bytes) { return "blobs/sha256/" + sha256_of(bytes); };
  for (const bool same_size : {true, false}) {
    Place place;
    const Layout layout = small_layout();
    layout.finish(place.source);
    std::string bytes = layout.layers[0].bytes;
    if (same_size) bytes[bytes.find("shell")] = 'S';
    place.source.write(blob_of(layout.layers[0].bytes), same_size ? bytes : bytes + "x");
    place.check_refused(place.import(), same_size ? "IMAGE_DIGEST" : "IMAGE_SIZE",
                        same_size ? "its digest is" : "bytes, where its size is");
    layout.finish(place.source);
    std::string config = layout.config();
    config[config.find("amd64")] = 'b';
    place.source.write(blob_of(layout.config()), config);
    place.check_refused(place.import(), "IMAGE_DIGEST", "its digest is");
    std::filesystem::remove(place.source.path(blob_of(layout.config())));
    place.check_refused(place.import(), "IMAGE_PART", "there is no such file");
    std::filesystem::create_symlink("/etc/passwd", place.source.path(blob_of(layout.config())));
    place.check_refused(place.import(), "IMAGE_PART", "is a link");
  }
  Place place;
  Layout layout = small_layout();
  layout.layers[0].diff_id = "sha256:" + sha256_of("else");
  place.check_refused(place.import(layout), "IMAGE_DIGEST", "where diff_ids say");
}

TEST_CASE("media types that are not known, other architectures and no image at all are refused") {
  Place place;
  Layout layout = small_layout();
  layout.layers[0].media_type = "application/vnd.oci.image.layer.v1.tar+lz4";
  place.check_refused(place.import(layout), "IMAGE_MEDIA_TYPE", "layer.v1.tar+lz4\" is unknown");
  layout = small_layout();
  layout.architecture = "arm64";
  place.check_refused(place.import(layout), "IMAGE_PLATFORM", "linux/amd64; it has linux/arm64");
  std::filesystem::remove(place.source.path("index.json"));
  place.check_refused(place.import(), "IMAGE_SOURCE", "neither an index.json");
  place.check_refused(place.import({.source = place.source.path("none"), .name = "x", .ref = ""}),
                      "IMAGE_IO", "open ");
  place.check_refused(place.import("Not/A/Name"), "IMAGE_NAME", "--name: \"Not/A/Name\"");
  place.source.write("index.json", "{\"manifests\":[[");
  place.check_refused(place.import(), "IMAGE_JSON", "index: is no JSON");
}

TEST_CASE("of many architectures this host's is taken, and of many images the one that is named") {
  Place place;
  Layout mine = small_layout();
  mine.add({{.path = "mine", .text = "m"}});
  Layout theirs = small_layout();
  theirs.architecture = "arm64";
  const auto with = [](std::string descriptor, const std::string& more) {
    descriptor.pop_back();
    return descriptor + more + "}";
  };
  const std::string index =
      R"({"schemaVersion":2,"manifests":[)" +
      with(theirs.write_blobs(place.source),
           R"(,"platform":{"os":"linux","architecture":"arm64"})") +
      "," +
      with(mine.write_blobs(place.source), R"(,"platform":{"os":"linux","architecture":"amd64"})") +
      R"(,{"mediaType":"odd","digest":"sha256:)" + sha256_of("none") +
      R"(","size":1,"platform":{"os":"unknown","architecture":"unknown"}}]})";
  place.source.write("blobs/sha256/" + sha256_of(index), index);
  const std::string entry =
      R"({"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:)" +
      sha256_of(index) + R"(","size":)" + std::to_string(index.size()) + "}";
  place.source.write("index.json", R"({"manifests":[)" + entry + "]}");
  REQUIRE(place.import());
  has(place.debug("ls /"), "mine");

  Layout other = small_layout();
  other.ref_name = "other";
  place.source.write("index.json",
                     R"({"manifests":[)" + entry + "," + other.write_blobs(place.source) + "]}");
  place.check_refused(place.import(), "IMAGE_AMBIGUOUS", "2 images for this host (\"\", \"other\")",
                      {"img", "img/config.json", "img/rootfs.ext4"});
  REQUIRE(place.import({.source = place.source.path(), .name = "img", .ref = "other"}));
  CHECK_EQ(place.debug("ls /").find("mine"), std::string::npos);
}

TEST_CASE("archives: of a layout, compressed or not, and of docker save, with links") {
  for (const char* flags : {"-c", "-cz"}) {
    Place place;
    small_layout().finish(place.source);
    Directory out;
    run("tar -C " + place.source.path() + " " + flags + "f " + out.path("a.tar") + " .");
    const auto made = place.import({.source = out.path("a.tar"), .name = "img", .ref = ""});
    REQUIRE_MESSAGE(made, (made ? "" : made.error().message()));
    has(place.debug("cat /bin/sh"), "shell");
    // Cut short, anywhere.
    const std::string bytes = read_file(out.path("a.tar"));
    out.write("a.tar", bytes.substr(0, bytes.size() / 3));
    REQUIRE_FALSE(place.import({.source = out.path("a.tar"), .name = "img", .ref = ""}));
    CHECK_EQ(place.store.names().size(), 3);
  }
  Place place;
  const Layout layout = small_layout();
  const std::string config = layout.config();
  const std::string name = sha256_of(config) + ".json";
  const std::vector<Entry> entries = {
      {.path = "one/layer.tar", .text = layout.layers[0].bytes},
      {.path = "two/layer.tar", .type = 'l', .text = "../one/layer.tar"},
      {.path = name, .text = config},
      {.path = "manifest.json",
       .text = R"([{"Config":")" + name + R"(","RepoTags":["x:1"],"Layers":["two/layer.tar"]}])"}};
  Directory out;
  out.write("d.tar", make_tar(entries));
  REQUIRE(place.import({.source = out.path("d.tar"), .name = "img", .ref = "x:1"}));
  has(place.debug("cat /bin/sh"), "shell");
  place.check_refused(place.import({.source = out.path("d.tar"), .name = "img", .ref = "y"}),
                      "IMAGE_PLATFORM", "no image named \"y\"",
                      {"img", "img/config.json", "img/rootfs.ext4"});
}

TEST_CASE("names in a manifest.json lead nowhere on the host") {
  Place place;
  Directory outside;
  outside.write("secret.json", "not JSON, and not to be read");
  for (const std::string& name :
       {outside.path("secret.json"), "../.." + outside.path("secret.json")}) {
    place.source.write("manifest.json",
                       R"([{"Config":")" + name + R"(","RepoTags":[],"Layers":[]}])");
    place.check_refused(place.import(), "IMAGE_PART", "there is no such file");
  }
}

TEST_CASE("bombs and sizes that do not fit are refused with their limit") {
  Place place;
  Layout layout;
  layout.add({{.path = "zeros", .text = std::string(20 << 20, '\0')}}, Packing::kGzip);
  layout.finish(place.source);
  Limits limits;
  limits.content_bytes = 10 << 20;
  const ImportRequest request = {.source = place.source.path(), .name = "img", .ref = ""};
  CHECK_LT(layout.layers[0].bytes.size(), 100'000);
  place.check_refused(place.import(request, limits), "IMAGE_LIMIT", "above the limit");
  limits = {};
  limits.json_bytes = 100;
  place.check_refused(place.import(request, limits), "IMAGE_LIMIT", "above the limit of 100");
  limits = {};
  limits.layers = 0;
  place.check_refused(place.import(request, limits), "IMAGE_LIMIT", "layers: 1 is above");
  place.check_refused(place.import("img", 16), "IMAGE_SIZE_MIB", "16 MiB is too small");
  place.check_refused(place.import("img", 1), "IMAGE_SIZE_MIB", "size: 1 MiB is not from 8 to");
  place.check_refused(place.import("img", 1 << 24), "IMAGE_SIZE_MIB", "above the limit of 8388608");
  const auto made = place.import("img", 64);
  REQUIRE(made);
  CHECK_EQ(made->record.size_bytes, 64 << 20);
  CHECK(is_clean(place.rootfs()));
}

TEST_CASE("what killed imports left behind is removed, and what others work on is not") {
  Place place;
  place.store.write(".draft-killed/rootfs.ext4", "half");
  const Store store(place.store.path());
  {
    const auto draft = store.draft();
    REQUIRE(draft);
    const auto other = store.draft();
    REQUIRE(other);
    CHECK_EQ(place.store.names().size(), 2);
  }
  CHECK(place.store.names().empty());
}

TEST_CASE("images are listed, copied and removed") {
  Place place;
  REQUIRE(place.import(small_layout()));
  const Store store(place.store.path());
  CHECK_EQ(*store.list(), std::vector<std::string>{"img"});
  {
    const auto copy = store.copy_rootfs("img");
    REQUIRE(copy);
    CHECK_EQ(read_file(copy->path() + "/rootfs.ext4"), read_file(place.rootfs()));
    struct stat info = {};
    REQUIRE_EQ(::stat((copy->path() + "/rootfs.ext4").c_str(), &info), 0);
    CHECK_LT(info.st_blocks * 512, 2 << 20);
  }
  place.store.write("img/config.json", "{}");
  CHECK_EQ(store.get("img").error().reason(), "IMAGE_JSON");
  REQUIRE(store.remove("img"));
  CHECK(place.store.names().empty());
  CHECK_EQ(store.remove("img").error().reason(), "IMAGE_NOT_FOUND");
  CHECK_EQ(store.get("../x").error().reason(), "IMAGE_NAME");
  CHECK_EQ(Store("/nonexistent/images").list()->size(), 0);
}
