// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/uring_backend.h"

#include "virtio/blk/iovec_sys.h"
#include "virtio/blk/wire.h"

#include <cerrno>
#include <utility>

#include <fcntl.h>

namespace mayfly::virtio::blk {
namespace {

// EINTR and EAGAIN are not expected here; a file system that insists on them must not keep us busy.
constexpr uint8_t kMaxRetries = 8;

Result<> check_flags(FdRef file, Access access) {
  const int flags = ::fcntl(file.number(), F_GETFL);
  if (flags < 0) {
    return fail_errno({Code::kInvalidArgument, "DISK_FILE"}, errno, "disk: descriptor %d",
                      file.number());
  }
  const int mode = flags & O_ACCMODE;
  if (mode == O_WRONLY) {
    return fail({Code::kInvalidArgument, "DISK_ACCESS"}, "disk: the file is open for writing only");
  }
  if (access == Access::kReadWrite && mode != O_RDWR) {
    return fail({Code::kInvalidArgument, "DISK_ACCESS"},
                "disk: the file is open read-only; open it read-write or make the disk read-only");
  }
  if ((flags & O_APPEND) != 0) {
    return fail({Code::kInvalidArgument, "DISK_ACCESS"},
                "disk: the file is open with O_APPEND, which would move writes to its end");
  }
  return {};
}

Result<uint64_t> checked_size(FdRef file) {
  Result<uint64_t> size = file_size(file);
  if (!size) return std::unexpected(std::move(size).error().with_context("disk"));
  if (*size == 0) {
    return fail({Code::kInvalidArgument, "DISK_SIZE"}, "disk: the file is empty (0 bytes)");
  }
  if (*size % kSectorSize != 0) {
    return fail({Code::kInvalidArgument, "DISK_SIZE"},
                "disk: the file's %llu bytes are not a multiple of %u",
                static_cast<unsigned long long>(*size), kSectorSize);
  }
  return *size;
}

}  // namespace

Result<std::unique_ptr<UringBackend>> UringBackend::create(Loop& loop, Fd file, Access access) {
  const uint64_t size = TRY(checked_size(file.ref()));
  TRY(check_flags(file.ref(), access));
  std::unique_ptr<UringBackend> backend(new UringBackend(loop, std::move(file), access, size));
  backend->id_ = TRY(loop.add_client(*backend));
  backend->slot_ = TRY(loop.add_file(backend->file_.ref()));
  return backend;
}

UringBackend::~UringBackend() {
  CHECK(idle());
  loop_.remove_client(id_);
  if (slot_.valid()) loop_.remove_file(slot_);
}

Result<> UringBackend::read(uint16_t request, std::span<iovec> buffers, uint64_t offset) {
  return start(request, {.kind = Kind::kRead, .rest = buffers, .offset = offset});
}

Result<> UringBackend::write(uint16_t request, std::span<iovec> buffers, uint64_t offset) {
  CHECK(access_ == Access::kReadWrite);
  return start(request, {.kind = Kind::kWrite, .rest = buffers, .offset = offset});
}

Result<> UringBackend::flush(uint16_t request) { return start(request, {.kind = Kind::kFlush}); }

Result<> UringBackend::start(uint16_t request, const Operation& operation) {
  CHECK(request < kMaxRequests && operations_[request].kind == Kind::kNone);
  operations_[request] = operation;
  Result<> submitted = submit(request);
  if (!submitted) {
    operations_[request] = {};
    return submitted;
  }
  ++in_flight_;
  return {};
}

Result<> UringBackend::submit(uint16_t request) {
  const Operation& operation = operations_[request];
  switch (operation.kind) {
    case Kind::kRead:
      return loop_.readv(id_, slot_, operation.rest, operation.offset, request);
    case Kind::kWrite:
      return loop_.writev(id_, slot_, operation.rest, operation.offset, request);
    case Kind::kFlush:
      return loop_.sync(id_, slot_, request);
    case Kind::kNone:
      break;
  }
  return fail({Code::kInternal, "DISK_REQUEST"}, "disk: request %u is not in use", request);
}

void UringBackend::on_completion(uint32_t op, int32_t result) {
  CHECK(op < kMaxRequests && operations_[op].kind != Kind::kNone);
  const auto request = static_cast<uint16_t>(op);
  Outcome outcome = Outcome::kFailed;
  if (advance(request, result, outcome)) return;
  operations_[request] = {};
  --in_flight_;
  client_->on_request_done(request, outcome);
}

bool UringBackend::advance(uint16_t request, int32_t result, Outcome& outcome) {
  Operation& operation = operations_[request];
  if (result == -EINTR || result == -EAGAIN) {
    if (operation.abandoned || ++operation.retries > kMaxRetries) return false;
    return submit(request).has_value();
  }
  if (result < 0) return false;
  if (operation.kind == Kind::kFlush) {
    outcome = Outcome::kDone;
    return false;
  }
  operation.rest = drop_front(operation.rest, static_cast<size_t>(result));
  if (operation.rest.empty()) {
    outcome = Outcome::kDone;
    return false;
  }
  // Nothing moved, so nothing will: the file ends here.
  if (result == 0 || operation.abandoned) return false;
  operation.offset += static_cast<uint64_t>(result);
  return submit(request).has_value();
}

void UringBackend::abandon() {
  for (Operation& operation : operations_) operation.abandoned = true;
}

}  // namespace mayfly::virtio::blk
