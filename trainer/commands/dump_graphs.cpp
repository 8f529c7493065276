// SPDX-License-Identifier: Apache-2.0
#include "trainer/commands/dump_graphs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <numeric>

#include "core/bytes_text.h"
#include "core/cpu/memory.h"
#include "core/log.h"
#include "model/attention/registry.h"

namespace stipple::trainer {
namespace {

constexpr const char* kFlag = "--dump-graphs";

/// Where nothing can be asked, nothing is refused: writing will tell.
size_t free_disk(const std::string& directory) {
  std::error_code code;
  const std::filesystem::space_info space = std::filesystem::space(directory, code);
  return code ? cpu::kUnlimited : space.available;
}

void require_room(const RunDirectory& run, size_t bytes, int64_t examples) {
  const auto refuse = [&](size_t free, const std::string& what) {
    STIPPLE_CHECK_AS(ConfigError, bytes <= free, kFlag, ' ', examples, ": the graphs take ",
                     bytes_text(bytes), ", more than the ", bytes_text(free), ' ', what,
                     "; ask for fewer examples");
  };
  refuse(cpu::available_memory(), "of memory that are free");
  refuse(free_disk(run.path()), "that are free on the disk of " + run.path());
}

}  // namespace

void require_dump(const RunDirectory& run, const Config& config, const data::TaskInfo& info,
                  const data::Dataset& dataset, int64_t examples) {
  STIPPLE_CHECK_AS(ConfigError, has_graphs(config), kFlag,
                   ": attention.kind=", model::attention_row(config.attention.kind).name,
                   " draws no graph");
  STIPPLE_CHECK_AS(ConfigError, examples >= 1 && examples <= dataset.size(), kFlag, ' ', examples,
                   ": the split '", data::split_name(config.eval.split), "' has ", dataset.size(),
                   " examples");
  int64_t bytes = shared_graph_bytes(graph_sizes(config));
  for (int64_t i = 0; i < examples; ++i) bytes += graph_bytes(config, info, dataset, i);
  require_room(run, static_cast<size_t>(bytes), examples);
  log::info(fmt::format("the graphs of {} example{} will take {}", examples,
                        examples == 1 ? "" : "s", bytes_text(static_cast<size_t>(bytes))));
}

std::string dump_graphs(const RunDirectory& run, const Config& config, const data::TaskInfo& info,
                        const data::Dataset& dataset, Replica& replica, int64_t examples,
                        int64_t step, const std::vector<std::string>& overrides) {
  std::vector<int64_t> first(static_cast<size_t>(examples));
  std::iota(first.begin(), first.end(), 0);
  GraphFile file;
  draw_graphs(replica, dataset, info, config, first,
              [&](const DrawnExample& drawn) { file.add(drawn); });
  const std::string split(data::split_name(config.eval.split));
  const std::string path = run.graphs(split, step);
  TensorMetadata about{{"split", split}, {"step", std::to_string(step)}};
  if (!overrides.empty()) about["overrides"] = fmt::format("{}", fmt::join(overrides, " "));
  file.replace(path, about);
  return path;
}

}  // namespace stipple::trainer
