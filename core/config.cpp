// SPDX-License-Identifier: Apache-2.0
#include "core/config.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "core/yaml_tree.h"

namespace stipple {
namespace {

using detail::concat;

std::string quoted(const std::string& text) { return concat("'", one_line(text), "'"); }

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: whole numbers that a double holds

// --- numbers and ranges as text ------------------------------------------------------------------

/// The shortest text that reads back to the same double.
std::string number_text(double value) {
  if (std::isnan(value)) return ".nan";
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  const bool is_plain_whole = value == std::trunc(value) && std::abs(value) < 1e15;
  if (is_plain_whole && !(value == 0 && std::signbit(value))) {
    return std::to_string(static_cast<int64_t>(value));
  }
  std::array<char, 32> digits{};
  const auto result = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  return {digits.data(), result.ptr};
}

bool has_min(const KeyInfo& info) { return info.min > std::numeric_limits<double>::lowest(); }
bool has_max(const KeyInfo& info) { return info.max < std::numeric_limits<double>::max(); }

/// "[1, 100]", with a round bracket at an end that is not limited.
std::string range_text(const KeyInfo& info) {
  const std::string low = has_min(info) ? concat("[", number_text(info.min)) : "(-inf";
  if (!has_max(info)) return concat(low, ", inf", std::isinf(info.max) ? "]" : ")");
  return concat(low, ", ", number_text(info.max), "]");
}

std::optional<int64_t> parse_integer(std::string_view text) {
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const char* end = text.data() + text.size();
  int64_t value = 0;
  const auto result = std::from_chars(begin, end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  std::string_view magnitude = text;
  if (text.starts_with('+') || text.starts_with('-')) magnitude.remove_prefix(1);
  const double sign = text.starts_with('-') ? -1.0 : 1.0;
  if (magnitude == ".inf" || magnitude == "inf") {
    return sign * std::numeric_limits<double>::infinity();
  }
  const bool starts_as_number =
      !magnitude.empty() && (magnitude[0] == '.' || (magnitude[0] >= '0' && magnitude[0] <= '9'));
  if (!starts_as_number) return std::nullopt;
  double value = 0;
  const char* end = magnitude.data() + magnitude.size();
  const auto result = std::from_chars(magnitude.data(), end, value);
  if (result.ec != std::errc{} || result.ptr != end) return std::nullopt;
  return sign * value;
}

// --- visitors ------------------------------------------------------------------------------------

enum class FieldType : uint8_t { kBool, kInteger, kNumber, kText, kChoice };

/// One key of the table as the visitors that only look at it see it.
struct Field {
  std::string key;
  std::string path;
  FieldType type;
  std::string value;
  const KeyInfo& info;
  const std::vector<std::string_view>* names = nullptr;
};

/// Knows the dotted path of the section it is in.
class PathVisitor : public ConfigVisitor {
 protected:
  virtual void begin_section(std::string_view /*key*/, std::string_view /*doc*/) {}
  virtual void end_section() {}

  void nested(std::string_view key, std::string_view doc, FunctionRef<void()> body) override {
    const size_t outer = path_.size();
    begin_section(key, doc);
    path_ += std::string(key) + ".";
    body();
    path_.resize(outer);
    end_section();
  }

  std::string path_of(std::string_view key) const { return path_ + std::string(key); }
  std::string section_path() const { return path_.substr(0, path_.size() - !path_.empty()); }

 private:
  std::string path_;
};

/// Sees every key with its present value as text.
class FieldVisitor : public PathVisitor {
 public:
  void field(std::string_view key, bool& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kBool, value ? "true" : "false", info));
  }
  void field(std::string_view key, int64_t& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kInteger, std::to_string(value), info));
  }
  void field(std::string_view key, double& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kNumber, number_text(value), info));
  }
  void field(std::string_view key, std::string& value, const KeyInfo& info) final {
    on_field(make(key, FieldType::kText, value, info));
  }

 protected:
  virtual void on_field(const Field& field) = 0;

  void choice_index(std::string_view key, int64_t& index,
                    const std::vector<std::string_view>& names, const KeyInfo& info) final {
    Field field =
        make(key, FieldType::kChoice, std::string(names.at(static_cast<size_t>(index))), info);
    field.names = &names;
    on_field(field);
  }

 private:
  Field make(std::string_view key, FieldType type, std::string value, const KeyInfo& info) const {
    return {std::string(key), path_of(key), type, std::move(value), info};
  }
};

