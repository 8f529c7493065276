// SPDX-License-Identifier: Apache-2.0
#include "core/config/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <cstddef>
#include <sstream>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace stipple {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr int kMaxNodes = 10000;
constexpr size_t kMaxDepth = 20;

struct Source {
  const std::string& name;
  bool has_lines;

  [[noreturn]] void fail(int line, const std::string& what) const {
    throw ConfigError(has_lines ? detail::concat(name, ":", line, ": ", what)
                                : detail::concat(name, ": ", what));
  }
};

// Checked before the library sees the text: it guesses encodings, and lets tabs pass in some places
// and not in others.
void check_characters(const std::string& text, const Source& source) {
  if (text.size() > kMaxBytes) source.fail(1, "is larger than 1 MiB; a configuration is a few KiB");
  int line = 1;
  bool in_indentation = true;
  bool indentation_has_tab = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Character c = utf8_character(text, i);
    if (c.bytes == 0) source.fail(line, "is not UTF-8 text; save the file as UTF-8");
    const bool ends_line = c.code == '\n' || text.compare(i, 2, "\r\n") == 0;
    if (is_control(c.code) && !ends_line && c.code != '\t') {
      source.fail(line, "holds a control character; a configuration is plain text");
    }
    if (c.code == '\n') {
      ++line;
      in_indentation = true;
      indentation_has_tab = false;
    } else if (c.code == '\t') {
      indentation_has_tab = indentation_has_tab || in_indentation;
    } else if (c.code != ' ' && c.code != '\r') {
      if (in_indentation && indentation_has_tab && c.code != '#') {
        source.fail(line, "is indented with a tab; use spaces");
      }
      in_indentation = false;
    }
    i += c.bytes;
  }
}

/// Finds quotes that are opened and not closed in their line. To YAML such a value goes on in the
/// next lines, and takes their keys with it, up to the next quote.
class QuoteCheck {
 public:
  explicit QuoteCheck(const Source& source) : source_(source) {}

  void check(std::string_view text) {
    for (int number = 1; !text.empty(); ++number) {
      const size_t end = text.find('\n');
      check_line(text.substr(0, end), number);
      text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
  }

 private:
  static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }

  void check_line(std::string_view line, int number) {
    bool starts_value = true;  // here, a quote opens a value; elsewhere it is a letter
    for (size_t i = 0; i < line.size(); ++i) {
      const char c = line[i];
      const bool is_separated = i == 0 || is_space(line[i - 1]);
      if (is_space(c)) continue;
      if (c == '#' && is_separated) return;
      if (starts_value && (c == '"' || c == '\'')) {
        i = closing_quote(line, i, number);
        if (i + 1 < line.size() && line[i + 1] == ':') ++i;  // {"key":"value"}
        continue;
      }
      starts_value = is_separator(line, i, starts_value);
    }
  }

  /// Whether a value may start behind line[i].
  bool is_separator(std::string_view line, size_t i, bool starts_value) {
    const char c = line[i];
    const bool ends_word = i + 1 == line.size() || is_space(line[i + 1]);
    if (c == '[' || c == '{') {
      if (starts_value || depth_ > 0) ++depth_;
      return starts_value || depth_ > 0;
    }
    if (c == ']' || c == '}') depth_ -= depth_ > 0 ? 1 : 0;
    if (c == ',') return depth_ > 0;
    if (c == '-' || c == '?') return starts_value && ends_word;
    return c == ':' && ends_word;
  }

  size_t closing_quote(std::string_view line, size_t open, int number) const {
    const char quote = line[open];
    for (size_t i = open + 1; i < line.size(); ++i) {
      if (quote == '"' && line[i] == '\\') {
        ++i;
      } else if (line[i] == quote) {
        const bool is_escaped = quote == '\'' && i + 1 < line.size() && line[i + 1] == quote;
        if (!is_escaped) return i;
        ++i;
      }
    }
    source_.fail(number, detail::concat("a quote (", quote,
                                        ") is opened and not closed in this line; close it, or put "
                                        "the whole value into the other kind of quotes"));
  }

  const Source& source_;
  int depth_ = 0;  // of open brackets
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  TreeBuilder(const std::string& text, const Source& source) : text_(text), source_(source) {}

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
    refuse_line_breaks(mark, value);
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

  // A value that goes on in the next line is most often a mistake of indentation or quotes. A plain
  // one stands in the text as it is; a quoted one was checked before (QuoteCheck).
  void refuse_line_breaks(const YAML::Mark& mark, const std::string& value) const {
    const size_t at = static_cast<size_t>(mark.pos) + (text_.starts_with(kByteOrderMark) ? 3 : 0);
    const char first = at < text_.size() ? text_[at] : '\0';
    if (first == '"' || first == '\'') return;
    if (text_.compare(at, value.size(), value) != 0) {
      fail(mark, "a value goes on in the next line; write it in one line");
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
      YamlNode& item = frame.node->entries.emplace_back();
      item.line = mark.line + 1;
      return item;
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

  const std::string& text_;
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
  check_characters(text, source);
  QuoteCheck(source).check(text);
  TreeBuilder builder(text, source);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    TreeBuilder rest(text, source);
    if (parser.HandleNextDocument(builder) && parser.HandleNextDocument(rest)) {
      source.fail(rest.take_root().line, "a second document starts here; use one file for each");
    }
  } catch (const YAML::Exception& error) {
    source.fail(error.mark.line + 1,
                "is not valid YAML (" + error.msg + "); check indentation, colons and quotes");
  }
  return builder.take_root();
}

}  // namespace stipple
