// SPDX-License-Identifier: Apache-2.0
//
// Files of a snapshot's directory, which anybody may have prepared: names are never paths, nothing
// is followed, nothing but regular files is read.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace mayfly::snapshot {

/// A directory entry's descriptor: kNotFound where there is none, kDataLoss where it is no
/// directory.
Result<Fd> open_directory_at(FdRef directory, const char* name);

/// A regular file of exactly `size_bytes`, for reading: kDataLoss PART_MISSING, PART_UNEXPECTED
/// (a link, a pipe, ...) or PART_SIZE.
Result<Fd> open_part_at(FdRef directory, const char* name, uint64_t size_bytes);

/// All of a regular file of at most `max_bytes`.
Result<std::vector<std::byte>> read_part_at(FdRef directory, const char* name, uint64_t max_bytes);

/// The entries, in no order; an error where there are more than `max`.
Result<std::vector<std::string>> list_names(FdRef directory, size_t max);

/// Creates an empty regular file, mode 0600; it must not exist.
Result<Fd> create_file_at(FdRef directory, const char* name);

/// Marks what is being made, in a name.
inline constexpr char kTemporaryMark[] = ".tmp-";
/// `name`, the mark, and 64 random bits: two that meet are a creation that fails.
Result<std::string> temporary_name(const std::string& name);

/// All of `bytes` at `offset`. A full disk is kResourceExhausted NO_SPACE.
Result<> write_at(FdRef file, std::span<const std::byte> bytes, uint64_t offset);

/// To the disk; also a directory's entries.
Result<> sync_file(FdRef file, const char* name);

/// Removes the directory `name` and the files in it. Directories in it are not ours: then it stays.
Result<> remove_directory_at(FdRef parent, const char* name);

}  // namespace mayfly::snapshot
