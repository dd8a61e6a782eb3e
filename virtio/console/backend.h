// SPDX-License-Identifier: Apache-2.0
//
// Where a console's output goes and its input comes from. Threads: the loop thread under the device
// lock.
#pragma once

#include <cstddef>
#include <span>

namespace mayfly::virtio::console {

class ConsoleSink {
 public:
  virtual ~ConsoleSink() = default;

  /// Takes all of `bytes`, without blocking: a sink that is full forgets the oldest.
  virtual void append(std::span<const std::byte> bytes) = 0;
};

/// The device, as its input sees it.
class InputClient {
 public:
  /// There may be something to read. Not called from inside read().
  virtual void on_input() = 0;

 protected:
  ~InputClient() = default;
};

class ConsoleInput {
 public:
  virtual ~ConsoleInput() = default;

  /// Once, before anything else. `client` outlives the input.
  virtual void attach(InputClient& client) = 0;

  /// As many bytes as there are now, at most `out.size()`; 0: none now (on_input() tells when), or
  /// none ever again.
  virtual size_t read(std::span<std::byte> out) = 0;
};

}  // namespace mayfly::virtio::console
