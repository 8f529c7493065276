// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/load_parameters.h"

#include "core/error.h"
#include "trainer/checkpoint/host_tensors.h"
#include "trainer/checkpoint/load.h"

namespace stipple::trainer {

CheckpointMeta load_parameters(const std::string& run_dir, comm::Communicator& communicator,
                               const Stream& stream, const model::ParameterStore& parameters) {
  const HostTensors tensors(stream, [&](StateVisitor& v) {
    parameters.describe_state(v, "parameter", parameters.values());
  });
  const auto found = load_checkpoint(run_dir, communicator, tensors.refs());
  comm::agree(communicator, [&] {
    STIPPLE_CHECK_AS(ConfigError, found.has_value(), run_dir, " has no checkpoint yet");
  });
  tensors.put_back();
  return *found;
}

}  // namespace stipple::trainer
