// SPDX-License-Identifier: Apache-2.0
#include "data/metric.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace stipple::data {
namespace {

double accuracy(Sums sum) { return sum("correct") / std::max(1.0, sum("count")); }

double relation_accuracy(Sums sum) {
  return sum("relation_correct") / std::max(1.0, sum("relation_count"));
}

double mean_loss(Sums sum) { return sum("loss_sum") / std::max(1.0, sum("count")); }
double bits(Sums sum) { return mean_loss(sum) / std::numbers::ln2; }
double perplexity(Sums sum) { return std::exp(mean_loss(sum)); }

}  // namespace

const Metric kBitsPerByte{
    .name = "bits_per_byte", .title = "Bits per byte", .less_is_better = true, .of = &bits};
const Metric kBitsPerDimension{
    .name = "bits_per_dim", .title = "Bits per dimension", .less_is_better = true, .of = &bits};
const Metric kPerplexity{
    .name = "perplexity", .title = "Perplexity", .less_is_better = true, .of = &perplexity};
const Metric kAccuracy{.name = "accuracy", .title = "Accuracy", .is_share = true, .of = &accuracy};
const Metric kRelationAccuracy{.name = "relation_accuracy",
                               .title = "Accuracy on pairs",
                               .is_share = true,
                               .of = &relation_accuracy};
const Metric kF1{.name = "f1", .title = "F1", .is_share = true, .of_answers = &f1};
const Metric kMacroF1{
    .name = "macro_f1", .title = "Mean F1 of classes", .is_share = true, .of_answers = &macro_f1};
const Metric kMatthews{
    .name = "matthews", .title = "Matthews correlation", .of_answers = &matthews};
const Metric kPearson{.name = "pearson", .title = "Pearson correlation", .of_answers = &pearson};
const Metric kSpearman{
    .name = "spearman", .title = "Spearman correlation", .of_answers = &spearman};
const Metric kMeanSquaredError{.name = "mse",
                               .title = "Mean squared error",
                               .less_is_better = true,
                               .of_answers = &mean_squared_error};

namespace {

Profile bits_by_place(std::string_view name, std::string_view title) {
  return {.name = name,
          .title = title,
          .unit = "eighths of a block of attention.combiner.block",
          .over = "place_loss",
          .under = "place_labels",
          .scale = 1 / std::numbers::ln2};
}

}  // namespace

const Profile kBitsPerByteByPlace =
    bits_by_place("bits_per_byte_by_place", "Bits per byte by place");
const Profile kBitsPerDimensionByPlace =
    bits_by_place("bits_per_dim_by_place", "Bits per dimension by place");

std::string metric_text(double value, bool is_share, int decimals) {
  if (!std::isfinite(value)) return "none";
  return is_share ? fmt::format("{:.{}f} %", 100 * value, decimals)
                  : fmt::format("{:.{}f}", value, decimals + 2);
}

std::string place_on_ladder(double value, bool is_share, const std::vector<Rung>& ascending) {
  const Rung* below = nullptr;
  const Rung* above = nullptr;
  for (const Rung& rung : ascending) {
    if (rung.value <= value) {
      below = &rung;
    } else if (above == nullptr) {
      above = &rung;
    }
  }
  std::string text = metric_text(value, is_share);
  const auto add = [&](const Rung& rung, const char* where) {
    const double distance = std::abs(value - rung.value);
    text += fmt::format(
        ", {} {} '{}' ({})",
        is_share ? fmt::format("{:.1f} points", 100 * distance) : metric_text(distance, false),
        where, rung.name, metric_text(rung.value, is_share));
  };
  if (below != nullptr) add(*below, "above");
  if (above != nullptr) add(*above, "below");
  return text;
}

}  // namespace stipple::data
