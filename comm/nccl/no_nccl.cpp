// SPDX-License-Identifier: Apache-2.0
// A build without CUDA has no device memory to send.
#include "comm/communicator.h"
#include "comm/gpu_assignment.h"
#include "core/error.h"

namespace stipple::comm {

std::unique_ptr<Communicator> make_nccl_communicator(Communicator&, const Stream&,
                                                     const NcclOptions&) {
  throw CommError("this program was built without CUDA; build it with the preset 'cuda'");
}

std::string nccl_version() { return {}; }

}  // namespace stipple::comm
