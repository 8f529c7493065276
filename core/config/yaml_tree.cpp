// SPDX-License-Identifier: Apache-2.0
#include "core/config/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <cstddef>
#include <sstream>
#include <utility>

#include "core/error.h"

namespace stipple {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr int kMaxNodes = 10000;
constexpr size_t kMaxDepth = 20;
constexpr size_t kMaxShownBytes = 60;

struct Source {
  const std::string& name;
  bool has_lines;

  [[noreturn]] void fail(int line, const std::string& what) const {
    throw ConfigError(has_lines ? detail::concat(name, ":", line, ": ", what)
                                : detail::concat(name, ": ", what));
  }
};

/// Bytes of the UTF-8 sequence at text[i]; 0 when it is malformed, overlong, a surrogate or beyond
/// U+10FFFF.
size_t utf8_length(const std::string& text, size_t i) {
  const auto byte = [&](size_t k) {
    return k < text.size() ? static_cast<unsigned char>(text[k]) : 0U;
  };
  const unsigned first = byte(i);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0U) != 0x80U) return 0;
  }
  const unsigned second = byte(i + 1);
  const bool is_overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool is_surrogate = first == 0xED && second > 0x9F;
  const bool is_beyond = first == 0xF4 && second > 0x8F;
  return is_overlong || is_surrogate || is_beyond ? 0 : length;
}

// Checked before the library sees the text: it guesses encodings, and lets tabs pass in some places
// and not in others.
void check_text(const std::string& text, const Source& source) {
  if (text.size() > kMaxBytes) source.fail(1, "is larger than 1 MiB; a configuration is a few KiB");
  int line = 1;
  bool in_indentation = true;
  bool indentation_has_tab = false;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    const size_t length = utf8_length(text, i);
    if (length == 0) source.fail(line, "is not UTF-8 text; save the file as UTF-8");
    const bool is_control = static_cast<unsigned char>(c) < 0x20 || c == 0x7F;
    if (is_control && c != '\n' && c != '\r' && c != '\t') {
      source.fail(line, "holds a control character; a configuration is plain text");
    }
    if (c == '\n') {
      ++line;
      in_indentation = true;
      indentation_has_tab = false;
    } else if (c == '\t') {
      indentation_has_tab = indentation_has_tab || in_indentation;
    } else if (c != ' ' && c != '\r') {
      if (in_indentation && indentation_has_tab && c != '#') {
        source.fail(line, "is indented with a tab; use spaces");
      }
      in_indentation = false;
    }
    i += length;
  }
}

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const Source& source) : source_(source) {}

  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(mark, YamlNode::Kind::kNull, "", false);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark, 1); }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (expects_key()) {
      open_entry(mark, value);
    } else {
      add(mark, YamlNode::Kind::kScalar, value, tag == "!");
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, YamlNode::Kind::kList, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, YamlNode::Kind::kMapping, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  // An open mapping or list. Pointers stay valid: the entries of a node grow only while none of its
  // entries is open.
  struct Frame {
    YamlNode* node;
    bool has_key;  // a mapping whose last entry waits for its value
  };

  [[noreturn]] void fail(const YAML::Mark& mark, const std::string& what) const {
    source_.fail(mark.line + 1, what);
  }

  bool expects_key() const {
    return !frames_.empty() && frames_.back().node->kind == YamlNode::Kind::kMapping &&
           !frames_.back().has_key;
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) fail(mark, "anchors and aliases (& and *) are not read; write the value out");
  }

  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!") {
      fail(mark, "tags (!) are not read; write the plain value");
    }
  }

  std::string path_of(const std::string& key) const {
    std::string path;
    for (const Frame& frame : frames_) {
      if (!frame.node->key.empty()) path += frame.node->key + ".";
    }
    return path + key;
  }

  void count_node(const YAML::Mark& mark) {
    if (++num_nodes_ > kMaxNodes) {
      fail(mark,
           detail::concat("holds more than ", kMaxNodes, " values; a configuration is short"));
    }
  }

  void open_entry(const YAML::Mark& mark, const std::string& key) {
    YamlNode& mapping = *frames_.back().node;
    if (key.empty()) fail(mark, "a key is empty; give it a name");
    if (const YamlNode* first = mapping.find(key)) {
      fail(mark, detail::concat(one_line(path_of(key)), ": is given twice, first in line ",
                                first->line, "; keep one of them"));
    }
    count_node(mark);
    YamlNode& entry = mapping.entries.emplace_back();
    entry.key = key;
    entry.line = mark.line + 1;
    frames_.back().has_key = true;
  }

  /// The node that the next value fills in.
  YamlNode& claim(const YAML::Mark& mark) {
    if (expects_key()) fail(mark, "a key must be a plain word");
    if (frames_.empty()) {
      root_.line = mark.line + 1;
      return root_;
    }
    Frame& frame = frames_.back();
    if (frame.node->kind == YamlNode::Kind::kList) {
      count_node(mark);
      return frame.node->entries.emplace_back();
    }
    frame.has_key = false;
    return frame.node->entries.back();
  }

  void add(const YAML::Mark& mark, YamlNode::Kind kind, const std::string& text, bool is_quoted) {
    YamlNode& node = claim(mark);
    node.kind = kind;
    node.text = text;
    node.is_quoted = is_quoted;
  }

  void open(const YAML::Mark& mark, YamlNode::Kind kind, const std::string& tag,
            YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    if (frames_.size() >= kMaxDepth) {
      fail(mark, detail::concat("is nested more than ", kMaxDepth, " levels deep; use fewer"));
    }
    YamlNode& node = claim(mark);
    node.kind = kind;
    frames_.push_back({&node, false});
  }

  void close() { frames_.pop_back(); }

  const Source& source_;
  YamlNode root_;
  std::vector<Frame> frames_;
  int num_nodes_ = 0;
};

}  // namespace

const YamlNode* YamlNode::find(const std::string& name) const {
  for (const YamlNode& entry : entries) {
    if (entry.key == name) return &entry;
  }
  return nullptr;
}

YamlNode parse_yaml(const std::string& text, const std::string& source_name, bool has_lines) {
  const Source source{source_name, has_lines};
  check_text(text, source);
  TreeBuilder builder(source);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder rest(source);
    if (parser.HandleNextDocument(builder) && parser.HandleNextDocument(rest)) {
      source.fail(rest.take_root().line, "a second document starts here; use one file for each");
    }
  } catch (const YAML::Exception& error) {
    source.fail(error.mark.line + 1,
                "is not valid YAML (" + error.msg + "); check indentation, colons and quotes");
  }
  return builder.take_root();
}

std::string one_line(const std::string& text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    // Cut before a whole character, so that the message stays UTF-8.
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U;
    if (i >= kMaxShownBytes && starts_character) return shown + "...";
    const auto c = static_cast<unsigned char>(text[i]);
    shown += c < 0x20 || c == 0x7F ? ' ' : text[i];
  }
  return shown;
}

}  // namespace stipple
