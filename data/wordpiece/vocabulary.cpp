// SPDX-License-Identifier: Apache-2.0
#include "data/wordpiece/vocabulary.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/mapped_file.h"

namespace stipple::data::wordpiece {
namespace {

std::string_view without_blanks_behind(std::string_view line) {
  while (!line.empty() && std::string_view(" \t\r\n\v\f").find(line.back()) != line.npos)
    line.remove_suffix(1);
  return line;
}

}  // namespace

const std::vector<std::string>& special_token_names() {
  static const std::vector<std::string> names{"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  return names;
}

Vocabulary Vocabulary::read(const std::string& path) {
  const MappedFile file(path);
  std::vector<std::string> tokens;
  for (std::string_view rest = file.text(); !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    tokens.emplace_back(without_blanks_behind(rest.substr(0, end)));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return {std::move(tokens), path};
}

Vocabulary::Vocabulary(std::vector<std::string> tokens, std::string_view name)
    : tokens_(std::move(tokens)) {
  STIPPLE_CHECK_AS(DataError, !tokens_.empty(), name,
                   " is empty; a vocabulary has one token in each line");
  ids_.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i)
    ids_.insert_or_assign(tokens_[i], static_cast<int32_t>(i));
  std::vector<std::string> missing;
  for (const std::string& special : special_token_names()) {
    if (find(special) < 0) missing.push_back(special);
  }
  if (!missing.empty()) {
    throw DataError(
        fmt::format("{} lacks {}; a vocabulary of WordPiece has [PAD], [UNK], [CLS], "
                    "[SEP] and [MASK], each in a line of its own",
                    name, fmt::join(missing, ", ")));
  }
  special_ = {find("[PAD]"), find("[UNK]"), find("[CLS]"), find("[SEP]"), find("[MASK]")};
}

int32_t Vocabulary::find(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

bool Vocabulary::is_special(int32_t id) const {
  return id == special_.pad || id == special_.unknown || id == special_.cls || id == special_.sep ||
         id == special_.mask;
}

std::string Vocabulary::text() const {
  std::string text;
  for (const std::string& token : tokens_) text.append(token) += '\n';
  return text;
}

std::string Vocabulary::hash() const {
  const std::string bytes = text();
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace stipple::data::wordpiece
