// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/load_parameters.h"

#include "core/error.h"
#include "trainer/checkpoint/host_tensors.h"
#include "trainer/checkpoint/load.h"
#include "trainer/loop/fitted.h"

namespace stipple::trainer {

CheckpointMeta load_parameters(const std::string& run_dir, comm::Communicator& communicator,
                               const Config& config, const Stream& stream,
                               model::ParameterStore& parameters) {
  // The checkpoint of another attention has nothing of what is fixed in this one.
  if (parameters.has_fixed()) parameters.initialize(stream, static_cast<uint64_t>(config.run.seed));
  put_fitted(config, stream, parameters);
  const HostTensors tensors(stream, [&](StateVisitor& v) {
    parameters.describe_state(v, "parameter", parameters.values());
    if (config.attention.sparsefinder.fitted.empty()) parameters.describe_fixed(v);
  });
  const auto found = load_checkpoint(run_dir, communicator, tensors.refs());
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, found.has_value(), run_dir, " has no checkpoint yet");
  });
  tensors.put_back();
  return *found;
}

}  // namespace stipple::trainer
