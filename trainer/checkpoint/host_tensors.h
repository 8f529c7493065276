// SPDX-License-Identifier: Apache-2.0
// The tensors of components (core/state_visitor.h) as files see them, in host memory: the tensors
// themselves on the CPU; on a device with memory of its own a copy, whose memory is taken once.
//
//   HostTensors tensors(stream, [&](StateVisitor& v) { optimizer.describe_state(stream, v); });
//   tensors.fetch();     write(tensors.refs());      // save
//   read(tensors.refs());     tensors.put_back();    // restore
#pragma once

#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/state_visitor.h"
#include "core/stream.h"
#include "trainer/checkpoint/tensor_ref.h"

namespace stipple::trainer {

class HostTensors {
 public:
  /// The described tensors stay where they are for as long as this lives.
  HostTensors(const Stream&, DescribeState);

  std::span<const TensorRef> refs() const { return refs_; }
  void fetch() const;     ///< brings the copy up to date; waits for the stream
  void put_back() const;  ///< brings the device to what the copy holds; waits

 private:
  bool is_copy() const { return copy_.bytes() > 0; }

  const Stream& stream_;
  std::vector<TensorRef> refs_;
  std::vector<float*> on_device_;  ///< by ref
  Buffer copy_;
};

}  // namespace stipple::trainer
