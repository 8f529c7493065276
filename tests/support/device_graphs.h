// SPDX-License-Identifier: Apache-2.0
// kernels::sample_edges on any device, for the checks of samplers: graphs come back to the host.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "tests/support/graphs.h"
#include "tests/support/sampler_checks.h"

namespace stipple::test {

/// How a device is asked to draw.
struct DrawOptions {
  SamplerKind sampler = SamplerKind::kAuto;
  EdgeCapacity capacity{};
  Precision precision = Precision::kFp32;
  Precision storage = Precision::kFp32;  ///< of mu and z
  size_t scratch_bytes = size_t{8} << 20;
  std::function<void(const Stream&, const kernels::SampleEdges&)> draw = kernels::sample_edges;
};

/// Room for bits where they are asked for, multiplicities where the law needs them.
inline DrawOptions draw_options(SamplerKind sampler, MaskLaw law) {
  return {.sampler = sampler,
          .capacity = {.tile_density = sampler == SamplerKind::kRows    ? 1.0
                                       : sampler == SamplerKind::kTiles ? 0.0
                                                                        : 0.25,
                       .multiplicity = law == MaskLaw::kPoissonMulti}};
}

inline HostGraph draw_graph(Device device, const SbmCase& c, const DrawName& name,
                            const DrawOptions& options) {
  DeviceMemory memory(device, {.precision = options.precision}, options.scratch_bytes);
  const EdgeSet edges = put_empty_graph(memory, c.problems(), c.n, c.m, options.capacity);
  std::vector<double> expected(static_cast<size_t>(c.problems()));
  for (int64_t p = 0; p < c.problems(); ++p) {
    for (int64_t i = 0; i < c.n; ++i) {
      for (int64_t j = 0; j < c.m; ++j) expected[static_cast<size_t>(p)] += c.dot(p, i, j);
    }
  }
  std::vector<uint32_t> samples;
  for (int64_t b = 0; b < c.batch; ++b) {
    samples.push_back(name.first_sample + static_cast<uint32_t>(b));
  }
  const auto put = [&memory](const auto& values, Shape shape) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    return memory.put(View<const T>{values.data(), shape});
  };
  const auto put_factors = [&](const std::vector<float>& values, int64_t tokens) -> ConstRealView {
    const Shape shape{c.batch, c.heads, tokens, c.k};
    if (options.storage == Precision::kFp32) return put(values, shape);
    std::vector<bf16> rounded;
    for (float x : values) rounded.push_back(to_bf16(x));
    return put(rounded, shape);
  };
  kernels::SampleEdges args{.edges = edges,
                            .mu = put_factors(c.mu, c.n),
                            .z = put_factors(c.z, c.m),
                            .expected = put(expected, {c.problems()}),
                            .samples = put(samples, {c.batch}),
                            .law = c.law,
                            .sampler = options.sampler,
                            .delta = c.delta,
                            .window_radius = c.window_radius,
                            .rng = {.seed = 20221115, .step = name.step},
                            .layer = name.layer,
                            .first_head = name.first_head,
                            .scratch = &memory.scratch()};
  if (!c.query_mask.empty()) args.query_mask = put(c.query_mask, {c.batch, c.n});
  if (!c.key_mask.empty()) args.key_mask = put(c.key_mask, {c.batch, c.m});
  options.draw(memory.stream(), args);
  return get_graph(memory, edges);
}

/// Behind the interface of the statistical checks.
inline GraphSampler device_sampler(Device device, SamplerKind sampler,
                                   Precision precision = Precision::kFp32) {
  return [=](const SbmCase& c, const DrawName& name, std::vector<uint8_t>& counts) {
    DrawOptions options = draw_options(sampler, c.law);
    options.precision = precision;
    const HostGraph graph = draw_graph(device, c, name, options);
    counts.clear();
    for (int64_t p = 0; p < c.problems(); ++p) {
      const Array<uint8_t> dense = graph.dense(p);
      counts.insert(counts.end(), dense.values().begin(), dense.values().end());
    }
  };
}

}  // namespace stipple::test
