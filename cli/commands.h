// SPDX-License-Identifier: Apache-2.0
//
// The commands that are one or two calls to a daemon. Each gives the program's exit code.
#pragma once

#include "cli/flags.h"

#include <string>

namespace mayfly::cli {

int create(const GlobalFlags& global, const CreateFlags& flags);
int start(const GlobalFlags& global, const std::string& vm_id);
int pause(const GlobalFlags& global, const std::string& vm_id);
int resume(const GlobalFlags& global, const std::string& vm_id);
int list(const GlobalFlags& global);
int inspect(const GlobalFlags& global, const std::string& vm_id);
int update(const GlobalFlags& global, const UpdateFlags& flags);
int wait(const GlobalFlags& global, const WaitFlags& flags);
int stop(const GlobalFlags& global, const StopFlags& flags);
int remove(const GlobalFlags& global, const RemoveFlags& flags);
int console(const GlobalFlags& global, const ConsoleFlags& flags);
int events(const GlobalFlags& global, const EventFlags& flags);
int doctor(const GlobalFlags& global);
int version(const GlobalFlags& global);

}  // namespace mayfly::cli
