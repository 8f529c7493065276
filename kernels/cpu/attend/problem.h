// SPDX-License-Identifier: Apache-2.0
// A problem of attention as its bodies see it, from an operation's arguments. For the units that cut
// work into tasks: those of an instruction set include bodies.h only.
#pragma once

#include "kernels/cpu/attend/bodies.h"
#include "kernels/cpu/attend/dropout_stream.h"

namespace stipple::kernels::cpu {

/// What every attention over queries and keys has in common.
template <class Args>
inline AttendProblem attend_problem(const Args& a, int64_t p) {
  const int64_t heads = a.q.shape[1];
  const int64_t sample = p / heads;
  AttendProblem x;
  x.number = p;
  x.num_queries = a.q.shape[2];
  x.num_keys = a.k.shape[2];
  x.dim = a.q.shape[3];
  x.q = a.q.floats().data + p * x.num_queries * x.dim;
  x.k = a.k.floats().data + p * x.num_keys * x.dim;
  x.v = a.v.floats().data + p * x.num_keys * x.dim;
  if (!a.key_mask.empty()) x.key_mask = a.key_mask.at(sample).data;
  x.scale = a.scale;
  x.dropout = dropout_stream(a.dropout, sample, p % heads);
  if (x.dropout.on && !a.dropout.kept.empty()) x.kept = a.dropout.kept.at(p).data;
  return x;
}

inline void add_graph(AttendProblem& x, const EdgeSet& edges, int64_t p) {
  x.row_ptr = edges.row_ptr.at(p).data;
  if (edges.form[p] == EdgeForm::kBits) {
    x.bits = edges.bits(p, 0);
    x.words_per_row = edges.words_per_row();
    return;
  }
  x.columns = edges.columns(p);
  if (edges.capacity.multiplicity) x.multiplicity = edges.multiplicity.at(p).data;
}

}  // namespace stipple::kernels::cpu
