// SPDX-License-Identifier: Apache-2.0
// PREFIX.idx of a shard: where the sequences of PREFIX.bin stand, and which of them begin documents.
// Byte for byte the layout of Megatron-LM's indexed datasets, version 1, little endian:
//
//   "MMIDIDX\0\0"  u64 version  u8 type  u64 sequences  u64 documents + 1
//   i32 tokens of each sequence   i64 first byte of each   i64 first sequence of each document, and
//   behind the last one
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace stipple::data::shards {

/// Their code in the file is the enumerator's value.
enum class TokenType : uint8_t {
  kUint8 = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint16 = 8
};
int64_t bytes_of(TokenType);
/// As Megatron-LM chooses it: 16 bits below 65,500 tokens, else 32.
TokenType type_for(int64_t vocabulary);

struct Index {
  TokenType type = TokenType::kUint16;
  std::vector<int64_t> begins = {0};     ///< in tokens: of each sequence, and behind the last one
  std::vector<int64_t> documents = {0};  ///< first sequence of each, and behind the last one

  int64_t num_sequences() const { return static_cast<int64_t>(begins.size()) - 1; }
  int64_t num_documents() const { return static_cast<int64_t>(documents.size()) - 1; }
  int64_t num_tokens() const { return begins.back(); }
};

/// DataError for a sequence of 2^31 tokens or more.
std::string index_bytes(const Index&);

/// `name`: what errors call it. bin_bytes: size of the tokens' file. DataError that says what is
/// wrong: no such file format, another version, floats, a wrong size, offsets that do not follow
/// from lengths, tokens missing or too many, documents that do not cover the sequences.
Index parse_index(std::string_view bytes, const std::string& name, int64_t bin_bytes);

}  // namespace stipple::data::shards
