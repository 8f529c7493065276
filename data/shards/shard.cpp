// SPDX-License-Identifier: Apache-2.0
#include "data/shards/shard.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace stipple::data::shards {
namespace {

constexpr int32_t kLlmcMagic16 = 20240520;  // version 1
constexpr int32_t kLlmcMagic32 = 20240801;  // version 7, unsigned 32-bit tokens
constexpr size_t kLlmcHeaderBytes = 256 * sizeof(int32_t);

constexpr std::string_view kBinEnd = ".bin";

std::string without_end(const std::string& name) {
  return name.ends_with(kBinEnd) ? name.substr(0, name.size() - kBinEnd.size()) : name;
}

/// How a .bin without .idx stores its tokens.
struct Layout {
  size_t header_bytes = 0;
  TokenType type = TokenType::kUint16;
};

Layout layout_of(std::string_view bytes, const std::string& path) {
  int32_t header[3] = {};
  if (bytes.size() >= sizeof header) std::memcpy(header, bytes.data(), sizeof header);
  const bool is_16 = header[0] == kLlmcMagic16 && header[1] == 1;
  const bool is_32 = header[0] == kLlmcMagic32 && header[1] == 7;
  if (!is_16 && !is_32) {
    STIPPLE_CHECK_AS(DataError, bytes.size() % 2 == 0, path, ": has ", bytes.size(),
                     " bytes, an odd number, and is to hold tokens of two; it is cut short");
    return {};
  }
  const TokenType type = is_16 ? TokenType::kUint16 : TokenType::kInt32;
  const auto expected =
      kLlmcHeaderBytes + static_cast<uint64_t>(static_cast<uint32_t>(header[2])) * (is_16 ? 2 : 4);
  STIPPLE_CHECK_AS(DataError, bytes.size() == expected, path, ": its header (llm.c) speaks of ",
                   header[2], " tokens, ", expected, " bytes in all, but it has ", bytes.size(),
                   "; it is cut short or damaged");
  return {kLlmcHeaderBytes, type};
}

/// Whether `name` is tokens alone, as nanoGPT and llm.c write them, and not a part of a shard.
bool is_bare(const std::string& prefix, const std::string& name) {
  return name != prefix && !std::filesystem::exists(idx_of(prefix)) &&
         !std::filesystem::exists(meta_of(prefix));
}

template <class T>
void widen(const char* from, std::span<int32_t> to) {
  for (size_t i = 0; i < to.size(); ++i) {
    T token;
    std::memcpy(&token, from + i * sizeof token, sizeof token);
    to[i] = static_cast<int32_t>(token);
  }
}

}  // namespace

std::string bin_of(const std::string& prefix) { return prefix + ".bin"; }
std::string idx_of(const std::string& prefix) { return prefix + ".idx"; }
std::string meta_of(const std::string& prefix) { return prefix + ".meta.json"; }

std::vector<std::string> files_of_shard(const std::string& name) {
  const std::string prefix = without_end(name);
  if (is_bare(prefix, name)) return {name};
  std::vector<std::string> files{bin_of(prefix), idx_of(prefix)};
  if (std::filesystem::exists(meta_of(prefix))) files.push_back(meta_of(prefix));
  return files;
}

Shard::Shard(const std::string& name)
    : name_(without_end(name)),
      bin_(std::make_unique<MappedFile>(bin_of(name_), Access::kAnywhere)) {
  const auto bytes = static_cast<int64_t>(bin_->text().size());
  if (is_bare(name_, name)) {
    name_ = name;
    const Layout layout = layout_of(bin_->text(), name);
    header_bytes_ = layout.header_bytes;
    index_.type = layout.type;
    index_.begins.push_back((bytes - static_cast<int64_t>(header_bytes_)) / bytes_of(index_.type));
    index_.documents.push_back(1);
  } else {
    STIPPLE_CHECK_AS(DataError, std::filesystem::exists(idx_of(name_)), idx_of(name_),
                     ": is missing, and ", bin_of(name_),
                     " alone is no shard: its writer was stopped before the end; make it again by "
                     "`stipple data tokenize --force`");
    const MappedFile idx(idx_of(name_));
    index_ = parse_index(idx.text(), idx_of(name_), bytes);
    if (std::filesystem::exists(meta_of(name_))) {
      const MappedFile meta(meta_of(name_));
      meta_ = parse_meta(meta.text(), meta_of(name_));
      STIPPLE_CHECK_AS(DataError, meta_->index_hash == hash_of(idx.text()), idx_of(name_),
                       ": is not the one that ", meta_of(name_),
                       " was written for; make the shard again");
    }
  }
  STIPPLE_CHECK_AS(DataError, num_tokens() > 0, name, ": has no tokens");
}

