// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/virtio_slot.h"

#include "base/log.h"
#include "vmm/boot/layout.h"

#include <cstring>
#include <mutex>

#include <poll.h>

namespace mayfly {
namespace {

constexpr uint64_t kQueueNotify = 0x50;  // virtio 1.2, 4.2.2

}  // namespace

Result<std::unique_ptr<VirtioSlot>> VirtioSlot::create(const Parts& parts,
                                                       std::unique_ptr<virtio::Device> device) {
  std::unique_ptr<VirtioSlot> slot(new VirtioSlot(parts, std::move(device)));
  slot->transport_ = TRY(virtio::MmioTransport::create({
      .device = *slot->device_,
      .memory = parts.memory,
      .lock = parts.loop.lock(),
      .interrupt = *slot,
      .wait =
          [&loop = parts.loop, &ending = parts.ending](virtio::MmioTransport::Held& held) {
            loop.wait_for_batch(held);
            return !ending.load(std::memory_order_acquire);
          },
  }));
  const ClientId client = TRY(parts.loop.add_client(*slot));
  for (uint16_t queue = 0; queue < slot->transport_->queue_count(); ++queue) {
    const FileSlot file = TRY(parts.loop.add_file(slot->transport_->kick_event(queue)));
    TRY(parts.loop.poll(client, file, POLLIN, queue));
  }
  return slot;
}

void VirtioSlot::on_completion(uint32_t op, int32_t) {
  transport_->process_kick(static_cast<uint16_t>(op));
}

void VirtioSlot::raise() { parts_.ioapic.raise(boot::kFirstVirtioGsi + parts_.index); }

void VirtioSlot::serve_all() {
  for (uint16_t queue = 0; queue < transport_->queue_count(); ++queue) {
    transport_->process_kick(queue);
  }
}

void VirtioSlot::read(uint64_t offset, std::span<std::byte> data) {
  transport_->read(offset, data);
}

void VirtioSlot::write(uint64_t offset, std::span<const std::byte> data) {
  transport_->write(offset, data);
  if (offset == kQueueNotify) count_kick(data);
}

void VirtioSlot::count_kick(std::span<const std::byte> data) {
  uint32_t queue = 0;
  if (data.size() != sizeof(queue)) return;
  std::memcpy(&queue, data.data(), sizeof(queue));
  if (queue >= transport_->queue_count()) return;
  // The queue's number is the guest's; the count reaches the threshold once.
  if (kicks_[queue].fetch_add(1, std::memory_order_relaxed) + 1 != kKicksBeforeIoeventfd) return;
  const Gpa address{boot::kVirtioMmio.value + parts_.index * boot::kVirtioMmioStride +
                    kQueueNotify};
  const Result<> added =
      parts_.vm.add_ioeventfd(transport_->kick_event(static_cast<uint16_t>(queue)), address, queue);
  // Without one, kicks go on leaving the guest: slower, not wrong.
  if (!added) log(LogLevel::kWarning, "%s", added.error().describe().c_str());
}

}  // namespace mayfly
