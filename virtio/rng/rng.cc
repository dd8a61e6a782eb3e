// SPDX-License-Identifier: Apache-2.0
#include "virtio/rng/rng.h"

#include "virtio/rng/wire.h"

#include <algorithm>

namespace mayfly::virtio::rng {
namespace {

constexpr size_t kChunkSize = 1024;

}  // namespace

void Rng::read_config(uint64_t, std::span<std::byte> out) const {
  std::ranges::fill(out, std::byte{0});
}

void Rng::write_config(uint64_t, std::span<const std::byte>) {}

void Rng::activate(DeviceHost& host, uint64_t, std::span<Queue> queues) {
  host_ = &host;
  queue_ = &queues[kRequestQueue];
}

void Rng::queue_notified(uint16_t) {
  if (queue_ == nullptr) return;
  const Result<bool> drained = queue_->drain([this](Chain& chain) { return serve(chain); });
  if (!drained) return host_->needs_reset(drained.error());
  host_->queue_used(kRequestQueue);
}

Result<Verdict> Rng::serve(Chain& chain) {
  std::array<std::byte, kChunkSize> chunk;
  uint64_t wanted = std::min(chain.writer.remaining(), kMaxBytesPerRequest);
  while (wanted != 0) {
    const std::span<std::byte> bytes = std::span(chunk).first(std::min(wanted, kChunkSize));
    TRY(source_->fill(bytes));
    TRY(chain.writer.write(bytes));
    wanted -= bytes.size();
  }
  return done(chain.writer.written());
}

void Rng::reset() {
  host_ = nullptr;
  queue_ = nullptr;
}

Result<> Rng::restore(const State&) { return {}; }

}  // namespace mayfly::virtio::rng
