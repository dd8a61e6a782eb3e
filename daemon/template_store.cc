// SPDX-License-Identifier: Apache-2.0
#include "daemon/template_store.h"

#include "daemon/text.h"
#include "daemon/vm_manager.h"

namespace mayfly::daemon {

namespace {

Result<PreparedMachine> duplicate(const PreparedMachine& machine) {
  const RestoreSource& source = machine.source;
  std::vector<Fd> disks;
  for (const Fd& disk : source.disks) {
    disks.push_back(disk.valid() ? TRY(Fd::duplicate(disk.ref())) : Fd());
  }
  return PreparedMachine{.source = {.state = TRY(Fd::duplicate(source.state.ref())),
                                    .memory = TRY(Fd::duplicate(source.memory.ref())),
                                    .layers = {},
                                    .disks = std::move(disks),
                                    .disk_directory = source.disk_directory,
                                    .base = source.base,
                                    .origin = source.origin,
                                    .template_id = source.template_id,
                                    .template_number = source.template_number,
                                    .plans = source.plans},
                         .spec = machine.spec,
                         .huge_chunks = {}};
}

}  // namespace

TemplateClaim::~TemplateClaim() {
  if (store_ == nullptr) return;
  std::lock_guard lock(store_->mutex_);
  const auto found = store_->entries_.find(id_);
  if (found != store_->entries_.end() && !found->second) store_->entries_.erase(found);
}

Result<TemplateClaim> TemplateStore::claim(const std::string& id) {
  TRY(validate_id("template_id", id));
  std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) {
    return fail({Code::kAlreadyExists, "TEMPLATE_EXISTS"}, "template_id: %s %s", id.c_str(),
                found->second ? "exists already" : "is being prepared already");
  }
  if (entries_.size() >= kMaxTemplates) {
    return fail({Code::kResourceExhausted, "TOO_MANY_TEMPLATES"},
                "%zu templates exist already, which is the limit", entries_.size());
  }
  entries_.emplace(id, std::nullopt);
  return TemplateClaim(this, id, next_number_++);
}

Result<TemplateView> TemplateStore::add(const TemplateClaim& claim, TemplateView view,
                                        PreparedMachine machine, const Call& call) {
  const uint32_t count = view.shells ? view.shells->wanted : 0;
  if (count > 0) TRY(shells_.add(TRY(duplicate(machine)), count, call));
  std::lock_guard lock(mutex_);
  std::optional<Entry>& entry = entries_.at(claim.id());
  entry.emplace(Entry{.view = std::move(view), .machine = std::move(machine)});
  return view_of(*entry);
}

TemplateView TemplateStore::view_of(const Entry& entry) const {
  TemplateView view = entry.view;
  view.shells = shells_.counts(entry.machine.source.template_number);
  return view;
}

Result<TemplateStore::Entry*> TemplateStore::entry(const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || !found->second) {
    return fail({Code::kNotFound, "TEMPLATE_NOT_FOUND"}, "template_id: there is no template \"%s\"",
                printable(id, kMaxIdBytes).c_str());
  }
  return &*found->second;
}

Result<PreparedMachine> TemplateStore::find(const std::string& id) {
  TRY(validate_id("template_id", id));
  std::lock_guard lock(mutex_);
  return duplicate(TRY(entry(id))->machine);
}

void TemplateStore::rebased(const BaseSnapshot& from, const snapshot::Digest& to) {
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : entries_) {
    if (entry && entry->machine.source.base == from) entry->machine.source.base->memory_digest = to;
  }
}

Result<TemplateView> TemplateStore::get(const std::string& id) {
  TRY(validate_id("template_id", id));
  std::lock_guard lock(mutex_);
  return view_of(*TRY(entry(id)));
}

Result<TemplatePage> TemplateStore::list(size_t page_size, const std::string& page_token) {
  page_size = TRY(checked_page(page_size, page_token));
  std::lock_guard lock(mutex_);
  TemplatePage page;
  for (auto it = entries_.upper_bound(page_token); it != entries_.end(); ++it) {
    if (!it->second) continue;
    if (page.templates.size() == page_size) {
      page.next_page_token = page.templates.back().id;
      break;
    }
    page.templates.push_back(view_of(*it->second));
  }
  return page;
}

std::vector<std::string> TemplateStore::learn(const snapshot::Digest& memory,
                                              const snapshot::WorkingSet& touched,
                                              uint32_t faults_of_copy) {
  std::vector<std::string> ids;
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : entries_) {
    if (!entry) continue;
    RestoreSource& source = entry->machine.source;
    if (!source.base || source.base->memory_digest != memory) continue;
    source.plans = {touched,
                    {.faults_of_copy = faults_of_copy, .huge_chunks = entry->machine.huge_chunks}};
    entry->view.has_working_set = true;
    shells_.learn(source.template_number, source.plans);
    ids.push_back(id);
  }
  return ids;
}

Result<> TemplateStore::remove(const std::string& id) {
  TRY(validate_id("template_id", id));
  std::optional<Entry> gone;
  {
    std::lock_guard lock(mutex_);
    TRY(entry(id));
    gone = std::exchange(entries_.at(id), std::nullopt);
  }
  const uint64_t number = gone->machine.source.template_number;
  const TemplateClaim claim(this, id, number);
  shells_.remove(number);
  return {};
}

}  // namespace mayfly::daemon
