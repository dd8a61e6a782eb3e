// SPDX-License-Identifier: Apache-2.0
//
// How every fallible function reports failure: Result<T> is a value or an Error.
//
// An Error carries a canonical gRPC code (what the caller may do about it), a machine-readable
// reason (what API clients match on), a message for people that names the field, the value and the
// limit, and the place it was made. Making one allocates; the paths that make them are never hot.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <source_location>
#include <string>
#include <utility>

namespace mayfly {

/// The canonical gRPC codes, with gRPC's numbers: they cross the control socket and the API
/// unchanged.
enum class Code : uint8_t {
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
};

/// "INVALID_ARGUMENT" and so on.
const char* code_name(Code code);

/// A code from outside (the control socket); anything unknown is kUnknown.
Code code_from_number(uint32_t number);

/// What kind of failure, and where in the source. Written at the call of fail(); the location is
/// the caller's own line. `reason` is a string literal in UPPER_SNAKE_CASE.
struct Failure {
  Code code;
  const char* reason;
  std::source_location where;

  // Implicit on purpose: fail({Code::kNotFound, "VM_NOT_FOUND"}, ...).
  Failure(Code c, const char* r, std::source_location w = std::source_location::current())
      : code(c), reason(r), where(w) {}
};

/// One pointer, so that a Result is little more than its value: every TRY makes and passes one.
/// After a move from it, an Error can only be assigned to or destroyed.
class [[nodiscard]] Error {
 public:
  Error(const Failure& failure, std::string message, int os_errno = 0);

  /// An error that another process reported: its reason is not a literal of ours.
  static Error received(Code code, std::string reason, std::string message,
                        std::source_location where = std::source_location::current());

  Error(const Error& other);
  Error& operator=(const Error& other);
  Error(Error&&) noexcept = default;
  Error& operator=(Error&&) noexcept = default;
  ~Error() = default;

  Code code() const { return record_->code; }
  /// The errno of the system call that failed, or 0.
  int os_errno() const { return record_->os_errno; }
  const std::string& reason() const { return record_->reason; }
  const std::string& message() const { return record_->message; }
  const std::source_location& where() const { return record_->where; }

  /// "INVALID_ARGUMENT VCPU_COUNT: vcpus: 33 is above the limit of 32 (spec.cc:41)", for logs.
  std::string describe() const;

  /// The same error with `context: ` before its message, for the caller who knows which file or
  /// field.
  Error with_context(const std::string& context) &&;

 private:
  struct Record {
    Code code;
    int os_errno;
    std::string reason;
    std::string message;
    std::source_location where;
  };
  // Not inline: it would be in every function that passes an error on.
  struct Forget {
    void operator()(Record* record) const;
  };

  std::unique_ptr<Record, Forget> record_;
};

template <typename T = void>
using Result = std::expected<T, Error>;

/// `return fail({Code::kInvalidArgument, "VCPU_COUNT"}, "vcpus: %u is above the limit of %u", n,
/// max);`
[[gnu::format(printf, 2, 3)]] std::unexpected<Error> fail(Failure failure, const char* format, ...);

/// The same for a failed system call; `: <strerror>` is appended to the message.
[[gnu::format(printf, 3, 4)]] std::unexpected<Error> fail_errno(Failure failure, int os_errno,
                                                                const char* format, ...);

/// printf into a std::string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* format, ...);

/// The value of a Result, or a return of its error from the enclosing function.
#define TRY(expression)                                                                   \
  ({                                                                                      \
    _Pragma("GCC diagnostic push")                                                        \
        _Pragma("GCC diagnostic ignored \"-Wshadow\"") auto&& try_result_ = (expression); \
    _Pragma("GCC diagnostic pop") if (!try_result_)                                       \
        [[unlikely]] return std::unexpected(std::move(try_result_).error());              \
    *std::move(try_result_);                                                              \
  })

/// The value of a Result that cannot fail here; a comment at the use says why.
#define MUST(expression)                                                                   \
  ({                                                                                       \
    _Pragma("GCC diagnostic push")                                                         \
        _Pragma("GCC diagnostic ignored \"-Wshadow\"") auto&& must_result_ = (expression); \
    _Pragma("GCC diagnostic pop") if (!must_result_)                                       \
        [[unlikely]] ::mayfly::die(must_result_.error());                                  \
    *std::move(must_result_);                                                              \
  })

/// Always on; for our own bugs only. Nothing a guest, file or message says may reach one.
#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::mayfly::check_failed(#condition, std::source_location::current()); \
  } while (false)

[[noreturn]] void check_failed(const char* condition, std::source_location where);
[[noreturn]] void die(const Error& error);

}  // namespace mayfly
