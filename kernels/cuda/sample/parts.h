// SPDX-License-Identifier: Apache-2.0
// Inside CUDA's sample_edges: the arguments as plain pointers, as kernels take them, and the parts
// that the work falls into. edges.cu chooses a form for every problem and goes through the
// problems in waves, because scratch memory holds what one wave needs; in each wave both samplers
// are launched over all problems, and blocks of a problem of the other form leave at once, so the
// host never has to know the forms.
#pragma once

#include "core/rng.h"
#include "core/stream.h"
#include "kernels/cuda/edges.h"
#include "kernels/cuda/sample/scratch.h"
#include "kernels/math/key_tables.h"
#include "kernels/sbm.h"

namespace stipple::kernels::cuda {

/// One (sample, head).
struct SampleProblem {
  const void* mu = nullptr;             // [N, K], see as()
  const void* z = nullptr;              // [M, K]
  const uint8_t* query_mask = nullptr;  // [N]; null: all real
  const uint8_t* key_mask = nullptr;    // [M]
  PhiloxKey key;
  uint32_t sample = 0;
  int head = 0;

  template <class T>
  STIPPLE_HD static const T* as(const void* rows) {
    return static_cast<const T*>(rows);
  }
  STIPPLE_HD bool is_real_query(int64_t i) const {
    return query_mask == nullptr || query_mask[i] != 0;
  }
  STIPPLE_HD bool is_real_key(int64_t j) const { return key_mask == nullptr || key_mask[j] != 0; }
};

/// SampleEdges without its graph.
struct SampleInputs {
  Precision storage = Precision::kFp32;  ///< of mu and z
  const void* mu = nullptr;
  const void* z = nullptr;
  const double* expected = nullptr;
  const uint8_t* query_mask = nullptr;
  const uint8_t* key_mask = nullptr;
  const uint32_t* samples = nullptr;
  int64_t heads = 0;
  int64_t num_queries = 0;
  int64_t num_keys = 0;
  int64_t num_clusters = 0;
  MaskLaw law = MaskLaw::kBernoulli;
  SamplerKind sampler = SamplerKind::kAuto;
  float delta = 0.0f;
  int64_t window_radius = -1;
  RngKey rng;
  int layer = 0;
  int first_head = 0;

  STIPPLE_HD SampleProblem problem(int64_t p) const {
    const int64_t b = p / heads;
    const auto row = num_clusters * static_cast<int64_t>(bytes_of(storage));
    return {.mu = static_cast<const char*>(mu) + p * num_queries * row,
            .z = static_cast<const char*>(z) + p * num_keys * row,
            .query_mask = query_mask == nullptr ? nullptr : query_mask + b * num_queries,
            .key_mask = key_mask == nullptr ? nullptr : key_mask + b * num_keys,
            .key = rng.philox(),
            .sample = samples[b],
            .head = first_head + static_cast<int>(p % heads)};
  }
  STIPPLE_HD PhiloxCounter counter(const SampleProblem& problem, uint32_t row,
                                   Purpose purpose) const {
    return rng_counter(0, row, problem.sample, stream_word(layer, problem.head, purpose));
  }
};

struct SampleCall {
  const Stream& stream;
  SampleInputs inputs;
  WritableGraph graph;
  const SampleScratch& scratch;
};

/// Bits by query of the problems that are stored as bits, zeros for padding.
void sample_tiles(const SampleCall&, const Wave&);

/// Draws the rows of the problems that are stored as CSR: leaves degrees in row_ptr[i + 1], edges
/// where there was room for them, in no fixed order of rows, in by_key.
void draw_rows(const SampleCall&, const Wave&);
/// Brings the drawn rows to by_query, row_ptr being complete; rows that had no room are drawn once
/// more.
void place_rows(const SampleCall&, const Wave&);

}  // namespace stipple::kernels::cuda
