// SPDX-License-Identifier: Apache-2.0
// Alpha and temperature of the heads of one layer, in the memory of the device: fixed, learned, or
// on a path that follows the training step. Saves a float per head for each that is not a parameter
// itself.
#pragma once

#include <string>

#include "kernels/attend_entmax.h"
#include "model/attention/entmax/entmax_config.h"
#include "model/context.h"
#include "model/parameter_store.h"

namespace stipple::model {

class EntmaxHeadLayer {
 public:
  /// Declares `name`.alpha [H], where it is learned the number under its sigmoid, where it is
  /// annealed alpha itself, which begin_step() sets and no gradient moves; and `name`.temperature
  /// [H], a logarithm.
  EntmaxHeadLayer(const EntmaxConfig&, ParameterStore&, FactTable&, const std::string& name,
                  int64_t heads);

  bool learns_alpha() const { return is_learned_; }
  bool learns_temperature() const { return has_temperature_; }

  /// Before the first forward of a training step, on every rank.
  void begin_step(const Stream&, const RngKey&) const;
  /// In ctx.saved, where backward of attention reads them, too; told as facts.
  kernels::EntmaxHeads forward(Context&) const;
  /// From each row's share [B, H, N]; empty where it is not learned.
  void backward(Context&, View<const float> dalpha, View<const float> dtemperature) const;

 private:
  void tell(Context&, const kernels::EntmaxHeads&) const;

  const ParameterStore& store_;
  double from_, to_;  ///< of the path
  int64_t steps_;
  float low_, high_;
  bool is_annealed_, is_learned_, has_temperature_;
  int64_t heads_;
  ParamId alpha_, temperature_;
  FactId alpha_fact_, temperature_fact_;  ///< float [H]
};

}  // namespace stipple::model
