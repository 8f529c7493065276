// SPDX-License-Identifier: Apache-2.0
// What caches of attentions have in common: arrays with a row for each token that is kept.
#pragma once

#include "core/real_view.h"
#include "core/stream.h"

namespace stipple::model {

/// token [1, H, 1, D] becomes row `place` of rows [1, H, M, D]. Nothing where the stream only plans.
void keep_token(const Stream&, RealView rows, ConstRealView token, int64_t place);

}  // namespace stipple::model
