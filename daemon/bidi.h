// SPDX-License-Identifier: Apache-2.0
//
// Bidirectional calls on gRPC's completion-queue API, with blocking reads and writes on top. The
// synchronous API will not do for them: a handler there cannot end a call while another of its
// threads waits in Read(), so a client that keeps its side open would never hear of the end.
//
// One thread (Bidi's) takes completions of all calls; each call's handler runs on a thread of its
// own.
#pragma once

#include "daemon/call.h"
#include "daemon/rpc.h"

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace mayfly::daemon {

/// What a completion is for. complete() runs on Bidi's thread and does not block.
class BidiTag {
 public:
  virtual ~BidiTag() = default;
  virtual void complete(bool ok) = 0;
};

template <typename Request, typename Response>
class BidiCall {
 public:
  BidiCall() : stream_(&context_), read_(*this), write_(*this), finish_(*this), done_(*this) {
    context_.AsyncNotifyWhenDone(&done_);
  }
  BidiCall(const BidiCall&) = delete;
  BidiCall& operator=(const BidiCall&) = delete;

  /// One thread's. False: the client has ended its side, or the call has ended.
  bool read(Request* request) {
    read_.begin();
    stream_.Read(request, &read_);
    return read_.wait();
  }

  /// Another thread's. False: the call has ended.
  bool write(const Response& response) {
    write_.begin();
    stream_.Write(response, &write_);
    return write_.wait();
  }

  /// The writing thread's last act: ends the call, and with it a read() that waits. The call may be
  /// destroyed when this has returned and no read() runs.
  void finish(const grpc::Status& status) {
    finish_.begin();
    stream_.Finish(status, &finish_);
    finish_.wait();
    done_.wait();
  }

  /// `hook` runs on Bidi's thread if the client cancels or goes away. Set before it can matter.
  void on_cancel(std::function<void()> hook) {
    std::lock_guard lock(mutex_);
    cancel_hook_ = std::move(hook);
    if (cancelled_ && cancel_hook_) cancel_hook_();
  }

  Call deadline() const {
    Call call = deadline_of(context_);
    call.is_cancelled = [this] { return cancelled_.load(); };
    return call;
  }

 private:
  template <typename Service, typename CallType>
  friend class BidiAcceptor;

  class Op final : public BidiTag {
   public:
    explicit Op(BidiCall& call) : call_(call) {}
    void begin() {
      std::lock_guard lock(call_.mutex_);
      completed_ = false;
    }
    bool wait() {
      std::unique_lock lock(call_.mutex_);
      call_.changed_.wait(lock, [this] { return completed_; });
      return ok_;
    }
    void complete(bool ok) override {
      // Notified under the lock: the call may be gone right after.
      std::lock_guard lock(call_.mutex_);
      completed_ = true;
      ok_ = ok;
      if (this == &call_.done_ && call_.context_.IsCancelled()) {
        call_.cancelled_ = true;
        if (call_.cancel_hook_) call_.cancel_hook_();
      }
      call_.changed_.notify_all();
    }

   private:
    BidiCall& call_;
    // Guarded by call_.mutex_.
    bool completed_ = false;
    bool ok_ = false;
  };

  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<Response, Request> stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> cancel_hook_;  // Guarded by mutex_.
  std::atomic<bool> cancelled_ = false;
  Op read_;
  Op write_;
  Op finish_;
  Op done_;
};

/// The completions' thread, and the count of handlers.
class Bidi {
 public:
  explicit Bidi(std::unique_ptr<grpc::ServerCompletionQueue> queue) : queue_(std::move(queue)) {}
  /// After the server's Shutdown(): waits for the handlers, then for the thread.
  ~Bidi() {
    {
      std::unique_lock lock(mutex_);
      idle_.wait(lock, [this] { return handlers_ == 0; });
    }
    queue_->Shutdown();
    if (thread_.joinable()) thread_.join();
  }

  grpc::ServerCompletionQueue* queue() { return queue_.get(); }

  /// Once the server runs and the acceptors have begun.
  void start() {
    thread_ = std::thread([this] {
      void* tag = nullptr;
      bool ok = false;
      while (queue_->Next(&tag, &ok)) static_cast<BidiTag*>(tag)->complete(ok);
    });
  }

  /// Runs a handler on a thread of its own.
  void launch(std::move_only_function<void()> handler) {
    {
      std::lock_guard lock(mutex_);
      ++handlers_;
    }
    std::thread([this, handler = std::move(handler)]() mutable {
      handler();
      std::lock_guard lock(mutex_);
      --handlers_;
      idle_.notify_all();
    }).detach();
  }

 private:
  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::mutex mutex_;
  std::condition_variable idle_;
  size_t handlers_ = 0;  // Guarded by mutex_.
  std::thread thread_;
};

/// Takes calls of one method, one after the other, for as long as the server runs. The handler
/// finishes its call. Used on Bidi's thread once begun; outlives Bidi.
template <typename Service, typename CallType>
class BidiAcceptor final : public BidiTag {
 public:
  /// Asks the service for its next call; what Service::RequestXxx takes.
  using Ask = void (*)(Service&, grpc::ServerContext*, decltype(CallType::stream_)*,
                       grpc::ServerCompletionQueue*, void* tag);
  using Handler = void (Service::*)(CallType&);

  BidiAcceptor(Service& service, Ask ask, Handler handler)
      : service_(service), ask_(ask), handler_(handler) {}

  void begin(Bidi& bidi) {
    bidi_ = &bidi;
    next();
  }

  void complete(bool ok) override {
    if (!ok) return;  // The server is shutting down.
    bidi_->launch([this, call = std::move(call_)] { (service_.*handler_)(*call); });
    next();
  }

 private:
  void next() {
    call_ = std::make_unique<CallType>();
    ask_(service_, &call_->context_, &call_->stream_, bidi_->queue(), this);
  }

  Service& service_;
  const Ask ask_;
  const Handler handler_;
  Bidi* bidi_ = nullptr;
  std::unique_ptr<CallType> call_;
};

}  // namespace mayfly::daemon
