// SPDX-License-Identifier: Apache-2.0
// All parameters of a model in one flat arena, and their gradients in another of the same layout.
// Zeroing, clipping, the optimizer, reduction, checkpoints and hashes are then loops over ranges.
//
// Layout: reverse order of declaration, which is the order in which backward finishes gradients;
// each tensor starts on a 128-byte boundary. Padding is zero and stays zero.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/buffer.h"
#include "core/range.h"
#include "core/state_visitor.h"
#include "core/stream.h"
#include "core/view.h"

namespace stipple::model {

/// How a tensor is filled before training. A pure function of (seed, name, element).
struct Init {
  enum class Kind : uint8_t {
    kConstant,
    kNormal,
    kUniform,
    kDirections,
    kOpposites,
    kTruncatedNormal
  } kind = Kind::kConstant;
  double scale = 0.0;     ///< the constant; the standard deviation; the half-width; the length
  bool is_usual = false;  ///< of a linear layer or a table: InitRule decides

  static Init constant(double value) { return {Kind::kConstant, value}; }
  static Init normal(double stddev) { return {Kind::kNormal, stddev}; }
  static Init uniform(double half_width) { return {Kind::kUniform, half_width}; }
  /// Vectors along the last dimension, of length 1 and uniformly distributed directions.
  static Init directions() { return {Kind::kDirections, 1.0}; }
  /// Likewise, each second one the opposite of the one before.
  static Init opposites() { return {Kind::kOpposites, 1.0}; }
  /// Normal, drawn again where it is more than two deviations away, as TensorFlow does.
  static Init truncated_normal(double stddev) { return {Kind::kTruncatedNormal, stddev}; }

  Init usual() const { return {kind, scale, true}; }
};

/// How linear layers and tables of the embedding are filled.
enum class InitRule : uint8_t {
  kModules,  ///< as they say themselves
  kBert,     ///< weights and tables by a normal distribution of deviation 0.02, truncated; biases 0
};

/// Whether weight decay applies: matrices yes; biases, norms and embeddings no.
enum class Decay : uint8_t { kYes, kNo };

struct ParamId {
  int32_t index = -1;
};

class ParameterStore {
 public:
  struct Entry {
    std::string name;
    Shape shape;
    Init init;
    Decay decay = Decay::kYes;
    bool is_learned = true;
    Range range;  ///< in the flat arena, padding excluded; known after allocate()
  };

  /// Called by module constructors, before allocate(). Names are unique.
  ParamId declare(std::string name, Shape shape, Init init, Decay decay = Decay::kYes);

  /// Of the model, but not learned: no module adds to its gradient, so that no optimizer moves it.
  ParamId declare_fixed(std::string name, Shape shape, Init init);

  /// Fixes the layout and makes the value arena (zeroed). On meta only the layout.
  void allocate(Device);
  /// Where backward adds gradients: memory of the reducer, [numel()], exchanged between leaves.
  void bind_grads(View<float> grads);
  /// Fills the value arena; `stream` is of its device. The same bits on every device.
  void initialize(const Stream& stream, uint64_t seed, InitRule rule = InitRule::kModules);

  View<float> value(ParamId) const;
  View<float> grad(ParamId) const;
  View<float> values() const;               ///< flat
  int64_t numel() const { return numel_; }  ///< of the arena, padding included
  int64_t num_parameters() const;           ///< that are learned, without padding

  /// Each learned parameter's part of `flat`, an array of this layout, as "<kind>/<name>": values are
  /// of the kind "parameter". Every rank owns all of it.
  void describe_state(StateVisitor&, std::string_view kind, View<float> flat) const;
  /// What is not learned, as "fixed/<name>", likewise.
  void describe_fixed(StateVisitor&) const;
  bool has_fixed() const;
  /// Copies it, from host memory, to a store that has the same; and back.
  void copy_fixed_to(const Stream&, const ParameterStore& to) const;
  void copy_fixed_from(const Stream&, const ParameterStore& from) const;

  std::span<const Entry> entries() const { return entries_; }  ///< in declaration order
  const Entry& entry(ParamId) const;
  std::optional<ParamId> find(std::string_view name) const;
  /// The smallest range that covers all parameters declared from `first` to `last`, both included,
  /// with their padding.
  Range range(ParamId first, ParamId last) const;

 private:
  template <class Copy>
  void copy_fixed(const Stream&, const ParameterStore& other, const Copy&) const;
  void describe(StateVisitor&, std::string_view kind, View<float> flat, bool is_learned) const;

  std::vector<Entry> entries_;
  int64_t numel_ = 0;
  bool allocated_ = false;
  Buffer values_;
  View<float> grads_;
};

}  // namespace stipple::model
