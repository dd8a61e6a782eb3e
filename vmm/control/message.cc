// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/message.h"

#include "base/wire.h"

namespace mayfly::vmm::message {
namespace {

using Bytes = std::span<const std::byte>;

Result<Disk> parse_disk(Bytes bytes) {
  Disk disk;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        disk.fd = TRY(field->u32());
        break;
      case 2:
        disk.read_only = TRY(field->u64()) != 0;
        break;
      case 3:
        disk.serial = field->text();
        break;
    }
  }
  return disk;
}

Result<Net> parse_net(Bytes bytes) {
  Net net;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        net.tap_fd = TRY(field->u32());
        break;
      case 2:
        net.mac = field->text();
        break;
      case 3:
        net.mtu = TRY(field->u32());
        break;
      case 10:
        net.stream_fd = TRY(field->u32());
        break;
    }
  }
  return net;
}

Result<Console> parse_console(Bytes bytes) {
  Console console;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        console.ring_fd = TRY(field->u32());
        break;
      case 2:
        console.output_event_fd = TRY(field->u32());
        break;
      case 3:
        console.input_fd = TRY(field->u32());
        break;
    }
  }
  return console;
}

Result<VsockPort> parse_vsock_port(Bytes bytes) {
  VsockPort port;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        port.port = TRY(field->u32());
        break;
      case 2:
        port.fd = TRY(field->u32());
        break;
    }
  }
  return port;
}

Result<Vsock> parse_vsock(Bytes bytes) {
  Vsock vsock;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        vsock.guest_cid = TRY(field->u64());
        break;
      case 2:
        vsock.host_ports.push_back(TRY(parse_vsock_port(TRY(field->message()))));
        break;
    }
  }
  return vsock;
}

Result<Layer> parse_layer(Bytes bytes) {
  Layer layer;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        layer.memory_fd = TRY(field->u32());
        break;
      case 2:
        layer.pages_fd = TRY(field->u32());
        break;
    }
  }
  return layer;
}

Result<GetTouchedPages> parse_get_touched_pages(Bytes bytes) {
  GetTouchedPages get;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        get.touched_fd = TRY(field->u32());
        break;
      case 2:
        get.written_fd = TRY(field->u32());
        break;
    }
  }
  return get;
}

Result<RecordTouched> parse_record_touched(Bytes bytes) {
  RecordTouched record;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        record.has_userfault_device = TRY(field->u64()) != 0;
        break;
      case 2:
        record.userfault_device_fd = TRY(field->u32());
        break;
    }
  }
  return record;
}

Result<ChunkRun> parse_chunk_run(Bytes bytes) {
  ChunkRun run;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        run.first = TRY(field->u32());
        break;
      case 2:
        run.count = TRY(field->u32());
        break;
    }
  }
  return run;
}

Result<Restore> parse_restore(Bytes bytes) {
  Restore restore;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        restore.state_fd = TRY(field->u32());
        break;
      case 2:
        restore.private_memory = TRY(field->u64()) != 0;
        break;
      case 3:
        restore.layers.push_back(TRY(parse_layer(TRY(field->message()))));
        break;
      case 4:
        restore.generation_id = field->text();
        break;
      case 5:
        restore.park = TRY(field->u64()) != 0;
        break;
      case 6:
        restore.copied_chunks.push_back(TRY(parse_chunk_run(TRY(field->message()))));
        break;
      case 7:
        restore.record_touched = TRY(parse_record_touched(TRY(field->message())));
        break;
      case 10:
        restore.mapped_memory = TRY(field->u64()) != 0;
        break;
    }
  }
  return restore;
}

Result<Claim> parse_claim(Bytes bytes) {
  Claim claim;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        claim.generation_id = field->text();
        break;
      case 2:
        claim.vsock = TRY(parse_vsock(TRY(field->message())));
        break;
      case 3:
        claim.disks.push_back(TRY(parse_disk(TRY(field->message()))));
        break;
      case 4:
        claim.start = TRY(field->u64()) != 0;
        break;
      case 5:
        claim.nets.push_back(TRY(parse_net(TRY(field->message()))));
        break;
    }
  }
  return claim;
}

Result<MapMemory> parse_map_memory(Bytes bytes) {
  MapMemory map;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        map.memory_fd = TRY(field->u32());
        break;
      case 2:
        map.memory_bytes = TRY(field->u64());
        break;
      case 3:
        map.userfault_device_fd = TRY(field->u32());
        break;
      case 4:
        map.guard_fd = TRY(field->u32());
        break;
    }
  }
  return map;
}

Result<ChangedPages> parse_changed_pages(Bytes bytes) {
  ChangedPages changed;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        changed.layer = TRY(parse_layer(TRY(field->message())));
        break;
    }
  }
  return changed;
}

