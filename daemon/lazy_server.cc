// SPDX-License-Identifier: Apache-2.0
#include "daemon/lazy_server.h"

#include "daemon/lazy_worker.h"

#include <utility>

namespace mayfly::daemon {

namespace {

class ChainFill final : public MemoryFill {
 public:
  ChainFill(LazyWorker& worker, uint64_t id, LazyJob& job) : worker_(worker), id_(id), job_(job) {}
  ~ChainFill() override { worker_.remove(id_); }

  void hurry() override {
    job_.is_hurried = true;
    worker_.wake();
  }
  void stop() override {
    job_.is_stopped = true;
    worker_.wake();
  }
  FillProgress progress() const override { return job_.progress(); }

 private:
  LazyWorker& worker_;
  const uint64_t id_;
  // The worker keeps it until it is told to remove it.
  LazyJob& job_;
};

}  // namespace

class ChainSource final : public MemorySource {
 public:
  ChainSource(LazyServer& server, snapshot::Chain chain)
      : server_(server), chain_(std::move(chain)) {}

  Result<std::unique_ptr<MemoryFill>> begin(MissingMemory memory, EndHook ended,
                                            const Call&) override {
    auto job = std::make_unique<LazyJob>(std::move(memory), std::move(chain_), std::move(ended));
    TRY(job->watch());
    LazyJob& raw = *job;
    LazyWorker& worker = *TRY(server_.pick());
    const uint64_t id = TRY(worker.add(std::move(job)));
    return std::make_unique<ChainFill>(worker, id, raw);
  }

 private:
  LazyServer& server_;
  snapshot::Chain chain_;
};

LazyServer::LazyServer(size_t max_threads) : max_threads_(max_threads) {}
LazyServer::~LazyServer() = default;

std::unique_ptr<MemorySource> LazyServer::source(snapshot::Chain chain) {
  return std::make_unique<ChainSource>(*this, std::move(chain));
}

Result<LazyWorker*> LazyServer::pick() {
  std::lock_guard lock(mutex_);
  const size_t place = next_++ % max_threads_;
  if (place >= workers_.size()) workers_.push_back(TRY(LazyWorker::create()));
  return workers_[place % workers_.size()].get();
}

}  // namespace mayfly::daemon
