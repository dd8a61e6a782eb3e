// SPDX-License-Identifier: Apache-2.0
// Runs a fuzz body without libFuzzer: every corpus file named on the command line, then mutations
// of each and of random bytes from a fixed seed, so that a failure repeats.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutations = 2000;
constexpr size_t kMaxRandomSize = 512;

using Bytes = std::vector<uint8_t>;

Bytes mutate(const Bytes& seed, std::mt19937_64& random) {
  Bytes bytes = seed;
  if (bytes.empty() || random() % 8 == 0) {
    bytes.resize(random() % kMaxRandomSize);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  }
  const size_t flips = 1 + random() % 8;
  for (size_t i = 0; i < flips && !bytes.empty(); ++i) {
    bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
  }
  if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 1));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read corpus file %s\n", argv[i]);
      return 1;
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(corpus.back().data(), corpus.back().size());
  }
  if (corpus.empty()) corpus.emplace_back();
  std::mt19937_64 random(20240229);
  for (int i = 0; i < kMutations; ++i) {
    const Bytes bytes = mutate(corpus[static_cast<size_t>(i) % corpus.size()], random);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("replayed %zu corpus files and %d mutations\n", corpus.size(), kMutations);
  return 0;
}
