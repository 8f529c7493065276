// SPDX-License-Identifier: Apache-2.0
#include "trainer/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <set>

#include "core/bf16.h"
#include "core/error.h"
#include "core/json.h"

namespace stipple::trainer {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are written as they lie in memory");

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kAlignment = 64;
// The reference implementation's own limit.
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr const char* kMetadataKey = "__metadata__";

struct TypeInfo {
  std::string_view name;
  int64_t bytes;
};
constexpr std::array<TypeInfo, 5> kTypes{
    {{"F32", 4}, {"I64", 8}, {"U8", 1}, {"F16", 2}, {"BF16", 2}}};

const TypeInfo& info_of(TensorType type) { return kTypes[static_cast<size_t>(type)]; }

std::optional<TensorType> type_named(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return static_cast<TensorType>(i);
  return std::nullopt;
}

/// Element count times element size; none when it does not fit.
std::optional<int64_t> bytes_needed(std::span<const int64_t> extents, TensorType type) {
  int64_t bytes = info_of(type).bytes;
  for (int64_t extent : extents)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return std::nullopt;
  return bytes;
}

Json extents_json(const Shape& shape) {
  Json extents = Json::array();
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(shape[i]);
  return extents;
}

Json parse_header(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const DataError& e) {
    throw CheckpointError(detail::concat("the header is no JSON: ", e.what()));
  }
}

std::vector<int64_t> integers(const Json& fields, const char* key, const std::string& tensor) {
  const Json* list = fields.find(key);
  STIPPLE_CHECK_AS(CheckpointError, list && list->is_array(), "tensor '", tensor,
                   "' has no array '", key, "'");
  try {
    return list->get<std::vector<int64_t>>();
  } catch (const DataError& e) {
    throw CheckpointError(detail::concat("tensor '", tensor, "', ", key, ": ", e.what()));
  }
}

SafetensorsFile::Entry parse_entry(const std::string& name, const Json& fields, int64_t data) {
  STIPPLE_CHECK_AS(CheckpointError, fields.is_object() && fields.size() == 3, "tensor '", name,
                   "' is not described by dtype, shape and data_offsets");
  const Json* dtype = fields.find("dtype");
  STIPPLE_CHECK_AS(CheckpointError, dtype && dtype->is_string(), "tensor '", name,
                   "' has no dtype");
  const auto type = type_named(dtype->get<std::string>());
  STIPPLE_CHECK_AS(CheckpointError, type, "tensor '", name, "' has the unsupported dtype ",
                   dtype->get<std::string>());
  const std::vector<int64_t> extents = integers(fields, "shape", name);
  const std::vector<int64_t> offsets = integers(fields, "data_offsets", name);
  STIPPLE_CHECK_AS(CheckpointError,
                   offsets.size() == 2 && offsets[0] >= 0 && offsets[0] <= offsets[1], "tensor '",
                   name, "' has impossible data_offsets");
  const auto bytes = bytes_needed(extents, *type);
  STIPPLE_CHECK_AS(CheckpointError, bytes && *bytes == offsets[1] - offsets[0], "tensor '", name,
                   "' has a shape that does not match its data_offsets");
  int64_t end = 0;
  STIPPLE_CHECK_AS(CheckpointError, !__builtin_add_overflow(offsets[1], data, &end), "tensor '",
                   name, "' has impossible data_offsets");
  return {name, *type, shape_from(extents), offsets[0] + data, end};
}

