// SPDX-License-Identifier: Apache-2.0
#include "image/ext4_sys.h"

#include "image/directory_bytes.h"
#include "image/limits.h"
#include "image/spool.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

// Its header does not say that it is C.
extern "C" {
#include <et/com_err.h>
}
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::image {
namespace {

constexpr uint64_t kBlock = kDirectoryBlockBytes;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kMinBytes = 8 * kMiB;
constexpr uint64_t kMaxBytes = uint64_t{8} << 40;
constexpr uint32_t kSpareInodes = 4096;
constexpr uint32_t kMaxLinks = 65000;
constexpr size_t kFastTarget = 60;  // Shorter ones are in the inode.
constexpr ext2_ino_t kFirstInode = EXT2_GOOD_OLD_FIRST_INO;
constexpr size_t kPieceBlocks = 64;
constexpr int64_t kFirstSecond = INT32_MIN;
constexpr int64_t kLastSecond = 0x37fffffff;  // Two more bits than 32, counted from kFirstSecond.
// Any fixed time will do: what the superblock says of its own making.
constexpr time_t kMade = 1'700'000'000;

uint64_t blocks_of(uint64_t bytes) { return (bytes + kBlock - 1) / kBlock; }

std::unexpected<Error> ext2_error(errcode_t error, const char* what, uint64_t size_bytes) {
  switch (error) {
    case EXT2_ET_BLOCK_ALLOC_FAIL:
    case EXT2_ET_INODE_ALLOC_FAIL:
    case EXT2_ET_TOOSMALL:
      return fail({Code::kInvalidArgument, "IMAGE_SIZE_MIB"},
                  "size: %llu MiB is too small for the image's files",
                  static_cast<unsigned long long>(size_bytes / kMiB));
    case EXT2_ET_EA_NO_SPACE:
    case EXT2_ET_EA_BAD_NAME_LEN:
    case EXT2_ET_EA_BAD_VALUE_SIZE:
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "extended attributes of a file: above the limit of a block of %llu bytes",
                  static_cast<unsigned long long>(kBlock));
    case EXT2_ET_SHORT_WRITE:  // A part was written, and then there was no more room.
      return io_error(ENOSPC, what, "of the image");
    default:
      // Numbers below the library's own are the system's.
      if (error > 0 && error < 4096) return io_error(static_cast<int>(error), what, "of the image");
      return fail({Code::kInternal, "IMAGE_EXT4"}, "%s: %s", what, error_message(error));
  }
}

struct CloseFs {
  void operator()(ext2_filsys fs) const { ext2fs_free(fs); }
};

// What a file's blocks hold: fills `piece` with the bytes from `offset`.
using Fill = std::function<Result<>(uint64_t offset, std::span<std::byte> piece)>;

class Ext4Writer {
 public:
  Ext4Writer(const Tree& tree, FdRef spool, const Ext4Options& options)
      : tree_(tree), spool_(spool), options_(options), inode_of_(tree.node_count()) {}

  Result<Ext4Size> write(const std::string& path) {
    initialize_ext2_error_table();
    number_nodes();
    TRY(choose_size());
    TRY(make_file(path));
    if (const errcode_t error = initialize(path); error != 0) {
      return ext2_error(error, "make a file system", size_.size_bytes);
    }
    for (const NodeId id : order_) TRY(write_node(id));
    ext2_filsys fs = fs_.release();
    if (const errcode_t error = ext2fs_close_free(&fs); error != 0) {
      if (fs != nullptr) ext2fs_free(fs);
      return ext2_error(error, "write a file system", size_.size_bytes);
    }
    return size_;
  }

 private:
  // A number and a count of names for each node that has a name, the root first.
  void number_nodes() {
    order_ = {kRootNode};
    links_.assign(tree_.node_count(), 0);
    inode_of_[kRootNode] = EXT2_ROOT_INO;
    ext2_ino_t next = kFirstInode;
    for (size_t at = 0; at < order_.size(); ++at) {
      tree_.for_each_child(order_[at], [&](const std::string&, NodeId child) {
        ++links_[child];
        if (inode_of_[child] != 0) return;
        inode_of_[child] = next++;
        order_.push_back(child);
      });
    }
    last_inode_ = next - 1;
    size_.files = order_.size() - 1;
  }

  Result<> choose_size() {
    uint64_t blocks = 16;
    for (const NodeId id : order_) {
      const Attributes& node = tree_.attributes(id);
      // One more for what describes them, and for attributes; the inode's own place.
      blocks += node.xattrs.empty() && node.extents.empty() ? 0 : 1;
      for (const Extent& extent : node.extents) {
        blocks += blocks_of(extent.size) + 1;
        size_.content_bytes += extent.size;
      }
      if (node.type == NodeType::kSymlink) blocks += 1;
      if (node.type == NodeType::kDirectory) blocks += directory_blocks(id) + 1;
    }
    blocks += (last_inode_ + kSpareInodes) / (kBlock / 256) + 1;
    // Every file system has at least as many blocks as inodes here, so groups have room for them.
    blocks = std::max<uint64_t>(blocks, last_inode_ + kSpareInodes);
    const uint64_t wanted = options_.size_bytes != 0
                                ? options_.size_bytes
                                : blocks * kBlock + blocks * kBlock / 4 + 128 * kMiB;
    size_.size_bytes = (wanted + kMiB - 1) / kMiB * kMiB;
    if (size_.size_bytes < kMinBytes || size_.size_bytes > kMaxBytes) {
      return fail({Code::kInvalidArgument, "IMAGE_SIZE_MIB"},
                  "size: %llu MiB is not from %llu to %llu MiB",
                  static_cast<unsigned long long>(size_.size_bytes / kMiB),
                  static_cast<unsigned long long>(kMinBytes / kMiB),
                  static_cast<unsigned long long>(kMaxBytes / kMiB));
    }
    if (blocks * kBlock > size_.size_bytes) {
      return fail({Code::kInvalidArgument, "IMAGE_SIZE_MIB"},
                  "size: %llu MiB is too small for the image's files, which need about %llu MiB",
                  static_cast<unsigned long long>(size_.size_bytes / kMiB),
                  static_cast<unsigned long long>(blocks * kBlock / kMiB + 1));
    }
    return {};
  }

  // At most: each name may leave as much room behind it at the end of a block as it takes.
  uint64_t directory_blocks(NodeId id) const {
    uint64_t bytes = 0;
    tree_.for_each_child(id, [&](const std::string& name, NodeId) {
      bytes += DirectoryBytes::entry_size(name.size());
    });
    return bytes / (kBlock - DirectoryBytes::entry_size(kMaxNameBytes)) + 1;
  }

  // All holes: what is not written is zero, inode tables among it.
  Result<> make_file(const std::string& path) const {
    const Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file.valid()) return io_error(errno, "create", path);
    if (::ftruncate(file.number(), static_cast<off_t>(size_.size_bytes)) != 0) {
      return io_error(errno, "set the size of", path);
    }
    return {};
  }

  errcode_t initialize(const std::string& path) {
    ext2_super_block wanted = {};
    ext2fs_blocks_count_set(&wanted, size_.size_bytes / kBlock);
    wanted.s_rev_level = EXT2_DYNAMIC_REV;
    wanted.s_log_block_size = 2;
    wanted.s_log_cluster_size = 2;
    wanted.s_inode_size = 256;
    // A quarter of the blocks is what mke2fs gives, too.
    wanted.s_inodes_count = std::max<uint32_t>(
        last_inode_ + kSpareInodes, static_cast<uint32_t>(size_.size_bytes / kBlock / 4));
    ext2fs_set_feature_filetype(&wanted);
    ext2fs_set_feature_extents(&wanted);
    ext2fs_set_feature_sparse_super(&wanted);
    ext2fs_set_feature_large_file(&wanted);
    ext2fs_set_feature_huge_file(&wanted);
    ext2fs_set_feature_dir_nlink(&wanted);
    ext2fs_set_feature_extra_isize(&wanted);
    ext2fs_set_feature_xattr(&wanted);
    ext2fs_set_feature_dir_index(&wanted);
    ext2_filsys fs = nullptr;
    const errcode_t error = ext2fs_initialize(path.c_str(), EXT2_FLAG_EXCLUSIVE | EXT2_FLAG_64BITS,
                                              &wanted, unix_io_manager, &fs);
    if (error != 0) return error;
    fs_.reset(fs);
    fs->now = kMade;
    ext2_super_block& super = *fs->super;
    super.s_mkfs_time = kMade;
    super.s_lastcheck = kMade;
    super.s_max_mnt_count = -1;
    std::ranges::copy(options_.uuid, super.s_uuid);
    std::memcpy(super.s_hash_seed, super.s_uuid, sizeof(super.s_hash_seed));
    super.s_def_hash_version = EXT2_HASH_HALF_MD4;
    return reserve();
  }

  errcode_t reserve() {
    ext2_filsys const fs = fs_.get();
    if (const errcode_t error = ext2fs_allocate_tables(fs); error != 0) return error;
    for (ext2_ino_t inode = EXT2_BAD_INO; inode < kFirstInode; ++inode) {
      if (inode != EXT2_ROOT_INO) ext2fs_inode_alloc_stats2(fs, inode, +1, 0);
    }
    return ext2fs_update_bb_inode(fs, nullptr);
  }

  Result<> write_node(NodeId id) {
    const Attributes& node = tree_.attributes(id);
    ext2_inode_large inode = {};
    fill_inode(node, inode);
    inode.i_links_count = static_cast<uint16_t>(std::min(links_[id], kMaxLinks));
    if (links_[id] > kMaxLinks && node.type != NodeType::kDirectory) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "hard links to one file: %u is above the limit of %u", links_[id], kMaxLinks);
    }
    switch (node.type) {
      case NodeType::kDirectory:
        return write_directory(id, inode);
      case NodeType::kFile:
        return write_file(id, inode);
      case NodeType::kSymlink:
        return write_symlink(id, inode);
      case NodeType::kCharDevice:
      case NodeType::kBlockDevice:
        if (node.major < 256 && node.minor < 256) {
          inode.i_block[0] = node.major << 8 | node.minor;
        } else {
          inode.i_block[1] = (node.minor & 0xff) | node.major << 8 | (node.minor & ~0xffU) << 12;
        }
        break;
      case NodeType::kFifo:
        break;
    }
    return write_inode(id, inode, false);
  }

  static void fill_inode(const Attributes& node, ext2_inode_large& inode) {
    uint16_t kind = LINUX_S_IFREG;
    if (node.type == NodeType::kDirectory) kind = LINUX_S_IFDIR;
    if (node.type == NodeType::kSymlink) kind = LINUX_S_IFLNK;
    if (node.type == NodeType::kCharDevice) kind = LINUX_S_IFCHR;
    if (node.type == NodeType::kBlockDevice) kind = LINUX_S_IFBLK;
    if (node.type == NodeType::kFifo) kind = LINUX_S_IFIFO;
    inode.i_mode = kind | node.mode;
    inode.i_uid = static_cast<uint16_t>(node.uid);
    inode.i_uid_high = static_cast<uint16_t>(node.uid >> 16);
    inode.i_gid = static_cast<uint16_t>(node.gid);
    inode.i_gid_high = static_cast<uint16_t>(node.gid >> 16);
    inode.i_extra_isize = sizeof(ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE;
    const int64_t seconds = std::clamp(node.mtime_s, kFirstSecond, kLastSecond);
    const auto low = static_cast<uint32_t>(seconds);
    const auto epoch = static_cast<uint32_t>((seconds - static_cast<int32_t>(low)) >> 32 & 3);
    const uint32_t extra = epoch | node.mtime_ns << 2;
    inode.i_mtime = inode.i_ctime = inode.i_atime = inode.i_crtime = low;
    inode.i_mtime_extra = inode.i_ctime_extra = inode.i_atime_extra = inode.i_crtime_extra = extra;
  }

  Result<> write_file(NodeId id, ext2_inode_large& inode) {
    const Attributes& node = tree_.attributes(id);
    TRY(begin_content(id, inode));
    // Extents that share a block are one run of blocks.
    size_t at = 0;
    const auto fill = [&](uint64_t offset, std::span<std::byte> piece) -> Result<> {
      std::ranges::fill(piece, std::byte{});
      while (node.extents[at].offset + node.extents[at].size <= offset) ++at;
      for (size_t i = at; i < node.extents.size() && node.extents[i].offset < offset + piece.size();
           ++i) {
        const Extent& extent = node.extents[i];
        const uint64_t from = std::max(extent.offset, offset);
        const uint64_t to = std::min(extent.offset + extent.size, offset + piece.size());
        TRY(pread_exact(spool_, piece.subspan(from - offset, to - from),
                        extent.spool_offset + (from - extent.offset)));
      }
      return {};
    };
    for (size_t i = 0; i < node.extents.size();) {
      const uint64_t first = node.extents[i].offset / kBlock;
      uint64_t end = blocks_of(node.extents[i].offset + node.extents[i].size);
      for (++i; i < node.extents.size() && node.extents[i].offset / kBlock <= end; ++i) {
        end = blocks_of(node.extents[i].offset + node.extents[i].size);
      }
      TRY(write_blocks(id, inode, first, end, fill));
    }
    return end_content(id, inode, node.size);
  }

  Result<> write_symlink(NodeId id, ext2_inode_large& inode) {
    const std::string& target = tree_.attributes(id).target;
    if (target.size() < kFastTarget) {
      std::memcpy(inode.i_block, target.data(), target.size());
      inode.i_size = static_cast<uint32_t>(target.size());
      return write_inode(id, inode, false);
    }
    return write_bytes(id, inode, target);
  }

  static uint8_t entry_type(NodeType type) {
    switch (type) {
      case NodeType::kDirectory:
        return EXT2_FT_DIR;
      case NodeType::kFile:
        return EXT2_FT_REG_FILE;
      case NodeType::kSymlink:
        return EXT2_FT_SYMLINK;
      case NodeType::kCharDevice:
        return EXT2_FT_CHRDEV;
      case NodeType::kBlockDevice:
        return EXT2_FT_BLKDEV;
      case NodeType::kFifo:
        return EXT2_FT_FIFO;
    }
    return EXT2_FT_UNKNOWN;
  }

  Result<> write_directory(NodeId id, ext2_inode_large& inode) {
    DirectoryBytes bytes;
    bytes.add(".", inode_of_[id], EXT2_FT_DIR);
    bytes.add("..", inode_of_[tree_.parent(id)], EXT2_FT_DIR);
    uint32_t links = 2;
    tree_.for_each_child(id, [&](const std::string& name, NodeId child) {
      const NodeType type = tree_.attributes(child).type;
      if (type == NodeType::kDirectory) ++links;
      bytes.add(name, inode_of_[child], entry_type(type));
    });
    inode.i_links_count = static_cast<uint16_t>(links > kMaxLinks ? 1 : links);
    return write_bytes(id, inode, bytes.finish());
  }

  Result<> write_bytes(NodeId id, ext2_inode_large& inode, const std::string& bytes) {
    TRY(begin_content(id, inode));
    const auto fill = [&](uint64_t offset, std::span<std::byte> piece) -> Result<> {
      std::ranges::fill(piece, std::byte{});
      std::memcpy(piece.data(), bytes.data() + offset,
                  std::min(piece.size(), bytes.size() - offset));
      return {};
    };
    TRY(write_blocks(id, inode, 0, blocks_of(bytes.size()), fill));
    return end_content(id, inode, bytes.size());
  }

  // SAFETY: libext2fs takes an inode of any size as the smallest, which every larger one
  // begins with, and is told the size where it matters.
  static ext2_inode* small(ext2_inode_large& inode) {
    return reinterpret_cast<ext2_inode*>(&inode);
  }

  Result<> begin_content(NodeId id, ext2_inode_large& inode) {
    inode.i_flags |= EXT4_EXTENTS_FL;
    // Opening makes the header of an empty tree of extents in the inode.
    ext2_extent_handle_t handle = nullptr;
    errcode_t error = ext2fs_extent_open2(fs_.get(), inode_of_[id], small(inode), &handle);
    ext2fs_extent_free(handle);
    if (error == 0) {
      error = ext2fs_write_inode_full(fs_.get(), inode_of_[id], small(inode), sizeof(inode));
    }
    if (error != 0) return ext2_error(error, "begin a file", size_.size_bytes);
    return {};
  }

  // Blocks `first` up to `end` of a file: finds room and fills it.
  Result<> write_blocks(NodeId id, ext2_inode_large& inode, uint64_t first, uint64_t end,
                        const Fill& fill) {
    ext2_filsys const fs = fs_.get();
    errcode_t error = ext2fs_fallocate(fs, EXT2_FALLOCATE_FORCE_INIT, inode_of_[id], small(inode),
                                       goal_, first, end - first);
    std::vector<std::byte> piece;
    for (uint64_t block = first; error == 0 && block < end;) {
      blk64_t start = 0;
      uint64_t count = 0;
      while (error == 0 && block + count < end && count < kPieceBlocks) {
        blk64_t place = 0;
        error = ext2fs_bmap2(fs, inode_of_[id], small(inode), nullptr, 0, block + count, nullptr,
                             &place);
        if (count == 0) start = place;
        if (place != start + count) break;
        ++count;
      }
      if (error != 0) break;
      piece.resize(count * kBlock);
      TRY(fill(block * kBlock, piece));
      error = io_channel_write_blk64(fs->io, start, static_cast<int>(count), piece.data());
      block += count;
      goal_ = start + count;
    }
    if (error != 0) return ext2_error(error, "write a file", size_.size_bytes);
    return {};
  }

  Result<> end_content(NodeId id, ext2_inode_large& inode, uint64_t size) {
    const errcode_t error =
        ext2fs_inode_size_set(fs_.get(), small(inode), static_cast<ext2_off64_t>(size));
    if (error != 0) return ext2_error(error, "size a file", size_.size_bytes);
    return write_inode(id, inode, tree_.attributes(id).type == NodeType::kDirectory);
  }

  Result<> write_inode(NodeId id, ext2_inode_large& inode, bool directory) {
    ext2_filsys const fs = fs_.get();
    const ext2_ino_t number = inode_of_[id];
    errcode_t error = ext2fs_write_inode_full(fs, number, small(inode), sizeof(inode));
    if (error != 0) return ext2_error(error, "write an inode", size_.size_bytes);
    ext2fs_inode_alloc_stats2(fs, number, +1, directory ? 1 : 0);
    const auto& attributes = tree_.attributes(id).xattrs;
    if (attributes.empty()) return {};
    ext2_xattr_handle* handle = nullptr;
    error = ext2fs_xattrs_open(fs, number, &handle);
    for (auto it = attributes.begin(); error == 0 && it != attributes.end(); ++it) {
      error = ext2fs_xattr_set(handle, it->first.c_str(), it->second.data(), it->second.size());
    }
    if (handle != nullptr) {
      const errcode_t closed = ext2fs_xattrs_close(&handle);
      if (error == 0) error = closed;
    }
    if (error != 0) return ext2_error(error, "write attributes", size_.size_bytes);
    return {};
  }

  const Tree& tree_;
  const FdRef spool_;
  const Ext4Options& options_;
  std::vector<ext2_ino_t> inode_of_;
  std::vector<uint32_t> links_;
  std::vector<NodeId> order_;
  ext2_ino_t last_inode_ = 0;
  // Where the last blocks went: files lie one after the other.
  blk64_t goal_ = 0;
  Ext4Size size_;
  std::unique_ptr<struct_ext2_filsys, CloseFs> fs_;
};

}  // namespace

Result<Ext4Size> write_ext4(const std::string& path, const Tree& tree, FdRef spool,
                            const Ext4Options& options) {
  return Ext4Writer(tree, spool, options).write(path);
}

}  // namespace mayfly::image
