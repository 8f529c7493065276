// SPDX-License-Identifier: Apache-2.0
#include "trainer/record/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>

namespace stipple::trainer {
namespace {

constexpr double kWidth = 560;
constexpr double kHeight = 270;
constexpr double kTop = 12;
constexpr double kBottom = 40;
constexpr double kPlainRight = 14;
constexpr double kCharacterWidth = 6.2;  // of the 11 px axis font, on average
constexpr int kColors = 8;
// More points than this per curve cannot be told apart at this width.
constexpr size_t kMaxPoints = 600;
constexpr size_t kMaxTooltips = 80;
// Every cell carries a tooltip of about 150 bytes.
constexpr size_t kMaxHeatCells = 4000;
constexpr size_t kMaxHeatColumns = 80;

struct Bounds {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return !(low <= high); }

  /// Something to draw in: not empty and not a single value.
  Bounds widened() const {
    if (empty()) return {0, 1};
    if (low < high) return *this;
    if (low == 0) return {0, 1};
    const double room = std::abs(low) * 0.1;
    return {low - room, high + room};
  }
};

/// Data to pixels.
struct Frame {
  Bounds x = {};
  Bounds y = {};
  double left = 0;
  double right = 0;  ///< margins
  std::vector<double> y_ticks = {};

  double plot_width() const { return kWidth - left - right; }
  double plot_height() const { return kHeight - kTop - kBottom; }
  double px(double v) const { return left + (v - x.low) / (x.high - x.low) * plot_width(); }
  double py(double v) const { return kTop + (1 - (v - y.low) / (y.high - y.low)) * plot_height(); }
};

std::string y_text(const Chart& chart, double value) {
  return chart.percent ? fmt::format("{}%", short_number(value * 100)) : short_number(value);
}

/// Ticks that enclose the values, so that the lowest and the highest grid line frame the plot.
std::vector<double> enclosing_ticks(Bounds b) {
  auto ticks = nice_ticks(b.low, b.high, 5);
  if (ticks.size() < 2) return {b.low, b.high};
  const double step = ticks[1] - ticks[0];
  const double slack = step * 1e-6;
  if (ticks.front() > b.low + slack) ticks.insert(ticks.begin(), ticks.front() - step);
  if (ticks.back() < b.high - slack) ticks.push_back(ticks.back() + step);
  return ticks;
}

Frame frame_for(const Chart& chart, Bounds x, Bounds y) {
  if (chart.from_zero && !y.empty()) y.include(0);
  Frame frame{.x = x.widened(), .y_ticks = enclosing_ticks(y.widened())};
  frame.y = {frame.y_ticks.front(), frame.y_ticks.back()};
  frame.right = kPlainRight;
  size_t widest = 1;
  for (double tick : frame.y_ticks) widest = std::max(widest, y_text(chart, tick).size());
  frame.left = 14 + kCharacterWidth * static_cast<double>(widest);
  size_t name = 0;
  for (const Reference& r : chart.references) name = std::max(name, r.name.size());
  if (name > 0) frame.right = std::min(170.0, 12 + kCharacterWidth * static_cast<double>(name));
  return frame;
}

std::string axes(const Chart& chart, const Frame& f) {
  std::string svg;
  const double bottom = kTop + f.plot_height();
  for (double tick : f.y_ticks) {
    svg += fmt::format(R"(<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>)"
                       R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)",
                       f.left, kWidth - f.right, f.py(tick), f.py(tick), f.left - 6,
                       f.py(tick) + 3.5, y_text(chart, tick));
  }
  for (double tick : nice_ticks(f.x.low, f.x.high, 7)) {
    svg +=
        fmt::format(R"(<line class="axis" x1="{0:.1f}" x2="{0:.1f}" y1="{1:.1f}" y2="{2:.1f}"/>)"
                    R"(<text class="tick" x="{0:.1f}" y="{3:.1f}" text-anchor="middle">{4}</text>)",
                    f.px(tick), bottom, bottom + 4, bottom + 16, short_number(tick));
  }
  svg += fmt::format(R"(<line class="axis" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>)",
                     f.left, kWidth - f.right, bottom, bottom);
  svg += fmt::format(R"(<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)",
                     f.left + f.plot_width() / 2, kHeight - 6, escape_html(chart.x_label));
  return svg;
}

std::string empty_note(bool is_empty) {
  if (!is_empty) return {};
  return fmt::format(R"(<text class="note" x="{}" y="{}" text-anchor="middle">no data yet</text>)",
                     kWidth / 2, kHeight / 2);
}

