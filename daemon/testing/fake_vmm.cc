// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for mayfly-vmm: a real process on the real control protocol with no machine behind it.
// Its guest's agent runs commands on this host. Words on the kernel command line make it misbehave:
//
//   fake.refuse           Configure is answered with INVALID_ARGUMENT KERNEL_FORMAT
//   fake.crash_configure, fake.hang_configure, fake.garbage   not at all, or with no message
//   fake.crash            aborts once started; fake.status=N ends then without a report,
//                         fake.exit=N with reason N, fake.sigsys and fake.denied=THREAD by SIGSYS
//   fake.no_hello, fake.bad_agent, fake.flood_agent   the agent never reports, sends an endless
//                         frame, says Hello for ever; fake.guest_failure: its root is broken
//   fake.ignore_shutdown  the agent does not power off; fake.hang_stop: Stop is not answered
//   fake.print=N          prints N bytes of numbered lines; fake.stderr 20 KiB on standard error
//   fake.save=HOW         answers Save with an `error`, saves a `bad_state`, `bad_disk` or
//                         `bad_layer`, or does not `leave` the memory that it says it has left
//   fake.refuse_restore   a Configure with `restore` is FAILED_PRECONDITION STATE_KIND
//   fake.no_reseed, fake.reseed_failure   Restored is not answered, or with a failure
//   fake.refuse_park, fake.end_parked     a Configure that parks is INTERNAL KVM, or
//                         it dies 50 ms later
//   fake.no_balloon       is asked for a balloon and says nothing of one
//   fake.refuse_claim, fake.crash_claim   Claim is FAILED_PRECONDITION DISK_SIZE, or aborts
#include "base/clock.h"
#include "base/console_ring.h"
#include "base/fd.h"
#include "daemon/testing/fake_commands.h"
#include "proto/agent.pb.h"
#include "proto/control.pb.h"
#include "snapshot/state_codec.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly {
namespace {

constexpr size_t kMaxPacket = 64 * 1024;

class FakeMonitor {
 public:
  explicit FakeMonitor(Fd connection) : connection_(std::move(connection)) {}

  void run() {
    for (;;) {
      std::vector<Fd> fds;
      control::Request request;
      if (!receive(request, fds)) finish(control::EXIT_REASON_HOST_STOP, "the daemon has gone");
      handle(request, fds);
    }
  }

 private:
  bool has(const std::string& word) const { return value(word).has_value(); }
  std::optional<std::string> value(const std::string& name) const {
    std::istringstream words(configure_.cmdline());
    for (std::string word; words >> word;) {
      if (word == name) return "";
      if (word.starts_with(name + "=")) return word.substr(name.size() + 1);
    }
    return std::nullopt;
  }
  int number(const std::string& name) const { return std::atoi(value(name).value_or("0").c_str()); }

