// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "core/config.h"
#include "core/config/number.h"

namespace stipple {

CountOrShare CountOrShare::share(double percent) {
  CountOrShare share;
  share.percent = percent;
  share.is_share = true;
  return share;
}

int64_t CountOrShare::of(int64_t whole) const {
  if (!is_share) return count;
  if (percent == 0) return 0;
  return std::max<int64_t>(1, std::llround(percent * static_cast<double>(whole) / 100.0));
}

std::string CountOrShare::str() const {
  return is_share ? config::number_text(percent) + "%" : std::to_string(count);
}

}  // namespace stipple