/// At most kMaxPoints with the same outline: of each run of points the lowest and the highest stay.
std::vector<Point> thinned(const std::vector<Point>& points) {
  if (points.size() <= kMaxPoints) return points;
  const size_t run = (points.size() + kMaxPoints / 2 - 1) / (kMaxPoints / 2);
  std::vector<Point> kept;
  for (size_t begin = 0; begin < points.size(); begin += run) {
    const auto first = points.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last =
        points.begin() + static_cast<std::ptrdiff_t>(std::min(begin + run, points.size()));
    const auto gap = std::find_if(first, last, [](Point p) { return !std::isfinite(p.y); });
    auto [low, high] = std::minmax_element(first, last, [](Point a, Point b) { return a.y < b.y; });
    if (gap != last) {
      kept.push_back(*gap);
      continue;
    }
    if (high < low) std::swap(low, high);
    kept.push_back(*low);
    if (low != high) kept.push_back(*high);
  }
  return kept;
}

std::string path_of(const std::vector<Point>& points, const Frame& f) {
  std::string path;
  bool pen_down = false;
  for (const Point& p : points) {
    if (!std::isfinite(p.y) || !std::isfinite(p.x)) {
      pen_down = false;
      continue;
    }
    path += fmt::format("{}{:.1f} {:.1f}", pen_down ? "L" : "M", f.px(p.x), f.py(p.y));
    pen_down = true;
  }
  return path;
}

size_t finite_count(const std::vector<Point>& points) {
  return static_cast<size_t>(
      std::count_if(points.begin(), points.end(), [](Point p) { return std::isfinite(p.y); }));
}

int palette(int color) { return (color % kColors + kColors) % kColors; }

/// Circles that carry tooltips: visible ones where the data are few or asked for, invisible targets
/// elsewhere.
std::string dots(const Chart& chart, const Series& s, const Frame& f) {
  std::string svg;
  // A curve of one point has no line.
  const bool visible = s.markers || finite_count(s.points) == 1;
  const double radius = !visible ? 6 : finite_count(s.points) == 1 ? 4.5 : 3;
  const size_t stride = std::max<size_t>(1, s.points.size() / kMaxTooltips);
  for (size_t i = 0; i < s.points.size(); i += stride) {
    const Point p = s.points[i];
    if (!std::isfinite(p.y)) continue;
    svg += fmt::format(
        R"(<circle class="{} c{}" cx="{:.1f}" cy="{:.1f}" r="{}"><title>{}: {} at {} {}</title></circle>)",
        visible ? "dot" : "target", palette(s.color), f.px(p.x), f.py(p.y), radius,
        escape_html(s.name), y_text(chart, p.y), escape_html(chart.x_label), short_number(p.x));
  }
  return svg;
}

/// Names at the right end, moved apart where their lines are close.
std::string reference_lines(const Chart& chart, const Frame& f) {
  constexpr double kSpacing = 12;
  std::vector<Reference> sorted = chart.references;
  std::erase_if(sorted, [](const Reference& r) { return !std::isfinite(r.y); });
  std::sort(sorted.begin(), sorted.end(),
            [](const Reference& a, const Reference& b) { return a.y > b.y; });
  std::vector<double> label_y;
  for (const Reference& r : sorted) {
    const double wanted = f.py(r.y);
    label_y.push_back(label_y.empty() ? wanted : std::max(wanted, label_y.back() + kSpacing));
  }
  double limit = kTop + f.plot_height();
  for (size_t i = label_y.size(); i-- > 0; limit = label_y[i] - kSpacing)
    label_y[i] = std::min(label_y[i], limit);
  std::string svg;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const Reference& r = sorted[i];
    svg += fmt::format(
        R"(<g><title>{0}: {1}</title><line class="reference" x1="{2:.1f}" x2="{3:.1f}" )"
        R"(y1="{4:.1f}" y2="{4:.1f}"/><text class="tick" x="{5:.1f}" y="{6:.1f}">{0}</text></g>)",
        escape_html(r.name), y_text(chart, r.y), f.left, kWidth - f.right, f.py(r.y),
        kWidth - f.right + 5, label_y[i] + 3.5);
  }
  return svg;
}