// --- the keys that exist, and what to say about those that do not --------------------------------

class KeyTable final : public FieldVisitor {
 public:
  explicit KeyTable(Describe describe) { describe(*this); }

  bool has_field(const std::string& path) const { return contains(fields_, path); }
  bool has_section(const std::string& path) const { return contains(sections_, path); }

  /// What to do about `key`, which does not exist in `section` ("" at the top).
  std::string advice(const std::string& section, const std::string& key) const {
    const std::string prefix = section.empty() ? "" : section + ".";
    if (has_field(key) || has_section(key)) {
      const bool is_dotted = key.find('.') != std::string::npos;
      return is_dotted ? "nest it: one line for each name between the dots"
                       : "did you mean '" + key + "' at the top level?";
    }
    if (const std::string elsewhere = same_name_elsewhere(key); !elsewhere.empty()) {
      return "did you mean " + elsewhere + "?";
    }
    const std::vector<std::string> here = keys_in(prefix);
    if (const std::string near = nearest_match(key, here); !near.empty()) {
      return concat("did you mean '", prefix, near, "'?");
    }
    if (const std::string far = nearest_elsewhere(key); !far.empty()) {
      return concat("did you mean '", far, "'?");
    }
    std::string list;
    for (const std::string& name : here) list += (list.empty() ? "" : ", ") + name;
    return "the keys here are " + list;
  }

 private:
  static bool contains(const std::vector<std::string>& paths, const std::string& path) {
    return std::find(paths.begin(), paths.end(), path) != paths.end();
  }
  static std::string last_name(const std::string& path) { return path.substr(path.rfind('.') + 1); }

  void begin_section(std::string_view key, std::string_view /*doc*/) override {
    sections_.push_back(path_of(key));
    all_.push_back(path_of(key));
  }
  void on_field(const Field& field) override {
    fields_.push_back(field.path);
    all_.push_back(field.path);
  }

  std::vector<std::string> keys_in(const std::string& prefix) const {
    std::vector<std::string> names;
    for (const std::string& path : all_) {
      const bool is_below = path.starts_with(prefix);
      if (is_below && path.find('.', prefix.size()) == std::string::npos) {
        names.push_back(path.substr(prefix.size()));
      }
    }
    return names;
  }

  std::string same_name_elsewhere(const std::string& key) const {
    constexpr int kMaxSuggestions = 3;
    std::string list;
    int count = 0;
    for (const std::string& path : all_) {
      if (last_name(path) != key || ++count > kMaxSuggestions) continue;
      list += (list.empty() ? "'" : " or '") + path + "'";
    }
    return list;
  }

  std::string nearest_elsewhere(const std::string& key) const {
    std::vector<std::string> names;
    for (const std::string& path : all_) names.push_back(last_name(path));
    const std::string near = nearest_match(key, names);
    if (near.empty()) return "";
    const auto found = std::find(names.begin(), names.end(), near);
    return all_[static_cast<size_t>(found - names.begin())];
  }

  std::vector<std::string> all_, fields_, sections_;
};

// --- reading -------------------------------------------------------------------------------------

/// One parsed file or override, with the way to name a place in it.
struct Document {
  std::string name;
  bool has_lines;
  YamlNode root;

  [[noreturn]] void fail(const YamlNode& node, const std::string& path,
                         const std::string& what) const {
    const std::string place = has_lines ? concat(name, ":", node.line) : name;
    throw ConfigError(concat(place, ": ", one_line(path), ": ", what));
  }
};

std::string_view kind_name(YamlNode::Kind kind) {
  return kind == YamlNode::Kind::kMapping ? "a mapping" : "a list";
}

/// Every key exists, sections are mappings and fields are single values.
void check_keys(const Document& document, const KeyTable& table, const YamlNode& section,
                const std::string& path) {
  for (const YamlNode& entry : section.entries) {
    const std::string entry_path = path.empty() ? entry.key : path + "." + entry.key;
    const bool is_section = table.has_section(entry_path);
    if (entry.key.find('.') != std::string::npos || (!is_section && !table.has_field(entry_path))) {
      document.fail(entry, entry_path, "unknown key; " + table.advice(path, entry.key));
    }
    if (entry.kind == YamlNode::Kind::kNull) {
      document.fail(entry, entry_path,
                    is_section ? "is empty; give it keys or remove the line"
                               : "has no value; give it one or remove the line");
    }
    if (is_section) {
      if (entry.kind != YamlNode::Kind::kMapping) {
        document.fail(entry, entry_path,
                      "is a section, not a value; put its keys below it, indented");
      }
      check_keys(document, table, entry, entry_path);
    } else if (entry.kind != YamlNode::Kind::kScalar) {
      document.fail(entry, entry_path,
                    concat("takes one value, not ", kind_name(entry.kind), "; write 'key: value'"));
    }
  }
}

