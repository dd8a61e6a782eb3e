// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/testing/fake_driver.h"

#include <atomic>

namespace mayfly::virtio::testing {
namespace {

constexpr uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

}  // namespace

// MUST throughout: a test whose set-up fails has nothing to test.
GuestMemory make_memory(uint64_t size_bytes) {
  const Fd memfd = MUST(Fd::memfd("test", size_bytes));
  return MUST(GuestMemory::create(memfd.ref(), size_bytes));
}

FakeDriver::FakeDriver(const GuestMemory& memory, const Options& options)
    : memory_(&memory), options_(options), chains_(options.size) {
  avail_at_ = sizeof(Descriptor) * options.size;
  used_at_ = align_up(avail_at_ + avail_ring::bytes(options.size, true), 4);
  data_at_ = align_up(used_at_ + used_ring::bytes(options.size, true), 4096);
  span_ = MUST(memory.view({options.base, data_at_ + options.data_size}));
  span_.zero(0, data_at_);
  for (uint16_t i = options.size; i > 0; --i) free_.push_back(static_cast<uint16_t>(i - 1));
}

void FakeDriver::reset() { *this = FakeDriver(*memory_, options_); }

QueueState FakeDriver::queue_state() const {
  return {.size = options_.size,
          .ready = true,
          .descriptors = options_.base,
          .driver_area = Gpa{options_.base.value + avail_at_},
          .device_area = Gpa{options_.base.value + used_at_},
          .next_avail = start_,
          .next_used = start_};
}

Gpa FakeDriver::end() const {
  return Gpa{align_up(options_.base.value + data_at_ + options_.data_size, 4096)};
}

Gpa FakeDriver::allocate(uint64_t size_bytes) {
  CHECK(size_bytes <= options_.data_size);
  if (size_bytes > options_.data_size - data_used_) data_used_ = 0;
  const uint64_t at = data_at_ + data_used_;
  data_used_ += std::min(align_up(size_bytes, 16), options_.data_size - data_used_);
  return Gpa{options_.base.value + at};
}

GuestBuffer FakeDriver::readable(std::span<const std::byte> bytes) {
  const GuestRange range{allocate(bytes.size()), bytes.size()};
  MUST(memory_->view(range)).write(0, bytes);
  return {range, false};
}

GuestBuffer FakeDriver::readable(std::string_view text) {
  return readable(std::as_bytes(std::span(text)));
}

GuestBuffer FakeDriver::writable(uint64_t size_bytes) {
  const GuestRange range{allocate(size_bytes), size_bytes};
  const std::vector<std::byte> fill(size_bytes, std::byte{0xa5});
  MUST(memory_->view(range)).write(0, fill);
  return {range, true};
}

std::vector<std::byte> FakeDriver::contents(GuestRange range) const {
  std::vector<std::byte> bytes(range.size);
  MUST(memory_->view(range)).read(0, bytes);
  return bytes;
}

std::string FakeDriver::text(GuestRange range) const {
  std::string text(range.size, '\0');
  MUST(memory_->view(range)).read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

uint16_t FakeDriver::build(const std::vector<GuestBuffer>& buffers) {
  CHECK(!buffers.empty() && buffers.size() <= free_.size());
  std::vector<uint16_t> chain;
  for (size_t i = 0; i < buffers.size(); ++i) {
    chain.push_back(free_.back());
    free_.pop_back();
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    const int flags =
        (buffers[i].device_writes ? kDescriptorWrite : 0) | (last ? 0 : kDescriptorNext);
    write_descriptor(chain[i],
                     {buffers[i].range.start.value, static_cast<uint32_t>(buffers[i].range.size),
                      static_cast<uint16_t>(flags), last ? uint16_t{0} : chain[i + 1]});
  }
  const uint16_t head = chain.front();
  chains_[head] = std::move(chain);
  return head;
}

uint16_t FakeDriver::add(const std::vector<GuestBuffer>& buffers) {
  const uint16_t head = build(buffers);
  make_available(head);
  return head;
}

uint16_t FakeDriver::add_indirect(const std::vector<GuestBuffer>& buffers) {
  const uint64_t table_bytes = sizeof(Descriptor) * buffers.size();
  const Gpa table = allocate(table_bytes);
  const GuestSpan entries = MUST(memory_->view({table, table_bytes}));
  for (size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    const int flags =
        (buffers[i].device_writes ? kDescriptorWrite : 0) | (last ? 0 : kDescriptorNext);
    entries.store(
        sizeof(Descriptor) * i,
        Descriptor{buffers[i].range.start.value, static_cast<uint32_t>(buffers[i].range.size),
                   static_cast<uint16_t>(flags), static_cast<uint16_t>(i + 1)});
  }
  const uint16_t head = build({{GuestRange{table, table_bytes}, false}});
  write_descriptor(head, {table.value, static_cast<uint32_t>(table_bytes), kDescriptorIndirect, 0});
  make_available(head);
  return head;
}

bool FakeDriver::kick_wanted() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint16_t before = std::exchange(kicked_index_, avail_index_);
  if (before == avail_index_) return false;
  if (options_.event_idx) return event_passed(avail_event(), avail_index_, before);
  return (used_flags() & kUsedNoNotify) == 0;
}

std::optional<UsedElement> FakeDriver::take_used() {
  if (used_index() == taken_used_) return std::nullopt;
  const auto slot = static_cast<uint16_t>(taken_used_ % options_.size);
  const auto element = span_.load<UsedElement>(used_at_ + used_ring::slot(slot));
  ++taken_used_;
  CHECK(element.id < options_.size);
  std::vector<uint16_t>& chain = chains_[element.id];
  free_.insert(free_.end(), chain.rbegin(), chain.rend());
  chain.clear();
  return element;
}

void FakeDriver::want_interrupt() {
  set_avail_flags(0);
  set_used_event(taken_used_);
}

void FakeDriver::write_descriptor(uint16_t index, const Descriptor& descriptor) {
  span_.store(sizeof(Descriptor) * index, descriptor);
}

void FakeDriver::make_available(uint16_t head) {
  const auto slot = static_cast<uint16_t>(avail_index_ % options_.size);
  store_u16(avail_at_ + avail_ring::slot(slot), head);
  set_avail_index(static_cast<uint16_t>(avail_index_ + 1));
}

void FakeDriver::set_avail_index(uint16_t index) {
  avail_index_ = index;
  store_u16(avail_at_ + avail_ring::kIndex, index);
}

void FakeDriver::set_avail_flags(uint16_t flags) {
  store_u16(avail_at_ + avail_ring::kFlags, flags);
}

void FakeDriver::set_used_event(uint16_t event) {
  store_u16(avail_at_ + avail_ring::used_event(options_.size), event);
}

uint16_t FakeDriver::used_index() const {
  return span_.load_acquire_u16(used_at_ + used_ring::kIndex);
}

uint16_t FakeDriver::used_flags() const {
  return span_.load_acquire_u16(used_at_ + used_ring::kFlags);
}

uint16_t FakeDriver::avail_event() const {
  return span_.load_acquire_u16(used_at_ + used_ring::avail_event(options_.size));
}

void FakeDriver::start_at(uint16_t index) {
  start_ = kicked_index_ = taken_used_ = index;
  set_avail_index(index);
  set_used_event(index);
  store_u16(used_at_ + used_ring::kIndex, index);
  store_u16(used_at_ + used_ring::avail_event(options_.size), index);
}

void FakeDriver::store_u16(uint64_t ring_offset, uint16_t value) {
  span_.store_release_u16(ring_offset, value);
}

}  // namespace mayfly::virtio::testing
