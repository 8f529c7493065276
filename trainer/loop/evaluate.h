// SPDX-License-Identifier: Apache-2.0
// Accuracy and loss over a whole split. Every example counts exactly once, on any number of ranks,
// with the same result to the last bit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "data/batch.h"
#include "trainer/loop/replica.h"
#include "trainer/loop/step_observer.h"
#include "trainer/record/metrics.h"
#include "trainer/record/report.h"

namespace stipple::trainer {

struct EvalResult {
  double loss = 0;      ///< mean over labels
  double accuracy = 0;  ///< hits over labels
  double density = 0;   ///< of the sampled graphs; 0 for attention without graphs
  int64_t examples = 0;
  int64_t labels = 0;
  double seconds = 0;
  std::vector<double> seed_accuracy;  ///< one per sampling seed
  double spread() const;              ///< largest minus smallest of seed_accuracy
};

/// Leaves are dealt to ranks round-robin; losses are added in leaf order. The graph of example i
/// under sampling seed s is a function of (run.seed, s, i) alone. With several seeds, loss,
/// accuracy and density are means over them. `stop` is asked now and then: when it says so on some
/// rank, all give up and there is no result. Collective.
std::optional<EvalResult> evaluate(Replica&, comm::Communicator&, const data::Dataset&,
                                   const data::TaskInfo&, const Config&, int64_t seeds,
                                   bool (*stop)());

/// What metrics.jsonl keeps of it.
EvalRecord eval_record(const EvalResult&, int64_t step, std::string_view split);

/// The task's ladder on these examples, ascending.
std::vector<LadderRung> ladder_of(const data::Task&, const data::Dataset&);

/// "41.2 %, 5.0 points above 'root operator' (36.2 %), 18.6 points below 'depth 1' (59.8 %)".
std::string place_on_ladder(double accuracy, const std::vector<LadderRung>& ascending);

}  // namespace stipple::trainer
