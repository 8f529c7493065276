// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "data/listops.h"

namespace stipple::data::listops {
namespace {

int apply(uint8_t operation, std::span<int> arguments) {
  switch (operation) {
    case kMin:
      return *std::min_element(arguments.begin(), arguments.end());
    case kMax:
      return *std::max_element(arguments.begin(), arguments.end());
    case kSm:
      return std::accumulate(arguments.begin(), arguments.end(), 0) % 10;
    default: {
      std::sort(arguments.begin(), arguments.end());
      const size_t half = arguments.size() / 2;
      // The mean of the two middle values of an even count is cut to an integer, as published.
      return arguments.size() % 2 == 1 ? arguments[half]
                                       : (arguments[half - 1] + arguments[half]) / 2;
    }
  }
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

int evaluate(std::span<const uint8_t> tokens, int depth) {
  struct Open {
    uint8_t operation;
    size_t first_argument;
  };
  std::vector<Open> open;
  std::vector<int> values;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const uint8_t token = tokens[i];
    STIPPLE_CHECK(i == 0 || !open.empty(), "listops: token ", i, " follows a complete expression");
    if (token >= kMin && token <= kSm) {
      open.push_back({token, values.size()});
    } else if (token >= kDigit0 && token < kDigit0 + 10) {
      values.push_back(token - kDigit0);
    } else {
      STIPPLE_CHECK(token == kClose, "listops: token ", i, " has id ", int{token},
                    ", which means nothing here");
      STIPPLE_CHECK(!open.empty() && open.back().first_argument < values.size(),
                    "listops: the bracket at token ", i, " closes an operator without arguments");
      const auto [operation, first] = open.back();
      const int value = static_cast<int>(open.size()) > depth
                            ? constant_guess(operation)
                            : apply(operation, std::span(values).subspan(first));
      values.resize(first);
      values.push_back(value);
      open.pop_back();
    }
  }
  STIPPLE_CHECK(open.empty() && values.size() == 1, "listops: the expression is incomplete");
  return values[0];
}

}  // namespace stipple::data::listops
