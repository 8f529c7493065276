// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/listops/evaluator.h"
#include "data/listops/source.h"

namespace stipple::data::listops {
namespace {

/// The mean of the two middle values of an even count is cut to an integer, as published.
int median(std::span<const uint8_t> values) {
  std::array<size_t, 10> counts{};
  for (uint8_t value : values) ++counts[value];
  const auto nth = [&](size_t n) {  // of the sorted values
    int value = 0;
    for (size_t before = counts[0]; before <= n; before += counts[static_cast<size_t>(value)]) {
      ++value;
    }
    return value;
  };
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? nth(half) : (nth(half - 1) + nth(half)) / 2;
}

[[noreturn]] void fail(std::span<const uint8_t> tokens, size_t i, std::string_view what) {
  throw NoExpression(fmt::format("{} {}", quoted(spelling(tokens[i])), what), i);
}

}  // namespace

int constant_guess(uint8_t operation) {
  switch (operation) {
    case kMin:
      return 0;
    case kMax:
      return 9;
    case kMed:
      return 4;
    case kSm:
      return 5;
    default:
      throw Error(detail::concat("listops: ", int{operation}, " is not an operator"));
  }
}

/// An operator whose arguments are being read: what is known of them so far.
struct Evaluator::Open {
  size_t token = 0;
  size_t first = 0;  ///< of its arguments, among the values
  int sum = 0;
  int least = 9;
  int most = 0;

  void add(int value) {
    sum += value;
    least = std::min(least, value);
    most = std::max(most, value);
  }

  int result(uint8_t operation, std::span<const uint8_t> arguments) const {
    switch (operation) {
      case kMin:
        return least;
      case kMax:
        return most;
      case kSm:
        return sum % 10;
      default:
        return median(arguments);
    }
  }
};

Evaluator::Evaluator() = default;
Evaluator::~Evaluator() = default;

// One pass. `open` is the innermost operator; the ones around it wait on the stack, whose lowest
// entry stands for the text itself and takes the root's value as its argument.
int Evaluator::value(std::span<const uint8_t> tokens, int depth) {
  if (tokens.empty()) throw NoExpression("there is no expression", 0);
  stack_.clear();
  if (values_.size() < tokens.size()) values_.resize(tokens.size());
  size_t num_values = 0;
  Open open;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const uint8_t token = tokens[i];
    if (stack_.empty() && num_values > 0) {
      fail(tokens, i,
           token == kClose ? "closes nothing: a surplus bracket"
                           : "follows a complete expression: there is more than one root");
    }
    int value = token - kDigit0;
    if (token >= kMin && token <= kSm) {
      stack_.push_back(open);
      open = {.token = i, .first = num_values};
      continue;
    }
    if (token == kClose) {
      if (stack_.empty()) fail(tokens, i, "closes nothing: a surplus bracket");
      if (open.first == num_values) fail(tokens, open.token, "has no arguments");
      const uint8_t operation = tokens[open.token];
      value = static_cast<int>(stack_.size()) > depth
                  ? constant_guess(operation)
                  : open.result(operation,
                                std::span(values_).subspan(open.first, num_values - open.first));
      num_values = open.first;
      open = stack_.back();
      stack_.pop_back();
    } else if (token < kDigit0 || token >= kDigit0 + 10) {
      fail(tokens, i, "means nothing here");
    }
    open.add(value);
    values_[num_values++] = static_cast<uint8_t>(value);
  }
  if (!stack_.empty()) fail(tokens, open.token, "is not closed: a bracket is missing");
  return values_[0];
}

int evaluate(std::span<const uint8_t> tokens, int depth) {
  return Evaluator().value(tokens, depth);
}

}  // namespace stipple::data::listops
