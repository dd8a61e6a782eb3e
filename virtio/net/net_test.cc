// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/net.h"

#include "virtio/net/testing/fake_backend.h"
#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <cstring>

namespace mayfly::virtio::net {
namespace {

using mayfly::virtio::testing::DeviceHarness;
using mayfly::virtio::testing::FakeDriver;
using mayfly::virtio::testing::GuestBuffer;
using testing::FakeBackend;
using testing::Frame;

constexpr MacAddress kMac = {0x02, 0, 0, 0, 0, 1};
constexpr Offloads kAll = {.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true};
constexpr uint64_t kSmall = kFeatureVersion1 | kFeatureMac | kFeatureMtu;
constexpr uint64_t kMerging = kSmall | kFeatureMrgRxbuf;
constexpr uint64_t kSegments = kMerging | kFeatureGuestCsum | kFeatureGuestTso4 | kFeatureGuestTso6;

struct Setup {
  FakeBackend* backend = new FakeBackend(kAll);  // owned by the device
  std::unique_ptr<Net> net = *Net::create(std::unique_ptr<Backend>(backend), kMac, 1500);
  DeviceHarness harness{*net, {.memory_bytes = 32 << 20, .data_size = 4 << 20}};

  explicit Setup(uint64_t features) {
    harness.activate(features);
    // As the transport does.
    for (uint16_t queue = 0; queue < 3; ++queue) harness.notify(queue);
  }
  FakeDriver& rx() { return harness.driver(kRxQueue); }
  FakeDriver& tx() { return harness.driver(kTxQueue); }
  std::vector<GuestRange> give(size_t count, uint64_t size) {
    std::vector<GuestRange> ranges;
    for (size_t i = 0; i < count; ++i) {
      const GuestBuffer buffer = rx().writable(size);
      rx().add({buffer});
      ranges.push_back(buffer.range);
    }
    return ranges;
  }
  uint8_t command(uint8_t command_class, uint8_t number, std::span<const std::byte> data) {
    FakeDriver& driver = harness.driver(kControlQueue);
    const auto answer = driver.writable(1);
    driver.add({driver.readable_object(ControlHeader{command_class, number}), driver.readable(data),
                answer});
    harness.notify(kControlQueue);
    REQUIRE_EQ(driver.take_used()->length, 1);
    return static_cast<uint8_t>(driver.contents(answer.range)[0]);
  }
  uint16_t status() const {
    std::array<std::byte, 2> bytes;
    net->read_config(offsetof(Config, status), bytes);
    uint16_t value;
    std::memcpy(&value, bytes.data(), sizeof(value));
    return value;
  }
};

Frame pattern(size_t size, unsigned seed = 1) {
  Frame frame(size);
  for (size_t i = 0; i < size; ++i) frame[i] = std::byte((i * 7 + seed) % 251);
  return frame;
}

// What lies in the ranges, one after the other.
Frame joined(Setup& s, std::span<const GuestRange> ranges, size_t size) {
  Frame all;
  for (const GuestRange& range : ranges) {
    const auto bytes = s.rx().contents(range);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  all.resize(std::min(all.size(), size));
  return all;
}

Header header_of(const Frame& bytes) {
  Header header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  return header;
}

Frame with_header(const Header& header, const Frame& frame) {
  Frame bytes(sizeof(header));
  std::memcpy(bytes.data(), &header, sizeof(header));
  bytes.insert(bytes.end(), frame.begin(), frame.end());
  return bytes;
}

TEST_CASE("frames fill one buffer each, behind a header, and the driver is interrupted once") {
  Setup s(kSmall);
  const auto ranges = s.give(4, 2000);
  s.backend->waiting = {pattern(60), pattern(1514, 2)};
  s.backend->frames_wait();
  CHECK_EQ(s.rx().take_used()->length, 72);
  CHECK_EQ(s.rx().take_used()->length, 1526);
  CHECK_FALSE(s.rx().take_used().has_value());
  CHECK_EQ(s.rx().contents(ranges[0])[12], std::byte{1});
  const Frame second = joined(s, std::span(ranges).subspan(1, 1), 1526);
  CHECK_EQ(header_of(second).num_buffers, 1);
  CHECK_EQ(Frame(second.begin() + 12, second.end()), pattern(1514, 2));
  CHECK_EQ(s.harness.used_calls[kRxQueue], 1);
  CHECK_EQ(s.net->counters().rx_bytes, 1574);
  // Untouched.
  CHECK_EQ(s.rx().contents(ranges[2])[0], std::byte{0xa5});
}

TEST_CASE("a large segment is spread over as many buffers as it takes, and its header says so") {
  Setup s(kSegments);
  const auto ranges = s.give(64, 1536);
  s.backend->next_header = {.flags = kHeaderNeedsCsum,
                            .gso_type = 1,
                            .hdr_len = 54,
                            .gso_size = 1448,
                            .csum_start = 34,
                            .csum_offset = 16,
                            .num_buffers = 999};
  s.backend->waiting = {pattern(65000), pattern(100, 3)};
  s.backend->frames_wait();
  for (int i = 0; i < 42; ++i) CHECK_EQ(s.rx().take_used()->length, 1536);
  CHECK_EQ(s.rx().take_used()->length, 65012 - 42 * 1536);
  const Frame all = joined(s, ranges, 65012);
  CHECK_EQ(header_of(all).num_buffers, 43);
  CHECK_EQ(header_of(all).gso_size, 1448);
  CHECK_EQ(Frame(all.begin() + 12, all.end()), pattern(65000));
  // What is left, 21 buffers, is not room for the largest frame: the second one waits for more.
  CHECK_FALSE(s.rx().take_used().has_value());
  const auto more = s.give(30, 1536);
  CHECK(s.rx().kick_wanted());
  s.harness.notify(kRxQueue);
  CHECK_EQ(s.rx().take_used()->length, 112);
  CHECK_EQ(header_of(s.rx().contents(ranges[43])).num_buffers, 1);
}

TEST_CASE("buffers cut anywhere are filled whole") {
  for (const size_t first : {1, 5, 11, 12, 13, 40}) {
    Setup s(kMerging);
    const auto one = s.rx().writable(first);
    const auto two = s.rx().writable(2000 - first);
    s.rx().add({one, two});
    s.backend->waiting = {pattern(500)};
    s.backend->frames_wait();
    CHECK_EQ(s.rx().take_used()->length, 512);
    const Frame all = joined(s, std::array{one.range, two.range}, 512);
    CHECK_EQ(header_of(all).num_buffers, 1);
    CHECK_EQ(Frame(all.begin() + 12, all.end()), pattern(500));
  }
}

TEST_CASE("a frame that is too long, or more than was agreed to, is dropped and its buffer kept") {
  Setup s(kSmall);
  const auto ranges = s.give(1, 1530);
  s.backend->waiting = {pattern(1519)};
  s.backend->frames_wait();
  CHECK_EQ(s.net->counters().rx_dropped, 1);
  s.backend->next_header = {.flags = kHeaderNeedsCsum};
  s.backend->waiting = {pattern(60)};
  s.backend->frames_wait();
  s.backend->next_header = {.gso_type = 1};
  s.backend->waiting = {pattern(60)};
  s.backend->frames_wait();
  CHECK_EQ(s.net->counters().rx_dropped, 3);
  CHECK_FALSE(s.rx().take_used().has_value());
  s.backend->next_header = {};
  s.backend->waiting = {pattern(1518)};
  s.backend->frames_wait();
  CHECK_EQ(s.rx().take_used()->length, 1530);
  CHECK_EQ(s.rx().contents(ranges[0])[12], std::byte{1});
}

TEST_CASE("frames wait while there are no buffers, and while the queue is frozen") {
  Setup s(kMerging);
  s.backend->waiting = {pattern(60), pattern(61)};
  s.backend->frames_wait();
  CHECK_EQ(s.backend->waiting.size(), 2);
  s.harness.queue(kRxQueue).set_frozen(true);
  s.give(4, 2000);
  s.harness.notify(kRxQueue);
  CHECK_EQ(s.backend->waiting.size(), 2);
  CHECK_EQ(s.harness.queue(kRxQueue).state().next_avail, 0);
  s.harness.queue(kRxQueue).set_frozen(false);
  s.harness.notify(kRxQueue);
  CHECK_EQ(s.rx().take_used()->length, 72);
  CHECK_EQ(s.rx().take_used()->length, 73);
  // What is not used is the ring's again.
  CHECK_EQ(s.harness.queue(kRxQueue).state().next_avail, 2);
  CHECK_EQ(s.harness.queue(kRxQueue).state().next_used, 2);
}

TEST_CASE("a flood is taken in turns") {
  Setup s(kMerging);
  s.give(200, 2000);
  for (unsigned i = 0; i < 100; ++i) s.backend->waiting.push_back(pattern(60, i));
  s.backend->frames_wait();
  CHECK_EQ(s.backend->waiting.size(), 36);
  s.harness.notify(kRxQueue);
  CHECK(s.backend->waiting.empty());
}

TEST_CASE("frames of any cut are sent whole, in order, with their headers") {
  Setup s(kMerging);
  const Header header = {.flags = kHeaderNeedsCsum,
                         .gso_type = 1,
                         .hdr_len = 54,
                         .gso_size = 1448,
                         .csum_start = 34,
                         .csum_offset = 16,
                         .num_buffers = 0};
  const Frame whole = with_header(header, pattern(3000));
  s.tx().add({s.tx().readable(std::span(whole).first(5)),
              s.tx().readable(std::span(whole).subspan(5, 1000)),
              s.tx().readable(std::span(whole).subspan(1005))});
  const Frame small = with_header({}, pattern(14, 5));
  s.tx().add_indirect({s.tx().readable(small)});
  s.harness.notify(kTxQueue);
  REQUIRE_EQ(s.backend->sent.size(), 2);
  CHECK_EQ(s.backend->sent[0], pattern(3000));
  CHECK_EQ(s.backend->sent_headers[0].csum_start, 34);
  CHECK_EQ(s.backend->sent[1], pattern(14, 5));
  CHECK_EQ(s.tx().take_used()->length, 0);
  CHECK_EQ(s.harness.used_calls[kTxQueue], 1);
  CHECK_EQ(s.net->counters().tx_bytes, 3014);
}

TEST_CASE("frames that are no frames are dropped, and counted") {
  Setup s(kMerging);
  s.tx().add({s.tx().readable(with_header({}, pattern(13)))});
  s.tx().add({s.tx().readable(with_header({}, {}))});
  s.tx().add({s.tx().readable(with_header({}, pattern(kMaxFrameBytes + 1)))});
  s.tx().add({s.tx().readable(with_header({}, pattern(kMaxFrameBytes)))});
  s.harness.notify(kTxQueue);
  CHECK_EQ(s.net->counters().tx_dropped, 3);
  CHECK_EQ(s.backend->sent.size(), 1);
  CHECK_EQ(s.tx().used_index(), 4);
  s.backend->refuses = IoStatus::kFailed;
  s.tx().add({s.tx().readable(with_header({}, pattern(60)))});
  s.harness.notify(kTxQueue);
  CHECK_EQ(s.net->counters().tx_dropped, 4);
  CHECK_EQ(s.tx().used_index(), 5);
}

TEST_CASE("what the host does not take now is sent when it does") {
  Setup s(kMerging);
  s.backend->refuses = IoStatus::kWouldBlock;
  s.tx().add({s.tx().readable(with_header({}, pattern(60)))});
  s.harness.notify(kTxQueue);
  CHECK_EQ(s.tx().used_index(), 0);
  s.backend->refuses.reset();
  s.backend->room_to_send();
  CHECK_EQ(s.tx().used_index(), 1);
  CHECK_EQ(s.backend->sent.size(), 1);
}

TEST_CASE("what breaks the protocol asks for a reset") {
  Setup small_buffer(kMerging);
  small_buffer.give(1, 11);
  small_buffer.backend->waiting = {pattern(60)};
  small_buffer.backend->frames_wait();
  CHECK_EQ(small_buffer.harness.reset_reason, "NET_RX_BUFFER");

  Setup no_header(kMerging);
  no_header.tx().add({no_header.tx().readable("short")});
  no_header.harness.notify(kTxQueue);
  CHECK_EQ(no_header.harness.reset_reason, "CHAIN_TOO_SHORT");

  Setup no_answer(kMerging);
  FakeDriver& control = no_answer.harness.driver(kControlQueue);
  control.add({control.readable_object(ControlHeader{kControlRx, 0})});
  no_answer.harness.notify(kControlQueue);
  CHECK_EQ(no_answer.harness.reset_reason, "CHAIN_TOO_SHORT");

  Setup ring(kMerging);
  ring.rx().set_avail_index(1000);
  ring.backend->waiting = {pattern(60)};
  ring.backend->frames_wait();
  CHECK_EQ(ring.harness.reset_reason, "QUEUE_AVAIL_INDEX");
}

TEST_CASE("the backend is told what the guest does itself, at each activation") {
  Setup s(kSegments);
  REQUIRE_EQ(s.backend->agreed.size(), 1);
  CHECK_EQ(s.backend->agreed[0], Offloads{.csum = true, .tso4 = true, .tso6 = true});
  s.net->reset();
  s.harness.activate(kSmall | kFeatureGuestTso4);
  s.harness.notify(kTxQueue);
  // Segments without sums are no thing to agree on.
  CHECK_EQ(s.backend->agreed[1], Offloads{});
}

TEST_CASE("a frame is not received by a driver that is gone") {
  Setup s(kMerging);
  s.give(4, 2000);
  s.net->reset();
  s.backend->waiting = {pattern(60)};
  s.backend->frames_wait();
  s.backend->room_to_send();
  CHECK_EQ(s.backend->waiting.size(), 1);
}

TEST_CASE("features are those of the backend, and no more") {
  Setup all(kMerging);
  CHECK_EQ(all.net->features() & kFeatureHostUso, kFeatureHostUso);
  // MUST: as above.
  const auto plain = MUST(Net::create(std::make_unique<FakeBackend>(Offloads{}), kMac, 1500));
  const uint64_t offloads =
      kFeatureCsum | kFeatureGuestCsum | kFeatureGuestTso4 | kFeatureHostTso4 | kFeatureHostUso;
  CHECK_EQ(plain->features() & offloads, 0);
  CHECK_EQ(plain->features() & kFeatureMrgRxbuf, kFeatureMrgRxbuf);
}

TEST_CASE("the configuration space is the address, the link and the MTU") {
  Setup s(kMerging);
  std::array<std::byte, 16> bytes;
  s.net->read_config(0, bytes);
  Config config;
  std::memcpy(&config, bytes.data(), sizeof(config));
  CHECK_EQ(config.mac, kMac);
  CHECK_EQ(config.status, kStatusLinkUp);
  CHECK_EQ(config.max_virtqueue_pairs, 1);
  CHECK_EQ(config.mtu, 1500);
  CHECK_EQ(bytes[12], std::byte{0});
  s.net->read_config(~uint64_t{0}, bytes);
  CHECK_EQ(bytes[0], std::byte{0});
  s.net->write_config(0, bytes);
}

TEST_CASE("commands are answered") {
  Setup s(kMerging | kFeatureCtrlVq);
  const std::array<std::byte, 1> on = {std::byte{1}};
  CHECK_EQ(s.command(kControlRx, kControlRxPromiscuous, on), kControlOk);
  CHECK_EQ(s.command(kControlRx, 2, on), kControlError);
  CHECK_EQ(s.command(77, 0, on), kControlError);
  const MacAddress mac = {0x02, 1, 2, 3, 4, 5};
  CHECK_EQ(s.command(kControlMac, kControlMacAddrSet, std::as_bytes(std::span(mac))), kControlOk);
  CHECK_EQ(s.net->save().mac, mac);
  CHECK_EQ(s.command(kControlMac, kControlMacAddrSet, on), kControlError);
  const MacAddress group = {0x03, 1, 2, 3, 4, 5};
  CHECK_EQ(s.command(kControlMac, kControlMacAddrSet, std::as_bytes(std::span(group))),
           kControlError);
  CHECK_EQ(s.command(kControlMac, kControlMacTableSet, std::as_bytes(std::span(mac))), kControlOk);
  CHECK_EQ(s.net->save().mac, mac);
}

TEST_CASE("a restored guest is asked to announce itself, if it can") {
  Setup s(kMerging | kFeatureGuestAnnounce | kFeatureStatus | kFeatureCtrlVq);
  s.net->announce();
  CHECK_EQ(s.harness.config_changes, 1);
  CHECK_EQ(s.status(), kStatusLinkUp | kStatusAnnounce);
  CHECK_EQ(s.command(kControlAnnounce, kControlAnnounceAck, {}), kControlOk);
  CHECK_EQ(s.status(), kStatusLinkUp);

  Setup cannot(kMerging);
  cannot.net->announce();
  CHECK_EQ(cannot.harness.config_changes, 0);
}

TEST_CASE("a saved device goes on with the guest's address, and only with its MTU") {
  Setup s(kMerging);
  State state = {.mac = {0x02, 9, 9, 9, 9, 9}, .mtu = 1500};
  REQUIRE(s.net->restore(state).has_value());
  CHECK_EQ(s.net->save(), state);
  state.mtu = 9000;
  CHECK_EQ(s.net->restore(state).error().reason(), "NET_MTU");
  state = {.mac = {}, .mtu = 1500};
  CHECK_EQ(s.net->restore(state).error().reason(), "NET_MAC");
}

TEST_CASE("an address or an MTU that cannot be is refused") {
  const auto made = [](const MacAddress& mac, uint16_t mtu) {
    return Net::create(std::make_unique<FakeBackend>(kAll), mac, mtu);
  };
  CHECK_EQ(made({}, 1500).error().reason(), "NET_MAC");
  CHECK_EQ(made({0x01}, 1500).error().reason(), "NET_MAC");
  CHECK_EQ(made(kMac, 67).error().reason(), "NET_MTU");
  CHECK(made(kMac, 68).has_value());
}

}  // namespace
}  // namespace mayfly::virtio::net
