// SPDX-License-Identifier: Apache-2.0
//
// The parts `disk.N`: what was on a disk, byte for byte, as a sparse file that is as long as the
// disk. A copy shares the blocks of what it was made from where both are on one file system that
// can (FICLONE: xfs, btrfs); elsewhere its data is copied and its holes stay holes.
//
// Used by the daemon. Nobody writes `from` meanwhile; blocks on the disk. A full disk is
// kResourceExhausted NO_SPACE.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/digest.h"

#include <cstdint>
#include <functional>

namespace mayfly::snapshot {

/// The pieces of which a disk's digest is made.
inline constexpr uint64_t kDiskPieceBytes = 64 << 10;

/// Asked now and then, at least every 8 MiB; its error ends the work.
using GoOn = std::function<Result<>()>;

enum class CopyWay : uint8_t {
  kShared,  ///< no byte was copied
  kCopied,
};

/// The fast half of copy_disk(): false where the two files cannot share blocks, and `to` is as it
/// was. What is dirty of `from` is written out meanwhile.
Result<bool> share_disk(FdRef from, FdRef to, uint64_t size_bytes);

/// Makes `to`, whatever is in it, the same as the first `size_bytes` of `from`, a file or a block
/// device. FAILED_PRECONDITION DISK_MISMATCH where `from` is shorter. Not synced.
Result<CopyWay> copy_disk(FdRef from, FdRef to, uint64_t size_bytes, const GoOn& go_on);

/// Pieces that are not zero, in order: of each its number (8 bytes) and its bytes. So it is the
/// same whether zeroes are stored or holes.
Result<Digest> digest_disk(FdRef file, const GoOn& go_on);

/// The same, and what is stored of pieces that are zero becomes holes.
Result<Digest> settle_disk(FdRef file, const GoOn& go_on);

/// A file without a name in `directory`, which goes with its last descriptor. Where the file system
/// makes no such (O_TMPFILE) it is the next.
Result<Fd> nameless_file_in(FdRef directory);
/// Has a temporary name of this for a moment: who is killed in it leaves an empty file for sweep().
inline constexpr char kDiskFile[] = ".disk";
Result<Fd> named_and_unlinked_in(FdRef directory);

}  // namespace mayfly::snapshot
