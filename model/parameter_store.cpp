// SPDX-License-Identifier: Apache-2.0
#include "model/parameter_store.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/copy.h"
#include "core/error.h"
#include "core/rng.h"

namespace stipple::model {
namespace {

constexpr int64_t kAlignedFloats = Buffer::kAlignment / static_cast<int64_t>(sizeof(float));

int64_t padded(int64_t numel) {
  return (numel + kAlignedFloats - 1) / kAlignedFloats * kAlignedFloats;
}

uint64_t hash_name(std::string_view name) {  // FNV-1a
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ull;
  return hash;
}

/// google-research/bert, modeling.py: initializer_range.
constexpr double kBertStddev = 0.02;
constexpr double kTruncatedAt = 2.0;  ///< deviations

Init under(InitRule rule, const ParameterStore::Entry& entry) {
  if (rule == InitRule::kModules || !entry.init.is_usual) return entry.init;
  return entry.shape.rank() > 1 ? Init::truncated_normal(kBertStddev) : Init::constant(0);
}

/// Element `i` of a tensor, drawn for the n-th time. Word 3 of the counter is zero, which no stream
/// of training uses.
double draw(const Init& init, PhiloxKey key, uint64_t i, uint32_t n = 0) {
  if (init.kind == Init::Kind::kConstant) return init.scale;
  if (init.kind == Init::Kind::kTruncatedNormal) {
    const double value = draw(Init::normal(1), key, i, n);
    return std::abs(value) <= kTruncatedAt ? init.scale * value : draw(init, key, i, n + 1);
  }
  const PhiloxCounter bits =
      philox4x32({static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), n, 0}, key);
  const double u = to_unit_double(bits[0], bits[1]);
  if (init.kind == Init::Kind::kUniform) return init.scale * (2.0 * u - 1.0);
  const double angle = 2.0 * std::numbers::pi * to_unit_double(bits[2], bits[3]);
  return init.scale * std::sqrt(-2.0 * std::log1p(-u)) * std::cos(angle);
}

/// Of one tensor, x: what is drawn is the same whatever else there is.
void fill(const ParameterStore::Entry& entry, const Init& init, uint64_t seed, std::span<float> x) {
  const PhiloxKey key = RngKey{seed, hash_name(entry.name)}.philox();
  std::vector<double> drawn(x.size());
  for (size_t i = 0; i < x.size(); ++i) drawn[i] = draw(init, key, i);
  const bool are_opposites = init.kind == Init::Kind::kOpposites;
  if (are_opposites || init.kind == Init::Kind::kDirections) {
    const auto width = static_cast<size_t>(entry.shape[entry.shape.rank() - 1]);
    for (size_t first = 0; first < x.size(); first += width) {
      double squares = 0;
      for (size_t e = first; e < first + width; ++e) squares += drawn[e] * drawn[e];
      for (size_t e = first; e < first + width; ++e)
        drawn[e] = are_opposites && first / width % 2 == 1
                       ? -drawn[e - width]
                       : drawn[e] * init.scale / std::sqrt(squares);
    }
  }
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(drawn[i]);
}

}  // namespace

ParamId ParameterStore::declare(std::string name, Shape shape, Init init, Decay decay) {
  STIPPLE_CHECK(!allocated_, "parameter '", name, "' was declared after allocate()");
  STIPPLE_CHECK(!find(name).has_value(), "parameter '", name, "' was declared twice");
  entries_.push_back({std::move(name), shape, init, decay, /*is_learned=*/true, Range{}});
  return {static_cast<int32_t>(entries_.size()) - 1};
}

ParamId ParameterStore::declare_fixed(std::string name, Shape shape, Init init) {
  const ParamId id = declare(std::move(name), shape, init, Decay::kNo);
  entries_.back().is_learned = false;
  return id;
}

void ParameterStore::allocate(Device device) {
  STIPPLE_CHECK(!allocated_, "allocate() was called twice");
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    entry->range = {numel_, numel_ + entry->shape.numel()};
    numel_ += padded(entry->shape.numel());
  }
  values_ = Buffer(device, static_cast<size_t>(numel_) * sizeof(float));
  grads_ = {nullptr, {numel_}};
  allocated_ = true;
}

void ParameterStore::bind_grads(View<float> grads) {
  STIPPLE_CHECK(allocated_, "bind_grads() was called before allocate()");
  STIPPLE_CHECK_SHAPE("bind_grads", grads, ({numel_}));
  grads_ = grads;
}

