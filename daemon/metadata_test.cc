// SPDX-License-Identifier: Apache-2.0
#include "daemon/metadata.h"

#include <doctest/doctest.h>

#include <set>
#include <string>

namespace mayfly::daemon {
namespace {

using Status = AgentMetadataAnswer::Status;

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr const char* kText =
    R"({"latest": {"meta-data": {"hostname": "web", "port": 80, "on": true, "none": null,
        "tags": ["a", {"b": 1}], "net": {}, "a/b": "slash"}, "user-data": "#!/bin/sh\n"}})";

Metadata::Document document(const std::string& text) {
  auto parsed = MetadataDocument::parse("metadata", text);
  REQUIRE_UNARY(parsed.has_value());
  return *parsed;
}

std::string refused(const std::string& text) {
  auto parsed = MetadataDocument::parse("spec.metadata", text);
  if (parsed) return "taken";
  CHECK_EQ(parsed.error().reason(), "METADATA");
  CHECK_UNARY(parsed.error().message().starts_with("spec.metadata: "));
  return parsed.error().message().substr(std::string("spec.metadata: ").size());
}

TEST_CASE("a path leads to keys, to a value, or nowhere") {
  const auto doc = document(kText);
  const auto text = [&](const char* path) {
    auto read = doc->read(path, false);
    return read ? *read : read.error().reason();
  };
  CHECK_EQ(text("/"), "latest/");
  CHECK_EQ(text("/latest"), "meta-data/\nuser-data");
  CHECK_EQ(text("//latest//meta-data/"), "a/b\nhostname\nnet/\nnone\non\nport\ntags");
  CHECK_EQ(text("/latest/meta-data/hostname"), "web");
  CHECK_EQ(text("/latest/meta-data/hostname/"), "web");
  CHECK_EQ(text("/latest/meta-data/%68ost%6Eame"), "web");
  CHECK_EQ(text("/latest/meta-data/a%2Fb"), "slash");
  CHECK_EQ(text("/latest/meta-data/a/b"), "METADATA_PATH");
  CHECK_EQ(text("/latest/meta-data/port"), "80");
  CHECK_EQ(text("/latest/meta-data/on"), "true");
  CHECK_EQ(text("/latest/meta-data/none"), "null");
  CHECK_EQ(text("/latest/meta-data/net"), "");
  CHECK_EQ(text("/latest/meta-data/tags"), R"(["a",{"b":1}])");
  CHECK_EQ(text("/latest/meta-data/tags/1"), "b");
  CHECK_EQ(text("/latest/user-data"), "#!/bin/sh\n");
  CHECK_EQ(*doc->read("/latest/meta-data/tags/1", true), R"({"b":1})");
  CHECK_EQ(*doc->read("/latest/user-data", true), R"("#!/bin/sh\n")");
  for (const char* path : {"/nowhere", "/latest/meta-data/hostname/x", "/latest/meta-data/tags/2",
                           "/latest/meta-data/tags/01", "/latest/meta-data/tags/-1",
                           "/latest/meta-data/tags/1x", "/Latest"}) {
    CHECK_EQ(doc->read(path, false).error().code(), Code::kNotFound);
  }
  for (const char* path : {"", "latest", "/%", "/%4", "/%4g", "/%g4"}) {
    CHECK_EQ(doc->read(path, true).error().code(), Code::kInvalidArgument);
  }
  CHECK_EQ(doc->read("/" + std::string(3000, 'a'), true).error().code(), Code::kInvalidArgument);
}

TEST_CASE("what is no document, or too much of one, is refused with its limit") {
  CHECK_EQ(refused(""), "is no JSON object");
  CHECK_EQ(refused("[]"), "is no JSON object");
  CHECK_EQ(refused("{} x"), "is no JSON object");
  CHECK_EQ(refused(R"({"a": 1,})"), "is no JSON object");
  CHECK_EQ(refused("{\"a\": \"\xff\"}"), "is no JSON object");
  CHECK_UNARY(refused(R"({"": 1})").starts_with("the key \"\" is not of 1 to 256 bytes"));
  CHECK_UNARY(refused(R"({"x": [{"a\nb": 1}]})").starts_with("the key \"a"));
  CHECK_UNARY(refused("{\"" + std::string(257, 'k') + "\":1}").starts_with("the key"));
  const auto nested = [](size_t depth) {
    return R"({"a":)" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  CHECK_EQ(refused(nested(32)), "taken");
  CHECK_EQ(refused(nested(33)), "is nested 33 deep, above the limit of 32");
  CHECK_EQ(refused(nested(100'000)), "is nested 100000 deep, above the limit of 32");
  CHECK_EQ(refused(R"({"a":")" + std::string(40, '[') + R"(\"[[[["})"), "taken");
  const auto sized = [](size_t bytes) {
    return R"({"a":")" + std::string(bytes - 8, 'x') + R"("})";
  };
  CHECK_EQ(refused(sized(256 << 10)), "taken");
  std::string numbers = "0";
  for (int i = 0; i < 50'000; ++i) numbers += ",1e9";
  CHECK_UNARY(refused(R"({"a":[)" + numbers + "]}").starts_with("is 650009 bytes without"));
  CHECK_EQ(refused(sized((256 << 10) + 1)), "262145 bytes are above the limit of 262144");
}

TEST_CASE("without a token of this VM's that still lives, nothing is read") {
  Metadata one(document(kText));
  Metadata other(document(kText));
  const auto read = [](Metadata& metadata, const std::string& token, uint64_t now_ns) {
    return metadata.answer({.id = 9, .path = "/latest/meta-data/hostname", .token = token}, now_ns);
  };
  const auto made = one.answer({.id = 8, .token_ttl_s = 2}, 5 * kSecondNs);
  CHECK_EQ(made.id, 8);
  CHECK_EQ(made.content.size(), 64);
  CHECK_EQ(made.total_bytes, 64);
  CHECK_EQ(read(one, made.content, 5 * kSecondNs).content, "web");
  CHECK_EQ(read(one, made.content, 7 * kSecondNs - 1).content, "web");
  CHECK(read(one, made.content, 7 * kSecondNs).status == Status::kUnauthorized);
  CHECK(read(one, "", kSecondNs).status == Status::kUnauthorized);
  CHECK(read(one, made.content.substr(1), kSecondNs).status == Status::kUnauthorized);
  // Of the VM that it was made from.
  CHECK(read(other, made.content, 5 * kSecondNs).status == Status::kUnauthorized);
}

TEST_CASE("tokens are many, and the one that ends first makes room") {
  Metadata metadata(document(kText));
  const auto ask = [&](uint32_t ttl_s, uint64_t now_ns) {
    return metadata.answer({.id = 1, .token_ttl_s = ttl_s}, now_ns).content;
  };
  const std::string first = ask(10, 0);
  std::set<std::string> all = {first};
  for (size_t i = 1; i < kMaxTokens; ++i) all.insert(ask(20, i));
  CHECK_EQ(all.size(), kMaxTokens);
  const auto works = [&](const std::string& token) {
    return metadata.answer({.id = 2, .path = "/", .token = token}, 2 * kSecondNs).status ==
           Status::kOk;
  };
  CHECK_UNARY(works(first));
  const std::string last = ask(20, kSecondNs);
  CHECK_UNARY(works(last));
  CHECK_FALSE(works(first));
}

TEST_CASE("a long value comes in pieces of one version") {
  const std::string long_text(50'000, 'x');
  Metadata metadata(document(R"({"a":")" + long_text + R"("})"));
  const std::string token = metadata.answer({.id = 1, .token_ttl_s = 60}, 0).content;
  std::string whole;
  AgentMetadataAnswer answer;
  do {
    answer = metadata.answer(
        {.id = 2, .path = "/a", .token = token, .offset = static_cast<uint32_t>(whole.size())}, 0);
    CHECK_EQ(answer.version, 1);
    CHECK_EQ(answer.total_bytes, long_text.size());
    whole += answer.content;
  } while (!answer.content.empty());
  CHECK_EQ(whole, long_text);
  metadata.set(document(R"({"a":"short"})"));
  answer = metadata.answer({.id = 2, .path = "/a", .token = token, .offset = 16'384}, 0);
  CHECK_EQ(answer.version, 2);
  CHECK_EQ(answer.total_bytes, 5);
  CHECK_EQ(answer.content, "");
  metadata.set(nullptr);
  CHECK(metadata.answer({.id = 2, .path = "/a", .token = token}, 0).status == Status::kNotFound);
  CHECK_FALSE(metadata.view().has_value());
}

TEST_CASE("a guest that asks without end is slowed, and nobody else is") {
  Metadata metadata(document(kText));
  size_t answered = 0;
  while (metadata.answer({.id = 1, .token_ttl_s = 60}, 10 * kSecondNs).status == Status::kOk) {
    REQUIRE_LT(++answered, 10'000);
  }
  CHECK_EQ(answered, 2000);
  CHECK(metadata.answer({.id = 1, .token_ttl_s = 60}, 10 * kSecondNs).status == Status::kBusy);
  CHECK(metadata.answer({.id = 1, .token_ttl_s = 60}, 11 * kSecondNs).status == Status::kOk);
}

}  // namespace
}  // namespace mayfly::daemon
