// SPDX-License-Identifier: Apache-2.0
// What an attention with entmax tells of its supports, by layer and head: their share of all pairs
// and how many keys a query has.
#pragma once

#include "kernels/entmax.h"
#include "model/attention/attention.h"
#include "model/facts.h"

namespace stipple::model {

class SupportFacts {
 public:
  SupportFacts(FactTable&, int64_t heads);
  void tell(Context&, const AttentionInputs&, const kernels::EntmaxSupport&, bool is_causal) const;

 private:
  FactId edges_, pairs_, rows_;  // int64_t [H]
};

}  // namespace stipple::model