void ParameterStore::initialize(const Stream& stream, uint64_t seed, InitRule rule) {
  STIPPLE_CHECK(allocated_, "initialize() was called before allocate()");
  if (values().data == nullptr) return;
  std::vector<float> all(static_cast<size_t>(numel_));
  for (const Entry& entry : entries_) {
    fill(entry, under(rule, entry), seed,
         std::span(all).subspan(static_cast<size_t>(entry.range.begin),
                                static_cast<size_t>(entry.range.size())));
  }
  upload(stream, values(), std::span<const float>(all));
}

View<float> ParameterStore::value(ParamId id) const {
  const Entry& e = entry(id);
  float* data = values().data;
  return {data == nullptr ? nullptr : data + e.range.begin, e.shape};
}

View<float> ParameterStore::grad(ParamId id) const {
  const Entry& e = entry(id);
  STIPPLE_CHECK(grads_.data != nullptr || values_.device().type == DeviceType::kMeta,
                "gradients have no memory: call bind_grads() before backward");
  return {grads_.data == nullptr ? nullptr : grads_.data + e.range.begin, e.shape};
}

View<float> ParameterStore::values() const {
  STIPPLE_CHECK(allocated_, "parameters have no memory before allocate()");
  return {reinterpret_cast<float*>(values_.data()), {numel_}};
}

void ParameterStore::describe(StateVisitor& v, std::string_view kind, View<float> flat,
                              bool is_learned) const {
  STIPPLE_CHECK_SHAPE("state", flat, {numel_});
  for (const Entry& e : entries_) {
    if (e.is_learned != is_learned) continue;
    float* data = flat.data == nullptr ? nullptr : flat.data + e.range.begin;
    v.tensor(std::string(kind) + "/" + e.name, {data, e.shape});
  }
}

void ParameterStore::describe_state(StateVisitor& v, std::string_view kind,
                                    View<float> flat) const {
  describe(v, kind, flat, /*is_learned=*/true);
}

void ParameterStore::describe_fixed(StateVisitor& v) const {
  describe(v, "fixed", values(), /*is_learned=*/false);
}

bool ParameterStore::has_fixed() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& e) { return !e.is_learned; });
}

template <class Copy>
void ParameterStore::copy_fixed(const Stream& stream, const ParameterStore& other,
                                const Copy& copy) const {
  for (const Entry& e : entries_) {
    if (e.is_learned) continue;
    const std::optional<ParamId> id = other.find(e.name);
    STIPPLE_CHECK(id && other.entry(*id).shape == e.shape, "there is no fixed tensor '", e.name,
                  "' of shape ", e.shape.str());
    copy(value(*find(e.name)), other.value(*id));
  }
  stream.synchronize();
}

void ParameterStore::copy_fixed_to(const Stream& stream, const ParameterStore& to) const {
  copy_fixed(stream, to, [&](View<float> own, View<float> other) {
    upload(stream, other, std::span<const float>(own.span()));
  });
}

void ParameterStore::copy_fixed_from(const Stream& stream, const ParameterStore& from) const {
  copy_fixed(stream, from,
             [&](View<float> own, View<float> other) { download(stream, own.span(), other); });
}

int64_t ParameterStore::num_parameters() const {
  int64_t count = 0;
  for (const Entry& entry : entries_) count += entry.is_learned ? entry.shape.numel() : 0;
  return count;
}

const ParameterStore::Entry& ParameterStore::entry(ParamId id) const {
  STIPPLE_CHECK(id.index >= 0 && id.index < static_cast<int32_t>(entries_.size()),
                "no parameter has number ", id.index);
  return entries_[static_cast<size_t>(id.index)];
}

std::optional<ParamId> ParameterStore::find(std::string_view name) const {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].name == name) return ParamId{static_cast<int32_t>(i)};
  }
  return std::nullopt;
}

Range ParameterStore::range(ParamId first, ParamId last) const {
  STIPPLE_CHECK(allocated_, "ranges are known after allocate()");
  STIPPLE_CHECK(first.index <= last.index, "range: '", entry(first).name, "' was declared after '",
                entry(last).name, "'");
  const Range end = entry(first).range;
  return {entry(last).range.begin, end.begin + padded(end.size())};
}

}  // namespace stipple::model
