// SPDX-License-Identifier: Apache-2.0
// What requests say about a restored machine's memory.
#include "vmm/control/testing/requests.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace mayfly::vmm {
namespace {

using testing::parse;
using testing::reason;

TEST_CASE("chunks to copy come through; what cannot be copied is refused") {
  auto request = testing::restore_request();
  auto& configure = *request.mutable_configure();
  auto& restore = *configure.mutable_restore();
  const auto add = [&](uint32_t first, uint32_t count) {
    restore.add_copied_chunks()->set_first(first);
    restore.mutable_copied_chunks()->rbegin()->set_count(count);
  };
  const auto chunks = static_cast<uint32_t>(configure.memory_bytes() >> 21);
  add(0, 1);
  add(1, 2);
  add(chunks - 1, 1);
  const auto parsed = parse(request);
  REQUIRE(parsed.has_value());
  const auto& copied = std::get<Configure>(parsed->call).machine.restore->copied_chunks;
  CHECK_EQ(copied, std::vector<ChunkRun>{{0, 1}, {1, 2}, {chunks - 1, 1}});

  const auto refused = [&](uint32_t first, uint32_t count) {
    add(first, count);
    const std::string why = reason(request);
    restore.mutable_copied_chunks()->RemoveLast();
    return why;
  };
  restore.mutable_copied_chunks()->RemoveLast();
  CHECK_EQ(refused(3, 0), "COPIED_CHUNKS");
  CHECK_EQ(refused(2, 1), "COPIED_CHUNKS");
  CHECK_EQ(refused(0, 1), "COPIED_CHUNKS");
  CHECK_EQ(refused(chunks, 1), "COPIED_CHUNKS");
  CHECK_EQ(refused(chunks - 1, 2), "COPIED_CHUNKS");
  CHECK_EQ(refused(UINT32_MAX, UINT32_MAX), "COPIED_CHUNKS");
  restore.mutable_record_touched();
  CHECK_EQ(reason(request), "RECORD_TOUCHED");
  restore.clear_record_touched();
  restore.set_private_memory(false);
  CHECK_EQ(reason(request), "COPIES_SHARED");
  restore.clear_copied_chunks();
  auto& record = *restore.mutable_record_touched();
  CHECK_EQ(reason(request), "RECORD_TOUCHED");
  restore.set_private_memory(true);
  const auto without = parse(request);
  REQUIRE(without.has_value());
  REQUIRE(std::get<Configure>(without->call).machine.restore->record.has_value());
  CHECK_FALSE(std::get<Configure>(without->call).machine.restore->record->userfault_device.valid());
  record.set_has_userfault_device(true);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  record.set_userfault_device_fd(7);
  const auto recorded = parse(request);
  REQUIRE(recorded.has_value());
  CHECK(std::get<Configure>(recorded->call).machine.restore->record->userfault_device.valid());
  restore.clear_record_touched();
  configure.set_memory_bytes(uint64_t{1} << 32);
  for (uint32_t i = 0; i < 1024; ++i) add(2 * i, 1);
  CHECK(parse(request).has_value());
  add(2046, 1);
  CHECK_EQ(reason(request), "TOO_MANY");
}

TEST_CASE("touched pages go to two files") {
  ::mayfly::control::Request request;
  request.set_id(7);
  request.mutable_get_touched_pages()->set_touched_fd(1);
  CHECK_EQ(reason(request), "");
  request.mutable_get_touched_pages()->set_touched_fd(0);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  request.mutable_get_touched_pages()->set_written_fd(8);
  CHECK_EQ(reason(request), "DESCRIPTOR_INDEX");
  const std::string reply =
      make_reply(7, Answer(TouchedPages{.touched_count = 5, .written_count = 3, .is_exact = true}));
  ::mayfly::control::Reply parsed;
  REQUIRE(parsed.ParseFromString(reply));
  CHECK_EQ(parsed.touched_pages().touched_count(), 5);
  CHECK_EQ(parsed.touched_pages().written_count(), 3);
  CHECK(parsed.touched_pages().is_exact());
}

}  // namespace
}  // namespace mayfly::vmm
