// SPDX-License-Identifier: Apache-2.0
// Paths as people type them, in configurations and on the command line.
#pragma once

#include <string>
#include <string_view>

namespace stipple::trainer {

/// `typed` with a leading ~ or ~/ as the home directory, which a shell leaves alone in
/// `data.dir=~/lists` and in files. ConfigError for what would otherwise become a folder of that
/// name: a '$', which nothing here expands, and ~name. `what` is the key or argument.
std::string expand_path(const std::string& typed, std::string_view what);
/// The same of every part of a list that commas separate.
std::string expand_paths(const std::string& typed, std::string_view what);

}  // namespace stipple::trainer
