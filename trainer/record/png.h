// SPDX-License-Identifier: Apache-2.0
// Pictures as files that everything shows.
#pragma once

#include <string>

#include "data/picture.h"

namespace stipple::trainer {

/// The bytes of a PNG file, 8 bits a channel.
std::string png_of(const data::Picture&);

}  // namespace stipple::trainer
