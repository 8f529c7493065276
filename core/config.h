// SPDX-License-Identifier: Apache-2.0
// Strict, typed configuration. A config struct has default member initialisers and one `describe`
// that names every field; that table is the single truth for reading YAML, checking ranges, writing
// the resolved file and docs/config.md.
//
//   struct TrainConfig {
//     int64_t steps = 1000;
//     void describe(ConfigVisitor& v) {
//       v.field("steps", steps, {.doc = "Optimizer steps.", .unit = "steps", .min = 1});
//     }
//   };
//
// Where a user lists things of one kind, each has a name: NamedSections.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/function_ref.h"

namespace stipple {

/// What a key means and which values it takes; both ends are allowed. Infinity is a value only
/// where an end is infinite.
struct KeyInfo {
  std::string_view doc;
  std::string_view unit = {};
  double min = std::numeric_limits<double>::lowest();
  double max = std::numeric_limits<double>::max();
  std::string_view share_of = {};  ///< of a CountOrShare: the key whose share it may be
};

/// A whole number, "300", or a share of another key's value, "10%".
struct CountOrShare {
  int64_t count = 0;
  double percent = 0;
  bool is_share = false;

  CountOrShare() = default;
  CountOrShare(int64_t n) : count(n) {}  // NOLINT(google-explicit-constructor): stands for itself
  static CountOrShare share(double percent);

  /// The number meant: the count, or the share of `whole`, rounded, at least 1 unless it is 0%.
  int64_t of(int64_t whole) const;
  /// As it is written in a configuration.
  std::string str() const;
};

/// Sections whose names a user chooses, in the order of the files; empty by default.
template <class Struct>
using NamedSections = std::vector<std::pair<std::string, Struct>>;

/// In paths of documentation, where any name may stand: "train.phases.*.steps".
inline constexpr std::string_view kAnyName = "*";

/// Walks the table of a config struct. Readers, writers and document generators derive from it.
class ConfigVisitor {
 public:
  virtual ~ConfigVisitor() = default;

  virtual void field(std::string_view key, bool& value, const KeyInfo& info) = 0;
  virtual void field(std::string_view key, int64_t& value, const KeyInfo& info) = 0;
  virtual void field(std::string_view key, double& value, const KeyInfo& info) = 0;
  virtual void field(std::string_view key, std::string& value, const KeyInfo& info) = 0;
  virtual void field(std::string_view key, CountOrShare& value, const KeyInfo& info) = 0;

  /// An enumeration: the names a user may write, in the order of the enumerators' values.
  template <class Enum>
  void choice(std::string_view key, Enum& value, const std::vector<std::string_view>& names,
              const KeyInfo& info) {
    int64_t index = static_cast<int64_t>(value);
    choice_index(key, index, names, info);
    value = static_cast<Enum>(index);
  }

  /// A nested mapping; `value` has its own describe().
  template <class Struct>
  void section(std::string_view key, Struct& value, std::string_view doc) {
    nested(key, doc, [&] { value.describe(*this); });
  }

  /// A mapping from names to sections of one kind.
  template <class Struct>
  void sections(std::string_view key, NamedSections<Struct>& entries, std::string_view doc) {
    std::vector<std::string> names;
    for (const auto& [name, section] : entries) names.push_back(name);
    named_sections(key, doc, names, [&](const std::string& name) {
      Struct example;
      if (name == kAnyName) return example.describe(*this);
      auto found = std::find_if(entries.begin(), entries.end(),
                                [&](const auto& entry) { return entry.first == name; });
      if (found == entries.end()) found = entries.insert(found, {name, Struct{}});
      found->second.describe(*this);
    });
  }

 protected:
  virtual void choice_index(std::string_view key, int64_t& index,
                            const std::vector<std::string_view>& names, const KeyInfo& info) = 0;
  virtual void nested(std::string_view key, std::string_view doc, FunctionRef<void()> body) = 0;
  /// `names`: of the sections that there are. describe() describes one, and makes it where there is
  /// none of that name; of kAnyName, what any has.
  virtual void named_sections(std::string_view key, std::string_view doc,
                              const std::vector<std::string>& names,
                              FunctionRef<void(const std::string& name)> describe) = 0;
};

using Describe = FunctionRef<void(ConfigVisitor&)>;

/// A place where a key is set: a line of a file, or an override.
struct ConfigOrigin {
  std::string source;  ///< a path, or `override "a.b=value"`
  int line = 0;        ///< from 1; 0: the source is the place
  std::string str() const;
};

/// Who set which key. Keys that nobody set have their defaults and do not occur.
class ConfigOrigins {
 public:
  bool is_set(const std::string& path) const { return origins_.contains(path); }
  /// nullptr: has its default.
  const ConfigOrigin* find(const std::string& path) const;
  /// For messages: "file:line", the override, or "default".
  std::string str(const std::string& path) const;

  /// The last one counts.
  void set(const std::string& path, ConfigOrigin origin) {
    origins_.insert_or_assign(path, std::move(origin));
  }
  void add(const ConfigOrigins& later);

 private:
  std::map<std::string, ConfigOrigin> origins_;
};

/// Reads YAML files composed left to right (a later file wins, mappings merge; a file comes after
/// those it includes), then "a.b=value" overrides, into the structs behind `describe`. A file is a
/// path or a name (config/include.h). ConfigError, one line each: unreadable file, YAML syntax, a
/// key that does not exist (with the nearest one that does), a key given twice, a value of the
/// wrong type or out of range; always "file:line: key: what, what to do".
ConfigOrigins load_config(const std::vector<std::string>& files,
                          const std::vector<std::string>& overrides, Describe describe);

/// The same from text, as if it were a file called `name`; it cannot include.
ConfigOrigins load_config_text(const std::string& text, const std::string& name, Describe describe);

/// Every key with its present value, as YAML that load_config reads back to the same values.
std::string config_to_yaml(Describe describe);

/// Every key with its present value, flat: {"train.steps", "1000"}, in table order.
std::vector<std::pair<std::string, std::string>> config_to_pairs(Describe describe);

/// docs/config.md: one table per section with key, default, allowed values, unit and meaning.
std::string config_to_markdown(Describe describe);

}  // namespace stipple
