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
#include <string>
#include <vector>

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

/// All pages of a listing as one response, whose `items` they gather in: its JSON, or `table`'s
/// text.
template <typename Request, typename Response, typename Item>
int list_all(const GlobalFlags& global,
             google::protobuf::RepeatedPtrField<Item>* (Response::*items)(),
             std::string (*table)(const google::protobuf::RepeatedPtrField<Item>&)) {
  const auto client = connect(global);
  Response all;
  Request request;
  request.set_page_size(1000);
  do {
    auto page = client->call(request);
    if (!page) return failed(global, page.error());
    request.set_page_token(page->next_page_token());
    (all.*items)()->MergeFrom(*((*page).*items)());
  } while (!request.page_token().empty());
  if (global.json) {
    print_json(all);
  } else {
    std::fputs(table(*(all.*items)()).c_str(), stdout);
  }
  return 0;
}

/// Deletes each, whatever becomes of the others; `make` gives the request for an id.
template <typename Make>
int delete_each(const GlobalFlags& global, const std::vector<std::string>& ids, const Make& make) {
  const auto client = connect(global);
  int code = 0;
  for (const std::string& id : ids) {
    const auto response = client->call(make(id));
    if (!response) {
      code = failed(global, response.error());
    } else if (global.json) {
      print_json(*response);
    } else {
      std::printf("%s deleted\n", id.c_str());
    }
  }
  return code;
}

}  // namespace mayfly::cli
