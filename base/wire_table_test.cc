// SPDX-License-Identifier: Apache-2.0
#include "base/wire_table.h"

#include <doctest/doctest.h>

#include <string>

namespace mayfly {
namespace {

enum class Colour : uint8_t { kRed, kGreen };

struct Leaf {
  uint16_t number = 0;
  bool flag = false;
  friend bool operator==(const Leaf&, const Leaf&) = default;
};

struct Tree {
  Colour colour = Colour::kRed;
  std::string text;
  std::array<uint8_t, 3> image = {};
  std::array<bool, 3> flags = {};
  std::vector<uint32_t> packed;
  std::optional<Leaf> optional;
  std::vector<Leaf> list;
  uint32_t count = 0;
  std::array<Leaf, 2> counted = {};
  std::variant<std::monostate, Leaf, std::string> either;
  friend bool operator==(const Tree&, const Tree&) = default;
};

}  // namespace

template <>
struct WireTable<Leaf> {
  static void fields(auto& wire, auto& leaf) {
    wire.number(1, "number", leaf.number);
    wire.number(2, "flag", leaf.flag);
  }
};

template <>
struct WireTable<Tree> {
  static void fields(auto& wire, auto& tree) {
    wire.choice(1, "colour", tree.colour, Colour::kGreen);
    wire.text(2, "text", tree.text, 4);
    wire.image(3, "image", tree.image);
    wire.numbers(4, "flags", tree.flags);
    wire.packed(5, "packed", tree.packed, 3);
    wire.optional(6, "optional", tree.optional);
    wire.list(7, "list", tree.list, 2);
    wire.counted(8, "counted", tree.count, tree.counted);
    wire.alternative(9, "leaf", tree.either, std::in_place_type<Leaf>);
  }
};

namespace {

Tree full() {
  return {.colour = Colour::kGreen,
          .text = "text",
          .image = {1, 2, 3},
          .flags = {false, true, false},
          .packed = {0, 1, ~0u},
          .optional = Leaf{},
          .list = {{65535, true}, {0, false}},
          .count = 2,
          .counted = {Leaf{1, false}, Leaf{2, true}},
          .either = Leaf{7, true}};
}

std::string error_of(const WireWriter& message) {
  Tree tree;
  const Result<> decoded = decode(message.bytes(), tree);
  return decoded ? "" : decoded.error().message();
}

TEST_CASE("what is written is read, also what is empty but there") {
  for (const Tree& tree : {full(), Tree{}}) {
    Tree read;
    REQUIRE(decode(encode(tree).bytes(), read).has_value());
    CHECK(read == tree);
  }
}

TEST_CASE("a value outside its limit is refused by its name, its value and the limit") {
  const auto with = [](auto write) {
    WireWriter message;
    write(message);
    return error_of(message);
  };
  CHECK_EQ(with([](auto& m) { m.number(1, 2); }), "colour: 2 is above the limit of 1");
  CHECK_EQ(with([](auto& m) { m.text(2, "fives"); }), "text: 5 is above the limit of 4");
  CHECK_EQ(with([](auto& m) { m.text(3, "12"); }), "image: 2 bytes, where 3 belong");
  CHECK_EQ(with([](auto& m) { m.packed(4, std::array<uint64_t, 2>{}); }),
           "flags: 2 of them, where 3 belong");
  CHECK_EQ(with([](auto& m) { m.packed(4, std::array<uint64_t, 3>{0, 2, 0}); }),
           "flags: 2 is above the limit of 1");
  CHECK_EQ(with([](auto& m) { m.packed(5, std::array<uint64_t, 4>{}); }),
           "packed: 4 of them, where 3 belong");
  CHECK_EQ(with([](auto& m) {
             for (int i = 0; i < 3; ++i) m.message(7, WireWriter());
           }),
           "list: 3 of them, where 2 belong");
  CHECK_EQ(with([](auto& m) {
             for (int i = 0; i < 3; ++i) m.message(8, WireWriter());
           }),
           "counted: 3 of them, where 2 belong");
  CHECK_EQ(with([](auto& m) {
             WireWriter leaf;
             leaf.number(1, 65536);
             m.message(9, leaf);
           }),
           "leaf: number: 65536 is above the limit of 65535");
  CHECK_NE(with([](auto& m) { m.text(1, "x"); }), "");
  CHECK_NE(with([](auto& m) { m.number(7, 1); }), "");
}

TEST_CASE("a field that comes twice counts as it came last, and an unknown one not at all") {
  WireWriter message;
  WireWriter leaf;
  leaf.number(1, 5);
  message.text(2, "one");
  message.text(2, "two");
  message.message(6, leaf);
  message.message(6, WireWriter());
  message.number(100, 5);
  Tree tree;
  REQUIRE(decode(message.bytes(), tree).has_value());
  CHECK_EQ(tree.text, "two");
  CHECK(tree.optional == Leaf{});
}

}  // namespace
}  // namespace mayfly
