// SPDX-License-Identifier: Apache-2.0
#include "virtio/console/loop_input.h"

#include <cerrno>

#include <poll.h>
#include <unistd.h>

namespace mayfly::virtio::console {

Result<std::unique_ptr<LoopInput>> LoopInput::create(Loop& loop, Fd fd) {
  TRY(set_nonblocking(fd.ref(), true));
  std::unique_ptr<LoopInput> input(new LoopInput(loop, std::move(fd)));
  input->client_id_ = TRY(loop.add_client(*input));
  input->file_ = TRY(loop.add_file(input->fd_.ref()));
  TRY(loop.poll(input->client_id_, input->file_, POLLIN, 0));
  return input;
}

LoopInput::~LoopInput() {
  close();
  if (client_id_.slot != ClientId().slot) loop_.remove_client(client_id_);
}

void LoopInput::on_completion(uint32_t, int32_t) {
  // Whatever came up, an error too, read() finds out.
  readable_ = true;
  if (client_ != nullptr) client_->on_input();
}

size_t LoopInput::read(std::span<std::byte> out) {
  if (!readable_ || !fd_.valid() || out.empty()) return 0;
  ssize_t n;
  do {
    n = ::read(fd_.number(), out.data(), out.size());
  } while (n < 0 && errno == EINTR);
  if (n > 0) return static_cast<size_t>(n);
  readable_ = false;
  if (n == 0 || errno != EAGAIN) close();
  return 0;
}

void LoopInput::close() {
  if (file_.valid()) loop_.remove_file(file_);
  file_ = {};
  fd_.reset();
}

}  // namespace mayfly::virtio::console
