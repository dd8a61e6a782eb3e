// SPDX-License-Identifier: Apache-2.0
// JSON from an image or from the store's directory, and an image's tables of users. The first byte
// chooses what it is read as. A record that was read is written, read again, and the same.
#include "image/json.h"

#include "image/tables.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

using namespace mayfly::image;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 6) {
    case 0:
      (void)parse_index(text);
      break;
    case 1:
      (void)parse_manifest(text);
      break;
    case 2:
      (void)parse_image_config(text);
      break;
    case 3:
      (void)parse_docker_manifest(text);
      break;
    case 4:
      if (const auto record = parse_record(text)) {
        const std::string written = write_record(*record);
        const auto again = parse_record(written);
        if (!again || write_record(*again) != written) std::abort();
      }
      break;
    default: {
      // USER, a line's end, passwd, a zero byte, group.
      const size_t line = std::min(text.find('\n'), text.size());
      const size_t zero = std::min(text.find('\0', line), text.size());
      const auto who = resolve_user(std::string(text.substr(0, line)),
                                    text.substr(line, zero - line), text.substr(zero));
      if (who && (who->uid == 0xffffffff || who->gid == 0xffffffff)) std::abort();
      break;
    }
  }
  return 0;
}
