// SPDX-License-Identifier: Apache-2.0
#include "snapshot/testing/sample.h"

#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/state_codec.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include <fcntl.h>

namespace mayfly::snapshot::testing {
namespace {

// Bytes that differ from field to field.
template <typename T>
void fill(T& value, uint8_t seed) {
  for (std::byte& byte : std::as_writable_bytes(std::span<T, 1>(&value, 1))) {
    byte = std::byte{seed};
    seed = static_cast<uint8_t>(seed * 5 + 13);
  }
}

kvm_cpuid_entry2 cpuid_entry(uint32_t function, const std::array<uint32_t, 4>& registers) {
  kvm_cpuid_entry2 entry = {};
  entry.function = function;
  entry.eax = registers[0];
  entry.ebx = registers[1];
  entry.ecx = registers[2];
  entry.edx = registers[3];
  return entry;
}

Vcpu sample_vcpu(uint8_t number) {
  Vcpu vcpu;
  fill(vcpu.state.regs, number);
  fill(vcpu.state.sregs, static_cast<uint8_t>(number + 1));
  fill(vcpu.state.debug_regs, static_cast<uint8_t>(number + 2));
  fill(vcpu.state.xcrs, static_cast<uint8_t>(number + 3));
  fill(vcpu.state.lapic, static_cast<uint8_t>(number + 4));
  fill(vcpu.state.events, static_cast<uint8_t>(number + 5));
  fill(vcpu.state.xsave, static_cast<uint8_t>(number + 6));
  vcpu.state.mp_state.mp_state = number;
  vcpu.state.msrs.count = 3;
  vcpu.state.msrs.entries[0] = {.index = 0x10, .reserved = 0, .data = 0x1234'5678'9abc};
  vcpu.state.msrs.entries[1] = {.index = 0xc000'0080, .reserved = 0, .data = 0xd01};
  vcpu.state.msrs.entries[2] = {.index = 0x6e0, .reserved = 0, .data = ~uint64_t{0}};
  vcpu.cpuid.count = 3;
  vcpu.cpuid.entries[0] = cpuid_entry(0, {0xd, 0x756e'6547, 0x6c65'746e, 0x4965'6e69});
  vcpu.cpuid.entries[1] =
      cpuid_entry(1, {0x806f8, uint32_t{number} << 24, 1u << 28 | 1u << 20, 1u << 25});
  vcpu.cpuid.entries[2] = cpuid_entry(7, {0, 1u << 5, 0, 0});
  vcpu.cpuid.entries[2].flags = 1;
  return vcpu;
}

virtio::MmioState sample_transport(uint32_t type, uint32_t queues) {
  virtio::MmioState transport{.device_type = type,
                              .status = 15,
                              .driver_features = uint64_t{1} << 32 | 1u << 29,
                              .device_features_sel = 1,
                              .driver_features_sel = 1,
                              .queue_sel = queues - 1,
                              .interrupt_status = 1,
                              .config_generation = type + 7,
                              .queues = {}};
  for (uint32_t i = 0; i < queues; ++i) {
    transport.queues.push_back({.size = 256,
                                .ready = i % 2 == 0,
                                .descriptors = Gpa{0x10'0000 + i * 0x4000},
                                .driver_area = Gpa{0x10'1000 + i * 0x4000},
                                .device_area = Gpa{0x10'2000 + i * 0x4000},
                                .next_avail = static_cast<uint16_t>(65'000 + i),
                                .next_used = static_cast<uint16_t>(64'999 + i)});
  }
  return transport;
}

}  // namespace

TempDirectory::TempDirectory() {
  const char* base = std::getenv("TEST_TMPDIR");
  path_ = std::string(base != nullptr ? base : "/tmp") + "/snapshot-XXXXXX";
  CHECK(::mkdtemp(path_.data()) != nullptr);
  directory_ = MUST(Fd::open(path_.c_str(), O_RDONLY | O_DIRECTORY));  // it was just made
}

TempDirectory::~TempDirectory() { std::filesystem::remove_all(path_); }

MachineState sample_state() {
  MachineState state;
  state.vcpus = {sample_vcpu(0), sample_vcpu(1)};
  state.ioapic.select = 0x12;
  state.ioapic.id = 0x0100'0000;
  std::iota(state.ioapic.redirection.begin(), state.ioapic.redirection.end(), uint64_t{1} << 40);
  state.ioapic.pending[5] = true;
  state.ioapic.pending[23] = true;
  virtio::blk::State blk{.capacity_sectors = 8192, .read_only = true, .serial = {}};
  std::ranges::copy(std::string("serial-0"), blk.serial.begin());
  state.devices = {
      {sample_transport(3, 2), virtio::console::State{.columns = 80, .rows = 25}},
      {sample_transport(4, 1), virtio::rng::State{}},
      {sample_transport(19, 3), virtio::vsock::State{.guest_cid = 42, .next_host_port = 1048}},
      {sample_transport(2, 1), blk},
  };
  state.clock = {.clock_ns = 123'456'789'012,
                 .realtime_ns = 1'700'000'000'000'000'000,
                 .host_tsc = 0xfeed'beef'cafe,
                 .flags = 14};
  return state;
}

Manifest sample_manifest(const std::string& id) {
  Manifest manifest;
  manifest.id = id;
  manifest.kind = Kind::kFull;
  manifest.created_ns = 1'700'000'000'123'456'789;
  manifest.machine = {.vcpu_count = 2,
                      .memory_bytes = kSampleBytes,
                      .command_line = "console=hvc0 root=/dev/vda ro",
                      .disks = {{.size_bytes = 4 << 20, .read_only = true, .serial = "serial-0"}},
                      .guest_cid = 42,
                      .has_rng = true,
                      .has_agent = true};
  manifest.host.cpu_vendor = "GenuineIntel";
  manifest.host.cpu_family = 6;
  manifest.host.cpu_model = 143;
  manifest.host.cpu_stepping = 8;
  manifest.host.cpuid = sample_vcpu(0).cpuid;
  manifest.host.msrs = {0x10, 0xc000'0080, 0x6e0};
  manifest.host.xsave_features = 7;
  manifest.host.page_bytes = kPageBytes;
  manifest.host.tsc_khz = 2'000'000;
  manifest.host.kvm_clock = true;
  return manifest;
}

HostDescription sample_host() {
  const HostRequirements needed = sample_manifest("any").host;
  return {.cpu_vendor = needed.cpu_vendor,
          .cpuid = needed.cpuid,
          .msrs = needed.msrs,
          .xsave_features = needed.xsave_features,
          .page_bytes = needed.page_bytes,
          .tsc_khz = needed.tsc_khz,
          .can_scale_tsc = false,
          .kvm_clock = true};
}

WorkingSet sample_working_set() {
  return {.memory_bytes = kSampleBytes,
          .runs = {{.first_page = 700, .pages = 20, .dirtied = true},
                   {.first_page = 0, .pages = 3, .dirtied = false},
                   {.first_page = 3, .pages = 1, .dirtied = true}}};
}

void fill_page(FdRef ram, uint64_t page, uint8_t seed) {
  std::vector<std::byte> bytes(kPageBytes);
  uint32_t value = seed;
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(value >> 16);
    value = seed == 0 ? 0 : value * 1'103'515'245 + 12'345;
  }
  CHECK(write_at(ram, bytes, page * kPageBytes).has_value());
}

Fd sample_ram() {
  Fd ram = MUST(Fd::memfd("sample", kSampleBytes));  // small
  constexpr uint64_t kPages[] = {0, 1, 2, 100, 511, 512, 700, kSamplePages - 1};
  uint8_t seed = 1;
  for (const uint64_t page : kPages) fill_page(ram.ref(), page, seed++);
  fill_page(ram.ref(), 50, 0);  // touched, and zero
  return ram;
}

Fd sample_disk() {
  Fd disk = MUST(Fd::memfd("disk", kSampleDiskBytes));  // small
  const std::vector<std::byte> zeroes(kDiskPieceBytes);
  CHECK(write_at(disk.ref(), zeroes, kDiskPieceBytes).has_value());
  fill_page(disk.ref(), 0, 21);
  fill_page(disk.ref(), 3 * kDiskPieceBytes / kPageBytes + 5, 22);
  const std::vector<std::byte> sector(kSectorBytes, std::byte{0x5a});
  CHECK(write_at(disk.ref(), sector, kSampleDiskBytes - kSectorBytes).has_value());
  return disk;
}

std::vector<std::byte> content_of(FdRef ram) {
  std::vector<std::byte> bytes(MUST(file_size(ram)));  // a memfd
  CHECK(pread_exact(ram, bytes, 0).has_value());
  return bytes;
}

std::vector<uint64_t> bitmap_of(const std::vector<uint64_t>& pages) {
  std::vector<uint64_t> bitmap((kSamplePages + 63) / 64);
  for (const uint64_t page : pages) bitmap[page / 64] |= uint64_t{1} << (page % 64);
  return bitmap;
}

Result<> write_sample(SnapshotWriter& writer, const Recipe& recipe) {
  Manifest manifest = sample_manifest(recipe.id);
  manifest.kind = recipe.parent ? Kind::kDiff : Kind::kFull;
  manifest.parent = recipe.parent;
  MemfdRam ram(recipe.ram, kSampleBytes);
  const std::vector<uint64_t> dirty = bitmap_of(recipe.dirty);
  const WrittenMemory written = TRY(write_memory(
      {.file = TRY(writer.create_part(recipe.is_compressed ? kCompressedMemoryName : kMemoryName)),
       .ram = ram,
       .memory_bytes = kSampleBytes,
       .parent_digest = recipe.parent ? recipe.parent->memory_digest : Digest{},
       .dirty = dirty,
       .is_compressed = recipe.is_compressed}));
  TRY(writer.write_part(kMemoryIndexName, TRY(encode_index(written.index))));
  TRY(writer.write_part(kStateName, encode_state(sample_state())));
  if (recipe.with_working_set) {
    TRY(writer.write_part(kWorkingSetName, encode_working_set(sample_working_set())));
  }
  if (recipe.disk.valid()) {
    manifest.machine.disks.push_back(
        {.size_bytes = kSampleDiskBytes, .read_only = false, .serial = {}, .captured = true});
    TRY(copy_disk(recipe.disk, TRY(writer.create_disk(1)), kSampleDiskBytes, nullptr));
    TRY(writer.settle_disks(nullptr));
  }
  return writer.commit(std::move(manifest));
}

Result<> write_sample(FdRef store, const Recipe& recipe) {
  SnapshotWriter writer = TRY(SnapshotWriter::create({.store = store, .name = recipe.id}));
  return write_sample(writer, recipe);
}

Parent parent_of(FdRef store, const std::string& id) {
  const Snapshot snapshot = MUST(Snapshot::open(store, id));  // the test has just written it
  return {.id = id, .memory_digest = snapshot.index()->digest};
}

}  // namespace mayfly::snapshot::testing
