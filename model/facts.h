// SPDX-License-Identifier: Apache-2.0
// What one leaf's forward tells the log. Modules declare in their constructors what they will
// report, as they declare parameters; everybody who shows something (log line, metrics.jsonl,
// TensorBoard, report, evaluation) draws what is declared and names none of it.
//
//   edges_ = facts.declare_per_layer<int64_t>("edges", heads);          // module's constructor
//   facts.show({.name = "density", .title = "Density", .over = edges_, .under = pairs_, ...});
//   View<int64_t> edges = ctx.facts.at<int64_t>(edges_, layer);         // its forward adds to them
//
// A leaf's facts are one block of memory on the model's device, filled by operations and copied to
// the host in one piece. Start it as zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/view.h"

namespace stipple::model {

enum class FactType : uint8_t { kInt64, kInt32, kDouble, kFloat };
template <class T>
inline constexpr FactType kFactType = FactType::kInt64;
template <>
inline constexpr FactType kFactType<int32_t> = FactType::kInt32;
template <>
inline constexpr FactType kFactType<double> = FactType::kDouble;
template <>
inline constexpr FactType kFactType<float> = FactType::kFloat;

/// How leaves and ranks come together.
enum class Unite : uint8_t {
  kSum,
  kSame,  ///< every leaf of a step says the same; a rank without leaves says 0
};

struct FactId {
  int index = -1;
  bool exists() const { return index >= 0; }
};

/// Facts that every model has.
inline constexpr std::string_view kLossSum = "loss_sum";  // double: of the leaf's labels
inline constexpr std::string_view kLabels = "count";      // int64_t: labels that count
/// double, per layer: regularisers, already weighted; their gradient is in backward.
inline constexpr std::string_view kAuxiliaryLoss = "auxiliary_loss";

struct Fact {
  std::string name;
  int64_t size = 1;  ///< values per layer, or of the leaf
  FactType type = FactType::kInt64;
  Unite unite = Unite::kSum;
  bool per_layer = false;
  int64_t offset = 0;  ///< in words, from the begin of the leaf's part or of the layer's

  bool operator==(const Fact&) const = default;
};

/// A number for people: over / under, each summed first, or `over` itself. One per layer and value
/// (head); `has_total`: one over all of them, too.
struct Figure {
  std::string name;  ///< the key in metrics.jsonl
  std::string title;
  std::string unit = {};
  bool is_share = false;  ///< shown in percent
  FactId over;
  FactId under = {};
  bool has_total = false;
};

/// A fact that must stay zero; anything else is a configuration error, told as
/// message_before + number + message_after.
struct Limit {
  FactId fact;
  std::string message_before, message_after;
};

class FactTable {
 public:
  explicit FactTable(int64_t layers);

  /// Modules of several layers declare the same fact; declaring another under its name throws.
  template <class T>
  FactId declare(std::string_view name, int64_t size = 1, Unite unite = Unite::kSum) {
    return add({std::string(name), size, kFactType<T>, unite, false});
  }
  template <class T>
  FactId declare_per_layer(std::string_view name, int64_t size = 1, Unite unite = Unite::kSum) {
    return add({std::string(name), size, kFactType<T>, unite, true});
  }
  /// Shown in the order of these calls; a second figure of the same name is the first one.
  void show(const Figure&);
  void require_zero(const Limit&);

  int64_t layers() const { return layers_; }
  const std::vector<Fact>& facts() const { return facts_; }
  const std::vector<Figure>& figures() const { return figures_; }
  const std::vector<Limit>& limits() const { return limits_; }
  const Fact& fact(FactId id) const { return facts_.at(static_cast<size_t>(id.index)); }
  FactId find(std::string_view name) const;  ///< does not exist: no such fact

  /// Of one leaf's block; 8-byte aligned. All declarations come first.
  size_t bytes() const {
    return static_cast<size_t>(leaf_words_ + layers_ * layer_words_) * sizeof(int64_t);
  }
  /// Where a fact begins, in words.
  int64_t word(FactId id, int64_t layer) const {
    const Fact& f = fact(id);
    return f.per_layer ? leaf_words_ + layer * layer_words_ + f.offset : f.offset;
  }

 private:
  FactId add(Fact);

  int64_t layers_;
  int64_t leaf_words_ = 0;
  int64_t layer_words_ = 0;
  std::vector<Fact> facts_;
  std::vector<Figure> figures_;
  std::vector<Limit> limits_;
};

/// One leaf's block, on the device or as a copy on the host.
class Facts {
 public:
  Facts() = default;
  /// `memory` may be null: shapes without values, for planning.
  Facts(const FactTable& table, void* memory)
      : table_(&table), words_(static_cast<int64_t*>(memory)) {}

  /// [size]  Error when the fact is of another type.
  template <class T>
  View<T> at(FactId id, int64_t layer = 0) const {
    STIPPLE_CHECK(table_ != nullptr, "facts are told in forward only");
    const Fact& fact = table_->fact(id);
    STIPPLE_CHECK(fact.type == kFactType<T>, "fact '", fact.name, "' is of another type");
    int64_t* const first = words_ == nullptr ? nullptr : words_ + table_->word(id, layer);
    return {reinterpret_cast<T*>(first), {fact.size}};
  }

 private:
  const FactTable* table_ = nullptr;
  int64_t* words_ = nullptr;
};

}  // namespace stipple::model
