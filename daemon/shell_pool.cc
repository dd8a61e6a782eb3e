// SPDX-License-Identifier: Apache-2.0
#include "daemon/shell_pool.h"

#include "base/log.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

using std::chrono::milliseconds;

// After the last claim: calls that come one after the other are one burst.
constexpr milliseconds kQuiet{50};
// But a daemon that is never quiet has shells as well.
constexpr milliseconds kMaxPostponed{2000};
constexpr milliseconds kStartLimit{60'000};
// After the first failure; twice as long after each further one.
constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{30'000};
// A failure so long after the one before is the first of its kind.
constexpr milliseconds kForget{120'000};

using Shells = std::vector<std::unique_ptr<Shell>>;

void move_all(Shells& from, Shells& to) {
  std::ranges::move(from, std::back_inserter(to));
  from.clear();
}

/// All together: none waits for another's end.
void end_all(Shells shells) {
  for (const auto& shell : shells) shell->kill();
  shells.clear();
}

}  // namespace

ShellOffer::ShellOffer(ShellPool& pool, uint64_t template_number)
    : pool_(pool), template_number_(template_number) {
  pool_.begin_claim();
}

ShellOffer::~ShellOffer() { end(); }

void ShellOffer::end() {
  if (!std::exchange(ended_, true)) pool_.end_claim(took_);
}

std::unique_ptr<Shell> ShellOffer::take() {
  return pool_.take(template_number_, std::exchange(took_, true));
}

void ShellPool::begin_claim() {
  std::lock_guard lock(mutex_);
  ++claims_under_way_;
}

void ShellPool::end_claim(bool took) {
  {
    std::lock_guard lock(mutex_);
    --claims_under_way_;
    last_claim_ = std::chrono::steady_clock::now();
    if (!took || first_claim_ != Time::max()) return;  // The thread knows already.
    first_claim_ = last_claim_;
  }
  changed_.notify_all();
}

std::unique_ptr<Shell> ShellPool::take(uint64_t template_number, bool one_had_ended) {
  std::lock_guard lock(mutex_);
  const auto found = stocks_.find(template_number);
  if (found == stocks_.end()) return nullptr;
  Stock& stock = found->second;
  if (one_had_ended) {
    --stock.counts.claimed;
    failed(stock, fail({Code::kUnavailable, "MONITOR_GONE"}, "it ended as it was claimed").error());
  }
  if (stock.ready.empty()) return nullptr;
  std::unique_ptr<Shell> shell = std::move(stock.ready.back());
  stock.ready.pop_back();
  ++stock.counts.claimed;
  return shell;
}

Result<> ShellPool::check_count(uint32_t count) const {
  if (count > kMaxTemplateShells) {
    return fail({Code::kInvalidArgument, "SHELL_COUNT"}, "shells: %u are above the limit of %zu",
                count, kMaxTemplateShells);
  }
  size_t all = count;
  for (const auto& [number, stock] : stocks_) all += stock.counts.wanted;
  if (all <= kMaxShells) return {};
  return fail({Code::kResourceExhausted, "TOO_MANY_SHELLS"},
              "shells: %u and the %zu of other templates are above the limit of %zu", count,
              all - count, kMaxShells);
}

Result<> ShellPool::add(PreparedMachine machine, uint32_t count, const Call& call) {
  std::unique_lock lock(mutex_);
  TRY(check_count(count));
  if (stopping_) return fail({Code::kUnavailable, "DAEMON_STOPPING"}, "the daemon is stopping");
  const uint64_t number = machine.source.template_number;
  Stock& stock = stocks_[number];
  stock.machine = std::move(machine);
  stock.counts.wanted = count;
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
  auto made = call.wait(lock, changed_, "starting the shells",
                        [&] { return stock.ready.size() == count || stock.error || stopping_; });
  if (made && stock.error) made = std::unexpected(*stock.error);
  if (made && stopping_) {
    made = fail({Code::kUnavailable, "DAEMON_STOPPING"}, "the daemon is stopping");
  }
  lock.unlock();
  if (!made) remove(number);
  return made;
}

void ShellPool::learn(uint64_t template_number, const MemoryPlans& plans) {
  {
    std::lock_guard lock(mutex_);
    const auto found = stocks_.find(template_number);
    if (found == stocks_.end()) return;
    Stock& stock = found->second;
    stock.machine.source.plans = plans;
    move_all(stock.ready, stock.dead);
  }
  changed_.notify_all();
}

void ShellPool::remove(uint64_t template_number) {
  Shells shells;
  {
    std::unique_lock lock(mutex_);
    const auto found = stocks_.find(template_number);
    if (found == stocks_.end()) return;
    found->second.removing = true;
    changed_.wait(lock, [&] { return found->second.counts.starting == 0; });
    move_all(found->second.ready, shells);
    move_all(found->second.dead, shells);
    stocks_.erase(found);
  }
  end_all(std::move(shells));
}

std::optional<ShellCounts> ShellPool::counts(uint64_t template_number) const {
  std::lock_guard lock(mutex_);
  const auto found = stocks_.find(template_number);
  if (found == stocks_.end()) return std::nullopt;
  ShellCounts counts = found->second.counts;
  counts.ready = static_cast<uint32_t>(found->second.ready.size());
  return counts;
}

void ShellPool::stop() {
  Shells shells;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  {
    std::lock_guard lock(mutex_);
    for (auto& [number, stock] : stocks_) {
      move_all(stock.ready, shells);
      move_all(stock.dead, shells);
    }
  }
  end_all(std::move(shells));
}

void ShellPool::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    Shells dead;
    for (auto& [number, stock] : stocks_) move_all(stock.dead, dead);
    if (!dead.empty()) {
      lock.unlock();
      end_all(std::move(dead));
      lock.lock();
      continue;
    }
    const auto [stock, due] = next_due();
    if (stock == nullptr) {
      first_claim_ = Time::max();  // The next claim is news.
      changed_.wait(lock);
    } else if (due > std::chrono::steady_clock::now()) {
      changed_.wait_until(lock, due);
    } else {
      make_one(lock, *stock);
    }
  }
}

