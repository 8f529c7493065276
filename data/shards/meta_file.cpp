// SPDX-License-Identifier: Apache-2.0
#include "data/shards/meta_file.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "core/error.h"
#include "core/json.h"

namespace stipple::data::shards {
namespace {

constexpr int64_t kMetaVersion = 1;

Meta read_meta(const Json& json) {
  const auto version = json.at("version").get<int64_t>();
  STIPPLE_CHECK_AS(DataError, version == kMetaVersion, "is of version ", version,
                   ", and only version 1 is known");
  Meta meta;
  meta.command = json.at("command").get<std::string>();
  const Json& tokenizer = json.at("tokenizer");
  const std::string profile = tokenizer.at("profile");
  const auto known = wordpiece::profile_named(profile);
  STIPPLE_CHECK_AS(DataError, known, "has an unknown profile of the tokenizer, ", profile);
  meta.tokenizer = {.lower_case = tokenizer.at("lower_case"),
                    .profile = *known,
                    .max_word_length = tokenizer.at("max_word_length")};
  const Json& vocabulary = json.at("vocabulary");
  meta.vocabulary_hash = vocabulary.at("xxh3_128").get<std::string>();
  meta.vocabulary_size = vocabulary.at("size");
  const auto id = [&](const char* name) {
    return static_cast<int32_t>(vocabulary.at(name).get<int>());
  };
  meta.special = {id("pad"), id("unk"), id("cls"), id("sep"), id("mask")};
  meta.documents = json.at("documents");
  meta.sequences = json.at("sequences");
  meta.tokens = json.at("tokens");
  meta.index_hash = json.at("idx_xxh3_64").get<std::string>();
  const auto block_bytes = json.at("bin_block_bytes").get<int64_t>();
  STIPPLE_CHECK_AS(DataError, block_bytes == kBlockBytes, "has hashes of ", block_bytes,
                   " bytes each instead of ", kBlockBytes);
  for (const Json& block : json.at("bin_xxh3_64")) meta.blocks.push_back(block);
  return meta;
}

}  // namespace

std::string hash_of(std::string_view bytes) {
  return fmt::format("{:016x}", XXH3_64bits(bytes.data(), bytes.size()));
}

std::string meta_text(const Meta& meta) {
  Json blocks = Json::array();
  for (const std::string& block : meta.blocks) blocks.push_back(block);
  const Json json{
      {"version", kMetaVersion},
      {"command", meta.command},
      {"tokenizer",
       {{"kind", "wordpiece"},
        {"profile", wordpiece::profile_name(meta.tokenizer.profile)},
        {"lower_case", meta.tokenizer.lower_case},
        {"max_word_length", meta.tokenizer.max_word_length}}},
      {"vocabulary",
       {{"xxh3_128", meta.vocabulary_hash},
        {"size", meta.vocabulary_size},
        {"pad", meta.special.pad},
        {"unk", meta.special.unknown},
        {"cls", meta.special.cls},
        {"sep", meta.special.sep},
        {"mask", meta.special.mask}}},
      {"documents", meta.documents},
      {"sequences", meta.sequences},
      {"tokens", meta.tokens},
      {"idx_xxh3_64", meta.index_hash},
      {"bin_block_bytes", kBlockBytes},
      {"bin_xxh3_64", std::move(blocks)},
  };
  return json.dump(2) + "\n";
}

Meta parse_meta(std::string_view text, const std::string& name) {
  try {
    return read_meta(Json::parse(text));
  } catch (const DataError& error) {
    throw DataError(name + ": " + error.what());
  }
}

}  // namespace stipple::data::shards
