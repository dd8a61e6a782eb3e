// SPDX-License-Identifier: Apache-2.0
#include "cli/memory.h"

#include "cli/daemon_call.h"
#include "cli/memory_fetch_sys.h"

#include <array>
#include <cstdio>
#include <utility>

namespace mayfly::cli {

namespace {

constexpr std::array<std::pair<const char*, v1::PageKind>, 4> kKinds = {{
    {"changed", v1::PAGE_KIND_CHANGED},
    {"resident", v1::PAGE_KIND_RESIDENT},
    {"swapped", v1::PAGE_KIND_SWAPPED},
    {"zero", v1::PAGE_KIND_ZERO},
}};

const char* name_of(v1::PageKind kind) {
  for (const auto& [name, known] : kKinds) {
    if (known == kind) return name;
  }
  return "unknown";
}

Result<> add_kinds(const MemoryFlags& flags, v1::QueryPagesRequest& request) {
  if (flags.kinds.empty()) request.add_kinds(v1::PAGE_KIND_CHANGED);
  for (const std::string& wanted : flags.kinds) {
    bool found = false;
    for (const auto& [name, kind] : kKinds) {
      if (wanted != name) continue;
      request.add_kinds(kind);
      found = true;
    }
    if (!found) {
      return fail({Code::kInvalidArgument, "USAGE"},
                  "--kind: %s is none of changed, resident, swapped, zero", wanted.c_str());
    }
  }
  return {};
}

void print_sets(const v1::QueryPagesResponse& response) {
  for (const v1::PageSet& set : response.sets()) {
    for (const v1::PageRun& run : set.runs()) {
      std::printf("%-8s %llu %llu\n", name_of(set.kind()),
                  static_cast<unsigned long long>(run.first_page()),
                  static_cast<unsigned long long>(run.page_count()));
    }
  }
}

}  // namespace

int describe_memory(const GlobalFlags& global, const MemoryFlags& flags) {
  v1::DescribeMemoryRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_count_pages(flags.count_pages);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  print_json(*response);
  return 0;
}

int query_pages(const GlobalFlags& global, const MemoryFlags& flags) {
  v1::QueryPagesRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_first_page(flags.first_page);
  request.set_page_count(flags.page_count);
  if (const auto added = add_kinds(flags, request); !added) {
    return report_error(global, added.error());
  }
  const auto client = connect(global);
  const auto stream = client->query_pages(request);
  for (v1::QueryPagesResponse response; stream->read(response);) {
    if (global.json) {
      std::printf("%s\n", to_json(response, false).c_str());
    } else {
      print_sets(response);
    }
  }
  const auto finished = stream->finish();
  return finished ? 0 : failed(global, finished.error());
}

int export_memory(const GlobalFlags& global, const MemoryFlags& flags) {
  v1::ExportMemoryRequest request;
  request.set_vm_id(flags.vm_id);
  request.set_frozen(flags.frozen);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  const auto memory = fetch_memory(response->socket_path());
  if (!memory) return failed(global, memory.error());
  if (const auto written = write_memory(*memory, response->size_bytes(), flags.file); !written) {
    return report_error(global, written.error());
  }
  if (global.json) {
    print_json(*response);
  } else {
    std::printf("%s: %llu MiB%s\n", flags.file.c_str(),
                static_cast<unsigned long long>(response->size_bytes() >> 20),
                response->live() ? ", read while the VM could write it" : "");
  }
  return 0;
}

int memory_usage(const GlobalFlags& global) {
  const auto client = connect(global);
  v1::ListMemoryUsageResponse all;
  v1::ListMemoryUsageRequest request;
  request.set_page_size(1000);
  do {
    const auto page = client->call(request);
    if (!page) return failed(global, page.error());
    request.set_page_token(page->next_page_token());
    all.mutable_usages()->MergeFrom(page->usages());
    for (const v1::MemoryBase& base : page->bases()) {
      bool known = false;
      for (const v1::MemoryBase& other : all.bases()) known |= other.base_id() == base.base_id();
      if (!known) *all.add_bases() = base;
    }
  } while (!request.page_token().empty());
  if (global.json) {
    print_json(all);
  } else {
    std::fputs(usage_table(all).c_str(), stdout);
  }
  return 0;
}

}  // namespace mayfly::cli
