// SPDX-License-Identifier: Apache-2.0
// The parts of a snapshot from anybody who may write its directory. The first byte chooses the
// part, and whether the rest is the file or a payload, which is then sealed as of version 1 or 2:
// behind the digest is where a damaged file never comes, and a forged one does.
#include "snapshot/manifest.h"
#include "snapshot/memory_index.h"
#include "snapshot/state_codec.h"
#include "snapshot/working_set.h"

#include <cstdint>
#include <cstdlib>
#include <span>

namespace {

using namespace mayfly;
using namespace mayfly::snapshot;

constexpr uint64_t kMemoryBytes = uint64_t{5} << 20;

std::span<const std::byte> bytes_of(const Sealed& sealed) {
  return std::as_bytes(std::span(sealed.bytes));
}

// What was read is written, read again, and the same.
template <typename Value>
void check_stable(const Sealed& first, const Result<Value>& again, auto encode) {
  if (!again || encode(*again).bytes != first.bytes) std::abort();
}

void read_part(PartKind part, std::span<const std::byte> file) {
  switch (part) {
    case PartKind::kManifest:
      if (const auto manifest = decode_manifest(file)) {
        const Sealed written = encode_manifest(*manifest);
        check_stable(written, decode_manifest(bytes_of(written)), encode_manifest);
      }
      break;
    case PartKind::kState:
      if (const auto state = decode_state(file)) {
        const Sealed written = encode_state(*state);
        check_stable(written, decode_state(bytes_of(written)), encode_state);
      }
      break;
    case PartKind::kMemoryIndex:
      if (const auto read = decode_index(file, kMemoryBytes)) {
        const Sealed written = *encode_index(read->index);
        check_stable(written, decode_index(bytes_of(written), kMemoryBytes),
                     [](const ReadIndex& again) { return *encode_index(again.index); });
      }
      break;
    case PartKind::kWorkingSet:
      if (const auto set = decode_working_set(file, kMemoryBytes)) {
        const Sealed written = encode_working_set(*set);
        check_stable(written, decode_working_set(bytes_of(written), kMemoryBytes),
                     encode_working_set);
      }
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto part = static_cast<PartKind>(1 + (data[0] & 3));
  const auto rest = std::as_bytes(std::span(data, size)).subspan(1);
  if ((data[0] & 4) != 0) {
    read_part(part, rest);
  } else {
    const uint16_t major = (data[0] & 8) != 0 ? kFormatMajor2 : kFormatMajor;
    read_part(part, bytes_of(seal(part, rest, major)));
  }
  return 0;
}
