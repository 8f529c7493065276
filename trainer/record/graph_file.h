// SPDX-License-Identifier: Apache-2.0
// Drawn attention graphs as one safetensors file: `safetensors.numpy.load_file(path)` gives, of
// examples E with n tokens (padding is left out), layers L, H heads and G groups,
//   example.E/ids                        I64 [n]
//   example.E/labels                     I64 [1], or [n] where every token has one
//   example.E/values                     F32 [1] where labels are numbers
//   example.E/layer.L/mask               U8  [H, n, n]  query by key; how often the edge was drawn
//   example.E/layer.L/probability        F32 [H, n, n]  what the mask is on the average
//   example.E/layer.L/query_memberships  F32 [H, n, G]
//   example.E/layer.L/key_memberships    F32 [H, n, G]
//   layer.L/blocks                       F32 [H, G, G]
// The last three only where tokens belong to groups. Where examples have several sequences, what
// belongs to tokens is under example.E/sequence.S/. The metadata tell step, split and examples.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/attention/graph.h"
#include "trainer/checkpoint/safetensors.h"

namespace stipple::trainer {

/// One sequence with the graphs that every layer drew for it.
struct DrawnSequence {
  std::vector<int32_t> ids = {};
  std::vector<int32_t> labels = {};  ///< where every token has one
  std::vector<std::unique_ptr<model::AttentionGraph>> layers = {};
};

/// One example of a split.
struct DrawnExample {
  int64_t example = 0;               ///< its number in the split
  std::vector<int32_t> labels = {};  ///< one, where labels are classes
  std::vector<float> values = {};    ///< one, where they are numbers
  std::vector<DrawnSequence> sequences = {};
};

namespace graph_tensor {
inline constexpr std::string_view kMask = "mask";
inline constexpr std::string_view kProbability = "probability";
inline constexpr std::string_view kQueryMemberships = "query_memberships";
inline constexpr std::string_view kKeyMemberships = "key_memberships";
}  // namespace graph_tensor

/// What decides how large such a file is.
struct GraphSizes {
  int64_t layers = 1;
  int64_t heads = 1;
  int64_t groups = 0;
};
/// Bytes of the graphs of a sequence, and of those tensors that no example owns.
int64_t graph_bytes(const GraphSizes&, int64_t tokens);
int64_t shared_graph_bytes(const GraphSizes&);

/// Holds what will be written: as many bytes as the file.
class GraphFile {
 public:
  void add(const DrawnExample&);
  int64_t bytes() const;  ///< of all tensors
  /// Gives `path` these contents, durably and at once; `about` and the examples become metadata.
  void replace(const std::string& path, TensorMetadata about) const;

 private:
  struct Tensor {
    std::string name;
    TensorType type;
    Shape shape;
    std::vector<std::byte> bytes;
  };
  template <class T>
  void add(std::string name, TensorType, const Shape&, const std::vector<T>& values);
  void add(const std::string& sequence, const DrawnSequence&);
  void add(const std::string& sequence, const model::AttentionGraph&);

  std::vector<Tensor> tensors_;
  std::vector<int64_t> examples_;
};

}  // namespace stipple::trainer
