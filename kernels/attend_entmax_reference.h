// SPDX-License-Identifier: Apache-2.0
// Attention with alpha-entmax of one problem in double precision, straight from its definition, and
// the map itself for rows of any length: every pair is looked at, and the root is bisected until
// doubles end. What the real operations are checked against, by tests and by a job that checks
// itself; host memory only, one thread, O(N M D).
//
//   Attention a{...};                     // as kernels/attend_reference.h fills one
//   const EntmaxOutput out = attend_entmax({.attention = a, .alpha = 1.5});
//   const EntmaxGradients g = attend_entmax_backward({.attention = a, .alpha = 1.5}, dout);
#pragma once

#include <span>

#include "kernels/attend_reference.h"

namespace stipple::kernels::reference {

/// p_j = [x_j - tau]_+ ^ (1 / (alpha - 1)),  x = (alpha - 1) z,  sum_j p_j = 1.
struct EntmaxRow {
  Doubles p;
  double tau = 0.0;  ///< +inf: no key; alpha = 1: the log-sum-exp of z
  bool has(size_t j) const { return p[j] > 0.0; }
};
/// z: scores, -inf where there is no key. alpha in [1, 4]; 1 is softmax.
EntmaxRow entmax(std::span<const double> z, double alpha);

/// p^(2 - alpha) on the support, 0 elsewhere: what the map's Jacobian diag(u) - u u^T / sum(u) is
/// made of.
Doubles entmax_slopes(const EntmaxRow&, double alpha);
/// dL/dz of dL/dp.
Doubles entmax_backward(const EntmaxRow&, std::span<const double> dp, double alpha);
/// dL/dalpha of dL/dp, z fixed. Its limit where alpha is nearer to 1 than doubles can tell.
double entmax_alpha_gradient(const EntmaxRow&, std::span<const double> dp, double alpha);

struct EntmaxAttention {
  const Attention& attention;  ///< weight: 0 or not
  double alpha = 1.5;
  double temperature = 1.0;  ///< multiplies scores
};

struct EntmaxOutput {
  Doubles o;        // [N, D]
  Doubles o2;       // [N, D]  sum_j u_ij keep_ij v_j / sum_j u_ij
  Doubles tau;      // [N]     +inf: a row without keys
  Doubles weights;  // [N, M]  before dropout
};
EntmaxOutput attend_entmax(const EntmaxAttention&);

struct EntmaxGradients {
  Doubles dq, dk, dv;
  Doubles ds;            // [N, M]  of temperature * score
  Doubles dalpha;        // [N]     each row's share
  Doubles dtemperature;  // [N]
};
EntmaxGradients attend_entmax_backward(const EntmaxAttention&, std::span<const double> dout);

}  // namespace stipple::kernels::reference
