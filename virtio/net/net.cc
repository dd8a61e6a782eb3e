// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/net.h"

#include <algorithm>

namespace mayfly::virtio::net {
namespace {

// Frames received before other devices are served.
constexpr int kMaxFramesPerTurn = 64;

constexpr uint64_t kOwnFeatures = kFeatureMtu | kFeatureMac | kFeatureMrgRxbuf | kFeatureStatus |
                                  kFeatureCtrlVq | kFeatureCtrlRx | kFeatureGuestAnnounce |
                                  kFeatureCtrlMacAddr;

// Both directions are the same, by 5.1.3.1 each on top of its checksums.
uint64_t features_of(const Offloads& offloads) {
  uint64_t features = 0;
  if (!offloads.csum) return features;
  features |= kFeatureCsum | kFeatureGuestCsum;
  if (offloads.tso4) features |= kFeatureHostTso4 | kFeatureGuestTso4;
  if (offloads.tso6) features |= kFeatureHostTso6 | kFeatureGuestTso6;
  if (offloads.ecn) features |= kFeatureHostEcn | kFeatureGuestEcn;
  if (offloads.uso) features |= kFeatureHostUso | kFeatureGuestUso4 | kFeatureGuestUso6;
  return features;
}

Offloads guest_offloads(uint64_t features) {
  const auto has = [&](uint64_t wanted) { return (features & wanted) == wanted; };
  Offloads offloads;
  offloads.csum = has(kFeatureGuestCsum);
  if (!offloads.csum) return offloads;
  offloads.tso4 = has(kFeatureGuestTso4);
  offloads.tso6 = has(kFeatureGuestTso6);
  offloads.ecn = has(kFeatureGuestEcn) && (offloads.tso4 || offloads.tso6);
  offloads.uso = has(kFeatureGuestUso4 | kFeatureGuestUso6);
  return offloads;
}

bool takes_segments(const Offloads& offloads) {
  return offloads.tso4 || offloads.tso6 || offloads.uso;
}

}  // namespace

Result<> check_mac(const MacAddress& mac) {
  const bool is_zero = std::ranges::all_of(mac, [](uint8_t byte) { return byte == 0; });
  if (!is_zero && (mac[0] & 1) == 0) return {};
  return fail({Code::kInvalidArgument, "NET_MAC"}, "net: mac %02x:%02x:%02x:%02x:%02x:%02x is %s",
              mac[0], mac[1], mac[2], mac[3], mac[4], mac[5],
              is_zero ? "all zeroes" : "a group's, not a device's");
}

Result<std::unique_ptr<Net>> Net::create(std::unique_ptr<Backend> backend, const MacAddress& mac,
                                         uint16_t mtu) {
  TRY(check_mac(mac));
  if (mtu < kMinMtu) {
    return fail({Code::kInvalidArgument, "NET_MTU"}, "net: mtu %u is below %u", mtu, kMinMtu);
  }
  return std::unique_ptr<Net>(new Net(std::move(backend), mac, mtu));
}

Net::Net(std::unique_ptr<Backend> backend, const MacAddress& mac, uint16_t mtu)
    : backend_(std::move(backend)), mac_(mac), mtu_(mtu), guest_mac_(mac) {
  backend_->attach(*this);
}

uint64_t Net::features() const { return kOwnFeatures | features_of(backend_->offloads()); }

void Net::read_config(uint64_t offset, std::span<std::byte> out) const {
  const auto status =
      static_cast<uint16_t>((is_link_up_ ? kStatusLinkUp : 0) | (announces_ ? kStatusAnnounce : 0));
  const Config config = {.mac = mac_, .status = status, .max_virtqueue_pairs = 1, .mtu = mtu_};
  copy_config(std::as_bytes(std::span(&config, 1)), offset, out);
}

// The address is set by command (5.1.4).
void Net::write_config(uint64_t, std::span<const std::byte>) {}

void Net::activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) {
  host_ = &host;
  features_ = features;
  queues_ = queues;
  guest_does_ = guest_offloads(features);
  agreed_ = false;
  const uint64_t frame = takes_segments(guest_does_) ? kMaxFrameBytes : mtu_ + uint64_t{18};
  wanted_room_ = sizeof(Header) + frame;
}

void Net::reset() {
  host_ = nullptr;
  queues_ = {};
  features_ = 0;
  announces_ = false;
  guest_mac_ = mac_;
}

// On the loop thread: activate() may run on another, which makes no system calls for devices.
void Net::agree_on_offloads() {
  if (agreed_) return;
  agreed_ = true;
  // Frames that are more than the guest agreed to are dropped, whatever the backend does.
  if (const Result<> told = backend_->let_guest_do(guest_does_); !told) {
    host_->needs_reset(told.error());
  }
}

void Net::queue_notified(uint16_t index) {
  if (host_ == nullptr) return;
  agree_on_offloads();
  if (index == kRxQueue) serve_rx();
  if (index == kTxQueue) serve_tx();
  if (index == kControlQueue) serve_control();
  look_at_link();
}

void Net::on_frames_waiting() {
  serve_rx();
  look_at_link();
}

void Net::on_room_to_send() {
  serve_tx();
  look_at_link();
}

void Net::look_at_link() {
  if (!is_link_up_ || !backend_->is_lost()) return;
  is_link_up_ = false;
  if (host_ != nullptr && has(kFeatureStatus)) host_->config_changed();
}

