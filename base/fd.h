// SPDX-License-Identifier: Apache-2.0
//
// File descriptors by ownership. Fd owns and closes; FdRef borrows and is the parameter type.
// Neither is thread-safe. Every descriptor made here is close-on-exec.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace mayfly {

/// A borrowed descriptor; its owner outlives it.
class FdRef {
 public:
  constexpr FdRef() = default;
  constexpr explicit FdRef(int number) : number_(number) {}

  constexpr int number() const { return number_; }
  constexpr bool valid() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

/// An owned descriptor, closed with its owner.
class Fd {
 public:
  Fd() = default;
  /// Takes ownership.
  explicit Fd(int number) : number_(number) {}
  ~Fd() { reset(); }
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;

  bool valid() const { return number_ >= 0; }
  FdRef ref() const { return FdRef(number_); }
  int number() const { return number_; }
  /// Gives ownership away.
  int release() { return std::exchange(number_, -1); }
  void reset();

  /// A non-blocking eventfd with count 0.
  static Result<Fd> event();
  /// A sealable memfd of `size_bytes`; `name` shows in /proc.
  static Result<Fd> memfd(const char* name, uint64_t size_bytes);
  static Result<Fd> open(const char* path, int flags, unsigned mode = 0);
  static Result<Fd> duplicate(FdRef fd);
  static Result<std::pair<Fd, Fd>> pipe();
  /// Two connected Unix sockets of `type` (SOCK_STREAM, SOCK_SEQPACKET; may carry SOCK_NONBLOCK).
  static Result<std::pair<Fd, Fd>> socket_pair(int type);

 private:
  int number_ = -1;
};

/// Adds one to an eventfd. A full counter is already a pending wake-up, so it is not an error.
void signal_event(FdRef event);

/// Empties an eventfd.
void clear_event(FdRef event);

Result<> set_nonblocking(FdRef fd, bool on);

/// Reads exactly `out.size()` bytes at `offset`; a short file is kOutOfRange.
Result<> pread_exact(FdRef fd, std::span<std::byte> out, uint64_t offset);

/// Writes all of `bytes`, through short writes and EINTR. For blocking descriptors.
Result<> write_all(FdRef fd, std::span<const std::byte> bytes);

/// The size of a regular file or block device in bytes.
Result<uint64_t> file_size(FdRef fd);

}  // namespace mayfly
