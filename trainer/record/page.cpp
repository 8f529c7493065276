// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/page.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "trainer/checkpoint/durable_file.h"
#include "trainer/record/svg_chart.h"

namespace stipple::trainer {
namespace {

constexpr int64_t kMaxPageBytes = int64_t{256} << 20;

// How a page tells that it is one of ours.
constexpr const char* kTitleEnd = " · Stipple";

constexpr const char* kPageCss = R"(*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:14px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;margin:0;overflow-wrap:anywhere}
h2{font-size:17px;margin:32px 0 12px}
.sub{color:var(--muted);margin:4px 0 18px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:12px}
.tile{background:var(--panel);border:1px solid var(--edge);border-radius:8px;padding:12px 14px}
.tile b{display:block;font-size:22px;font-weight:650;font-variant-numeric:tabular-nums}
.tile span{color:var(--muted);font-size:12px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr));gap:14px}
table{border-collapse:collapse;font-size:13px}
td,th{padding:4px 14px 4px 0;border-bottom:1px solid var(--grid);text-align:left;vertical-align:top;overflow-wrap:anywhere}
th{color:var(--muted);font-weight:500}
td.number{text-align:right;font-variant-numeric:tabular-nums}
tr.own td{font-weight:650;color:var(--c0)}
i.swatch{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle}
.columns{columns:2 420px;column-gap:32px}
.columns table{width:100%;break-inside:avoid;margin-bottom:14px}
.columns td:first-child{width:45%}
.graphs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr));gap:14px}
.graphs .pair{display:grid;grid-template-columns:1fr 1fr;gap:10px;margin-top:6px}
.graphs img{display:block;width:100%;height:auto;aspect-ratio:1;image-rendering:pixelated;border:1px solid var(--edge)}
.graphs span{color:var(--muted);font-size:12px}
@media (prefers-color-scheme:dark){.graphs img{filter:invert(1) hue-rotate(180deg)}}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:12px}
)";

}  // namespace

std::string html_page(std::string_view name, std::string_view subtitle, std::string_view body) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
      "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{0}{1}</title>\n"
      "<style>{2}{3}</style></head>\n<body><main>\n<h1>{0}</h1>\n<p class=\"sub\">{4}</p>\n"
      "{5}</main></body></html>\n",
      escape_html(name), kTitleEnd, chart_css(), kPageCss, subtitle, body);
}

std::string tile(std::string_view value, std::string_view label) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", escape_html(value),
                     escape_html(label));
}

std::string count(size_t n, std::string_view what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

std::string shown(double value, const ShownFigure& figure) {
  if (!figure.is_share) return short_number(value);
  return std::isfinite(value) ? fmt::format("{:.2f}%", value * 100) : "not finite";
}

void require_own_page(const std::string& path) {
  if (!path_exists(path)) return;
  const std::string page = read_text(path, kMaxPageBytes);
  STIPPLE_CHECK_AS(ConfigError, page.empty() || page.find(kTitleEnd) != std::string::npos, path,
                   " was not written by stipple; move it away to have a report");
}

}  // namespace stipple::trainer
