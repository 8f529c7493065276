// SPDX-License-Identifier: Apache-2.0
// metrics.jsonl: what a run measured, one JSON object a line, for people's scripts and for the
// report. A number that is not finite is null. A record whose kind the reader does not know is an
// error, so keys are only ever added. METRIC, PROFILE and FIGURE stand for what the task and the
// model declare (figures.json lists them): accuracy, bits_per_byte_by_place, density, ...
//
//   kind "train"  step split loss METRIC... FIGURE... examples_per_s tokens_per_s learning_rate
//                 grad_norm skipped auxiliary_loss
//                 trust_ratio_mean trust_ratio_min: of LAMB, over the tensors that adapt
//                 step_s data_s forward_s sampling_s backward_s reduce_s optimizer_s
//                 layers: [{FIGURE: [per head], ...}, per layer]
//   kind "eval"   step split loss METRIC... FIGURE... examples examples_per_s
//                 seed_METRIC: [one per sampling seed]... seed_spread
//                 PROFILE: [by where labels stand]...
//                 overrides: ["key=value" of each key that was not as in the run]
//                 layers, with model/attention/graph_figures.h where a graph has groups
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {

/// Where the time of a step went. The parts need not add up to the whole: the rest is everything
/// else. NaN: not measured. On GPUs the times are the device's, by events, whether the step is
/// captured or not. There `data`, which the host spends while the device computes, is not measured,
/// unless the host judges every step (guard.spike_factor); `reduce` then includes that.
struct StepSeconds {
  double step = 0;
  double data = 0;      ///< waiting for a batch
  double forward = 0;   ///< sampling excluded
  double sampling = 0;  ///< drawing attention graphs
  double backward = 0;
  double reduce = 0;  ///< exposed communication: waiting for gradients of other ranks
  double optimizer = 0;
};

/// Declared numbers by their names, in the order of their declaration.
template <class T>
using Named = std::vector<std::pair<std::string, T>>;

/// NaN: there is none of that name.
double value_of(const Named<double>&, std::string_view name);

/// Empty: there are none of that name.
std::vector<double> values_of(const Named<std::vector<double>>&, std::string_view name);

/// One value per head.
using LayerRecord = Named<std::vector<double>>;

struct TrainRecord {
  int64_t step = 0;
  double loss = 0;
  Named<double> values = {};  ///< metrics, then figures over all layers and heads
  double examples_per_s = 0;
  double tokens_per_s = 0;
  double learning_rate = 0;
  double grad_norm = 0;
  int64_t skipped = 0;        ///< steps that the guard did not apply, since the start
  double auxiliary_loss = 0;  ///< weighted regularisers that attention adds to the loss
  StepSeconds seconds = {};
  std::vector<LayerRecord> layers = {};
};

struct EvalRecord {
  int64_t step = 0;
  std::string split = {};  ///< "val", "test"
  double loss = 0;
  Named<double> values = {};  ///< metrics: means over the seeds; figures
  int64_t examples = 0;
  double examples_per_s = 0;
  Named<std::vector<double>> seed_values = {};  ///< by metric, one per sampling seed
  double seed_spread = 0;                       ///< of the first metric: largest minus smallest
  Named<std::vector<double>> profiles = {};     ///< by where labels stand
  std::vector<std::string> overrides = {};      ///< "key=value" that were not as in the run
  std::vector<LayerRecord> layers = {};

  /// Of the model as it was trained: a result of the run.
  bool is_plain() const { return overrides.empty(); }
};

/// Appends to metrics.jsonl. For rank 0 only. Error when the file cannot be written.
class MetricsWriter {
 public:
  /// Continues a run restored at `restored_step`: lines of later steps, and lines cut off by a
  /// crash, are dropped first, all at once. A run that starts from nothing passes -1 and finds an
  /// empty file.
  MetricsWriter(const std::string& path, int64_t restored_step);

  void write(const TrainRecord&);
  void write(const EvalRecord&);

 private:
  AppendFile file_;
};

struct Metrics {
  std::vector<TrainRecord> train = {};
  std::vector<EvalRecord> eval = {};
};

/// Everything in a metrics.jsonl. A last line without its end is left out: the run may be writing
/// it. DataError "file:line: what" for anything else that is no record; no file gives no records.
Metrics read_metrics(const std::string& path);

}  // namespace stipple::trainer
