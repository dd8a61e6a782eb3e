// SPDX-License-Identifier: Apache-2.0
//
// SHA-256, by which images name their parts.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace mayfly::image {

class Sha256 {
 public:
  Sha256();
  void add(std::span<const std::byte> bytes);
  /// 64 hexadecimal digits; once, at the end.
  std::string finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

/// 64 lower-case hexadecimal digits.
bool is_sha256_hex(std::string_view text);

}  // namespace mayfly::image
