// SPDX-License-Identifier: Apache-2.0
// A folder with files that appears at once and whole, or not at all.
#pragma once

#include <map>
#include <string>

#include "core/function_ref.h"

namespace stipple::trainer {

/// ConfigError where something of this name exists.
void require_new_folder(const std::string& folder);

/// Lets `write` fill a temporary folder beside `folder`, whose parents are made where they are missing,
/// and gives it its name. ConfigError where something is there already. What an error of `write` leaves
/// is removed.
void write_new_folder(const std::string& folder, FunctionRef<void(const std::string&)> write);

/// Files to be copied into a folder: the paths of where they are, by the names that they get.
using FilesBeside = std::map<std::string, std::string>;
void copy_into(const std::string& folder, const FilesBeside&);

}  // namespace stipple::trainer
