// SPDX-License-Identifier: Apache-2.0
#include "daemon/text.h"

namespace mayfly::daemon {

std::string printable(std::string_view text, size_t max_bytes) {
  std::string out(text.substr(0, max_bytes));
  for (char& c : out) {
    const bool kept = (c >= 0x20 && c < 0x7f) || c == '\n' || c == '\t';
    if (!kept) c = c == '\r' ? ' ' : '?';
  }
  return out;
}

std::string printable_tail(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) text.remove_prefix(text.size() - max_bytes);
  return printable(text, max_bytes);
}

}  // namespace mayfly::daemon
