// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/table.h"

#include <doctest/doctest.h>

#include <map>
#include <random>

namespace mayfly::virtio::vsock {
namespace {

TEST_CASE("what is in the table is found, and only that, through any number of changes") {
  const auto loop = *Loop::create({.ring_entries = 4, .files = 1, .clients = 1});
  Table table;
  std::map<uint32_t, Connection*> expected;
  std::mt19937 random(3);
  for (int step = 0; step < 50'000; ++step) {
    const auto port = static_cast<uint32_t>(random() % 3000);
    const Ports ports{.guest = port * 1024, .host = port % 3};
    const auto found = expected.find(port);
    REQUIRE_EQ(table.find(ports), found == expected.end() ? nullptr : found->second);
    if (found != expected.end()) {
      if (random() % 2 == 0) table.push_ready(*found->second);
      if (random() % 4 == 0) table.hide(*found->second);
      table.erase(*found->second);
      expected.erase(found);
    } else if (!table.full()) {
      expected[port] = &table.insert(ports, *loop, {}, Fd());
      CHECK_EQ(table.at(expected[port]->slot), expected[port]);
    }
    REQUIRE_EQ(table.size(), expected.size());
  }
  CHECK_EQ(table.at(kMaxConnections), nullptr);
}

TEST_CASE("the table takes as many as it says") {
  const auto loop = *Loop::create({.ring_entries = 4, .files = 1, .clients = 1});
  Table table;
  for (uint32_t i = 0; i < kMaxConnections; ++i) {
    CHECK_FALSE(table.full());
    table.insert({.guest = i, .host = 0}, *loop, {}, Fd());
  }
  CHECK(table.full());
}

TEST_CASE("the ready ones are served in turn, and one that goes leaves no trace") {
  const auto loop = *Loop::create({.ring_entries = 4, .files = 1, .clients = 1});
  Table table;
  std::vector<Connection*> all;
  for (uint32_t i = 0; i < 5; ++i) {
    all.push_back(&table.insert({.guest = i, .host = 0}, *loop, {}, Fd()));
  }
  CHECK_EQ(table.pop_ready(), nullptr);
  for (const size_t i : {2u, 0u, 4u, 2u, 1u}) table.push_ready(*all[i]);
  CHECK_EQ(table.pop_ready(), all[2]);
  table.push_ready(*all[2]);
  table.erase(*all[0]);
  table.hide(*all[1]);
  CHECK_EQ(table.pop_ready(), all[4]);
  CHECK_EQ(table.pop_ready(), all[2]);
  CHECK_FALSE(table.any_ready());
  CHECK_EQ(table.pop_ready(), nullptr);
  table.push_ready(*all[3]);
  table.hide(*all[3]);
  CHECK_FALSE(table.any_ready());
}

}  // namespace
}  // namespace mayfly::virtio::vsock
