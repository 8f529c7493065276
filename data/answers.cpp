// SPDX-License-Identifier: Apache-2.0
#include "data/answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

namespace stipple::data {
namespace {

/// How often label t met answer p; examples without a label are left out.
class Confusion {
 public:
  explicit Confusion(const Answers& answers)
      : classes_(answers.num_outputs), counts_(static_cast<size_t>(classes_ * classes_)) {
    for (int64_t i = 0; i < answers.size(); ++i) {
      const float label = answers.labels[static_cast<size_t>(i)];
      if (std::isnan(label)) continue;
      const auto t = static_cast<int64_t>(label);
      STIPPLE_CHECK(t >= 0 && t < classes_, "label ", t, " is none of ", classes_, " classes");
      ++counts_[static_cast<size_t>(t * classes_ + class_of(answers.of(i)))];
    }
  }

  int64_t classes() const { return classes_; }
  int64_t count(int64_t label, int64_t answer) const {
    return counts_[static_cast<size_t>(label * classes_ + answer)];
  }
  int64_t labelled(int64_t c) const {
    int64_t sum = 0;
    for (int64_t p = 0; p < classes_; ++p) sum += count(c, p);
    return sum;
  }
  int64_t answered(int64_t c) const {
    int64_t sum = 0;
    for (int64_t t = 0; t < classes_; ++t) sum += count(t, c);
    return sum;
  }
  int64_t total() const { return std::accumulate(counts_.begin(), counts_.end(), int64_t{0}); }

 private:
  int64_t classes_;
  std::vector<int64_t> counts_;  // [label, answer]
};

double f1_of(const Confusion& confusion, int64_t c) {
  const int64_t sum = confusion.labelled(c) + confusion.answered(c);  // 2 TP + FP + FN
  if (sum == 0) return 0;
  return 2 * static_cast<double>(confusion.count(c, c)) / static_cast<double>(sum);
}

/// Numbers said and numbers true, of examples with a label.
struct Pairs {
  std::vector<double> said, known;
  explicit Pairs(const Answers& answers) {
    STIPPLE_CHECK(answers.num_outputs == 1, "classes are no numbers");
    for (int64_t i = 0; i < answers.size(); ++i) {
      const float label = answers.labels[static_cast<size_t>(i)];
      if (std::isnan(label)) continue;
      said.push_back(static_cast<double>(answers.of(i)[0]));
      known.push_back(static_cast<double>(label));
    }
  }
};

bool are_equal(const std::vector<double>& values) {
  return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  // Of equal numbers rounding may leave a mean that is none of them.
  if (are_equal(x) || are_equal(y)) return 0;
  const double mean_x = mean_of(x), mean_y = mean_of(y);
  double xx = 0, xy = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - mean_x, dy = y[i] - mean_y;
    xx += dx * dx;
    xy += dx * dy;
    yy += dy * dy;
  }
  return xy / (std::sqrt(xx) * std::sqrt(yy));
}

/// From 1; equal values share the mean of their ranks. NaNs come last, as one value.
std::vector<double> ranks_of(const std::vector<double>& values) {
  const auto before = [](double a, double b) { return a < b || (!std::isnan(a) && std::isnan(b)); };
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return before(values[a], values[b]); });
  std::vector<double> ranks(values.size());
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin + 1;
    while (end < order.size() && !before(values[order[begin]], values[order[end]])) ++end;
    const double rank = static_cast<double>(begin + 1 + end) / 2;
    for (size_t i = begin; i < end; ++i) ranks[order[i]] = rank;
    begin = end;
  }
  return ranks;
}

}  // namespace

int64_t class_of(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

std::vector<double> probabilities_of(std::span<const float> logits) {
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> p;
  for (const float logit : logits) p.push_back(std::exp(static_cast<double>(logit) - largest));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

double f1(const Answers& answers) {
  const Confusion confusion(answers);
  STIPPLE_CHECK(confusion.classes() == 2, "F1 of class 1 is of two classes, not of ",
                confusion.classes());
  return f1_of(confusion, 1);
}

double macro_f1(const Answers& answers) {
  const Confusion confusion(answers);
  double sum = 0;
  for (int64_t c = 0; c < confusion.classes(); ++c) sum += f1_of(confusion, c);
  return sum / static_cast<double>(confusion.classes());
}

double matthews(const Answers& answers) {
  const Confusion confusion(answers);
  const auto n = static_cast<double>(confusion.total());
  double right = 0, products = 0, labels = 0, said = 0;
  for (int64_t c = 0; c < confusion.classes(); ++c) {
    const auto t = static_cast<double>(confusion.labelled(c));
    const auto p = static_cast<double>(confusion.answered(c));
    right += static_cast<double>(confusion.count(c, c));
    products += t * p;
    labels += t * t;
    said += p * p;
  }
  const double under = std::sqrt((n * n - said) * (n * n - labels));
  return under == 0 ? 0 : (right * n - products) / under;
}

double pearson(const Answers& answers) {
  const Pairs pairs(answers);
  return correlation(pairs.said, pairs.known);
}

double spearman(const Answers& answers) {
  const Pairs pairs(answers);
  return correlation(ranks_of(pairs.said), ranks_of(pairs.known));
}

double mean_squared_error(const Answers& answers) {
  const Pairs pairs(answers);
  if (pairs.said.empty()) return 0;
  double sum = 0;
  for (size_t i = 0; i < pairs.said.size(); ++i) {
    const double error = pairs.said[i] - pairs.known[i];
    sum += error * error;
  }
  return sum / static_cast<double>(pairs.said.size());
}

std::string sameness(const Answers& answers, const std::vector<std::string>& class_names) {
  if (answers.size() < 2) return {};
  if (class_names.empty()) {
    for (const float output : answers.outputs) {
      if (output != answers.outputs[0]) return {};
    }
    return fmt::format("the model says {:.3f} of every one of {} examples", answers.outputs[0],
                       answers.size());
  }
  const int64_t said = class_of(answers.of(0));
  int64_t labels = 0, right = 0;
  for (int64_t i = 0; i < answers.size(); ++i) {
    if (class_of(answers.of(i)) != said) return {};
    const float label = answers.labels[static_cast<size_t>(i)];
    labels += std::isnan(label) ? 0 : 1;
    right += static_cast<int64_t>(label == static_cast<float>(said));
  }
  std::string text = fmt::format("the model calls all {} examples '{}'", answers.size(),
                                 class_names[static_cast<size_t>(said)]);
  if (labels > 0) {
    text += fmt::format(", which is right of {:.1f} %",
                        100 * static_cast<double>(right) / static_cast<double>(labels));
  }
  return text;
}

}  // namespace stipple::data
