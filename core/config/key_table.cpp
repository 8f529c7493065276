// SPDX-License-Identifier: Apache-2.0
#include "core/config/key_table.h"

#include <algorithm>

#include "core/config/nearest_match.h"

namespace stipple::config {
namespace {

bool contains(const std::vector<std::string>& paths, const std::string& path) {
  return std::find(paths.begin(), paths.end(), path) != paths.end();
}

std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

/// Below a section whose name a user chooses.
bool is_named(const std::string& path) {
  return path.find("." + std::string(kAnyName)) != std::string::npos;
}

}  // namespace

bool KeyTable::has_field(const std::string& path) const { return contains(fields_, general(path)); }
bool KeyTable::has_section(const std::string& path) const {
  return contains(sections_, general(path));
}

bool KeyTable::is_name(const std::string& path) {
  const std::string name = last_name(path);
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::string KeyTable::general(const std::string& path) const {
  std::string all;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string section = all.empty() ? "" : all + ".";
    const std::string any = section + std::string(kAnyName);
    all = contains(sections_, any) ? any : section + path.substr(begin, end - begin);
    begin = end + 1;
  }
  return all;
}

std::string KeyTable::advice(const std::string& section, const std::string& key) const {
  if (section.empty() && key == "include") {
    return "it belongs into files; on the command line, write the name as an argument of its own";
  }
  const std::string prefix = section.empty() ? "" : section + ".";
  if (has_field(key) || has_section(key)) {
    const bool is_dotted = key.find('.') != std::string::npos;
    return is_dotted ? "nest it: one line for each name between the dots"
                     : "did you mean '" + key + "' at the top level?";
  }
  if (const std::string elsewhere = same_name_elsewhere(key); !elsewhere.empty()) {
    return "did you mean " + elsewhere + "?";
  }
  const std::vector<std::string> here = keys_in(section.empty() ? "" : general(section) + ".");
  if (const std::string near = nearest_match(key, here); !near.empty()) {
    return detail::concat("did you mean '", prefix, near, "'?");
  }
  if (const std::string far = nearest_elsewhere(key); !far.empty()) {
    return detail::concat("did you mean '", far, "'?");
  }
  std::string list;
  for (const std::string& name : here) list += (list.empty() ? "" : ", ") + name;
  return "the keys here are " + list;
}

void KeyTable::begin_section(std::string_view key, std::string_view /*doc*/) {
  sections_.push_back(path_of(key));
  all_.push_back(path_of(key));
}

void KeyTable::on_field(const Field& field) {
  fields_.push_back(field.path);
  all_.push_back(field.path);
}

std::vector<std::string> KeyTable::keys_in(const std::string& prefix) const {
  std::vector<std::string> names;
  for (const std::string& path : all_) {
    const bool is_below = path.starts_with(prefix);
    if (is_below && path.find('.', prefix.size()) == std::string::npos) {
      names.push_back(path.substr(prefix.size()));
    }
  }
  return names;
}

std::string KeyTable::same_name_elsewhere(const std::string& key) const {
  constexpr int kMaxSuggestions = 3;
  std::string list;
  int count = 0;
  for (const std::string& path : all_) {
    if (last_name(path) != key || is_named(path) || ++count > kMaxSuggestions) continue;
    list += (list.empty() ? "'" : " or '") + path + "'";
  }
  return list;
}

std::string KeyTable::nearest_elsewhere(const std::string& key) const {
  std::vector<std::string> names;
  for (const std::string& path : all_) names.push_back(last_name(path));
  const std::string near = nearest_match(key, names);
  if (near.empty()) return "";
  const auto found = std::find(names.begin(), names.end(), near);
  return all_[static_cast<size_t>(found - names.begin())];
}

}  // namespace stipple::config
