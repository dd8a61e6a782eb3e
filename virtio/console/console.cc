// SPDX-License-Identifier: Apache-2.0
#include "virtio/console/console.h"

#include <algorithm>
#include <utility>

namespace mayfly::virtio::console {

Console::Console(std::unique_ptr<ConsoleSink> sink, std::unique_ptr<ConsoleInput> input, Size size)
    : sink_(std::move(sink)), input_(std::move(input)), size_(size) {
  if (input_) input_->attach(*this);
}

uint64_t Console::features() const { return size_.columns != 0 ? kFeatureSize : 0; }

void Console::read_config(uint64_t offset, std::span<std::byte> out) const {
  const Config config{size_.columns, size_.rows, 0, 0};
  copy_config(std::as_bytes(std::span(&config, 1)), offset, out);
}

// Only emergency writes would go there.
void Console::write_config(uint64_t, std::span<const std::byte>) {}

void Console::activate(DeviceHost& host, uint64_t, std::span<Queue> queues) {
  host_ = &host;
  queues_ = queues;
  // Input that came before waits for the notification that follows activation.
}

void Console::reset() {
  host_ = nullptr;
  queues_ = {};
}

void Console::queue_notified(uint16_t index) { serve(index); }

void Console::on_input() { serve(kReceiveQueue); }

void Console::serve(uint16_t index) {
  if (host_ == nullptr || index >= queues_.size()) return;
  const Result<bool> drained = queues_[index].drain([this, index](Chain& chain) {
    return index == kTransmitQueue ? transmit(chain) : receive(chain);
  });
  if (!drained) return host_->needs_reset(drained.error());
  host_->queue_used(index);
}

Result<Verdict> Console::receive(Chain& chain) {
  const uint64_t room = std::min<uint64_t>(chain.writer.remaining(), chunk_.size());
  if (room == 0) return done(0);
  const size_t size = input_ ? input_->read(std::span(chunk_).first(room)) : 0;
  if (size == 0) return stop();
  counters_.input_bytes += size;
  TRY(chain.writer.write(std::span(chunk_).first(size)));
  return done(chain.writer.written());
}

Result<Verdict> Console::transmit(Chain& chain) {
  uint64_t left = std::min(chain.reader.remaining(), kMaxBytesPerRequest);
  counters_.dropped_bytes += chain.reader.remaining() - left;
  counters_.output_bytes += left;
  while (left != 0) {
    const auto piece = std::span(chunk_).first(std::min<uint64_t>(left, chunk_.size()));
    TRY(chain.reader.read(piece));
    sink_->append(piece);
    left -= piece.size();
  }
  return done(0);
}

Result<> Console::restore(const State& state) {
  if ((state.columns == 0) != (state.rows == 0)) {
    return fail({Code::kDataLoss, "CONSOLE_STATE"},
                "console state: a size of %u columns and %u rows", state.columns, state.rows);
  }
  size_ = {state.columns, state.rows};
  return {};
}

}  // namespace mayfly::virtio::console
