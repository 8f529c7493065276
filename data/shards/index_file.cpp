// SPDX-License-Identifier: Apache-2.0
#include "data/shards/index_file.h"

#include <bit>
#include <cstring>
#include <limits>

#include "core/error.h"

namespace stipple::data::shards {
namespace {

static_assert(std::endian::native == std::endian::little,
              "shards are written as memory holds them");

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};
constexpr uint64_t kIndexVersion = 1;
constexpr size_t kHeaderBytes = 34;

/// The arrays begin at byte 34: nothing in the file is aligned.
template <class T>
T value_at(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

template <class T>
void append_value(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

TokenType type_of(uint8_t code, const std::string& name) {
  switch (code) {
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 8:
      return static_cast<TokenType>(code);
    case 6:
    case 7:
      throw DataError(name + ": holds floating-point numbers, not tokens");
    default:
      throw DataError(detail::concat(name, ": unknown type of tokens ", int{code}, " at byte 17"));
  }
}

}  // namespace

int64_t bytes_of(TokenType type) {
  switch (type) {
    case TokenType::kUint8:
    case TokenType::kInt8:
      return 1;
    case TokenType::kInt16:
    case TokenType::kUint16:
      return 2;
    case TokenType::kInt32:
      return 4;
    case TokenType::kInt64:
      return 8;
  }
  return 0;
}

TokenType type_for(int64_t vocabulary) {
  return vocabulary < 65'500 ? TokenType::kUint16 : TokenType::kInt32;
}

std::string index_bytes(const Index& index) {
  std::string bytes(kMagic);
  append_value(bytes, kIndexVersion);
  append_value(bytes, static_cast<uint8_t>(index.type));
  append_value(bytes, static_cast<uint64_t>(index.num_sequences()));
  append_value(bytes, static_cast<uint64_t>(index.documents.size()));
  for (size_t i = 0; i + 1 < index.begins.size(); ++i) {
    const int64_t length = index.begins[i + 1] - index.begins[i];
    STIPPLE_CHECK_AS(DataError, length <= std::numeric_limits<int32_t>::max(), "a document has ",
                     length, " tokens, and a shard holds at most ",
                     std::numeric_limits<int32_t>::max(), " in one; cut it by blank lines");
    append_value(bytes, static_cast<int32_t>(length));
  }
  for (size_t i = 0; i + 1 < index.begins.size(); ++i)
    append_value(bytes, index.begins[i] * bytes_of(index.type));
  for (const int64_t document : index.documents) append_value(bytes, document);
  return bytes;
}

Index parse_index(std::string_view bytes, const std::string& name, int64_t bin_bytes) {
  STIPPLE_CHECK_AS(DataError, bytes.size() >= kMagic.size() && bytes.starts_with(kMagic), name,
                   ": is no index of Megatron-LM (it does not begin with MMIDIDX)");
  STIPPLE_CHECK_AS(DataError, bytes.size() >= kHeaderBytes, name, ": ends after ", bytes.size(),
                   " bytes, within the header");
  const auto version = value_at<uint64_t>(bytes, 9);
  STIPPLE_CHECK_AS(DataError, version == kIndexVersion, name, ": is of version ", version,
                   ", and only version 1 is known");
  Index index{.type = type_of(value_at<uint8_t>(bytes, 17), name)};
  const auto sequences = value_at<uint64_t>(bytes, 18);
  const auto documents = value_at<uint64_t>(bytes, 26);
  // No more than fit into the file, before they are multiplied.
  const bool fits = sequences <= bytes.size() / 12 && documents <= bytes.size() / 8;
  const uint64_t expected = fits ? kHeaderBytes + 12 * sequences + 8 * documents : 0;
  STIPPLE_CHECK_AS(
      DataError, fits && (bytes.size() == expected || bytes.size() == expected + sequences), name,
      ": has ", bytes.size(), " bytes, which does not fit ", sequences, " sequences and ",
      documents, " entries of documents; it is cut short or damaged");

  const auto n = static_cast<size_t>(sequences);
  const size_t offsets = kHeaderBytes + 4 * n, table = kHeaderBytes + 12 * n;
  index.begins.resize(n + 1);
  for (size_t i = 0; i < n; ++i) {
    const auto length = value_at<int32_t>(bytes, kHeaderBytes + 4 * i);
    STIPPLE_CHECK_AS(DataError, length >= 0, name, ": sequence ", i, " has ", length, " tokens");
    const auto offset = value_at<int64_t>(bytes, offsets + 8 * i);
    STIPPLE_CHECK_AS(DataError, offset == index.begins[i] * bytes_of(index.type), name,
                     ": sequence ", i, " begins at byte ", offset, ", but those before it end at ",
                     index.begins[i] * bytes_of(index.type));
    index.begins[i + 1] = index.begins[i] + length;
  }
  STIPPLE_CHECK_AS(DataError, index.num_tokens() * bytes_of(index.type) == bin_bytes, name,
                   ": speaks of ", index.num_tokens() * bytes_of(index.type),
                   " bytes of tokens, but the .bin beside it has ", bin_bytes,
                   "; one of them is cut short or of another shard");
  index.documents.resize(static_cast<size_t>(documents));
  for (size_t i = 0; i < index.documents.size(); ++i)
    index.documents[i] = value_at<int64_t>(bytes, table + 8 * i);
  bool covers = !index.documents.empty() && index.documents.front() == 0 &&
                index.documents.back() == index.num_sequences();
  for (size_t i = 0; covers && i + 1 < index.documents.size(); ++i)
    covers = index.documents[i] <= index.documents[i + 1];
  STIPPLE_CHECK_AS(DataError, covers, name, ": its documents do not cover its ", sequences,
                   " sequences in order");
  return index;
}

}  // namespace stipple::data::shards
