#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fine-tunes on tasks of GLUE, each with several seeds, and says what came of it: DIR/results.tsv has the median of every measure on
# validation and its spread, DIR/submission.zip what the leaderboard takes, predicted by the seed that was best on validation. Called again,
# it goes on where it was stopped. docs/glue.md tells of the tasks.
#   launch/glue.sh --out DIR [--tasks cola,mrpc,...] [--seeds 5] [--epochs 3] [--ranks 2] CONFIG... key=value...
#   launch/glue.sh --out runs/glue --tasks mrpc,rte configs/recipe/glue.yaml data.dir=glue_data data.vocab=vocab.txt
#   STIPPLE=build-cuda/bin/stipple launch/glue.sh ...      another program
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
stipple=${STIPPLE:-$launch/../build/bin/stipple}

out= tasks=cola,sst2,mrpc,qqp,stsb,mnli,qnli,rte,wnli seeds=5 epochs=3 ranks=2 config=()
usage() { sed -n 's/^#   //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:-} ;; --tasks) tasks=${2:-} ;; --seeds) seeds=${2:-} ;; --epochs) epochs=${2:-} ;; --ranks) ranks=${2:-} ;;
    --*) usage ;;
    *) config+=("$1"); shift; continue ;;
  esac
  shift $(($# > 1 ? 2 : 1))
done
for number in "$seeds" "$epochs" "$ranks"; do [[ $number =~ ^[1-9][0-9]*$ ]] || usage; done
[ -n "$out" ] && [ -n "$tasks" ] && [ ${#config[@]} -gt 0 ] || usage
case ",$tasks," in *,ax,*|*,mnli_mm,*) echo "glue.sh: mnli is judged on mnli_mm and predicts ax by itself; name mnli" >&2; exit 2 ;; esac
mkdir -p "$out/predictions"

leaderboard_name() {
  case $1 in
    cola) echo CoLA ;; sst2) echo SST-2 ;; mrpc) echo MRPC ;; qqp) echo QQP ;; stsb) echo STS-B ;; mnli) echo MNLI-m ;; mnli_mm) echo MNLI-mm ;;
    qnli) echo QNLI ;; rte) echo RTE ;; wnli) echo WNLI ;; ax) echo AX ;; *) echo "glue.sh: there is no task $1" >&2; return 2 ;;
  esac
}
for task in ${tasks//,/ }; do leaderboard_name "$task" >/dev/null; done

# judged_on TASK: the tasks whose validation a run of TASK is judged by.
judged_on() { if [ "$1" = mnli ]; then echo mnli mnli_mm; else echo "$1"; fi; }

# first_measure TASK: the one that chooses, among checkpoints as among seeds.
first_measure() { case $1 in cola) echo matthews ;; stsb) echo pearson ;; *) echo accuracy ;; esac; }

# measures TASK RUN: "measure value" a line, by the best checkpoint.
measures() {
  local told=$2/measures-$1.txt
  if [ ! -s "$told" ]; then
    "$stipple" eval "$2" --checkpoint best "data.glue.task=$1" >"$2/eval-$1.txt"
    tail -n 1 "$2/metrics.jsonl" | grep -oE '"(accuracy|f1|matthews|pearson|spearman|mse)":[-+0-9.e]+' | tr -d '"' | tr : ' ' >"$told.new"
    mv "$told.new" "$told"
  fi
  cat "$told"
}

: >"$out/measures.new"   # task, measure, seed, value
for task in ${tasks//,/ }; do
  plan=$("$stipple" dry-run "${config[@]}" "data.glue.task=$task")
  examples=$(sed -nE 's/.*train: ([0-9]+) examples,.*/\1/p' <<<"$plan")
  batch=$(sed -nE 's/^batch +([0-9]+) examples.*/\1/p' <<<"$plan")
  [ -n "$examples" ] || { "$stipple" dry-run "${config[@]}" "data.glue.task=$task" | grep 'cannot be read' >&2; exit 2; }
  epoch=$(((examples + batch - 1) / batch))
  for seed in $(seq "$seeds"); do
    run=$out/$task-$seed
    "$launch/run.sh" -np "$ranks" --oversubscribe "$stipple" train "${config[@]}" "data.glue.task=$task" "run.seed=$seed" "run.dir=$run" \
      "train.steps=$((epochs * epoch))" "eval.every=$epoch" "checkpoint.every=$epoch" "checkpoint.keep=$((epochs > 2 ? epochs : 2))"
    for judge in $(judged_on "$task"); do
      measures "$judge" "$run" | sed "s/^/$judge $seed /" | awk -v OFS='\t' '{ print $1, $3, $2, $4 }' >>"$out/measures.new"
    done
  done
done

# Median, lowest and highest of each measure of each task, in the order of the tasks.
sort -t$'\t' -s -k1,1 -k2,2 -k4,4g "$out/measures.new" | awk -F'\t' -v OFS='\t' '
  function tell() { if (n) print task, measure, (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2, v[1], v[n], n }
  BEGIN { print "task", "measure", "median", "lowest", "highest", "seeds" }
  $1 != task || $2 != measure { tell(); n = 0; task = $1; measure = $2 }
  { v[++n] = $4 }
  END { tell() }' >"$out/results.tsv.new"
mv "$out/results.tsv.new" "$out/results.tsv"
mv "$out/measures.new" "$out/measures.tsv"

predictions=()
for task in ${tasks//,/ }; do
  best=$(awk -F'\t' -v t="$task" -v m="$(first_measure "$task")" '$1 == t && $2 == m && (best == "" || $4 > value) { best = $3; value = $4 } END { print best }' \
    "$out/measures.tsv")
  also=(); [ "$task" = mnli ] && also=(mnli_mm ax)
  for test in "$task" "${also[@]}"; do
    file=$out/predictions/$(leaderboard_name "$test").tsv
    "$stipple" predict "$out/$task-$best" --checkpoint best --split test "data.glue.task=$test" --out "$file"
    predictions+=("$file")
  done
done
"$stipple" submission "${predictions[@]}" --out "$out/submission.zip"
column -t -s$'\t' "$out/results.tsv"
