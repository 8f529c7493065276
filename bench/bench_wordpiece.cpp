// SPDX-License-Identifier: Apache-2.0
// Bytes per second of CPU time of WordPiece on one core, over texts of one's own:
//
//   bench_wordpiece vocab.txt FILES...
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <exception>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "data/wordpiece/wordpiece.h"

namespace {

int measure(int argc, char** argv) {
  namespace data = stipple::data;
  if (argc < 3) {
    std::fprintf(stderr, "usage: bench_wordpiece vocab.txt FILES...\n");
    return 2;
  }
  const data::wordpiece::WordPiece tokenizer(data::wordpiece::Vocabulary::read(argv[1]));
  std::vector<std::string> texts;
  double bytes = 0;
  for (int i = 2; i < argc; ++i) {
    texts.emplace_back(data::MappedFile(argv[i]).text());
    bytes += static_cast<double>(texts.back().size());
  }
  double best_s = 1e30;
  size_t tokens = 0;
  for (int repeat = 0; repeat < 5; ++repeat) {
    std::vector<int32_t> ids;
    tokens = 0;
    const std::clock_t begin = std::clock();
    for (const std::string& text : texts) {
      ids.clear();
      tokenizer.encode(text, ids);
      tokens += ids.size();
    }
    best_s = std::min(best_s, static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
  }
  std::printf("%.1f MB, %zu tokens, %.1f MB/s of CPU time (best of 5)\n", bytes / 1e6, tokens,
              bytes / 1e6 / best_s);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return measure(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
