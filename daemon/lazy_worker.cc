// SPDX-License-Identifier: Apache-2.0
#include "daemon/lazy_worker.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <span>
#include <utility>

#include <sys/epoll.h>

namespace mayfly::daemon {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kWakeId = 0;
constexpr size_t kBatch = 64;
constexpr size_t kFaultsAtOnce = 32;

// Chunks that the layers know: first those of the working set, as it was touched, then the others.
std::vector<uint32_t> order_of(const snapshot::Chain& chain,
                               std::span<const snapshot::MemoryLayer> layers, size_t chunk_count) {
  std::vector<bool> open(chunk_count);
  for (const snapshot::MemoryLayer& layer : layers) {
    for (const snapshot::Chunk& chunk : layer.index->chunks) open[chunk.number] = true;
  }
  std::vector<uint32_t> order;
  const auto take = [&](uint32_t number) {
    if (!open[number]) return;
    open[number] = false;
    order.push_back(number);
  };
  if (const auto& set = chain.newest().working_set()) {
    for (const snapshot::TouchedRun& run : set->runs) {
      const uint32_t last = (run.first_page + run.pages - 1) / snapshot::kChunkPages;
      for (uint32_t number = run.first_page / snapshot::kChunkPages; number <= last; ++number) {
        take(number);
      }
    }
  }
  for (uint32_t number = 0; number < chunk_count; ++number) take(number);
  return order;
}

}  // namespace

LazyJob::LazyJob(MissingMemory missing, snapshot::Chain source, MemorySource::EndHook hook)
    : memory(std::move(missing)),
      chain(std::move(source)),
      layers(chain->layers()),
      ended(std::move(hook)),
      order(order_of(*chain, layers, snapshot::chunk_count(memory->size_bytes))),
      filled(snapshot::chunk_count(memory->size_bytes), true),
      source_bytes(order.size() * snapshot::kChunkBytes) {
  for (const uint32_t number : order) filled[number] = false;
}

LazyJob::Place LazyJob::place_of(uint32_t number) const {
  const uint64_t offset = number * snapshot::kChunkBytes;
  for (const MonitorRegion& region : memory->regions) {
    if (offset - region.file_offset >= region.size_bytes) continue;
    const uint64_t inside = offset - region.file_offset;
    return {.address = region.address + inside,
            .size_bytes = std::min(snapshot::kChunkBytes, region.size_bytes - inside)};
  }
  CHECK(false);  // check_regions() has seen to it that they cover RAM.
}

Result<> LazyJob::watch() {
  // As few ranges as it takes.
  Place range = {.address = 0, .size_bytes = 0};
  for (uint32_t number = 0; number < filled.size(); ++number) {
    if (filled[number]) continue;
    const Place place = place_of(number);
    if (range.address + range.size_bytes == place.address) {
      range.size_bytes += place.size_bytes;
      continue;
    }
    if (range.size_bytes != 0) TRY(memory->userfault.watch(range.address, range.size_bytes));
    range = place;
  }
  if (range.size_bytes == 0) return {};
  return memory->userfault.watch(range.address, range.size_bytes);
}

Result<uint32_t> LazyJob::chunk_at(uint64_t address) const {
  for (const MonitorRegion& region : memory->regions) {
    if (address < region.address || address - region.address >= region.size_bytes) continue;
    return static_cast<uint32_t>((region.file_offset + (address - region.address)) /
                                 snapshot::kChunkBytes);
  }
  return fail({Code::kUnavailable, "MONITOR_REPLY"},
              "the monitor waits for a page at %llx, where it has no guest memory",
              static_cast<unsigned long long>(address));
}

Result<> LazyJob::fill(uint32_t number, snapshot::ChunkLoader& loader) {
  TRY(loader.load(layers, number));
  const Place place = place_of(number);
  for (auto run = snapshot::next_run(loader.stored(), 0); run.pages > 0;
       run = snapshot::next_run(loader.stored(), run.first + run.pages)) {
    const uint64_t offset = run.first * snapshot::kPageBytes;
    TRY(memory->userfault.fill(place.address + offset,
                               loader.pages().subspan(offset, run.pages * snapshot::kPageBytes)));
  }
  // What is still missing of it is zero, and comes without us.
  TRY(memory->userfault.unwatch(place.address, place.size_bytes));
  filled[number] = true;
  ++filled_chunks;
  return {};
}

std::optional<uint32_t> LazyJob::next() {
  while (next_in_order < order.size() && filled[order[next_in_order]]) ++next_in_order;
  if (next_in_order == order.size()) return std::nullopt;
  return order[next_in_order];
}

FillProgress LazyJob::progress() const {
  return {.filled_bytes = filled_chunks * snapshot::kChunkBytes,
          .source_bytes = source_bytes,
          .fault_count = fault_count,
          .filled_for_fault_count = filled_for_fault_count};
}

void LazyJob::drop() {
  memory.reset();
  layers.clear();
  chain.reset();
}

