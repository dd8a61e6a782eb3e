// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1's messages to and from the daemon's plain values. Only the gRPC services include this.
// What comes in is checked for its form here, and for its values by the code it goes to. Any
// thread.
#pragma once

#include "base/error.h"
#include "daemon/agent_codec.h"
#include "daemon/console.h"
#include "daemon/event_log.h"
#include "daemon/host_check.h"
#include "daemon/vm_manager.h"
#include "daemon/vm_view.h"
#include "mayfly/v1/console.pb.h"
#include "mayfly/v1/event.pb.h"
#include "mayfly/v1/exec.pb.h"
#include "mayfly/v1/system.pb.h"
#include "mayfly/v1/vm.pb.h"

namespace mayfly::daemon {

namespace v1 = ::mayfly::v1;

/// A field that this daemon does not know, anywhere in the message, is refused rather than ignored:
/// the caller meant something by it.
Result<> refuse_unknown_fields(const google::protobuf::Message& message);

DiskLimits from_proto(const v1::DiskLimits& in);
ResourceLimits from_proto(const v1::ResourceLimits& in);
Result<CreateRequest> from_proto(const v1::CreateVmRequest& in);
Result<WaitGoal> from_proto(const v1::WaitVmRequest& in);
ExecStart from_proto(const v1::ExecStart& in);
WindowSize from_proto(const v1::WindowSize& in);

v1::JailMode to_proto(JailMode mode);
void set_time(int64_t unix_us, google::protobuf::Timestamp* out);
void to_proto(const VmView& in, v1::Vm* out);
void to_proto(const PhaseTimes& in, v1::PhaseTimes* out);
void to_proto(const ConsoleChunk& in, v1::ConsoleChunk* out);
void to_proto(const Event& in, const EventLog& log, v1::Event* out);
void to_proto(const HostReport& in, v1::CheckHostResponse* out);

}  // namespace mayfly::daemon
