// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "core/device.h"
#include "core/stream.h"
#include "data/mapped_file.h"
#include "data/wordpiece/normalizer.h"
#include "data/wordpiece/train_vocabulary.h"

namespace stipple::data::wordpiece {
namespace {

constexpr size_t kPartBytes = size_t{1} << 20;
constexpr size_t kPartsPerThread = 8;
constexpr size_t kMostParts = 4096;  // a process may map some 65,000 files

struct HashOfText {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Counts = std::unordered_map<std::string, int64_t, HashOfText, std::equal_to<>>;

struct Part {
  std::shared_ptr<const MappedFile> file;
  std::string_view text;
};

/// At most about kPartBytes, ending behind a line where there is one.
std::string_view first_part(std::string_view text) {
  if (text.size() <= kPartBytes) return text;
  const size_t end = text.find('\n', kPartBytes);
  return end == text.npos ? text : text.substr(0, end + 1);
}

void count(const Normalizer& normalizer, std::string_view text, Normalizer::Scratch& scratch,
           Counts& counts) {
  // Line by line: what a line becomes depends on no other, and the scratch stays small.
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    normalizer.split(text.substr(0, end), scratch, [&](std::string_view word, size_t) {
      const auto found = counts.find(word);
      if (found != counts.end()) {
        ++found->second;
      } else {
        counts.emplace(word, 1);
      }
    });
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

WordCounts count_words(const std::vector<std::string>& files, const Options& options, int threads,
                       const std::function<void(int64_t, int64_t)>& progress) {
  const Normalizer normalizer(options);
  const Stream workers(kCpuDevice, {.threads = threads});
  std::vector<Counts> counts(static_cast<size_t>(threads));
  std::vector<Normalizer::Scratch> scratch(static_cast<size_t>(threads));
  int64_t done = 0, total = 0;
  for (const std::string& path : files) {
    std::error_code unreadable;  // which opening it will say
    const auto bytes = std::filesystem::file_size(path, unreadable);
    total += unreadable ? 0 : static_cast<int64_t>(bytes);
  }
  std::vector<Part> parts;
  size_t round_bytes = 0;
  const auto count_round = [&] {
    workers.parallel_for(static_cast<int64_t>(parts.size()), [&](int64_t i, int worker) {
      const auto w = static_cast<size_t>(worker);
      count(normalizer, parts[static_cast<size_t>(i)].text, scratch[w], counts[w]);
    });
    done += static_cast<int64_t>(round_bytes);
    round_bytes = 0;
    parts.clear();
    if (progress) progress(done, total);
  };
  for (const std::string& path : files) {
    const auto file = std::make_shared<const MappedFile>(path);
    for (std::string_view rest = file->text(); !rest.empty();) {
      parts.push_back({file, first_part(rest)});
      round_bytes += parts.back().text.size();
      rest.remove_prefix(parts.back().text.size());
      if (round_bytes >= kPartBytes * kPartsPerThread * static_cast<size_t>(threads) ||
          parts.size() >= kMostParts)
        count_round();
    }
  }
  count_round();

  Counts& all = counts.front();
  for (size_t i = 1; i < counts.size(); ++i) {
    for (const auto& [word, number] : counts[i]) all[word] += number;
    counts[i].clear();
  }
  WordCounts words(all.begin(), all.end());
  std::ranges::sort(words, [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return words;
}

}  // namespace stipple::data::wordpiece
