// SPDX-License-Identifier: Apache-2.0
// Values of many expressions, one after the other. The grammar is checked on the way: a token
// string has a value exactly when it is one complete expression whose operators all have arguments.
//
//   Evaluator evaluator;
//   const int value = evaluator.value(tokens);
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/listops.h"

namespace stipple::data::listops {

/// Why a token string is no expression, and which token shows it.
class NoExpression : public DataError {
 public:
  NoExpression(const std::string& what, size_t token) : DataError(what), token_(token) {}
  size_t token() const { return token_; }  ///< from 0

 private:
  size_t token_;
};

class Evaluator {
 public:
  Evaluator();
  ~Evaluator();
  /// The value 0..9, exact down to operators at `depth` (data/listops.h). NoExpression otherwise.
  /// Linear in the tokens; allocates for the longest string only.
  int value(std::span<const uint8_t> tokens, int depth = kExact);

 private:
  struct Open;
  std::vector<Open> stack_;
  std::vector<uint8_t> values_;
};

}  // namespace stipple::data::listops