/// Sets the fields that a checked document mentions.
class Reader final : public PathVisitor {
 public:
  explicit Reader(const Document& document) : document_(document), section_(&document.root) {}

  void field(std::string_view key, bool& value, const KeyInfo&) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    if (node->is_quoted || (node->text != "true" && node->text != "false")) {
      fail(*node, key, quoted(node->text) + " is not true or false" + bool_hint(*node));
    }
    value = node->text == "true";
  }

  void field(std::string_view key, int64_t& value, const KeyInfo& info) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    value = integer_of(*node, key, info);
    check_range(*node, key, static_cast<double>(value), std::to_string(value), info);
  }

  void field(std::string_view key, double& value, const KeyInfo& info) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    const std::optional<double> number = parse_number(node->text);
    if (node->is_quoted || !number) {
      fail(*node, key, quoted(node->text) + " is not a number" + number_hint(*node));
    }
    value = *number;
    check_range(*node, key, value, number_text(value), info);
  }

  void field(std::string_view key, std::string& value, const KeyInfo&) override {
    if (const YamlNode* node = find(key)) value = node->text;
  }

 protected:
  void choice_index(std::string_view key, int64_t& index,
                    const std::vector<std::string_view>& names, const KeyInfo&) override {
    const YamlNode* node = find(key);
    if (node == nullptr) return;
    const auto found = std::find(names.begin(), names.end(), node->text);
    if (found == names.end()) fail(*node, key, choice_hint(*node, names));
    index = found - names.begin();
  }

  void nested(std::string_view key, std::string_view doc, FunctionRef<void()> body) override {
    const YamlNode* inner = find(key);
    if (inner == nullptr) return;
    const YamlNode* outer = section_;
    section_ = inner;
    PathVisitor::nested(key, doc, body);
    section_ = outer;
  }

 private:
  const YamlNode* find(std::string_view key) const { return section_->find(std::string(key)); }

  [[noreturn]] void fail(const YamlNode& node, std::string_view key,
                         const std::string& what) const {
    document_.fail(node, path_of(key), what);
  }

  int64_t integer_of(const YamlNode& node, std::string_view key, const KeyInfo& info) const {
    const std::optional<double> number = parse_number(node.text);
    if (!node.is_quoted) {
      if (const std::optional<int64_t> value = parse_integer(node.text)) return *value;
      if (number && *number == std::trunc(*number)) {
        if (std::abs(*number) <= kExactIntegers) return static_cast<int64_t>(*number);
        fail(node, key, concat(node.text, " is out of range ", range_text(info), unit(info)));
      }
    }
    fail(node, key, quoted(node.text) + " is not a whole number" + number_hint(node));
  }

  void check_range(const YamlNode& node, std::string_view key, double value,
                   const std::string& text, const KeyInfo& info) const {
    if (value >= info.min && value <= info.max) return;
    fail(node, key, concat(text, " is out of range ", range_text(info), unit(info)));
  }

  static std::string unit(const KeyInfo& info) {
    return info.unit.empty() ? "" : concat(" ", info.unit);
  }

  static std::string bool_hint(const YamlNode& node) {
    if (node.is_quoted) return "; remove the quotes";
    constexpr std::array<std::string_view, 5> kTrue = {"yes", "on", "True", "TRUE", "1"};
    constexpr std::array<std::string_view, 5> kFalse = {"no", "off", "False", "FALSE", "0"};
    const auto is_in = [&](const auto& words) {
      return std::find(words.begin(), words.end(), node.text) != words.end();
    };
    if (is_in(kTrue)) return "; write true";
    if (is_in(kFalse)) return "; write false";
    return "";
  }

  static std::string number_hint(const YamlNode& node) {
    std::string digits = node.text;
    std::erase_if(digits, [](char c) { return c == '_' || c == ','; });
    if (!parse_number(digits)) return "";
    if (node.is_quoted) return "; remove the quotes";
    return digits == node.text ? "" : "; write " + digits;
  }

  static std::string choice_hint(const YamlNode& node, const std::vector<std::string_view>& names) {
    std::string list;
    for (const std::string_view name : names) {
      list += (list.empty() ? "" : ", ") + std::string(name);
    }
    const std::string near = nearest_match(node.text, {names.begin(), names.end()});
    return concat(quoted(node.text), " is not one of ", list,
                  near.empty() ? "" : "; did you mean '" + near + "'?");
  }

  const Document& document_;
  const YamlNode* section_;
};