void Net::serve_rx() {
  if (host_ == nullptr || !queues_[kRxQueue].ready()) return;
  agree_on_offloads();
  const uint64_t before = counters_.rx_frames;
  const Result<> served = serve_frames();
  rx_.put_back(queues_[kRxQueue]);
  if (counters_.rx_frames != before) host_->queue_used(kRxQueue);
  if (!served) host_->needs_reset(served.error());
}

Result<> Net::serve_frames() {
  for (int turn = 0; turn < kMaxFramesPerTurn; ++turn) {
    // Without room the queue notifies when it has been given more.
    if (!TRY(make_room()) || !receive_frame()) return {};
  }
  queues_[kRxQueue].notify_again();
  return {};
}

// For the next frame and its header.
uint64_t Net::room() const { return has(kFeatureMrgRxbuf) ? rx_.room() : rx_.first_room(); }

Result<bool> Net::make_room() {
  const bool merges = has(kFeatureMrgRxbuf);
  const auto enough = [&] { return room() >= wanted_room_; };
  bool full = false;
  if (!enough()) {
    TRY(queues_[kRxQueue].drain([&](Chain& chain) -> Result<Verdict> {
      if (full || enough() || (!merges && !rx_.empty())) return stop();
      full = !TRY(rx_.add(chain));
      return full ? stop() : later();
    }));
  }
  // What is as much as can be held is tried with, and so is a buffer that cannot grow.
  return enough() || full || (!merges && !rx_.empty());
}

bool Net::receive_frame() {
  Header header = {};
  const IoResult got = backend_->receive(header, rx_.frame(has(kFeatureMrgRxbuf)));
  if (got.status == IoStatus::kWouldBlock) return false;
  if (got.status == IoStatus::kFailed || sizeof(Header) + got.bytes > room() ||
      !acceptable(header)) {
    ++counters_.rx_dropped;
    return true;
  }
  rx_.fill(queues_[kRxQueue], header, got.bytes);
  ++counters_.rx_frames;
  counters_.rx_bytes += got.bytes;
  return true;
}

// The host's own frames, made before it heard what this driver does.
bool Net::acceptable(const Header& header) const {
  if ((header.flags & kHeaderNeedsCsum) != 0 && !guest_does_.csum) return false;
  return header.gso_type == kGsoNone || takes_segments(guest_does_);
}

void Net::serve_tx() {
  if (host_ == nullptr) return;
  bool used = false;
  const Result<bool> drained = queues_[kTxQueue].drain([&](Chain& chain) -> Result<Verdict> {
    Result<Verdict> verdict = send_frame(chain);
    used = used || (verdict && verdict->kind == Verdict::Kind::kDone);
    return verdict;
  });
  if (used) host_->queue_used(kTxQueue);
  if (!drained) host_->needs_reset(drained.error());
}

Result<Verdict> Net::send_frame(Chain& chain) {
  const auto header = TRY(chain.reader.read_object<Header>());
  const uint64_t size = chain.reader.remaining();
  const auto pieces = chain.reader.take_iovecs(size, tx_pieces_);
  IoResult sent{IoStatus::kFailed};
  if (pieces && size >= kMinFrameBytes && size <= kMaxFrameBytes) {
    sent = backend_->send(header, std::span(tx_pieces_).first(*pieces));
  }
  if (sent.status == IoStatus::kWouldBlock) return stop();
  if (sent.status == IoStatus::kFailed) {
    ++counters_.tx_dropped;
  } else {
    ++counters_.tx_frames;
    counters_.tx_bytes += size;
  }
  return done(0);
}

void Net::serve_control() {
  const Result<bool> drained =
      queues_[kControlQueue].drain([&](Chain& chain) { return serve_command(chain); });
  if (!drained) return host_->needs_reset(drained.error());
  host_->queue_used(kControlQueue);
}

Result<Verdict> Net::serve_command(Chain& chain) {
  const auto command = TRY(chain.reader.read_object<ControlHeader>());
  const GuestSpan answer = TRY(chain.writer.take_tail(1));
  answer.store(0, run_command(command, chain.reader));
  return done(1);
}

uint8_t Net::run_command(const ControlHeader& command, ChainReader& data) {
  switch (command.command_class) {
    case kControlRx:
      // Every frame of the backend's is the guest's: there is nothing to filter.
      return command.command <= kControlRxAllMulticast ? kControlOk : kControlError;
    case kControlMac: {
      if (command.command == kControlMacTableSet) return kControlOk;
      const auto mac = data.read_object<MacAddress>();
      if (command.command != kControlMacAddrSet || !mac || !check_mac(*mac)) return kControlError;
      guest_mac_ = *mac;
      return kControlOk;
    }
    case kControlAnnounce:
      if (command.command != kControlAnnounceAck) return kControlError;
      announces_ = false;
      return kControlOk;
    default:
      return kControlError;
  }
}

Result<> Net::restore(const State& state) {
  TRY(check_mac(state.mac));
  if (state.mtu != mtu_) {
    return fail({Code::kFailedPrecondition, "NET_MTU"}, "net: mtu %u, the saved device had %u",
                mtu_, state.mtu);
  }
  guest_mac_ = state.mac;
  return {};
}

void Net::announce() {
  if (host_ == nullptr || !has(kFeatureGuestAnnounce | kFeatureStatus)) return;
  announces_ = true;
  host_->config_changed();
}

}  // namespace mayfly::virtio::net
