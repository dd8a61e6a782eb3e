// SPDX-License-Identifier: Apache-2.0
#include "tests/security/host_world.h"

#include "tests/security/tiny_program.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <span>
#include <string_view>

#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

constexpr uint64_t kMemoryBytes = uint64_t{2} << 20;
constexpr unsigned kForEveryone = 0666;

// In writable memory, where the daemon's secret can be changed.
std::array<char, kSecret.size()> daemon_memory = kSecret;

template <size_t size>
void copy_text(char (&to)[size], std::string_view text) {
  CHECK(text.size() < size);
  std::memcpy(to, text.data(), text.size());
}

std::unexpected<Error> failed(const char* what) {
  return fail_errno({Code::kInternal, "HOST_WORLD"}, errno, "%s", what);
}

Result<Fd> make_file(const std::string& path, std::span<const std::byte> content, uint64_t size,
                     unsigned mode) {
  Fd file = TRY(Fd::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, mode));
  // Past the umask.
  if (::fchmod(file.number(), mode) != 0) return failed("fchmod");
  TRY(write_all(file.ref(), content));
  if (::ftruncate(file.number(), static_cast<off_t>(size)) != 0) return failed("ftruncate");
  return file;
}

}  // namespace

Result<std::unique_ptr<HostWorld>> HostWorld::create(const std::string& directory, Fd kvm,
                                                     Looseness looseness) {
  std::unique_ptr<HostWorld> world(new HostWorld());
  world->directory_ = directory;
  world->looseness_ = looseness;
  world->kvm_ = std::move(kvm);
  TRY(world->start_daemon());
  TRY(world->make_files());
  TRY(world->make_sockets());
  TRY(world->make_ipc());
  return world;
}

HostWorld::~HostWorld() {
  if (targets_.daemon > 0) {
    ::kill(targets_.daemon, SIGKILL);
    ::waitpid(targets_.daemon, nullptr, 0);
  }
  if (segment_ >= 0) ::shmctl(segment_, IPC_RMID, nullptr);
  if (message_queue_ >= 0) ::msgctl(message_queue_, IPC_RMID, nullptr);
  if (semaphores_ >= 0) ::semctl(semaphores_, 0, IPC_RMID);
  if (targets_.queue_name[0] != '\0') ::mq_unlink(format("/%s", targets_.queue_name).c_str());
}

Result<> HostWorld::start_daemon() {
  targets_.daemon = ::fork();
  if (targets_.daemon < 0) return failed("fork");
  if (targets_.daemon == 0) {
    while (true) ::pause();
  }
  // SAFETY: the address means the same in the child, which has our memory.
  targets_.daemon_secret = reinterpret_cast<uint64_t>(daemon_memory.data());
  return {};
}

Result<> HostWorld::make_files() {
  copy_text(targets_.host_directory, directory_);
  copy_text(targets_.host_file, path("secret"));
  TRY(make_file(path("secret"), std::as_bytes(std::span(kSecret)), 4096, kForEveryone));
  const TinyProgram program;
  TRY(make_file(path("read-only-disk"), std::as_bytes(std::span(&program, 1)), kDiskBytes, 0755));
  return {};
}

