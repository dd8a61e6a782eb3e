// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <array>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mayfly {
namespace {

constexpr std::array<const char*, 16> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS",
};

std::string vformat(const char* format, va_list args) {
  va_list again;
  va_copy(again, args);
  const int size = std::vsnprintf(nullptr, 0, format, args);
  std::string text(size > 0 ? static_cast<size_t>(size) : 0, '\0');
  if (size > 0) std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  return text;
}

const char* file_name(const std::source_location& where) {
  const char* slash = std::strrchr(where.file_name(), '/');
  return slash ? slash + 1 : where.file_name();
}

}  // namespace

const char* code_name(Code code) {
  const auto index = static_cast<size_t>(code);
  return index < kCodeNames.size() ? kCodeNames[index] : "UNKNOWN";
}

Code code_from_number(uint32_t number) {
  const bool known = number >= static_cast<uint32_t>(Code::kCancelled) &&
                     number <= static_cast<uint32_t>(Code::kDataLoss);
  return known ? static_cast<Code>(number) : Code::kUnknown;
}

Error::Error(const Failure& failure, std::string message, int os_errno)
    : record_(new Record{.code = failure.code,
                         .os_errno = os_errno,
                         .reason = failure.reason,
                         .message = std::move(message),
                         .where = failure.where}) {}

Error::Error(const Error& other) : record_(new Record(*other.record_)) {}

Error& Error::operator=(const Error& other) {
  record_.reset(new Record(*other.record_));
  return *this;
}

void Error::Forget::operator()(Record* record) const { delete record; }

Error Error::received(Code code, std::string reason, std::string message,
                      std::source_location where) {
  Error error(Failure(code, "", where), std::move(message));
  error.record_->reason = std::move(reason);
  return error;
}

std::string Error::describe() const {
  return format("%s %s: %s (%s:%u)", code_name(code()), reason().c_str(), message().c_str(),
                file_name(where()), static_cast<unsigned>(where().line()));
}

Error Error::with_context(const std::string& context) && {
  record_->message = context + ": " + record_->message;
  return std::move(*this);
}

std::unexpected<Error> fail(Failure failure, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Error error(failure, vformat(format, args));
  va_end(args);
  return std::unexpected(std::move(error));
}

std::unexpected<Error> fail_errno(Failure failure, int os_errno, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string message = vformat(format, args);
  va_end(args);
  message += ": ";
  message += strerrordesc_np(os_errno) ? strerrordesc_np(os_errno) : "unknown error";
  return std::unexpected(Error(failure, std::move(message), os_errno));
}

std::string format(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vformat(format, args);
  va_end(args);
  return text;
}

void check_failed(const char* condition, std::source_location where) {
  std::fprintf(stderr, "BUG: CHECK(%s) failed at %s:%u\n", condition, where.file_name(),
               static_cast<unsigned>(where.line()));
  std::abort();
}

void die(const Error& error) {
  std::fprintf(stderr, "BUG: MUST failed: %s\n", error.describe().c_str());
  std::abort();
}

}  // namespace mayfly
