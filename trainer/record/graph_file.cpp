// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/graph_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "trainer/checkpoint/durable_file.h"

namespace stipple::trainer {
namespace {

std::string layer_name(int64_t layer) { return fmt::format("layer.{}", layer); }

/// [H, n, n]
std::vector<uint8_t> mask_of(const model::AttentionGraph& graph) {
  const auto n = static_cast<size_t>(graph.tokens);
  std::vector<uint8_t> mask(graph.edges.size() * n * n);
  for (size_t h = 0; h < graph.edges.size(); ++h) {
    const kernels::EdgeList& edges = graph.edges[h];
    for (size_t i = 0; i < n; ++i) {
      uint8_t* const row = mask.data() + (h * n + i) * n;
      for (auto e = static_cast<size_t>(edges.row_ptr[i]);
           e < static_cast<size_t>(edges.row_ptr[i + 1]); ++e) {
        const int drawn = edges.multiplicity.empty() ? 1 : edges.multiplicity[e];
        row[edges.columns[e]] = static_cast<uint8_t>(std::min(drawn, 255));
      }
    }
  }
  return mask;
}

/// [H, n, n]
std::vector<float> probabilities_of(const model::AttentionGraph& graph) {
  std::vector<float> all;
  all.reserve(static_cast<size_t>(graph.heads() * graph.tokens * graph.tokens));
  std::vector<double> row(static_cast<size_t>(graph.tokens));
  for (int64_t head = 0; head < graph.heads(); ++head) {
    for (int64_t query = 0; query < graph.tokens; ++query) {
      graph.probabilities(head, query, row);
      for (const double p : row) all.push_back(static_cast<float>(p));
    }
  }
  return all;
}

std::vector<int64_t> as_int64(const std::vector<int32_t>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

int64_t graph_bytes(const GraphSizes& sizes, int64_t tokens) {
  constexpr int64_t kPairBytes = sizeof(uint8_t) + sizeof(float);
  constexpr int64_t kMembershipBytes = 2 * sizeof(float);  // of a query and of a key
  const int64_t head = tokens * tokens * kPairBytes + tokens * sizes.groups * kMembershipBytes;
  return sizes.layers * sizes.heads * head;
}

int64_t shared_graph_bytes(const GraphSizes& sizes) {
  return sizes.layers * sizes.heads * sizes.groups * sizes.groups *
         static_cast<int64_t>(sizeof(float));
}

template <class T>
void GraphFile::add(std::string name, TensorType type, const Shape& shape,
                    const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  tensors_.push_back({std::move(name), type, shape, {bytes.begin(), bytes.end()}});
}

void GraphFile::add(const std::string& sequence, const model::AttentionGraph& graph) {
  const std::string layer = layer_name(graph.layer);
  const auto name = [&](std::string_view what) {
    return fmt::format("{}/{}/{}", sequence, layer, what);
  };
  const Shape pairs{graph.heads(), graph.tokens, graph.tokens};
  add(name(graph_tensor::kMask), TensorType::kU8, pairs, mask_of(graph));
  add(name(graph_tensor::kProbability), TensorType::kF32, pairs, probabilities_of(graph));
  if (graph.groups == 0) return;
  const Shape memberships{graph.heads(), graph.tokens, graph.groups};
  add(name(graph_tensor::kQueryMemberships), TensorType::kF32, memberships,
      graph.query_memberships);
  add(name(graph_tensor::kKeyMemberships), TensorType::kF32, memberships, graph.key_memberships);
  // The same for every sequence.
  const std::string blocks = layer + "/blocks";
  const bool is_new = std::none_of(tensors_.begin(), tensors_.end(),
                                   [&](const Tensor& t) { return t.name == blocks; });
  if (!graph.blocks.empty() && is_new)
    add(blocks, TensorType::kF32, {graph.heads(), graph.groups, graph.groups}, graph.blocks);
}

void GraphFile::add(const std::string& sequence, const DrawnSequence& drawn) {
  const Shape tokens{static_cast<int64_t>(drawn.ids.size())};
  add(sequence + "/ids", TensorType::kI64, tokens, as_int64(drawn.ids));
  if (!drawn.labels.empty())
    add(sequence + "/labels", TensorType::kI64, tokens, as_int64(drawn.labels));
  for (const auto& graph : drawn.layers) add(sequence, *graph);
}

void GraphFile::add(const DrawnExample& drawn) {
  const std::string example = fmt::format("example.{}", drawn.example);
  examples_.push_back(drawn.example);
  if (!drawn.labels.empty())
    add(example + "/labels", TensorType::kI64, {1}, as_int64(drawn.labels));
  if (!drawn.values.empty()) add(example + "/values", TensorType::kF32, {1}, drawn.values);
  const size_t sequences = drawn.sequences.size();
  for (size_t s = 0; s < sequences; ++s)
    add(sequences == 1 ? example : fmt::format("{}/sequence.{}", example, s), drawn.sequences[s]);
}

int64_t GraphFile::bytes() const {
  int64_t sum = 0;
  for (const Tensor& tensor : tensors_) sum += static_cast<int64_t>(tensor.bytes.size());
  return sum;
}

void GraphFile::replace(const std::string& path, TensorMetadata about) const {
  about["examples"] = fmt::format("{}", fmt::join(examples_, " "));
  std::vector<TensorSource> sources;
  for (const Tensor& t : tensors_) sources.push_back({t.name, t.type, t.shape, t.bytes});
  // As the format wants it: every element at a multiple of its size.
  std::stable_sort(sources.begin(), sources.end(), [](const auto& a, const auto& b) {
    return bytes_of(a.type) > bytes_of(b.type);
  });
  const std::string header = safetensors_header(sources, about);
  std::vector<std::span<const std::byte>> pieces = {std::as_bytes(std::span(header))};
  for (const TensorSource& source : sources) pieces.push_back(source.bytes);
  replace_durably(path, pieces);
}

}  // namespace stipple::trainer