Result<> HostWorld::make_sockets() {
  Fd tcp(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in local = {};
  local.sin_family = AF_INET;
  local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(local);
  // SAFETY: of this function: addresses of their families, with their sizes.
  auto* generic = reinterpret_cast<sockaddr*>(&local);
  if (::bind(tcp.number(), generic, size) != 0 || ::listen(tcp.number(), 8) != 0 ||
      ::getsockname(tcp.number(), generic, &size) != 0) {
    return failed("listen on 127.0.0.1");
  }
  targets_.tcp_port = ntohs(local.sin_port);
  listeners_.push_back(std::move(tcp));

  copy_text(targets_.host_socket, path("socket"));
  copy_text(targets_.abstract_name, format("mayfly-escapee-%d", ::getpid()));
  ::unlink(targets_.host_socket);
  for (const bool is_abstract : {false, true}) {
    Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un named = {};
    named.sun_family = AF_UNIX;
    const char* name = is_abstract ? targets_.abstract_name : targets_.host_socket;
    std::memcpy(named.sun_path + (is_abstract ? 1 : 0), name, std::strlen(name));
    const size_t length =
        offsetof(sockaddr_un, sun_path) + (is_abstract ? 1 : 0) + std::strlen(name);
    if (::bind(listener.number(), reinterpret_cast<sockaddr*>(&named),
               static_cast<socklen_t>(length)) != 0 ||
        ::listen(listener.number(), 8) != 0) {
      return failed("listen on a Unix socket");
    }
    listeners_.push_back(std::move(listener));
  }
  ::chmod(targets_.host_socket, kForEveryone);
  return {};
}

Result<> HostWorld::make_ipc() {
  targets_.ipc_key = 0x6d610000 | ::getpid();
  segment_ = ::shmget(targets_.ipc_key, 4096, IPC_CREAT | IPC_EXCL | kForEveryone);
  message_queue_ = ::msgget(targets_.ipc_key, IPC_CREAT | IPC_EXCL | kForEveryone);
  semaphores_ = ::semget(targets_.ipc_key, 1, IPC_CREAT | IPC_EXCL | kForEveryone);
  if (segment_ < 0 || message_queue_ < 0 || semaphores_ < 0) return failed("System V IPC");
  // The call takes names without the slash that the C library wants.
  const std::string name = format("/mayfly-escapee-%d", ::getpid());
  const mqd_t queue = ::mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, kForEveryone, nullptr);
  if (queue == -1) return failed("a POSIX queue");
  ::fchmod(queue, kForEveryone);
  ::mq_close(queue);
  copy_text(targets_.queue_name, std::string_view(name).substr(1));
  return {};
}

Result<std::vector<Fd>> HostWorld::descriptors() {
  const bool is_loose = looseness_ == Looseness::kLoose;
  peers_.clear();
  TRY(make_file(path("victim"), {}, 0, kForEveryone));
  ::unlink(path("renamed").c_str());
  ::rmdir(path("renamed").c_str());
  TRY(make_file(path("kernel"), {}, kDiskBytes, 0644));

  auto control = TRY(Fd::socket_pair(SOCK_SEQPACKET));
  auto input = TRY(Fd::pipe());
  auto agent = TRY(Fd::socket_pair(SOCK_STREAM));
  TRY(write_all(input.second.ref(), std::as_bytes(std::span(kSecret))));
  std::vector<Fd> given;
  given.push_back(std::move(control.first));
  given.push_back(TRY(Fd::duplicate(kvm_.ref())));
  given.push_back(TRY(Fd::memfd("mayfly-guest", kMemoryBytes)));
  given.push_back(TRY(Fd::open(path("kernel").c_str(), is_loose ? O_RDWR : O_RDONLY)));
  given.push_back(TRY(Fd::open(path("read-only-disk").c_str(), O_RDONLY)));
  given.push_back(TRY(make_file(path("disk"), {}, kDiskBytes, 0644)));
  given.push_back(TRY(Fd::memfd("console", 8192)));
  given.push_back(std::move(input.first));
  given.push_back(std::move(agent.first));
  given.push_back(TRY(Fd::memfd("targets", 0)));
  TRY(write_all(given.back().ref(), std::as_bytes(std::span(&targets_, 1))));
  given.push_back(TRY(is_loose ? Fd::open("/", O_RDONLY | O_DIRECTORY) : Fd::event()));
  CHECK(given.size() == kInheritedEnd - kControl);
  peers_.push_back(std::move(control.second));
  peers_.push_back(std::move(input.second));
  peers_.push_back(std::move(agent.second));
  return given;
}

}  // namespace mayfly::escape