Result<std::unique_ptr<LazyWorker>> LazyWorker::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, errno, "epoll_create1");
  }
  Fd wake = TRY(Fd::event());
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWakeId}};
  if (::epoll_ctl(epoll.number(), EPOLL_CTL_ADD, wake.number(), &event) != 0) {
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, errno, "epoll_ctl");
  }
  std::unique_ptr<LazyWorker> worker(new LazyWorker(std::move(epoll), std::move(wake)));
  worker->thread_ = std::thread([raw = worker.get()] { raw->run(); });
  return worker;
}

LazyWorker::~LazyWorker() {
  {
    std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  wake();
  thread_.join();
}

void LazyWorker::wake() { signal_event(wake_.ref()); }

Result<uint64_t> LazyWorker::add(std::unique_ptr<LazyJob> job) {
  const int fd = job->memory->userfault.fd().number();
  uint64_t id = 0;
  {
    std::lock_guard lock(mutex_);
    id = next_id_++;
    jobs_.emplace(id, std::move(job));
  }
  epoll_event event{.events = EPOLLIN, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.number(), EPOLL_CTL_ADD, fd, &event) != 0) {
    const int os_errno = errno;
    remove(id);
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, os_errno, "watch a userfaultfd");
  }
  wake();
  return id;
}

void LazyWorker::remove(uint64_t id) {
  std::unique_ptr<LazyJob> job;  // Destroyed without the lock.
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [&] { return current_ != id; });
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  job = std::move(found->second);
  jobs_.erase(found);
  if (!job->is_over) {
    ::epoll_ctl(epoll_.number(), EPOLL_CTL_DEL, job->memory->userfault.fd().number(), nullptr);
  }
}

template <typename Body>
void LazyWorker::with_job(uint64_t id, Body body) {
  LazyJob* job = nullptr;
  {
    std::lock_guard lock(mutex_);
    const auto found = jobs_.find(id);
    if (found == jobs_.end() || found->second->is_over) return;
    job = found->second.get();
    current_ = id;
  }
  body(*job);
  {
    std::lock_guard lock(mutex_);
    current_ = 0;
  }
  idle_.notify_all();
}

void LazyWorker::run() {
  std::array<epoll_event, kBatch> events;
  for (;;) {
    const int count = ::epoll_wait(epoll_.number(), events.data(), kBatch, timeout_ms());
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[static_cast<size_t>(i)].data.u64;
      if (id == kWakeId) {
        clear_event(wake_.ref());
      } else {
        with_job(id, [this](LazyJob& job) { serve_faults(job); });
      }
    }
    {
      std::lock_guard lock(mutex_);
      if (is_stopping_) return;
    }
    // Nobody waits for a page now, as far as we know.
    if (const uint64_t id = next_for_background(); id != 0) {
      with_job(id, [this](LazyJob& job) { work_on(job); });
    }
  }
}

// The next in turn; hurried and stopped ones come first, and while a rest lasts they alone.
uint64_t LazyWorker::next_for_background() {
  const bool rests = Clock::now() < rest_until_;
  std::lock_guard lock(mutex_);
  uint64_t first = 0;
  uint64_t following = 0;
  for (const auto& [id, job] : jobs_) {
    if (job->is_over) continue;
    if (job->is_hurried || job->is_stopped) return id;
    if (first == 0) first = id;
    if (following == 0 && id > last_in_background_) following = id;
  }
  return rests ? 0 : following != 0 ? following : first;
}

int LazyWorker::timeout_ms() {
  bool any = false;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, job] : jobs_) {
      if (job->is_over) continue;
      if (job->is_hurried || job->is_stopped) return 0;
      any = true;
    }
  }
  if (!any) return -1;
  const auto left = rest_until_ - Clock::now();
  if (left.count() <= 0) return 0;
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(left).count());
}

void LazyWorker::serve_faults(LazyJob& job) {
  std::array<uint64_t, kFaultsAtOnce> addresses;
  const auto count = job.memory->userfault.read_faults(addresses);
  if (!count) return finish(job, std::unexpected(count.error()));
  for (const uint64_t address : std::span(addresses).first(*count)) {
    ++job.fault_count;
    const auto number = job.chunk_at(address);
    if (!number) return finish(job, std::unexpected(number.error()));
    // One that was filled since it was asked for has woken who waited.
    if (job.filled[*number]) continue;
    ++job.filled_for_fault_count;
    if (Result<> filled = job.fill(*number, loader_); !filled) return finish(job, filled);
  }
}

void LazyWorker::work_on(LazyJob& job) {
  if (job.is_stopped) {
    return finish(job, fail({Code::kCancelled, "VM_GONE"}, "the VM has ended"));
  }
  const auto begin = Clock::now();
  const auto number = job.next();
  if (!number) return finish(job, {});
  if (Result<> filled = job.fill(*number, loader_); !filled) return finish(job, filled);
  const auto end = Clock::now();
  rest_until_ = end + (end - begin);
  std::lock_guard lock(mutex_);
  last_in_background_ = current_;
}

void LazyWorker::finish(LazyJob& job, Result<> result) {
  {
    std::lock_guard lock(mutex_);
    job.is_over = true;
    ::epoll_ctl(epoll_.number(), EPOLL_CTL_DEL, job.memory->userfault.fd().number(), nullptr);
  }
  job.ended(std::move(result));
  job.drop();
}

}  // namespace mayfly::daemon