std::string legend(const Chart& chart) {
  std::string html;
  for (const Series& s : chart.series)
    if (!s.faint)
      html += fmt::format(R"(<span><i class="b{}"></i>{}</span>)", palette(s.color),
                          escape_html(s.name));
  return html.empty() ? "" : "<div class=\"legend\">" + html + "</div>";
}

std::string figure(const Chart& chart, const std::string& key, const std::string& body) {
  const std::string unit =
      chart.unit.empty() ? "" : fmt::format(" <small>{}</small>", escape_html(chart.unit));
  return fmt::format(
      "<figure><figcaption>{0}{1}</figcaption>{2}<svg viewBox=\"0 0 {3} {4}\" role=\"img\" "
      "aria-label=\"{0}\">{5}</svg></figure>\n",
      escape_html(chart.title), unit, key, kWidth, kHeight, body);
}

// --- stacks --------------------------------------------------------------------------------------

double or_zero(double value) { return std::isfinite(value) ? std::max(0.0, value) : 0.0; }

/// A layer between the running sums below and above it.
std::string band(const Series& s, const std::vector<double>& xs, const std::vector<double>& below,
                 const std::vector<double>& above, const Frame& f) {
  std::string path;
  for (size_t i = 0; i < xs.size(); ++i)
    path += fmt::format("{}{:.1f} {:.1f}", i == 0 ? "M" : "L", f.px(xs[i]), f.py(above[i]));
  for (size_t i = xs.size(); i-- > 0;)
    path += fmt::format("L{:.1f} {:.1f}", f.px(xs[i]), f.py(below[i]));
  return fmt::format(R"(<path class="band f{}" d="{}Z"/>)", palette(s.color), path);
}

/// An upright strip per x with the whole split in its tooltip.
std::string strip_tooltips(const Chart& chart, const std::vector<double>& xs, const Frame& f) {
  std::string svg;
  const size_t stride = std::max<size_t>(1, xs.size() / kMaxTooltips);
  const double width =
      f.plot_width() / static_cast<double>(xs.size()) * static_cast<double>(stride);
  for (size_t i = 0; i < xs.size(); i += stride) {
    std::string text = fmt::format("{} {}", escape_html(chart.x_label), short_number(xs[i]));
    for (const Series& s : chart.series)
      if (i < s.points.size())
        text += fmt::format("&#10;{}: {}", escape_html(s.name), y_text(chart, s.points[i].y));
    svg += fmt::format(
        R"(<rect class="target" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>)",
        std::clamp(f.px(xs[i]) - width / 2, f.left, kWidth - f.right), kTop, width, f.plot_height(),
        text);
  }
  return svg;
}

/// Neighbouring points averaged until few enough remain to draw; a stack must keep its sum, so no
/// outline trick here.
Chart averaged(const Chart& chart, size_t max_points) {
  Chart out = chart;
  for (Series& s : out.series) {
    const size_t run = (s.points.size() + max_points - 1) / max_points;
    if (run <= 1) continue;
    std::vector<Point> points;
    for (size_t begin = 0; begin < s.points.size(); begin += run) {
      const size_t end = std::min(begin + run, s.points.size());
      Point sum;
      double finite = 0;
      for (size_t i = begin; i < end; ++i) {
        sum.x += s.points[i].x / static_cast<double>(end - begin);
        if (!std::isfinite(s.points[i].y)) continue;
        sum.y += s.points[i].y;
        finite += 1;
      }
      sum.y = finite > 0 ? sum.y / finite : std::numeric_limits<double>::quiet_NaN();
      points.push_back(sum);
    }
    s.points = std::move(points);
  }
  return out;
}

std::string heat_key(const Chart& chart, const Bounds& y) {
  if (y.empty()) return {};
  return fmt::format(
      R"(<div class="legend"><span>{}</span><i class="ramp"></i><span>{}</span></div>)",
      y_text(chart, y.low), y_text(chart, y.high));
}

std::string line_chart(const Chart& chart) {
  Bounds x;
  Bounds y;
  for (const Series& s : chart.series)
    for (const Point& p : s.points) {
      if (std::isfinite(p.y)) x.include(p.x);
      y.include(p.y);
    }
  const bool is_empty = x.empty();
  for (const Reference& r : chart.references) y.include(r.y);
  const Frame f = frame_for(chart, x, y);
  std::string svg = axes(chart, f) + reference_lines(chart, f) + empty_note(is_empty);
  for (const bool faint : {true, false})
    for (const Series& s : chart.series) {
      if (s.faint != faint) continue;
      svg += fmt::format(R"(<path class="curve{} s{}" d="{}"/>)", faint ? " faint" : "",
                         palette(s.color), path_of(thinned(s.points), f));
    }
  for (const Series& s : chart.series)
    if (!s.faint) svg += dots(chart, s, f);
  return figure(chart, legend(chart), svg);
}

