// SPDX-License-Identifier: Apache-2.0
#include "daemon/id_pool.h"

#include "daemon/text.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

template <typename Number>
std::optional<Number> parse_number(const std::string& text) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool overlaps(const IdRange& range, uint64_t first, uint64_t count) {
  return count > 0 && first <= range.last && first + count > range.first;
}

std::vector<std::string> fields_of(const std::string& line) {
  std::vector<std::string> fields;
  std::istringstream in(line);
  for (std::string field; std::getline(in, field, ':');) fields.push_back(field);
  return fields;
}

}  // namespace

Result<IdRange> parse_id_range(const std::string& text) {
  const size_t dash = text.find('-');
  const auto first = parse_number<uid_t>(text.substr(0, dash));
  const auto last = dash == std::string::npos ? first : parse_number<uid_t>(text.substr(dash + 1));
  if (!first || !last || *first > *last) {
    return fail({Code::kInvalidArgument, "UID_RANGE"},
                "--uid-range: \"%s\" is not FIRST-LAST, two numbers up to 4294967294",
                printable(text, 64).c_str());
  }
  const IdRange range{.first = *first, .last = *last};
  for (const uid_t special : {0u, 65534u, 65535u, 4294967295u}) {
    if (overlaps(range, special, 1)) {
      return fail({Code::kInvalidArgument, "UID_RANGE"},
                  "--uid-range: %u-%u holds %u, which is no ordinary user", range.first, range.last,
                  special);
    }
  }
  return range;
}

Result<> check_ids_unowned(const IdRange& range, const std::string& etc) {
  struct Table {
    const char* name;
    size_t first_field;
    // npos: one id in each line.
    size_t count_field;
  };
  constexpr size_t kOne = std::string::npos;
  for (const Table& table : {Table{"passwd", 2, kOne}, Table{"group", 2, kOne},
                             Table{"subuid", 1, 2}, Table{"subgid", 1, 2}}) {
    std::ifstream file(etc + "/" + table.name);
    for (std::string line; std::getline(file, line);) {
      const std::vector<std::string> fields = fields_of(line);
      if (fields.size() <= table.first_field) continue;
      const auto first = parse_number<uint32_t>(fields[table.first_field]);
      const auto count = table.count_field == kOne ? std::optional<uint32_t>(1)
                         : fields.size() > table.count_field
                             ? parse_number<uint32_t>(fields[table.count_field])
                             : std::nullopt;
      if (first && count && overlaps(range, *first, *count)) {
        return fail({Code::kFailedPrecondition, "UID_RANGE_OWNED"},
                    "--uid-range: %u-%u holds ids of \"%s\" in %s/%s (%u, %u in all); choose "
                    "another range",
                    range.first, range.last, printable(fields[0], 64).c_str(), etc.c_str(),
                    table.name, *first, *count);
      }
    }
  }
  return {};
}

Result<> check_ids_mapped(const IdRange& range, const std::string& map, const char* map_name) {
  // Lines of "first-inside first-outside count". A range that two lines hold together is refused
  // too: nobody writes such maps.
  std::istringstream lines(map);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    uint64_t inside = 0;
    uint64_t outside = 0;
    uint64_t count = 0;
    if (words >> inside >> outside >> count && range.first >= inside &&
        range.last - inside < count) {
      return {};
    }
  }
  return fail({Code::kFailedPrecondition, "UID_RANGE_UNMAPPED"},
              "--uid-range: %u-%u are not all in %s: this container may not use them; choose a "
              "range it may, or --jail=user",
              range.first, range.last, map_name);
}

void IdLease::reset() {
  if (pool_ != nullptr) pool_->give_back(id_);
  pool_ = nullptr;
  id_ = 0;
}

Result<std::unique_ptr<IdPool>> IdPool::open(const IdRange& range, const std::string& lock_path) {
  Fd locks = TRY(Fd::open(lock_path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  struct stat status;
  if (::fstat(locks.number(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_uid != ::geteuid() || (status.st_mode & 022) != 0) {
    return fail({Code::kPermissionDenied, "UID_LOCKS"},
                "%s: is not a regular file that is ours alone; remove it", lock_path.c_str());
  }
  // From anywhere, and then on and on: an id that was given back is used again as late as possible,
  // so that a monitor that outlives a killed daemon for a moment has its id for itself.
  uint32_t random = 0;
  if (::getrandom(&random, sizeof(random), 0) != sizeof(random)) random = 0;
  const uint64_t count = uint64_t{range.last} - range.first + 1;
  const auto next = static_cast<uid_t>(range.first + random % count);
  return std::unique_ptr<IdPool>(new IdPool(range, std::move(locks), next));
}

bool IdPool::set_lock(uid_t id, short type) const {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(id);
  lock.l_len = 1;
  return ::fcntl(locks_.number(), F_OFD_SETLK, &lock) == 0;
}

Result<IdLease> IdPool::take() {
  std::lock_guard guard(mutex_);
  const uint64_t count = uint64_t{range_.last} - range_.first + 1;
  for (uint64_t tried = 0; tried < count; ++tried) {
    const uid_t id = next_;
    next_ = id == range_.last ? range_.first : id + 1;
    if (ours_.contains(id) || !set_lock(id, F_WRLCK)) continue;
    ours_.insert(id);
    return IdLease(this, id);
  }
  return fail({Code::kResourceExhausted, "UIDS_EXHAUSTED"},
              "all %llu ids of --uid-range=%u-%u are in use by VMs of this host",
              static_cast<unsigned long long>(count), range_.first, range_.last);
}

void IdPool::give_back(uid_t id) {
  std::lock_guard guard(mutex_);
  ours_.erase(id);
  set_lock(id, F_UNLCK);
}

}  // namespace mayfly::daemon
