// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/blk.h"

#include <algorithm>
#include <utility>

namespace mayfly::virtio::blk {
namespace {

Verdict answer(GuestSpan status, Status value, uint32_t data_bytes = 0) {
  status.store(0, value);
  return done(data_bytes + 1);
}

}  // namespace

Result<std::unique_ptr<Blk>> Blk::create(std::unique_ptr<Backend> backend,
                                         std::string_view serial) {
  if (serial.size() > kIdSize) {
    return fail({Code::kInvalidArgument, "DISK_SERIAL"},
                "disk: serial: %zu bytes are above the limit of %zu", serial.size(), kIdSize);
  }
  for (size_t i = 0; i < serial.size(); ++i) {
    if (serial[i] >= 0x20 && serial[i] < 0x7f) continue;
    return fail({Code::kInvalidArgument, "DISK_SERIAL"},
                "disk: serial: byte %zu (0x%02x) is not printable ASCII", i,
                static_cast<unsigned>(static_cast<unsigned char>(serial[i])));
  }
  return std::unique_ptr<Blk>(new Blk(std::move(backend), serial));
}

Blk::Blk(std::unique_ptr<Backend> backend, std::string_view serial)
    : backend_(std::move(backend)),
      capacity_sectors_(backend_->size_bytes() / kSectorSize),
      buffers_(std::make_unique_for_overwrite<iovec[]>(size_t{kMaxRequests} * kSegMax)) {
  std::copy(serial.begin(), serial.end(), serial_.begin());
  for (uint16_t request = kMaxRequests; request > 0; --request) free_[free_count_++] = request - 1;
  backend_->attach(*this);
}

uint64_t Blk::features() const {
  const uint64_t common = kFeatureSegMax | kFeatureBlkSize | kFeatureFlush;
  return backend_->access() == Access::kReadOnly ? common | kFeatureReadOnly : common;
}

void Blk::read_config(uint64_t offset, std::span<std::byte> out) const {
  const Config config = {.capacity = capacity_sectors_,
                         .size_max = 0,
                         .seg_max = kSegMax,
                         .cylinders = 0,
                         .heads = 0,
                         .sectors = 0,
                         .blk_size = kSectorSize};
  copy_config(std::as_bytes(std::span(&config, 1)), offset, out);
}

void Blk::write_config(uint64_t, std::span<const std::byte>) {}

void Blk::activate(DeviceHost& host, uint64_t, std::span<Queue> queues) {
  host_ = &host;
  queue_ = &queues.front();
}

void Blk::reset() {
  host_ = nullptr;
  queue_ = nullptr;
  turn_due_ = starved_ = interrupt_due_ = false;
  for (Request& request : requests_) request.abandoned = true;
  backend_->abandon();
}

void Blk::queue_notified(uint16_t) { serve_queue(); }

// While there are requests, the next look at the ring is near: the driver need not notify until a
// look finds nothing.
void Blk::serve_queue() {
  if (queue_ == nullptr || !queue_->ready()) return;
  const Result<bool> taken = serve_chains(WhenEmpty::kComeBack);
  const Result<bool> served = taken && !*taken ? serve_chains(WhenEmpty::kNotify) : taken;
  if (!served) return host_->needs_reset(served.error());
  if (*served) request_turn();
}

void Blk::request_turn() {
  turn_due_ = true;
  backend_->request_turn();
}

// Whether there was one.
Result<bool> Blk::serve_chains(WhenEmpty when_empty) {
  bool taken = false;
  bool used = false;
  const Result<bool> more = queue_->drain(
      [&](Chain& chain) -> Result<Verdict> {
        Result<Verdict> verdict = serve(chain);
        taken = taken || (verdict && verdict->kind != Verdict::Kind::kStop);
        used = used || (verdict && verdict->kind == Verdict::Kind::kDone);
        return verdict;
      },
      when_empty);
  if (used) host_->queue_used(0);
  if (!more) return std::unexpected(more.error());
  return taken;
}

void Blk::on_turn() {
  // Not where there has been a reset since.
  if (!std::exchange(turn_due_, false)) return;
  if (std::exchange(interrupt_due_, false)) host_->queue_used(0);
  serve_queue();
}

Result<Verdict> Blk::serve(Chain& chain) {
  const auto header = TRY(chain.reader.read_object<RequestHeader>());
  const GuestSpan status = TRY(chain.writer.take_tail(1));
  if (free_count_ == 0) {
    starved_ = true;
    return stop();
  }
  switch (header.type) {
    case kRequestIn:
    case kRequestOut:
      return start_transfer(chain, header, status);
    case kRequestFlush:
      return start_flush(chain.head, status);
    case kRequestGetId:
      return get_id(chain.writer, status);
    default:
      return answer(status, Status::kUnsupported);
  }
}

Result<Verdict> Blk::start_transfer(Chain& chain, const RequestHeader& header, GuestSpan status) {
  const bool in = header.type == kRequestIn;
  const uint64_t size = in ? chain.writer.remaining() : chain.reader.remaining();
  if (!inside(header.sector, size)) return io_error(status);
  if (!in && backend_->access() == Access::kReadOnly) return io_error(status);
  if (size == 0) return answer(status, Status::kOk);

  // A chain has below 2^32 bytes, by the queue's contract.
  const uint16_t request =
      take_request(chain.head, header.type, static_cast<uint32_t>(size), status);
  const std::span<iovec> buffers = buffers_of(request);
  const Result<size_t> count =
      in ? chain.writer.take_iovecs(size, buffers) : chain.reader.take_iovecs(size, buffers);
  Result<> started;
  if (count) {
    const auto pieces = buffers.first(*count);
    const uint64_t offset = header.sector * kSectorSize;
    started =
        in ? backend_->read(request, pieces, offset) : backend_->write(request, pieces, offset);
  }
  if (!count || !started) {
    put_request(request);
    return io_error(status);
  }
  return later();
}

Result<Verdict> Blk::start_flush(uint16_t head, GuestSpan status) {
  ++counters_.flushes;
  if (backend_->access() == Access::kReadOnly) return answer(status, Status::kOk);
  const uint16_t request = take_request(head, kRequestFlush, 0, status);
  if (backend_->flush(request)) return later();
  put_request(request);
  return io_error(status);
}

Verdict Blk::get_id(ChainWriter& writer, GuestSpan status) {
  const auto size = static_cast<uint32_t>(std::min<uint64_t>(writer.remaining(), kIdSize));
  // Cannot fail: no more than remains is written.
  MUST(writer.write(std::as_bytes(std::span(serial_)).first(size)));
  return answer(status, Status::kOk, size);
}

Verdict Blk::io_error(GuestSpan status) {
  ++counters_.errors;
  return answer(status, Status::kIoError);
}

bool Blk::inside(uint64_t sector, uint64_t size_bytes) const {
  if (size_bytes % kSectorSize != 0) return false;
  const uint64_t sectors = size_bytes / kSectorSize;
  return sectors <= capacity_sectors_ && sector <= capacity_sectors_ - sectors;
}

uint16_t Blk::take_request(uint16_t head, uint32_t type, uint32_t data_bytes, GuestSpan status) {
  const uint16_t request = free_[--free_count_];
  requests_[request] = {.in_use = true,
                        .abandoned = false,
                        .head = head,
                        .type = type,
                        .data_bytes = data_bytes,
                        .status = status};
  return request;
}

void Blk::put_request(uint16_t request) {
  requests_[request].in_use = false;
  free_[free_count_++] = request;
}

std::span<iovec> Blk::buffers_of(uint16_t request) {
  return {&buffers_[size_t{request} * kSegMax], kSegMax};
}

void Blk::on_request_done(uint16_t number, Outcome outcome) {
  CHECK(number < kMaxRequests && requests_[number].in_use);
  const Request request = requests_[number];
  put_request(number);
  if (!request.abandoned && queue_ != nullptr && queue_->ready()) {
    Verdict verdict = done(1);
    if (outcome == Outcome::kFailed) {
      verdict = io_error(request.status);
    } else if (request.type == kRequestIn) {
      ++counters_.reads;
      counters_.read_bytes += request.data_bytes;
      verdict = answer(request.status, Status::kOk, request.data_bytes);
    } else {
      if (request.type == kRequestOut) {
        ++counters_.writes;
        counters_.written_bytes += request.data_bytes;
      }
      verdict = answer(request.status, Status::kOk);
    }
    queue_->complete(request.head, verdict.written);
    interrupt_due_ = true;
    request_turn();
  }
  if (std::exchange(starved_, false)) request_turn();
}

State Blk::save() const {
  return {.capacity_sectors = capacity_sectors_,
          .read_only = backend_->access() == Access::kReadOnly,
          .serial = serial_};
}

Result<> Blk::restore(const State& state) {
  if (state.capacity_sectors != capacity_sectors_) {
    return fail({Code::kFailedPrecondition, "DISK_SIZE"},
                "disk: the file has %llu sectors, the saved disk had %llu",
                static_cast<unsigned long long>(capacity_sectors_),
                static_cast<unsigned long long>(state.capacity_sectors));
  }
  const bool read_only = backend_->access() == Access::kReadOnly;
  if (state.read_only != read_only) {
    return fail({Code::kFailedPrecondition, "DISK_ACCESS"}, "disk: is %s, the saved disk was %s",
                read_only ? "read-only" : "read-write",
                state.read_only ? "read-only" : "read-write");
  }
  for (size_t i = 0; i < kIdSize; ++i) {
    const char c = state.serial[i];
    if (c == '\0' || (c >= 0x20 && c < 0x7f)) continue;
    return fail({Code::kDataLoss, "DISK_SERIAL"},
                "disk: saved serial: byte %zu (0x%02x) is not printable ASCII", i,
                static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  serial_ = state.serial;
  return {};
}

}  // namespace mayfly::virtio::blk
