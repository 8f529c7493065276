// SPDX-License-Identifier: Apache-2.0
#include "core/config/include.h"

#include <algorithm>
#include <filesystem>

#include "core/config/nearest_match.h"
#include "core/error.h"
#include "core/text.h"

namespace stipple::config {
namespace {

namespace fs = std::filesystem;
using detail::concat;

constexpr const char* kFolder = "configs";

/// The folder in which names are looked up that stand in `file`; "" stands for the command line.
fs::path folder_of_names(const fs::path& file) {
  for (const fs::path& path : {file, file.empty() ? file : fs::absolute(file).lexically_normal()}) {
    for (fs::path folder = path.parent_path(); !folder.empty(); folder = folder.parent_path()) {
      if (folder.filename() == kFolder) return folder;
      if (folder == folder.root_path()) break;
    }
  }
  return kFolder;
}

bool is_path(const std::string& name) { return name.ends_with(".yaml") || name.ends_with(".yml"); }

fs::path file_of(const std::string& name, const fs::path& includer) {
  if (is_path(name)) return includer.parent_path() / name;
  return folder_of_names(includer) / (name + ".yaml");
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return !path.empty() && fs::exists(path, error);
}

/// The same for all ways to write a path.
fs::path place_of(const fs::path& path) {
  std::error_code error;
  const fs::path place = fs::weakly_canonical(path, error);
  return error ? fs::absolute(path) : place;
}

bool contains(const std::vector<fs::path>& places, const fs::path& place) {
  return std::find(places.begin(), places.end(), place) != places.end();
}

/// "; did you mean 'attention/sbm'?", or nothing.
std::string advice(const std::string& name, const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const fs::path path = at->path().lexically_relative(folder);
    if (path.extension() == ".yaml") names.push_back(fs::path(path).replace_extension().string());
  }
  std::sort(names.begin(), names.end());
  const std::string near = nearest_match(name, names);
  return near.empty() ? "" : concat("; did you mean '", near, "'?");
}

class Composer {
 public:
  std::vector<Document> take() { return std::move(documents_); }

  void add_argument(const std::string& argument) {
    const fs::path named = is_path(argument) ? fs::path() : file_of(argument, "");
    const bool is_file = is_there(argument) && !fs::is_directory(argument);
    if (!is_file && is_there(named)) return add(named);
    if (is_path(argument) || is_there(argument)) return add(argument);  // or says why not
    throw ConfigError(concat("'", one_line(argument),
                             "' is neither a file, nor the name of one in ", kFolder,
                             "/, nor key=value", advice(argument, kFolder)));
  }

 private:
  void add(const fs::path& path) {
    const fs::path place = place_of(path);
    Document document = parse_file(read_file(path.string()), path.string());
    open_.push_back(place);
    add_includes(document, path);
    open_.pop_back();
    done_.push_back(place);
    documents_.push_back(std::move(document));
  }

  void add_includes(Document& document, const fs::path& path) {
    std::vector<YamlNode>& entries = document.root.entries;
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [](const YamlNode& entry) { return entry.key == "include"; });
    if (found == entries.end()) return;
    const YamlNode include = std::move(*found);
    entries.erase(found);
    const bool is_list = include.kind == YamlNode::Kind::kList;
    for (const YamlNode& item : is_list ? include.entries : std::vector<YamlNode>{include}) {
      if (item.kind != YamlNode::Kind::kScalar) {
        document.fail(item, "include", "takes names; write include: [task/name, attention/name]");
      }
      add_include(document, item, path);
    }
  }

  void add_include(const Document& document, const YamlNode& item, const fs::path& includer) {
    const fs::path path = file_of(item.text, includer);
    if (!is_there(path)) {
      document.fail(item, "include",
                    concat("'", one_line(item.text), "' is not there (", path.string(), ")",
                           advice(item.text, folder_of_names(includer))));
    }
    const fs::path place = place_of(path);
    if (contains(open_, place)) {
      document.fail(item, "include",
                    concat("'", one_line(item.text),
                           "' is not done with its own includes; break the circle"));
    }
    if (!contains(done_, place)) add(path);
  }

  std::vector<Document> documents_;
  std::vector<fs::path> open_;  ///< files that wait for what they include
  std::vector<fs::path> done_;
};

}  // namespace

std::vector<Document> documents_of(const std::vector<std::string>& arguments) {
  Composer composer;
  for (const std::string& argument : arguments) composer.add_argument(argument);
  return composer.take();
}

}  // namespace stipple::config