  bool receive(control::Request& request, std::vector<Fd>& fds) {
    std::vector<char> buffer(kMaxPacket);
    alignas(cmsghdr) char control[CMSG_SPACE(64 * sizeof(int))];
    iovec part = {buffer.data(), buffer.size()};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t size = ::recvmsg(connection_.number(), &message, MSG_CMSG_CLOEXEC);
    if (size <= 0) return false;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
        fds.emplace_back(fd);
      }
    }
    return request.ParseFromArray(buffer.data(), static_cast<int>(size));
  }

  void send(const control::Reply& reply) {
    const std::string bytes = reply.SerializeAsString();
    ::send(connection_.number(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  void handle(control::Request& request, std::vector<Fd>& fds) {
    control::Reply reply;
    reply.set_id(request.id());
    if (request.has_configure()) {
      configure(request.configure(), fds, reply);
    } else if (request.has_vsock_connect()) {
      std::thread([stream = std::move(fds.at(request.vsock_connect().fd()))]() mutable {
        run_command(std::move(stream));
      }).detach();
    } else if (request.has_claim()) {
      claim(request.claim(), reply);
    } else if (request.has_save()) {
      save(request.save(), fds, reply);
    } else if (request.has_get_pages() && !has("fake.no_pages")) {
      say_pages(request.get_pages(), reply);
    } else if (request.has_set_balloon() || request.has_get_balloon()) {
      say_balloon(request, reply);
    } else if (request.has_stop()) {
      if (has("fake.hang_stop")) return;
      send(reply);
      finish(control::EXIT_REASON_HOST_STOP, "");
    }
    send(reply);
    if (request.has_configure() && configure_.restore().park() && has("fake.end_parked"))
      ::ualarm(50'000, 0);
    if (request.has_start() || (request.has_configure() && configure_.start()) ||
        (request.has_claim() && request.claim().start())) {
      start();
    }
  }

  [[noreturn]] void refuse(control::Reply& reply, uint32_t code, const char* reason,
                           const char* message) {
    reply.mutable_status()->set_code(code);
    reply.mutable_status()->set_reason(reason);
    reply.mutable_status()->set_message(message);
    send(reply);
    finish(control::EXIT_REASON_MONITOR_ERROR, "configure refused", 1);
  }

  void configure(const control::Configure& configure, std::vector<Fd>& fds, control::Reply& reply) {
    configure_ = configure;
    fds_ = std::move(fds);
    if (configure_.has_restore()) read_restored();
    if (has("fake.crash_configure")) std::abort();
    if (has("fake.hang_configure")) ::pause();
    if (has("fake.garbage")) {
      ::send(connection_.number(), "\xff\xff\xff", 3, MSG_NOSIGNAL);
      ::pause();
    }
    if (has("fake.refuse")) {
      refuse(reply, 3, "KERNEL_FORMAT", "kernel: neither an ELF vmlinux nor a bzImage");
    }
    if (configure.restore().park() && has("fake.refuse_park"))
      refuse(reply, 13, "KVM", "vcpu 0: it is tired");
    if (configure.has_restore() && has("fake.refuse_restore")) {
      refuse(reply, 9, "STATE_KIND", "state: devices[0] is of another kind");
    }
    ring_.emplace(std::move(
        *ConsoleRingWriter::create(fds_.at(configure.console().ring_fd()).ref(),
                                   fds_.at(configure.console().output_event_fd()).ref())));
    control::Phases& phases = *reply.mutable_phases();
    const uint64_t now_ns = monotonic_ns();
    phases.set_main_ns(now_ns);
    phases.set_received_ns(now_ns);
    phases.set_memory_ns(now_ns);
    phases.set_vm_ns(now_ns);
    phases.set_kernel_ns(now_ns);
    phases.set_devices_ns(now_ns);
    phases.set_vcpus_ns(now_ns);
    std::thread([this] { echo_input(); }).detach();
  }

  /// What a parked fake is told is what it prints.
  void claim(const control::Claim& claim, control::Reply& reply) {
    if (has("fake.crash_claim")) std::abort();
    if (has("fake.refuse_claim"))
      refuse(reply, 9, "DISK_SIZE", "disks[0]: has another size than the saved one");
    print("claimed as " + std::to_string(claim.vsock().guest_cid()) + ", " +
          std::to_string(claim.generation_id().size()) + " bytes\n");
    control::Phases& phases = *reply.mutable_phases();
    phases.set_claim_ns(monotonic_ns());
    phases.set_claim_devices_ns(monotonic_ns());
    phases.set_claim_vcpus_ns(monotonic_ns());
  }

  /// The state is that of one vCPU, and the command line, which a restored fake goes on with, is in
  /// the memory.
  void save(const control::Save& save, std::vector<Fd>& fds, control::Reply& reply) {
    const std::string how = value("fake.save").value_or("");
    if (how == "error") {
      reply.mutable_status()->set_code(13);
      reply.mutable_status()->set_reason("KVM");
      return;
    }
    snapshot::MachineState state;
    state.vcpus.resize(how == "bad_state" ? 2 : configure_.vcpu_count());
    for (snapshot::Vcpu& vcpu : state.vcpus) vcpu.cpuid.count = 1;
    for (const control::Disk& disk : configure_.disks()) {
      const uint64_t bytes = how == "bad_disk" ? 512 : *file_size(fds_.at(disk.fd()).ref());
      snapshot::Device device;
      device.transport.device_type = 2;
      device.device = virtio::blk::State{
          .capacity_sectors = bytes / 512, .read_only = disk.read_only(), .serial = {}};
      state.devices.push_back(device);
    }
    const std::string part = snapshot::encode_state(state).bytes;
    (void)write_all(fds.at(save.state_fd()).ref(), std::as_bytes(std::span(part)));
    if (save.state_only()) {
      // What it has is the caller's to keep.
    } else if (save.has_changed_pages()) {
      const control::Layer& layer = save.changed_pages().layer();
      const uint64_t pages = configure_.memory_bytes() / 4096;
      ::ftruncate(fds.at(layer.memory_fd()).number(), configure_.memory_bytes());
      ::ftruncate(fds.at(layer.pages_fd()).number(), pages / 8 + (how == "bad_layer" ? 1 : 0));
      const std::string text = "changed " + std::to_string(++changes_);
      ::pwrite(fds.at(layer.memory_fd()).number(), text.data(), text.size(), 4096);
      ::pwrite(fds.at(layer.pages_fd()).number(), "\x02", 1, 0);
    } else {
      const int memory = fds_.at(configure_.memory_fd()).number();
      ::pwrite(memory, configure_.cmdline().data(), configure_.cmdline().size(), 0);
      if (how == "leave") ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    }
    reply.mutable_saved()->set_tsc_khz(1000);
  }

  /// Of each eight: one resident and its own, one resident and zero, one swapped out.
  void say_pages(const control::GetPages& get, control::Reply& reply) {
    const std::string how = value("fake.pages").value_or("");
    const size_t bytes = (get.page_count() + 7) / 8 + (how == "long" ? 1 : 0);
    const auto bits = [&](int byte) {
      std::string text(bytes, static_cast<char>(byte));
      if (how != "beyond")
        text.back() &= static_cast<char>(0xff >> (7 - (get.page_count() - 1) % 8));
      return text;
    };
    control::Pages& pages = *reply.mutable_pages();
    pages.set_resident(bits(0x03));
    pages.set_own(bits(how == "beyond" ? 0xff : 0x05));
    pages.set_swapped(bits(how == "both" ? 0x01 : 0x04));
    if (get.find_zero()) pages.set_zero(bits(how == "absent_zero" ? 0x08 : 0x02));
  }

  /// A guest that has given a half, and tells two statistics of which one is unknown here.
  void say_balloon(const control::Request& request, control::Reply& reply) {
    if (request.has_set_balloon())
      configure_.mutable_balloon()->set_target_pages(request.set_balloon().target_pages());
    if (has("fake.no_balloon")) return;
    control::BalloonState& balloon = *reply.mutable_balloon();
    balloon.set_target_pages(configure_.balloon().target_pages());
    balloon.set_actual_pages(balloon.target_pages() / 2);
    balloon.set_inflated_pages(3);
    balloon.set_reported_pages(2);
    if (configure_.balloon().stats_interval_s() == 0) return;
    balloon.set_has_stats(true);
    balloon.set_stats_age_ns(7'999'999);
    balloon.add_stats()->set_tag(4);
    balloon.mutable_stats(0)->set_value(12345);
    balloon.add_stats()->set_tag(10);
  }

  /// What the saved fake was told on its command line.
  void read_restored() {
    char text[256] = {};
    ::pread(fds_.at(configure_.memory_fd()).number(), text, sizeof(text) - 1, 0);
    configure_.set_cmdline(text);
  }

  void print(const std::string& text) { ring_->append(std::as_bytes(std::span(text))); }

  void start() {
    if (has("fake.stderr")) {
      for (int i = 0; i < 20 * 64; ++i) ::write(2, "a line of 16 by\n", 16);
    }
    print("fake guest: " + configure_.cmdline() + "\n");
    for (int printed = 0, i = 0; printed < number("fake.print"); ++i) {
      char line[64];
      printed += std::snprintf(line, sizeof(line), "line %010d ................\n", i);
      print(line);
    }
    if (has("fake.crash")) std::abort();
    if (has("fake.sigsys")) die_of_sigsys();
    if (has("fake.denied")) {
      control::ExitReport report;
      report.set_reason(control::EXIT_REASON_SYSCALL_DENIED);
      report.mutable_denied_syscall()->set_thread(*value("fake.denied"));
      report.mutable_denied_syscall()->set_number(257);
      write_report(report);
      die_of_sigsys();
    }
    if (has("fake.status")) ::_exit(number("fake.status"));
    if (has("fake.exit")) finish(static_cast<control::ExitReason>(number("fake.exit")), "as told");
    if (configure_.has_vsock() && configure_.vsock().host_ports_size() > 0) {
      std::thread([this] {
        play_agent(fds_.at(configure_.vsock().host_ports(0).fd()).ref());
      }).detach();
    }
  }

  void play_agent(FdRef port) {
    if (has("fake.no_hello")) return;
    if (has("fake.bad_agent")) {
      (void)write_all(port, std::as_bytes(std::span("\xff\xff\xff\xff")));
      return;
    }
    agent::AgentToHost message;
    message.mutable_hello()->set_protocol_version(1);
    message.mutable_hello()->set_agent_version("fake");
    message.mutable_hello()->set_kernel_release("0.0.0-fake");
    message.mutable_hello()->set_cpu_count(configure_.vcpu_count());
    message.mutable_hello()->set_init_us(1000);
    message.mutable_hello()->set_ready_us(2000);
    if (has("fake.guest_failure"))
      message.mutable_hello()->set_failure("no root: /dev/vda holds no ext4");
    while (send_frame(port, message) && has("fake.flood_agent")) {
    }
    agent::HostToAgent from_host;
    while (read_frame(port, from_host)) {
      if (from_host.has_restored() && !has("fake.no_reseed")) {
        print("restored with " + std::to_string(from_host.restored().entropy().size()) +
              " bytes\n");
        message.Clear();
        message.mutable_reseeded()->set_clock_step_us(1);
        if (has("fake.reseed_failure")) message.mutable_reseeded()->set_failure("no entropy");
        send_frame(port, message);
      }
      if (from_host.has_shutdown() && !has("fake.ignore_shutdown")) {
        finish(control::EXIT_REASON_GUEST_POWEROFF, "");
      }
    }
  }

  void echo_input() {
    const FdRef input = fds_.at(configure_.console().input_fd()).ref();
    char buffer[4096];
    for (;;) {
      const ssize_t size = ::read(input.number(), buffer, sizeof(buffer));
      if (size <= 0) return;
      print("you said: " + std::string(buffer, static_cast<size_t>(size)));
    }
  }

  [[noreturn]] static void die_of_sigsys() {
    ::raise(SIGSYS);
    ::_exit(99);
  }

  void write_report(const control::ExitReport& report) {
    const std::string bytes = report.SerializeAsString();
    (void)write_all(fds_[configure_.exit_report_fd()].ref(), std::as_bytes(std::span(bytes)));
  }

  [[noreturn]] void finish(control::ExitReason reason, const std::string& detail, int status = 0) {
    static std::atomic<bool> finishing = false;
    if (finishing.exchange(true)) {
      for (;;) ::pause();  // Another thread does it.
    }
    kill_commands();
    if (configure_.exit_report_fd() < fds_.size()) {
      control::ExitReport report;
      report.set_reason(reason);
      report.set_detail(detail);
      report.mutable_stats()->set_console_bytes(ring_ ? ring_->written() : 0);
      report.set_ended_ns(monotonic_ns());
      write_report(report);
    }
    ::_exit(status);
  }

  Fd connection_;
  control::Configure configure_;
  std::vector<Fd> fds_;
  int changes_ = 0;
  std::optional<ConsoleRingWriter> ring_;
};

}  // namespace
}  // namespace mayfly

int main(int argc, char** argv) {
  if (argc < 2 || std::strcmp(argv[1], "--control-fd=3") != 0) return 2;
  std::signal(SIGPIPE, SIG_IGN);
  mayfly::Fd listener(3);
  ::fcntl(3, F_SETFD, FD_CLOEXEC);
  mayfly::Fd connection(::accept4(listener.number(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return 3;
  mayfly::FakeMonitor(std::move(connection)).run();
}
