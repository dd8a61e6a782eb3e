// SPDX-License-Identifier: Apache-2.0
//
// What every command that calls a daemon does: finds it, and prints its answer or its refusal.
#pragma once

#include "base/error.h"
#include "cli/client.h"
#include "cli/flags.h"
#include "cli/output.h"

#include <cstdio>
#include <memory>

namespace mayfly::cli {

/// With the deadline that the flags say.
std::unique_ptr<Client> connect(const GlobalFlags& global);

/// Reports the error, one of a daemon that is not there in words that help; the exit code.
int failed(const GlobalFlags& global, const Error& error);

void print_json(const google::protobuf::Message& message);

/// "web RUNNING", with its end where it has one.
void print_line(const v1::Vm& vm);

/// For commands that change a VM: the JSON of the response, or one line.
template <typename Response>
int answer(const GlobalFlags& global, const Result<Response>& response) {
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
  } else {
    print_line(response->vm());
  }
  return 0;
}

}  // namespace mayfly::cli
