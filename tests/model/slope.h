// SPDX-License-Identifier: Apache-2.0
// A slope to compare a gradient with.
#pragma once

#include <cstddef>

namespace stipple::test {

/// How far apart, among `size` numbers, those are whose slope is checked. In release it is every one;
/// sanitizers watch how code runs, which some of many show as well.
constexpr size_t slopes_apart(size_t size) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return size > 16 ? 7 : 1;
#else
  static_cast<void>(size);
  return 1;
#endif
}

/// Of `loss()` over `parameter`, which is as before afterwards. Richardson's combination of two
/// central differences: the error falls with the fourth power of the step, so that steps can be
/// large enough for single precision.
template <class Loss>
double slope(float& parameter, const Loss& loss) {
  constexpr float kStep = 0.02f;
  const float at = parameter;
  const auto difference = [&](float step) {
    parameter = at + step;
    const float up = parameter;
    const double loss_up = loss();
    parameter = at - step;
    const double width = static_cast<double>(up) - static_cast<double>(parameter);
    const double loss_down = loss();
    parameter = at;
    return (loss_up - loss_down) / width;
  };
  return (4.0 * difference(kStep / 2) - difference(kStep)) / 3.0;
}

}  // namespace stipple::test
