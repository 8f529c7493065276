// SPDX-License-Identifier: Apache-2.0
// How an attention tells the graph that it drew: by a sink in the Context, null except where
// somebody asked, to which the layers of one forward hand their graphs sequence by sequence. For
// pictures, files and figures; all of it lies in host memory, whatever the device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/real_view.h"
#include "core/stream.h"
#include "kernels/edge_list.h"

namespace stipple::model {

/// The graph of one sequence in one layer. Padding is left out: tokens 0 to n - 1 are the real ones.
class AttentionGraph {
 public:
  virtual ~AttentionGraph() = default;

  int layer = 0;
  int64_t row = 0;                            ///< of the leaf
  int64_t tokens = 0;                         ///< n
  std::vector<kernels::EdgeList> edges = {};  ///< by head
  /// What the graph was drawn from, where tokens belong to groups, in part or wholly.
  int64_t groups = 0;                                               ///< G; 0: they do not
  std::vector<float> query_memberships = {}, key_memberships = {};  // [H, n, G]
  std::vector<float> blocks = {};  // [H, G, G]  how groups of queries and of keys are linked

  int64_t heads() const { return static_cast<int64_t>(edges.size()); }
  /// The probability of the edge from `query` to each key, or how often it is drawn on the average
  /// where it may be drawn several times. [n] written.
  virtual void probabilities(int64_t head, int64_t query, std::span<double> by_key) const = 0;
};

struct AttentionInputs;
struct Context;

class GraphSink {
 public:
  virtual ~GraphSink() = default;
  /// What a layer attends by; before its graphs.
  virtual void hear(const Context&, const AttentionInputs&) {}
  /// Whether an attention over a predicted graph is to tell the support of exact attention instead,
  /// which costs that attention once more.
  virtual bool wants_support() const { return false; }
  /// Whether the graphs of this row of the leaf are wanted.
  virtual bool wants(int64_t row) const = 0;
  virtual void take(std::unique_ptr<AttentionGraph>) = 0;
};

/// Gives ctx.graphs the graph of each row that it wants: what make(row, its real tokens) returns,
/// named by layer, row and number of tokens.
void tell_rows(Context&, const AttentionInputs&,
               const std::function<std::unique_ptr<AttentionGraph>(
                   int64_t row, const std::vector<int64_t>& tokens)>& make);

/// Parts of what an attention tells. They wait for the stream.

/// The real tokens of a row of mask [B, N], ascending.
std::vector<int64_t> download_tokens(const Stream&, View<const uint8_t> mask, int64_t row);
/// The edges among those tokens, by head, of a graph of B * heads problems.
std::vector<kernels::EdgeList> download_heads(const Stream&, const kernels::EdgeSet&, int64_t row,
                                              int64_t heads, const std::vector<int64_t>& tokens);
/// x [B, H, N, C] of those tokens: [H, n, C].
std::vector<float> download_features(const Stream&, ConstRealView x, int64_t row,
                                     const std::vector<int64_t>& tokens);

}  // namespace stipple::model
