// SPDX-License-Identifier: Apache-2.0
#include "snapshot/chain.h"

#include "snapshot/state_codec.h"

#include <utility>

namespace mayfly::snapshot {
namespace {

std::unexpected<Error> mismatch(const Parent& parent, const char* what) {
  return fail({Code::kDataLoss, "PARENT_MISMATCH"}, "parent %s: %s", parent.id.c_str(), what);
}

Result<Snapshot> open_parent(FdRef store, const Snapshot& child) {
  const Parent& parent = *child.manifest().parent;
  auto snapshot = Snapshot::open(store, parent.id);
  if (!snapshot && snapshot.error().code() == Code::kNotFound) {
    return fail({Code::kNotFound, "PARENT_NOT_FOUND"}, "snapshot %s: its parent %s is not there",
                child.manifest().id.c_str(), parent.id.c_str());
  }
  if (!snapshot) return std::unexpected(std::move(snapshot).error().with_context(parent.id));
  if (!snapshot->index()) return mismatch(parent, "has no memory");
  // The digest is that of the content, down to the full snapshot: it also rules out a circle.
  if (snapshot->index()->digest != parent.memory_digest) {
    return mismatch(parent, "has another memory than the diff was made over");
  }
  if (snapshot->manifest().machine.memory_bytes != child.manifest().machine.memory_bytes) {
    return mismatch(parent, "has another memory_bytes");
  }
  return snapshot;
}

// A memory whose reader may be told to stop.
class AskedMemory final : public RamSource {
 public:
  AskedMemory(LayeredMemory& memory, const GoOn& go_on) : memory_(memory), go_on_(go_on) {}
  Result<> read(uint64_t offset, std::span<std::byte> out) override {
    if (go_on_) TRY(go_on_());
    return memory_.read(offset, out);
  }
  Result<uint64_t> next_data(uint64_t offset) override { return memory_.next_data(offset); }

 private:
  LayeredMemory& memory_;
  const GoOn& go_on_;
};

// What is on a disk is the newest's alone.
Result<> copy_disks(const Merge& what, SnapshotWriter& writer) {
  const Snapshot& newest = what.chain.newest();
  const std::vector<DiskInfo>& disks = newest.manifest().machine.disks;
  for (size_t place = 0; place < disks.size(); ++place) {
    if (!disks[place].captured) continue;
    const FdRef file = TRY(writer.create_disk(place));
    TRY(copy_disk(newest.disk(place), file, disks[place].size_bytes, what.go_on));
  }
  TRY(writer.settle_disks(what.go_on));
  for (size_t place = 0; place < disks.size(); ++place) {
    const std::string name = disk_name(place);
    if (!disks[place].captured) continue;
    if (writer.disk_digest(place) == newest.manifest().find(name)->digest) continue;
    return fail({Code::kDataLoss, "DISK_DAMAGED"}, "%s: not as it was written", name.c_str());
  }
  return {};
}

}  // namespace

Result<Chain> Chain::open(FdRef store, const std::string& name) {
  Chain chain;
  chain.snapshots_.push_back(TRY(Snapshot::open(store, name)));
  while (chain.snapshots_.back().manifest().parent) {
    if (chain.snapshots_.size() == kMaxChainLength) {
      return fail({Code::kFailedPrecondition, "CHAIN_LENGTH"},
                  "snapshot %s: more than %zu snapshots in its chain; merge some", name.c_str(),
                  kMaxChainLength);
    }
    chain.snapshots_.push_back(TRY(open_parent(store, chain.snapshots_.back())));
  }
  return chain;
}

std::vector<MemoryLayer> Chain::layers() const {
  std::vector<MemoryLayer> layers;
  for (size_t i = snapshots_.size(); i > 0; --i) layers.push_back(snapshots_[i - 1].layer());
  return layers;
}

LayeredMemory Chain::memory(size_t count) const {
  CHECK(count > 0 && count <= snapshots_.size());
  std::vector<MemoryLayer> layers;
  for (size_t i = count; i > 0; --i) layers.push_back(snapshots_[i - 1].layer());
  return LayeredMemory(std::move(layers));
}

Result<> Chain::verify_memory() const {
  for (const Snapshot& snapshot : snapshots_) {
    if (Result<> whole = snapshot.verify_memory(); !whole) {
      return std::unexpected(std::move(whole).error().with_context(snapshot.manifest().id));
    }
  }
  return {};
}

Result<> Chain::verify_disks(const GoOn& go_on) const {
  for (const Snapshot& snapshot : snapshots_) {
    if (Result<> whole = snapshot.verify_disks(go_on); !whole) {
      return std::unexpected(std::move(whole).error().with_context(snapshot.manifest().id));
    }
  }
  return {};
}

Result<> merge(const Merge& what, SnapshotWriter& writer) {
  const auto& snapshots = what.chain.snapshots();
  if (what.count < 2 || what.count > snapshots.size()) {
    return fail({Code::kInvalidArgument, "MERGE_COUNT"}, "count: %zu is not in 2 to %zu",
                what.count, snapshots.size());
  }
  // What the lowest of them stands on, the new one stands on.
  const Manifest& lowest = snapshots[what.count - 1].manifest();
  Manifest manifest = what.chain.newest().manifest();
  manifest.id = what.id;
  manifest.kind = lowest.kind;
  manifest.parent = lowest.parent;
  manifest.created_ns = what.created_ns;

  LayeredMemory memory = what.chain.memory(what.count);
  const std::vector<uint64_t> known = memory.known_pages();
  AskedMemory asked(memory, what.go_on);
  const bool compressed = what.chain.newest().is_compressed();
  const char* name = compressed ? kCompressedMemoryName : kMemoryName;
  const WrittenMemory written =
      TRY(write_memory({.file = TRY(writer.create_part(name)),
                        .ram = asked,
                        .memory_bytes = memory.size(),
                        .parent_digest = lowest.parent ? lowest.parent->memory_digest : Digest{},
                        .dirty = known,
                        .is_compressed = compressed}));
  TRY(writer.write_part(kMemoryIndexName, TRY(encode_index(written.index))));
  TRY(writer.write_part(kStateName, encode_state(what.chain.newest().state())));
  if (const auto& set = what.chain.newest().working_set()) {
    TRY(writer.write_part(kWorkingSetName, encode_working_set(*set)));
  }
  TRY(copy_disks(what, writer));
  return writer.commit(std::move(manifest), what.last_word);
}

}  // namespace mayfly::snapshot