Result<Save> parse_save(Bytes bytes) {
  Save save;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        save.state_fd = TRY(field->u32());
        break;
      case 2:
        save.leave_memory = TRY(field->u64()) != 0;
        save.state_only = false;
        save.changed_pages.reset();
        break;
      case 4:
        save.state_only = TRY(field->u64()) != 0;
        save.leave_memory = false;
        save.changed_pages.reset();
        break;
      case 3:
        save.leave_memory = false;
        save.state_only = false;
        save.changed_pages = TRY(parse_changed_pages(TRY(field->message())));
        break;
    }
  }
  return save;
}

Result<GetPages> parse_get_pages(Bytes bytes) {
  GetPages get;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        get.first_page = TRY(field->u64());
        break;
      case 2:
        get.page_count = TRY(field->u32());
        break;
      case 3:
        get.find_zero = TRY(field->u64()) != 0;
        break;
    }
  }
  return get;
}

Result<Balloon> parse_balloon(Bytes bytes) {
  Balloon balloon;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        balloon.target_pages = TRY(field->u64());
        break;
      case 2:
        balloon.deflate_on_oom = TRY(field->u64()) != 0;
        break;
      case 3:
        balloon.free_page_reporting = TRY(field->u64()) != 0;
        break;
      case 4:
        balloon.stats_interval_s = TRY(field->u32());
        break;
    }
  }
  return balloon;
}

Result<SetBalloon> parse_set_balloon(Bytes bytes) {
  SetBalloon set;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    if (field->number == 1) set.target_pages = TRY(field->u64());
  }
  return set;
}

Result<Configure> parse_configure(Bytes bytes) {
  Configure configure;
  WireReader reader(bytes);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case 1:
        configure.vcpu_count = TRY(field->u32());
        break;
      case 2:
        configure.memory_bytes = TRY(field->u64());
        break;
      case 3:
        configure.cmdline = field->text();
        break;
      case 4:
        configure.kvm_fd = TRY(field->u32());
        break;
      case 5:
        configure.memory_fd = TRY(field->u32());
        break;
      case 6:
        configure.kernel_fd = TRY(field->u32());
        break;
      case 7:
        TRY(field->append_u32s(configure.initrd_fds));
        break;
      case 8:
        configure.disks.push_back(TRY(parse_disk(TRY(field->message()))));
        break;
      case 9:
        configure.console = TRY(parse_console(TRY(field->message())));
        break;
      case 10:
        configure.vsock = TRY(parse_vsock(TRY(field->message())));
        break;
      case 11:
        configure.no_rng = TRY(field->u64()) != 0;
        break;
      case 12:
        configure.exit_report_fd = TRY(field->u32());
        break;
      case 13:
        configure.start = TRY(field->u64()) != 0;
        break;
      case 14:
        configure.end_on_disconnect = TRY(field->u64()) != 0;
        break;
      case 15:
        configure.debug_serial = TRY(field->u64()) != 0;
        break;
      case 16:
        configure.restore = TRY(parse_restore(TRY(field->message())));
        break;
      case 17:
        configure.nets.push_back(TRY(parse_net(TRY(field->message()))));
        break;
      case 18:
        configure.balloon = TRY(parse_balloon(TRY(field->message())));
        break;
    }
  }
  return configure;
}

}  // namespace

Result<Request> parse(Bytes packet) {
  constexpr uint32_t kId = 1, kConfigure = 2, kVsockConnect = 7, kSave = 9, kClaim = 11,
                     kGetPages = 12, kMapMemory = 14, kGetTouchedPages = 16, kSetBalloon = 17;
  Request request;
  WireReader reader(packet);
  while (const auto field = TRY(reader.next())) {
    switch (field->number) {
      case kId:
        request.id = TRY(field->u64());
        break;
      case kConfigure:
        request.call = TRY(parse_configure(TRY(field->message())));
        break;
      case kVsockConnect:
        request.call = TRY(parse_vsock_port(TRY(field->message())));
        break;
      case kSave:
        request.call = TRY(parse_save(TRY(field->message())));
        break;
      case kClaim:
        request.call = TRY(parse_claim(TRY(field->message())));
        break;
      case kGetTouchedPages:
        request.call = TRY(parse_get_touched_pages(TRY(field->message())));
        break;
      case kGetPages:
        request.call = TRY(parse_get_pages(TRY(field->message())));
        break;
      case kMapMemory:
        request.call = TRY(parse_map_memory(TRY(field->message())));
        break;
      case kSetBalloon:
        request.call = TRY(parse_set_balloon(TRY(field->message())));
        break;
      case static_cast<uint32_t>(Plain::kStart):
      case static_cast<uint32_t>(Plain::kPause):
      case static_cast<uint32_t>(Plain::kResume):
      case static_cast<uint32_t>(Plain::kStop):
      case static_cast<uint32_t>(Plain::kGetStats):
      case static_cast<uint32_t>(Plain::kGetMemory):
      case static_cast<uint32_t>(Plain::kGetBalloon):
        request.call = Plain{field->number};
        break;
    }
  }
  return request;
}

}  // namespace mayfly::vmm::message
