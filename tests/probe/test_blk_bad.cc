// SPDX-License-Identifier: Apache-2.0
//
// A driver that breaks every rule, one at a time, each on a freshly reset device. After each
// misdeed the device must have answered in one of the allowed ways, and must work again after a
// reset.
#include "tests/probe/blk.h"
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

// A broken ring is answered within microseconds; not everything needs an answer.
constexpr uint64_t kShortPatience = 300'000'000;

constexpr unsigned kUsed = 1, kBroken = 2, kSilent = 4;

constinit BlkRequest request{};
constinit BlkRequest spare{};
alignas(16) constinit Descriptor table[8] = {};

struct Bed {
  Blk& blk;
  Queue& queue;
  Device& device;
};

// A good request in descriptors 0 to 2, not yet available.
void lay(Bed& bed, BlkType type = BlkType::kIn) {
  request.header = {static_cast<uint32_t>(type), 0, 0};
  request.status = kBlkNoStatus;
  Descriptor* d = bed.queue.descriptors;
  d[0] = {address_of(&request.header), sizeof(request.header), kNext, 1};
  d[1] = {address_of(request.data), 4096,
          static_cast<uint16_t>(kNext | (type == BlkType::kIn ? kWrite : 0)), 2};
  d[2] = {address_of(&request.status), 1, kWrite, 0};
}

// The same, by an indirect table.
void lay_indirect(Bed& bed) {
  lay(bed);
  for (int i = 0; i < 3; ++i) table[i] = bed.queue.descriptors[i];
  bed.queue.descriptors[0] = {address_of(table), 3 * sizeof(Descriptor), kIndirect, 0};
}

void submit(Bed& bed, uint16_t head = 0) {
  bed.queue.publish(head);
  bed.device.kick(0);
}

template <typename Change>
void submit_changed(Bed& bed, Change change) {
  lay(bed);
  change(bed.queue.descriptors);
  submit(bed);
}

template <typename Change>
void submit_indirect(Bed& bed, Change change) {
  lay_indirect(bed);
  change(bed.queue.descriptors[0]);
  submit(bed);
}

struct Case {
  const char* name;
  unsigned allowed;
  void (*commit)(Bed&);
};

using D = Descriptor*;

constexpr Case kChainCases[] = {
    {"loop", kBroken, [](Bed& b) { submit_changed(b, [](D d) { d[1].next = 0; }); }},
    {"self-loop", kBroken, [](Bed& b) { submit_changed(b, [](D d) { d[0].next = 0; }); }},
    {"next-outside", kBroken, [](Bed& b) { submit_changed(b, [](D d) { d[1].next = 0xfff0; }); }},
    {"head-outside", kBroken, [](Bed& b) { submit(b, 0xffff); }},
    {"address-outside", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].address = uint64_t{1} << 48; }); }},
    {"address-wraps", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].address = ~uint64_t{0} - 100; }); }},
    {"address-of-device", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].address = 0xd0000000; }); }},
    {"header-outside", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[0].address = uint64_t{1} << 48; }); }},
    {"status-outside", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[2].address = uint64_t{1} << 48; }); }},
    {"length-huge", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].length = 0xffffffff; }); }},
    {"length-zero", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].length = 0; }); }},
    {"length-odd", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[1].length = 1000; }); }},
    {"header-short", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[0].length = 7; }); }},
    {"header-writable", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[0].flags = kNext | kWrite; }); }},
    {"no-status", kUsed | kBroken, [](Bed& b) { submit_changed(b, [](D d) { d[0].flags = 0; }); }},
    {"status-read-only", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[2].flags = 0; }); }},
    {"status-empty", kUsed | kBroken,
     [](Bed& b) { submit_changed(b, [](D d) { d[2].length = 0; }); }},
    {"sector-outside", kUsed,
     [](Bed& b) {
       lay(b);
       request.header.sector = b.blk.sectors;
       submit(b);
     }},
    {"sector-wraps", kUsed,
     [](Bed& b) {
       lay(b);
       request.header.sector = ~uint64_t{0} >> 9;
       submit(b);
     }},
    {"type-unknown", kUsed,
     [](Bed& b) {
       lay(b);
       request.header.type = 0xabcd;
       submit(b);
     }},
};

constexpr Case kIndirectCases[] = {
    {"indirect-loop", kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor&) { table[1].next = 0; }); }},
    {"indirect-next-outside", kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor&) { table[1].next = 7; }); }},
    {"indirect-nested", kBroken,
     [](Bed& b) {
       submit_indirect(b, [](Descriptor&) {
         table[1] = {address_of(table), 3 * sizeof(Descriptor), kIndirect | kNext, 2};
       });
     }},
    {"indirect-length-odd", kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor& d) { d.length = 41; }); }},
    {"indirect-length-zero", kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor& d) { d.length = 0; }); }},
    {"indirect-length-huge", kUsed | kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor& d) { d.length = 0xfffffff0; }); }},
    {"indirect-outside", kUsed | kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor& d) { d.address = uint64_t{1} << 48; }); }},
    {"indirect-and-next", kUsed | kBroken,
     [](Bed& b) { submit_indirect(b, [](Descriptor& d) { d.flags = kIndirect | kNext; }); }},
};