std::string stacked_area_chart(const Chart& original) {
  const Chart chart = averaged(original, kMaxPoints / 4);
  std::vector<double> xs;
  if (!chart.series.empty())
    for (const Point& p : chart.series[0].points) xs.push_back(p.x);
  // Something to fill under a single point.
  if (xs.size() == 1) xs.push_back(xs[0] + 1);

  std::vector<std::vector<double>> sums{std::vector<double>(xs.size(), 0.0)};
  for (const Series& s : chart.series) {
    std::vector<double> next = sums.back();
    for (size_t i = 0; i < next.size(); ++i)
      if (!s.points.empty()) next[i] += or_zero(s.points[std::min(i, s.points.size() - 1)].y);
    sums.push_back(std::move(next));
  }
  Bounds x;
  Bounds y;
  for (double v : xs) x.include(v);
  for (double v : sums.back()) y.include(v);
  Chart zero_based = chart;
  zero_based.from_zero = true;
  const Frame f = frame_for(zero_based, x, y);
  std::string svg;
  if (!xs.empty())
    for (size_t i = 0; i < chart.series.size(); ++i)
      svg += band(chart.series[i], xs, sums[i], sums[i + 1], f);
  svg = axes(chart, f) + svg + empty_note(xs.empty());
  if (!xs.empty()) svg += strip_tooltips(chart, xs, f);
  return figure(chart, legend(chart), svg);
}

std::string heat_map(const Chart& original) {
  const size_t columns = kMaxHeatCells / std::max<size_t>(1, original.series.size());
  const Chart chart = averaged(original, std::clamp<size_t>(columns, 8, kMaxHeatColumns));
  Bounds x;
  Bounds y;
  size_t widest = 1;
  for (const Series& s : chart.series) {
    widest = std::max(widest, s.name.size());
    for (const Point& p : s.points) {
      x.include(p.x);
      y.include(p.y);
    }
  }
  const auto rows = static_cast<double>(std::max<size_t>(1, chart.series.size()));
  Frame f{.x = x.widened(), .y = {0, rows}, .left = 0, .right = kPlainRight};
  f.left = 14 + kCharacterWidth * static_cast<double>(widest);
  const double height = f.plot_height() / rows;
  // Every k-th name, so that names keep their distance.
  const auto name_stride = static_cast<size_t>(std::max(1.0, std::ceil(12 / height)));
  const Bounds range = y.widened();

  std::string svg;
  for (size_t row = 0; row < chart.series.size(); ++row) {
    const Series& s = chart.series[row];
    const double top = kTop + height * static_cast<double>(row);
    if (row % name_stride == 0)
      svg += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)",
                         f.left - 6, top + height / 2 + 3.5, escape_html(s.name));
    const double width = f.plot_width() / static_cast<double>(std::max<size_t>(1, s.points.size()));
    for (size_t i = 0; i < s.points.size(); ++i) {
      const Point p = s.points[i];
      if (!std::isfinite(p.y)) continue;
      const double share = (p.y - range.low) / (range.high - range.low);
      svg += fmt::format(
          R"(<rect class="heat" x="{:.1f}" y="{:.1f}" width="{:.2f}" height="{:.2f}" style="fill-opacity:{:.3f}"><title>{}: {} at {} {}</title></rect>)",
          f.left + width * static_cast<double>(i), top, width + 0.3,
          height > 4 ? height - 0.8 : height + 0.3, 0.04 + 0.96 * share, escape_html(s.name),
          y_text(chart, p.y), escape_html(chart.x_label), short_number(p.x));
    }
  }
  const double bottom = kTop + f.plot_height();
  for (double tick : nice_ticks(f.x.low, f.x.high, 7))
    svg += fmt::format(R"(<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)",
                       f.px(tick), bottom + 16, short_number(tick));
  svg += fmt::format(R"(<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)",
                     f.left + f.plot_width() / 2, kHeight - 6, escape_html(chart.x_label));
  return figure(chart, heat_key(chart, y), svg + empty_note(y.empty()));
}

}  // namespace