// Documents are applied one after the other: that merges mappings, lets the later value win, and
// blames the right file.
void apply(const Document& document, const KeyTable& table, Describe describe) {
  check_keys(document, table, document.root, "");
  Reader reader(document);
  describe(reader);
}

Document parse_file(const std::string& text, const std::string& name) {
  Document document{name, true, parse_yaml(text, name)};
  if (document.root.kind == YamlNode::Kind::kNull) document.root.kind = YamlNode::Kind::kMapping;
  if (document.root.kind != YamlNode::Kind::kMapping) {
    throw ConfigError(
        concat(name, ":", document.root.line, ": holds no keys; write lines like 'key: value'"));
  }
  return document;
}

Document parse_override(const std::string& text) {
  const std::string name = concat("override \"", one_line(text), "\"");
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw ConfigError(name + ": is not an assignment; write section.key=value");
  }
  Document document{name, false, {}};
  YamlNode* node = &document.root;
  const std::string path = text.substr(0, equals) + ".";
  for (size_t begin = 0; begin < path.size();) {
    const size_t end = path.find('.', begin);
    if (end == begin) throw ConfigError(name + ": a name is empty; write section.key=value");
    node->kind = YamlNode::Kind::kMapping;
    YamlNode& entry = node->entries.emplace_back();
    entry.key = path.substr(begin, end - begin);
    node = &entry;
    begin = end + 1;
  }
  const YamlNode value = parse_yaml(text.substr(equals + 1), name, false);
  if (value.kind == YamlNode::Kind::kMapping && !value.entries.empty()) {
    throw ConfigError(
        concat(name, ": sets one value; write ", text.substr(0, equals), ".key=value for each"));
  }
  node->kind = value.kind == YamlNode::Kind::kMapping ? YamlNode::Kind::kNull : value.kind;
  node->text = value.text;
  node->is_quoted = value.is_quoted;
  return document;
}