TensorMetadata parse_metadata(const Json& fields) {
  STIPPLE_CHECK_AS(CheckpointError, fields.is_object(), "__metadata__ is no map");
  TensorMetadata metadata;
  for (const auto& [key, value] : fields.members()) {
    STIPPLE_CHECK_AS(CheckpointError, value.is_string(), "__metadata__ '", key, "' is no text");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

void check_no_holes(std::span<const SafetensorsFile::Entry> entries, int64_t data, int64_t end) {
  int64_t at = data;
  for (const auto& entry : entries) {
    STIPPLE_CHECK_AS(CheckpointError, entry.begin == at, "tensor '", entry.name,
                     "' starts at byte ", entry.begin, " of the file instead of ", at);
    at = entry.end;
  }
  STIPPLE_CHECK_AS(CheckpointError, at == end, "the tensors end at byte ", at, " but the file has ",
                   end);
}

std::string read_header(const ReadableFile& file) {
  STIPPLE_CHECK_AS(CheckpointError, file.bytes() >= kLengthBytes, "it is too short");
  std::array<std::byte, kLengthBytes> raw{};
  file.read(0, raw);
  uint64_t length = 0;
  std::memcpy(&length, raw.data(), sizeof length);
  STIPPLE_CHECK_AS(CheckpointError,
                   length <= static_cast<uint64_t>(std::min(kMaxHeaderBytes, file.bytes() - 8)),
                   "it claims a header of ", length, " bytes, which it cannot have");
  std::string header(static_cast<size_t>(length), '\0');
  file.read(kLengthBytes, std::as_writable_bytes(std::span(header)));
  STIPPLE_CHECK_AS(CheckpointError, header.starts_with('{'), "its header does not start with {");
  return header;
}

/// IEEE 754 binary16. Its subnormal numbers are normal ones of fp32.
float from_f16(uint16_t bits) {
  const auto exponent = static_cast<int>(bits >> 10 & 0x1f);
  const auto fraction = static_cast<float>(bits & 0x3ff);
  const float sign = bits >> 15 != 0 ? -1.0f : 1.0f;
  if (exponent == 0x1f)
    return fraction == 0.0f ? sign * std::numeric_limits<float>::infinity()
                            : std::numeric_limits<float>::quiet_NaN();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(fraction + 1024.0f, exponent - 25);
}

float from_bf16(uint16_t bits) { return to_float(bf16{bits}); }

}  // namespace

std::string_view name_of(TensorType type) { return info_of(type).name; }
int64_t bytes_of(TensorType type) { return info_of(type).bytes; }

Shape shape_from(std::span<const int64_t> e) {
  switch (e.size()) {
    case 0:
      return Shape{};
    case 1:
      return Shape{e[0]};
    case 2:
      return Shape{e[0], e[1]};
    case 3:
      return Shape{e[0], e[1], e[2]};
    case 4:
      return Shape{e[0], e[1], e[2], e[3]};
    case 5:
      return Shape{e[0], e[1], e[2], e[3], e[4]};
    default:
      throw ShapeError(detail::concat("a shape has at most ", int{Shape::kMaxRank},
                                      " dimensions, got ", e.size()));
  }
}

std::string safetensors_header(std::span<const TensorSource> tensors,
                               const TensorMetadata& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) {
    Json& texts = header[kMetadataKey] = Json::object();
    for (const auto& [key, text] : metadata) texts[key] = text;
  }
  int64_t at = 0;
  for (const TensorSource& t : tensors) {
    const auto bytes = static_cast<int64_t>(t.bytes.size());
    STIPPLE_CHECK_AS(CheckpointError, t.name != kMetadataKey && !header.contains(t.name),
                     "the tensor name '", t.name, "' is taken");
    STIPPLE_CHECK_AS(CheckpointError, bytes == t.shape.numel() * bytes_of(t.type), "tensor '",
                     t.name, "' of shape ", t.shape.str(), " has ", bytes, " bytes");
    STIPPLE_CHECK_AS(CheckpointError, at % bytes_of(t.type) == 0, "tensor '", t.name,
                     "' would not be aligned: order tensors by falling element size");
    header[t.name] = {{"dtype", name_of(t.type)},
                      {"shape", extents_json(t.shape)},
                      {"data_offsets", Json::array({at, at + bytes})}};
    at += bytes;
  }
  std::string text = header.dump();
  const auto length = static_cast<int64_t>(text.size()) + kLengthBytes;
  text.append(static_cast<size_t>((kAlignment - length % kAlignment) % kAlignment), ' ');
  const uint64_t text_bytes = text.size();
  std::string prefix(sizeof text_bytes, '\0');
  std::memcpy(prefix.data(), &text_bytes, sizeof text_bytes);
  return prefix + text;
}

SafetensorsFile::SafetensorsFile(std::string path) : file_(std::move(path)) {
  try {
    const std::string text = read_header(file_);
    const int64_t data = kLengthBytes + static_cast<int64_t>(text.size());
    const Json header = parse_header(text);
    STIPPLE_CHECK_AS(CheckpointError, header.is_object(), "its header is no map");
    for (const auto& [key, value] : header.members()) {
      if (key == kMetadataKey)
        metadata_ = parse_metadata(value);
      else
        entries_.push_back(parse_entry(key, value, data));
    }
    // An empty tensor shares its begin with its successor and must come first.
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
      return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
    });
    check_no_holes(entries_, data, file_.bytes());
  } catch (const Error& e) {
    throw CheckpointError(detail::concat(file_.path(), " is no safetensors file: ", e.what()));
  }
}

std::vector<float> SafetensorsFile::floats(const Entry& entry) const {
  std::vector<float> values(static_cast<size_t>(entry.shape.numel()));
  if (entry.type == TensorType::kF32) {
    read(entry, std::as_writable_bytes(std::span(values)));
    return values;
  }
  STIPPLE_CHECK_AS(CheckpointError,
                   entry.type == TensorType::kF16 || entry.type == TensorType::kBf16, path(),
                   ": tensor '", entry.name, "' is stored as ", name_of(entry.type),
                   ", expected F32, F16 or BF16");
  std::vector<uint16_t> halves(values.size());
  read(entry, std::as_writable_bytes(std::span(halves)));
  std::transform(halves.begin(), halves.end(), values.begin(),
                 entry.type == TensorType::kF16 ? from_f16 : from_bf16);
  return values;
}

const SafetensorsFile::Entry* SafetensorsFile::find(std::string_view name) const {
  for (const Entry& entry : entries_)
    if (entry.name == name) return &entry;
  return nullptr;
}

void SafetensorsFile::read(const Entry& entry, std::span<std::byte> into) const {
  STIPPLE_CHECK_AS(CheckpointError, static_cast<int64_t>(into.size()) == entry.bytes(), path(),
                   ": tensor '", entry.name, "' has ", entry.bytes(), " bytes, asked for ",
                   into.size());
  file_.read(entry.begin, into);
}

}  // namespace stipple::trainer