Range Shard::sequence(int64_t i) const {
  return {index_.begins[static_cast<size_t>(i)], index_.begins[static_cast<size_t>(i) + 1]};
}

Range Shard::document(int64_t i) const {
  const auto first = static_cast<size_t>(index_.documents[static_cast<size_t>(i)]);
  const auto end = static_cast<size_t>(index_.documents[static_cast<size_t>(i) + 1]);
  return {index_.begins[first], index_.begins[end]};
}

void Shard::copy(int64_t begin, std::span<int32_t> to) const {
  STIPPLE_CHECK(begin >= 0 && begin + static_cast<int64_t>(to.size()) <= num_tokens(), name_,
                ": tokens ", begin, " to ", begin + static_cast<int64_t>(to.size()), " of ",
                num_tokens());
  const char* from =
      bin_->text().data() + header_bytes_ + static_cast<size_t>(begin * bytes_of(index_.type));
  switch (index_.type) {
    case TokenType::kUint8:
      return widen<uint8_t>(from, to);
    case TokenType::kInt8:
      return widen<int8_t>(from, to);
    case TokenType::kInt16:
      return widen<int16_t>(from, to);
    case TokenType::kUint16:
      return widen<uint16_t>(from, to);
    case TokenType::kInt32:
      return widen<int32_t>(from, to);
    case TokenType::kInt64:
      return widen<int64_t>(from, to);
  }
}

int64_t Shard::first_beyond(int64_t size) const {
  std::vector<int32_t> tokens(size_t{1} << 16);
  for (int64_t begin = 0; begin < num_tokens(); begin += static_cast<int64_t>(tokens.size())) {
    tokens.resize(std::min(tokens.size(), static_cast<size_t>(num_tokens() - begin)));
    copy(begin, tokens);
    const auto found = std::ranges::find_if(tokens, [&](int32_t t) { return t < 0 || t >= size; });
    if (found != tokens.end()) return begin + (found - tokens.begin());
  }
  return -1;
}

void Shard::require_vocabulary(const wordpiece::Vocabulary& vocabulary) const {
  if (meta_) {
    STIPPLE_CHECK_AS(DataError, meta_->vocabulary_hash == vocabulary.hash(), name_,
                     ": was made by another vocabulary, of ", meta_->vocabulary_size,
                     " tokens; this one has ", vocabulary.size(),
                     ". Take that one, or make the shard again by `stipple data tokenize`");
    return;
  }
  const int64_t beyond = first_beyond(vocabulary.size());
  STIPPLE_CHECK_AS(DataError, beyond < 0, name_, ": token ", beyond,
                   " is beyond the vocabulary, which has ", vocabulary.size());
}

uint64_t Shard::fingerprint() const {
  std::string facts = fmt::format("{} {} {} {}", static_cast<int>(index_.type), num_sequences(),
                                  num_documents(), num_tokens());
  if (meta_) {
    facts += meta_->vocabulary_hash + meta_->index_hash;
    for (const std::string& block : meta_->blocks) facts += block;
  } else {
    facts += hash_of(bin_->text());
  }
  return XXH3_64bits(facts.data(), facts.size());
}

int64_t Shard::verify() const {
  if (meta_) {
    const auto block_bytes = static_cast<size_t>(kBlockBytes);
    const std::string_view bytes = bin_->text();
    const size_t blocks = (bytes.size() + block_bytes - 1) / block_bytes;
    STIPPLE_CHECK_AS(DataError, blocks == meta_->blocks.size(), bin_of(name_), ": has ", blocks,
                     " blocks of 16 MiB, but ", meta_of(name_), " knows ", meta_->blocks.size());
    for (size_t i = 0; i < blocks; ++i) {
      STIPPLE_CHECK_AS(DataError,
                       hash_of(bytes.substr(i * block_bytes, block_bytes)) == meta_->blocks[i],
                       bin_of(name_), ": bytes ", i * block_bytes, " to ",
                       std::min((i + 1) * block_bytes, bytes.size()),
                       " are not what was written; copy or make the shard again");
    }
    const int64_t beyond = first_beyond(meta_->vocabulary_size);
    STIPPLE_CHECK_AS(DataError, beyond < 0, bin_of(name_), ": token ", beyond,
                     " is beyond the vocabulary of ", meta_->vocabulary_size);
    STIPPLE_CHECK_AS(DataError,
                     meta_->tokens == num_tokens() && meta_->sequences == num_sequences() &&
                         meta_->documents == num_documents(),
                     meta_of(name_), ": does not count the tokens of its shard");
    return static_cast<int64_t>(blocks);
  }
  return 0;
}

}  // namespace stipple::data::shards
