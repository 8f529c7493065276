// SPDX-License-Identifier: Apache-2.0
#include "data/text/corpus.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/text.h"
#include "data/held_out.h"
#include "data/mapped_file.h"

namespace stipple::data::text {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> patterns_of(std::string_view files) {
  std::vector<std::string> patterns;
  while (!files.empty()) {
    const size_t end = std::min(files.find(','), files.size());
    const std::string_view pattern = files.substr(0, end);
    const size_t first = pattern.find_first_not_of(' ');
    if (first != pattern.npos)
      patterns.emplace_back(pattern.substr(first, pattern.find_last_not_of(' ') + 1 - first));
    files.remove_prefix(std::min(end + 1, files.size()));
  }
  return patterns;
}

bool matches(const fs::path& relative, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    const bool is_path = pattern.find('/') != pattern.npos;
    const std::string name = is_path ? relative.string() : relative.filename().string();
    return fnmatch(pattern.c_str(), name.c_str(), FNM_PATHNAME) == 0;
  });
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == line.npos; }

size_t first_not_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (static_cast<signed char>(text[at]) >= 0) {
      ++at;
      continue;
    }
    const size_t bytes = utf8_character(text, at).bytes;
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

/// All files, read.
struct Corpus {
  std::vector<uint8_t> bytes;          ///< of documents
  std::vector<int64_t> document_ends;  ///< among them
  int64_t num_files = 0, empty_files = 0;
  int64_t first_not_utf8 = -1;  ///< among the bytes; -1: none
  std::string not_utf8;         ///< where that is, for people
};

void add_file(const std::string& path, TextDocuments rule, Corpus& corpus) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  ++corpus.num_files;
  const std::vector<Range> documents = documents_of(text, rule);
  if (documents.empty()) ++corpus.empty_files;
  const auto begin = static_cast<int64_t>(corpus.bytes.size());
  for (const Range& document : documents) {
    corpus.bytes.insert(corpus.bytes.end(), text.begin() + document.begin,
                        text.begin() + document.end);
    corpus.document_ends.push_back(static_cast<int64_t>(corpus.bytes.size()));
  }
  if (corpus.first_not_utf8 >= 0) return;
  const size_t wrong = first_not_utf8(text);
  if (wrong == text.size()) return;
  corpus.first_not_utf8 = begin;
  corpus.not_utf8 = fmt::format("{} is not UTF-8 from byte {} on", path, wrong);
}

Corpus read_all(const DataConfig& config) {
  Corpus corpus;
  for (const std::string& path : files_of(config)) add_file(path, config.text_lm.documents, corpus);
  const auto bytes = static_cast<int64_t>(corpus.bytes.size());
  STIPPLE_CHECK_AS(DataError, bytes >= kShortestCorpus, config.dir, ": ", corpus.num_files,
                   corpus.num_files == 1 ? " file" : " files", " (data.files: ", config.files,
                   ") with ", bytes,
                   " bytes of text, too short to hold out 5 % for validation and 5 % "
                   "for the test; at least ",
                   kShortestCorpus, " bytes are needed");
  return corpus;
}

std::vector<std::string> remarks_of(const Corpus& corpus, Split split, const Range& range) {
  std::vector<std::string> remarks;
  if (split == Split::kTrain && corpus.empty_files > 0) {
    remarks.push_back(
        fmt::format("{} of {} files are empty", corpus.empty_files, corpus.num_files));
  }
  // The first one lies in one split, so that it is told once.
  if (corpus.first_not_utf8 >= range.begin && corpus.first_not_utf8 < range.end)
    remarks.push_back(corpus.not_utf8 + "; bytes are taken as they are");
  return remarks;
}

}  // namespace

TokenStream::TokenStream(std::vector<uint8_t> bytes, std::vector<int64_t> document_ends)
    : bytes_(std::move(bytes)), begins_(std::move(document_ends)) {
  begins_.insert(begins_.begin(), 0);
  STIPPLE_CHECK(begins_.back() == num_bytes(), "text: documents end at ", begins_.back(), " of ",
                num_bytes(), " bytes");
}