constexpr Case kQueueCases[] = {
    {"avail-jump", kBroken,
     [](Bed& b) {
       lay(b);
       b.queue.avail.index = static_cast<uint16_t>(b.queue.avail.index + b.queue.size() + 1);
       b.device.kick(0);
     }},
    {"avail-back", kBroken,
     [](Bed& b) {
       lay(b);
       b.queue.avail.index = 0xffff;
       b.device.kick(0);
     }},
    {"kick-nothing", kSilent, [](Bed& b) { b.device.kick(0); }},
    {"kick-no-such-queue", kSilent | kBroken, [](Bed& b) { b.device.kick(77); }},
    {"flip-after-kick", kUsed | kBroken,
     [](Bed& b) {
       lay(b);
       submit(b);
       for (int i = 0; i < 100; ++i) {
         b.queue.descriptors[1].address = i % 2 ? uint64_t{1} << 48 : address_of(request.data);
       }
     }},
    {"reset-in-flight", kSilent,
     [](Bed& b) {
       lay(b);
       submit(b);
       b.device.write(kStatus, 0);
       for (uint64_t begin = cycles(); cycles() - begin < kShortPatience / 10;) relax();
       // What the device returned before the reset took hold counts as nothing.
       b.queue.clear(b.queue.size());
     }},
};

// Sets queue 0 up wrongly on a device that is not yet running, then runs it with a request.
void set_up_wrongly(Bed& b, uint32_t size, uint64_t desc, uint64_t avail, uint64_t used) {
  b.device.negotiate(kBlkFlush);
  b.queue.clear(8);
  b.device.write(kQueueSel, 0);
  b.device.write(kQueueNum, size);
  const uint64_t at[] = {desc, avail, used};
  const uint64_t where[] = {kQueueDesc, kQueueDriver, kQueueDevice};
  for (int i = 0; i < 3; ++i) {
    b.device.write(where[i], static_cast<uint32_t>(at[i]));
    b.device.write(where[i] + 4, static_cast<uint32_t>(at[i] >> 32));
  }
  b.device.write(kQueueReady, 1);
  b.device.go();
  lay(b);
  submit(b);
}

void set_up_sized(Bed& b, uint32_t size) {
  set_up_wrongly(b, size, address_of(b.queue.descriptors), address_of(&b.queue.avail),
                 address_of(&b.queue.used));
}

void set_up_at(Bed& b, uint64_t desc, uint64_t avail, uint64_t used) {
  set_up_wrongly(b, 8, desc != 0 ? desc : address_of(b.queue.descriptors),
                 avail != 0 ? avail : address_of(&b.queue.avail),
                 used != 0 ? used : address_of(&b.queue.used));
}

constexpr unsigned kNotUsed = kBroken | kSilent;
constexpr uint64_t kFar = uint64_t{1} << 52;

constexpr Case kSetUpCases[] = {
    {"size-3", kNotUsed, [](Bed& b) { set_up_sized(b, 3); }},
    {"size-0", kNotUsed, [](Bed& b) { set_up_sized(b, 0); }},
    {"size-huge", kNotUsed, [](Bed& b) { set_up_sized(b, 0x10000); }},
    {"size-all-ones", kNotUsed, [](Bed& b) { set_up_sized(b, 0xffffffff); }},
    {"desc-outside", kNotUsed, [](Bed& b) { set_up_at(b, kFar, 0, 0); }},
    {"avail-outside", kNotUsed, [](Bed& b) { set_up_at(b, 0, kFar, 0); }},
    {"used-outside", kNotUsed, [](Bed& b) { set_up_at(b, 0, 0, kFar); }},
    {"desc-wraps", kNotUsed, [](Bed& b) { set_up_at(b, ~uint64_t{0xf}, 0, 0); }},
    {"desc-misaligned", kNotUsed,
     [](Bed& b) { set_up_at(b, address_of(b.queue.descriptors) + 1, 0, 0); }},
    {"used-misaligned", kNotUsed,
     [](Bed& b) { set_up_at(b, 0, 0, address_of(&b.queue.used) + 2); }},
    {"used-over-device", kNotUsed, [](Bed& b) { set_up_at(b, 0, 0, 0xd0000000); }},
    {"not-running", kNotUsed,
     [](Bed& b) {
       b.device.negotiate(kBlkFlush);
       b.device.set_up(0, b.queue, 8);
       lay(b);
       submit(b);
     }},
};

unsigned misjudged = 0;

void run_case(Bed& bed, const Case& each) {
  bed.blk.start();
  each.commit(bed);
  UsedElement element{};
  const Outcome outcome = wait(bed.device, bed.queue, element, kShortPatience);
  const unsigned bit = outcome == Outcome::kUsed     ? kUsed
                       : outcome == Outcome::kBroken ? kBroken
                                                     : kSilent;
  const bool allowed = (bit & each.allowed) != 0;
  {
    Line line;
    line << (allowed ? "ok " : "BAD ") << each.name << ": " << name_of(outcome);
    if (outcome == Outcome::kUsed) {
      line << " length=" << element.length << " status=" << request.status;
    }
  }
  misjudged += allowed ? 0 : 1;
  bed.blk.start();
  require(bed.blk.run(spare, BlkType::kIn, 0, 4096) == kBlkOk, "no answer after a reset");
}

template <size_t n>
void run_all(Bed& bed, const Case (&cases)[n]) {
  for (const Case& each : cases) run_case(bed, each);
}

}  // namespace

void test_blk_bad() {
  start_report();
  Blk& blk = the_blk();
  Bed bed{blk, blk.queue, blk.device};
  blk.start();
  run_all(bed, kChainCases);
  if ((blk.device.features() & kIndirectFeature) != 0) run_all(bed, kIndirectCases);
  run_all(bed, kQueueCases);
  run_all(bed, kSetUpCases);
  require(misjudged == 0,
          "some misdeeds were not answered as they must be: see the lines with BAD");
}

}  // namespace probe
