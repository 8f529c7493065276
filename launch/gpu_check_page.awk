# SPDX-License-Identifier: Apache-2.0
# The tables of gpu_check.md from lines of JSON that bench_cuda and bench/peers.py write (flat objects, no nesting).

# The value of a field; empty where there is none.
function field(key,    at, rest) {
  at = index($0, "\"" key "\": ")
  if (at == 0) return ""
  rest = substr($0, at + length(key) + 4)
  if (substr(rest, 1, 1) == "\"") { rest = substr(rest, 2); return substr(rest, 1, index(rest, "\"") - 1) }
  sub(/[,}].*/, "", rest)
  return rest == "null" ? "" : rest
}
function number(x) { return x == "" ? "" : sprintf(x + 0 >= 100 ? "%.0f" : x + 0 >= 10 ? "%.1f" : "%.3g", x) }
function row(name, measured, target, goal, error) {
  return "| " name " | " number(measured) " | " number(target) " | " number(goal) " | " sprintf("%.2f", target / measured) " | " number(error) " |\n"
}

{
  op = field("op"); ms = field("ms"); name = field("name"); error = field("error")
  if (error != "") { errors = errors "- `" name "`: " error "\n"; next }
  if (field("target_ms") != "") targets = targets row("`" name "`", ms, field("target_ms"), field("goal_ms"), field("worst_error"))
  if (op == "ceiling") {
    ceilings = ceilings "| `" name "` | " number(ms) " | " number(field("tflop_s")) " | " number(field("gb_s")) " |\n"
    next
  }
  if (op == "step") {
    steps = steps "| `" name "` | " number(ms) " | " number(field("plan_mb") field("peak_mb")) " | " number(field("percent")) " |\n"
    if (name ~ /^step\/lra_listops\/sbm\/.*bf16$/ && (ours == "" || ms + 0 < ours)) ours = ms + 0
    if (name ~ /^step\/lra_listops\/eager_dense/) theirs = ms + 0
  } else if (op == "prepare" || op == "layer" || (field("bh") == 256 && field("n") == 4096)) {
    rows[++count] = "| " op " | " field("bh") " | " field("n") " | " field("d") " | " field("k") " | " number(field("percent")) " | " \
      field("source") " " field("implementation") " | " number(ms) " | " number(field("ps_per_pair")) " | " number(field("gedge_s")) " | " \
      number(field("tflop_s")) " | " number(field("gb_s")) " |"
    order[count] = sprintf("%s %03d %06.2f %012.4f", op, field("d"), field("percent"), ms)
  }
}

END {
  print "\n## Targets (one H200; ms)\n\n| what | measured | first version | goal | first version / measured | worst of 64 rows, as a share of what rounding explains |\n|---|---|---|---|---|---|"
  printf "%s", targets
  if (ours > 0 && theirs > 0) {
    printf "| whole LRA ListOps step against eager dense PyTorch | %s times | 5 times | 20 times | %.2f | |\n", number(theirs / ours), theirs / ours / 5
  }
  print "\nA ratio of 1 or more: the first version's target is met."
  if (ceilings != "") printf "\n## Ceilings of this GPU\n\n| what | ms | TFLOP/s | GB/s |\n|---|---|---|---|\n%s", ceilings
  print "\n## Whole steps\n\n| step | ms | memory in MB (planned; PyTorch: peak) | density % |\n|---|---|---|---|"
  printf "%s", steps
  print "\n## B H = 256, N = 4096, peers beside ours, fastest first\n"
  print "| op | B H | N | d | k | density % | who | ms | ps/pair | Gedge/s | TFLOP/s | GB/s |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
  for (i = 2; i <= count; i++) {
    for (j = i; j > 1 && order[j] < order[j - 1]; j--) {
      t = order[j]; order[j] = order[j - 1]; order[j - 1] = t
      t = rows[j]; rows[j] = rows[j - 1]; rows[j - 1] = t
    }
  }
  for (i = 1; i <= count; i++) print rows[i]
  if (errors != "") printf "\n## Not run\n\n%s", errors
}