Range TokenStream::document(int64_t i) const {
  const auto at = static_cast<size_t>(i);
  return {begins_[at] + i, begins_[at + 1] + i + 1};
}

void TokenStream::copy(int64_t begin, std::span<int32_t> to) const {
  STIPPLE_CHECK(begin >= 0 && begin + static_cast<int64_t>(to.size()) <= size(), "text: tokens ",
                begin, " to ", begin + static_cast<int64_t>(to.size()), " of ", size());
  // The last document whose separator is not behind `begin`; behind all of them, nothing.
  int64_t low = 0, high = num_documents() + 1;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (begins_[static_cast<size_t>(middle)] + middle <= begin ? low : high) = middle;
  }
  int64_t document = low;
  for (size_t at = 0; at < to.size(); ++document) {
    const int64_t separator = begins_[static_cast<size_t>(document)] + document;
    if (begin + static_cast<int64_t>(at) == separator) to[at++] = kSeparator;
    if (document == num_documents()) break;
    const int64_t first = begin + static_cast<int64_t>(at) - document - 1;
    const int64_t count = std::min(begins_[static_cast<size_t>(document) + 1] - first,
                                   static_cast<int64_t>(to.size() - at));
    std::copy_n(bytes_.begin() + first, count, to.begin() + static_cast<int64_t>(at));
    at += static_cast<size_t>(count);
  }
}

uint64_t TokenStream::fingerprint() const {
  const uint64_t h = XXH3_64bits(bytes_.data(), bytes_.size());
  return XXH3_64bits_withSeed(begins_.data(), begins_.size() * sizeof(int64_t), h);
}

std::vector<std::string> files_of(const DataConfig& config) {
  const std::vector<std::string> patterns = patterns_of(config.files);
  std::vector<std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator at(config.dir, fs::directory_options::follow_directory_symlink,
                                      error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    if (at->is_directory(error) || error) continue;
    if (matches(at->path().lexically_relative(config.dir), patterns))
      files.push_back(at->path().string());
  }
  STIPPLE_CHECK_AS(DataError, !error, "data.dir: cannot read ", config.dir, ": ", error.message(),
                   "; it is to be the folder of the text");
  STIPPLE_CHECK_AS(DataError, !files.empty(), "data.files: no file below ", config.dir,
                   " is called ", config.files, "; name the files, or another folder by data.dir");
  std::ranges::sort(files);
  return files;
}

Part read_part(const DataConfig& config, Split split) {
  Corpus corpus = read_all(config);
  const Range range = part_of_split(corpus.document_ends, split);
  std::vector<int64_t> ends;
  for (const int64_t end : corpus.document_ends) {
    if (end > range.begin && end < range.end) ends.push_back(end - range.begin);
  }
  ends.push_back(range.size());
  std::vector<std::string> remarks = remarks_of(corpus, split, range);
  std::vector<uint8_t> bytes(corpus.bytes.begin() + range.begin, corpus.bytes.begin() + range.end);
  return {TokenStream(std::move(bytes), std::move(ends)), std::move(remarks)};
}

std::vector<Range> documents_of(std::string_view text, TextDocuments rule) {
  const auto size = static_cast<int64_t>(text.size());
  if (rule == TextDocuments::kFile)
    return size == 0 ? std::vector<Range>{} : std::vector{Range{0, size}};
  std::vector<Range> documents;
  bool is_open = false;
  for (int64_t begin = 0; begin < size;) {
    const auto found = text.find('\n', static_cast<size_t>(begin));
    const int64_t end = found == text.npos ? size : static_cast<int64_t>(found);
    const bool blank =
        is_blank(text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    if (!blank && !is_open) documents.push_back({begin, end});
    if (!blank) documents.back().end = end;
    is_open = !blank;
    begin = end + 1;
  }
  return documents;
}

}  // namespace stipple::data::text