std::pair<ShellPool::Stock*, ShellPool::Time> ShellPool::next_due() {
  // A burst is over some time after its last claim, if it ever is.
  Time quiet = Time::min();
  if (first_claim_ != Time::max()) {
    const Time last = claims_under_way_ > 0 ? std::chrono::steady_clock::now() : last_claim_;
    quiet = std::min(last + kQuiet, first_claim_ + kMaxPostponed);
  }
  std::pair<Stock*, Time> next = {nullptr, Time::max()};
  for (auto& [number, stock] : stocks_) {
    if (stock.removing || stock.ready.size() + stock.counts.starting >= stock.counts.wanted)
      continue;
    const Time due = std::max(stock.not_before, quiet);
    if (due < next.second) next = {&stock, due};
  }
  return next;
}

void ShellPool::make_one(std::unique_lock<std::mutex>& lock, Stock& stock) {
  ++stock.counts.starting;
  // No VM's id begins with a dot.
  const std::string name = format(".shell-%llu", static_cast<unsigned long long>(next_name_++));
  const std::vector<ChunkRun> copied =
      stock.machine.source.plans.of(stock.machine.spec.memory_policy);
  lock.unlock();
  // It is not removed while it is being started.
  auto shell = Shell::start(
      environment_, {.name = name, .machine = stock.machine, .copied_chunks = copied},
      [this, number = stock.machine.source.template_number](
          const Shell* ended, const std::string& how) { on_end(number, ended, how); },
      Call::within(kStartLimit));
  std::unique_ptr<Shell> unfit;
  lock.lock();
  --stock.counts.starting;
  if (shell && (*shell)->ended()) {
    unfit = *std::move(shell);
    shell = fail({Code::kUnavailable, "MONITOR_GONE"}, "it ended as soon as it waited");
  }
  if (shell) {
    stock.ready.push_back(*std::move(shell));
  } else {
    failed(stock, std::move(shell).error());
  }
  changed_.notify_all();
  if (unfit) {
    lock.unlock();
    unfit.reset();
    lock.lock();
  }
}

void ShellPool::on_end(uint64_t template_number, const Shell* shell, const std::string& how) {
  {
    std::lock_guard lock(mutex_);
    const auto found = stocks_.find(template_number);
    if (found == stocks_.end()) return;
    Stock& stock = found->second;
    const auto place = std::ranges::find_if(
        stock.ready, [&](const std::unique_ptr<Shell>& each) { return each.get() == shell; });
    if (place == stock.ready.end()) return;  // Whoever makes or claims it finds out.
    stock.dead.push_back(std::move(*place));
    stock.ready.erase(place);
    failed(stock,
           fail({Code::kUnavailable, "MONITOR_GONE"}, "it ended while it waited: %s", how.c_str())
               .error());
  }
  changed_.notify_all();
}

void ShellPool::failed(Stock& stock, Error error) {
  const std::string& template_id = stock.machine.source.template_id;
  const Time now = std::chrono::steady_clock::now();
  if (stock.failures > 0 && now - stock.last_failure > kForget) stock.failures = 0;
  const auto pause = kFirstPause * (1 << std::min(stock.failures, 10u));
  stock.not_before = now + std::min<milliseconds>(pause, kLongestPause);
  stock.last_failure = now;
  ++stock.failures;
  ++stock.counts.failed;
  stock.counts.last_failure = error.message();
  log(LogLevel::kWarning, "template %s: a shell failed: %s", template_id.c_str(),
      error.message().c_str());
  environment_.events.append(
      {.sequence = 0,
       .unix_us = 0,
       .vm_id = {},
       .incarnation = {},
       .what = ShellFailed{
           .template_id = template_id, .reason = error.reason(), .message = error.message()}});
  stock.error = std::move(error);
}

}  // namespace mayfly::daemon