std::string read_file(const std::string& path) {
  constexpr size_t kTooMuch = (size_t{1} << 20) + 1;  // one more than parse_yaml takes
  const auto refuse = [&](int code) {
    throw ConfigError(concat("cannot read ", path, ": ", std::strerror(code)));
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(errno);
  std::string text;
  std::array<char, 4096> block{};
  ssize_t count = 0;
  while (text.size() < kTooMuch && (count = ::read(file, block.data(), block.size())) > 0) {
    text.append(block.data(), static_cast<size_t>(count));
  }
  const int code = errno;
  ::close(file);
  if (count < 0) refuse(code);
  return text;
}

// --- writing -------------------------------------------------------------------------------------

/// Whether every YAML reader takes the bare text for a string.
bool is_plain_string(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_safe = [&](char c) {
    return is_letter(c) || (c >= '0' && c <= '9') || std::strchr("_-./+", c) != nullptr;
  };
  if (text.empty() || !(is_letter(text[0]) || text[0] == '/')) return false;
  if (!std::all_of(text.begin(), text.end(), is_safe)) return false;
  std::string lower = text;
  for (char& c : lower) c = is_letter(c) ? static_cast<char>(c | 0x20) : c;
  constexpr std::array<std::string_view, 9> kWords = {"true", "false", "yes", "no", "on",
                                                      "off",  "null",  "y",   "n"};
  return std::find(kWords.begin(), kWords.end(), lower) == kWords.end();
}

std::string yaml_string(const std::string& text) {
  if (is_plain_string(text)) return text;
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += {'\\', 'x', kHex[byte >> 4U], kHex[byte & 15U]};
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

class YamlWriter final : public FieldVisitor {
 public:
  std::string text;

 private:
  void on_field(const Field& field) override {
    const bool is_text = field.type == FieldType::kText || field.type == FieldType::kChoice;
    text +=
        indentation_ + field.key + ": " + (is_text ? yaml_string(field.value) : field.value) + "\n";
  }
  void begin_section(std::string_view key, std::string_view /*doc*/) override {
    text += indentation_ + std::string(key) + ":\n";
    indentation_ += "  ";
  }
  void end_section() override { indentation_.resize(indentation_.size() - 2); }

  std::string indentation_;
};

class PairWriter final : public FieldVisitor {
 public:
  std::vector<std::pair<std::string, std::string>> pairs;

 private:
  void on_field(const Field& field) override { pairs.emplace_back(field.path, field.value); }
};

class MarkdownWriter final : public FieldVisitor {
 public:
  MarkdownWriter() { sections_.push_back({"", "Keys outside any section.", ""}); }

  std::string text() const {
    std::string all;
    for (const Section& section : sections_) {
      if (section.rows.empty()) continue;
      all += concat("\n## ", section.path.empty() ? "Top level" : "`" + section.path + "`", "\n\n",
                    section.doc, "\n\n| key | default | allowed | unit | meaning |\n",
                    "|---|---|---|---|---|\n", section.rows);
    }
    return all;
  }

 private:
  struct Section {
    std::string path;
    std::string doc;
    std::string rows;
  };

  static std::string cell(std::string_view text) {
    std::string escaped;
    for (const char c : text) {
      if (c == '|') escaped += '\\';
      escaped += c == '\n' ? ' ' : c;
    }
    return escaped;
  }

  static std::string limits(const KeyInfo& info) {
    if (has_min(info) && has_max(info)) return concat(" in ", range_text(info));
    if (has_min(info)) return concat(" >= ", number_text(info.min));
    return has_max(info) ? concat(" <= ", number_text(info.max)) : "";
  }

  static std::string allowed(const Field& field) {
    const std::string range = limits(field.info);
    switch (field.type) {
      case FieldType::kBool:
        return "`true`, `false`";
      case FieldType::kInteger:
        return "whole number" + range;
      case FieldType::kNumber:
        return "number" + range;
      case FieldType::kText:
        return "text";
      case FieldType::kChoice:
        break;
    }
    std::string list;
    for (const std::string_view name : *field.names) {
      list += concat(list.empty() ? "`" : ", `", name, "`");
    }
    return list;
  }

  void on_field(const Field& field) override {
    const std::string value = field.value.empty() ? "\"\"" : field.value;
    current().rows += concat("| `", field.path, "` | `", cell(value), "` | ", cell(allowed(field)),
                             " | ", cell(field.info.unit), " | ", cell(field.info.doc), " |\n");
  }
  void begin_section(std::string_view key, std::string_view doc) override {
    sections_.push_back({path_of(key), std::string(doc), ""});
  }
  Section& current() {
    const std::string path = section_path();
    return *std::find_if(sections_.begin(), sections_.end(),
                         [&](const Section& section) { return section.path == path; });
  }

  std::vector<Section> sections_;
};

/// What a person does not distinguish when typing.
std::string folded(std::string_view word) {
  std::string out(word);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
    if (c == '-') c = '_';
  }
  return out;
}

/// Insertions, deletions, substitutions and swaps of neighbours between a and b.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    before.swap(above);
    above.swap(row);
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + change});
      const bool is_swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (is_swap) row[j] = std::min(row[j], before[j - 2] + 1);
    }
  }
  return row[b.size()];
}

}  // namespace

void load_config_text(const std::string& text, const std::string& name, Describe describe) {
  apply(parse_file(text, name), KeyTable(describe), describe);
}

void load_config(const std::vector<std::string>& files, const std::vector<std::string>& overrides,
                 Describe describe) {
  const KeyTable table(describe);
  for (const std::string& file : files) apply(parse_file(read_file(file), file), table, describe);
  for (const std::string& text : overrides) apply(parse_override(text), table, describe);
}

std::string config_to_yaml(Describe describe) {
  YamlWriter writer;
  describe(writer);
  return writer.text;
}

std::vector<std::pair<std::string, std::string>> config_to_pairs(Describe describe) {
  PairWriter writer;
  describe(writer);
  return writer.pairs;
}

std::string config_to_markdown(Describe describe) {
  MarkdownWriter writer;
  describe(writer);
  return writer.text();
}

std::string nearest_match(std::string_view word, const std::vector<std::string>& candidates) {
  constexpr size_t kMaxWord = 100;  // the distance costs the product of the lengths
  if (word.size() > kMaxWord) return "";
  const std::string typed = folded(word);
  std::string best;
  size_t best_distance = kMaxWord;
  for (const std::string& candidate : candidates) {
    const size_t length = std::max(typed.size(), candidate.size());
    const size_t distance = edit_distance(typed, folded(candidate));
    const bool is_near = distance <= std::max<size_t>(1, length / 3) && distance < length;
    if (is_near && distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace stipple