std::string draw(const Chart& chart) {
  switch (chart.kind) {
    case ChartKind::kLines:
      return line_chart(chart);
    case ChartKind::kStack:
      return stacked_area_chart(chart);
    case ChartKind::kHeatMap:
      return heat_map(chart);
  }
  return {};
}

std::string draw(const std::vector<ChartSection>& sections) {
  std::string html;
  for (const ChartSection& section : sections) {
    html += "<h2>" + escape_html(section.title) + "</h2>\n<div class=\"charts\">\n";
    for (const Chart& chart : section.charts) html += draw(chart);
    html += "</div>\n";
  }
  return html;
}

std::string_view chart_css() {
  return R"(:root{--c0:#2a78d6;--c1:#e07a1f;--c2:#1a9a68;--c3:#c2418c;--c4:#6a55c9;--c5:#b98900;--c6:#c93a3a;--c7:#5f6b76;
--page:#fff;--panel:#fff;--text:#1c2126;--muted:#606a74;--grid:#e7eaed;--edge:#d5dade}
@media (prefers-color-scheme:dark){:root{--c0:#5b9fee;--c1:#f0994a;--c2:#40bf8e;--c3:#e673b3;--c4:#9c8cf2;--c5:#d9b03c;--c6:#ec7272;--c7:#9aa6b2;
--page:#14171a;--panel:#1b1f23;--text:#e6e9ec;--muted:#9aa4ad;--grid:#2a3036;--edge:#353c43}}
figure{margin:0;padding:14px 14px 8px;background:var(--panel);border:1px solid var(--edge);border-radius:8px}
figcaption{font-weight:600;font-size:14px}
figcaption small{font-weight:400;color:var(--muted);font-size:12px}
figure svg{width:100%;height:auto;display:block;font-family:inherit}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12px;color:var(--muted);margin:3px 0 2px;align-items:center}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle}
.legend i.ramp{width:90px;height:9px;margin:0;border:1px solid var(--edge);background:linear-gradient(to right,transparent,var(--c0))}
.grid{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--muted);stroke-width:1;opacity:.6}
.tick{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
.label{font-size:11px;fill:var(--muted)}
.note{font-size:13px;fill:var(--muted)}
.curve{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.faint{stroke-width:1;opacity:.28}
.reference{stroke:var(--muted);stroke-width:1;stroke-dasharray:4 3}
.band{stroke:var(--panel);stroke-width:.6}
.heat{fill:var(--c0)}
.target{fill:transparent;stroke:none}
.target:hover{fill:var(--text);fill-opacity:.14}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}.s6{stroke:var(--c6)}.s7{stroke:var(--c7)}
.f0,.dot.c0{fill:var(--c0)}.f1,.dot.c1{fill:var(--c1)}.f2,.dot.c2{fill:var(--c2)}.f3,.dot.c3{fill:var(--c3)}.f4,.dot.c4{fill:var(--c4)}.f5,.dot.c5{fill:var(--c5)}.f6,.dot.c6{fill:var(--c6)}.f7,.dot.c7{fill:var(--c7)}
.b0{background:var(--c0)}.b1{background:var(--c1)}.b2{background:var(--c2)}.b3{background:var(--c3)}.b4{background:var(--c4)}.b5{background:var(--c5)}.b6{background:var(--c6)}.b7{background:var(--c7)}
)";
}

std::string escape_html(std::string_view text) {
  static const std::map<char, std::string_view> kEntities{
      {'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
  std::string out;
  for (char c : text) {
    const auto entity = kEntities.find(c);
    if (entity != kEntities.end())
      out += entity->second;
    else if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t')
      out += c;
  }
  return out;
}

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!std::isfinite(low) || !std::isfinite(high) || !(low < high)) return {low};
  const double rough = (high - low) / std::max(1, count);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (double factor : {5.0, 2.5, 2.0, 1.0})
    if (factor * power >= rough * (1 - 1e-9)) step = factor * power;
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    // Adding 0 turns -0 into 0.
    ticks.push_back(i * step + 0.0);
  return ticks;
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return "not finite";
  constexpr std::array<std::pair<double, const char*>, 3> kScales{
      {{1e9, "G"}, {1e6, "M"}, {1e4, "k"}}};
  for (const auto& [scale, letter] : kScales) {
    if (std::abs(value) < scale) continue;
    return fmt::format("{:.4g}{}", value / (scale == 1e4 ? 1e3 : scale), letter);
  }
  return fmt::format("{:.4g}", value);
}

}  // namespace stipple::trainer
