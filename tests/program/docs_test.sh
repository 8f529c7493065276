#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every command that the documentation shows is run: all lines of ```sh blocks, and commands in running text that train. A new
# command cannot be forgotten: it is run, or stands below with the reason why it is not. The runs are made tiny by a wrapper around
# the program; what is tested is that each command is one, with the arguments shown.
. "$(dirname "$0")/support.sh"

# Commands that are not run here, one a line: the command, " | ", why.
not_run() {
  cat <<'LIST'
./launch/quickstart.sh | builds and trains for minutes; CI runs it by itself
./launch/test.sh | runs this test
launch/build.sh cuda | a build
launch/build.sh cpu kernels_tests | a build
build/tests/kernels/kernels_tests --source=matmul_test | needs the build folder
build/tests/kernels/kernels_tests --gtest_filter='Matmul.*' | needs the build folder
ctest --preset cpu -R '^matmul_test$' | needs the build folder
launch/run.sh -np 8 --hostfile hosts.txt build/bin/stipple train configs/recipe/quickstart.yaml | needs two hosts
launch/build.sh cpu stipple | a build
build/bin/stipple submit configs/recipe/lra_listops_sbm.yaml run.dir=runs/mine --nodes 2 --ranks-per-node 8 --time 4:00:00 --sbatch=--partition=long | needs Slurm; tests/slurm has it
srun --nodes=2 --ntasks-per-node=8 --mpi=pmix build/bin/stipple doctor --run-dir runs/mine | needs Slurm
sbatch --nodes=2 --ntasks-per-node=8 --time=4:00:00 launch/slurm.sbatch configs/recipe/lra_listops_sbm.yaml run.dir=runs/mine | needs Slurm; tests/slurm has it
launch/gpu_check.sh --minutes 10 --out gpu_check | needs a GPU; says so and exits with 3
launch/bundle.sh stipple-bundle.tar.xz | needs nvcc
tar -xf stipple-bundle.tar.xz && stipple-bundle/launch/gpu_check.sh | needs the bundle
LIST
}

# A working tree as a user has it, whose program makes short work of everything.
mkdir -p build/bin build-cuda/bin tools
for name in configs launch bench; do ln -s "$SOURCE/$name" $name; done
cp -r "$SOURCE/docs" docs   # a command may write into it
cat >build/bin/stipple <<SCRIPT
#!/usr/bin/env bash
case \$1 in
  train) exec "$STIPPLE" "\$@" train.steps=2 train.batch=4 train.micro_batch=2 eval.every=0 eval.seeds=1 checkpoint.every=0 log.every=1 threads=1 \\
      data.max_length=600 ;;
  data) exec "$STIPPLE" "\$@" --train 8 --val 2 --test 2 --min-length 500 --max-length 600 --force ;;  # several pages make the same
  sparsefinder)
    [[ \$2 != sweep ]] || set -- "\$@" --examples 4 --epochs 1 --windows 1 --globals 4 --clusters 4 --tops 1 --buckets 8 --thresholds 1 \\
        --hashes 1 --random-blocks 1 --random-tokens 4 --strides 8
    exec "$STIPPLE" "\$@" ;;
  *) exec "$STIPPLE" "\$@" ;;
esac
SCRIPT
# Programs built with CUDA: this one may not be, so their configurations are only checked.
cat >build-cuda/bin/stipple <<SCRIPT
#!/usr/bin/env bash
arguments=()
for argument; do case \$argument in device=*|precision=*|step.graph=*) ;; train) arguments+=(dry-run) ;; *) arguments+=("\$argument") ;; esac; done
exec "$STIPPLE" "\${arguments[@]}"
SCRIPT
# As many ranks as are shown would take long on a small machine.
cat >tools/mpirun <<SCRIPT
#!/usr/bin/env bash
arguments=()
for argument; do [[ \${arguments[-1]:-} = -np ]] && argument=2; arguments+=("\$argument"); done
exec "$(command -v mpirun)" -q "\${arguments[@]}"
SCRIPT
chmod +x build/bin/stipple build-cuda/bin/stipple tools/mpirun
export PATH=$PWD/tools:$PWD/build/bin:$PATH STIPPLE=$PWD/build/bin/stipple

pages=("$SOURCE"/README.md "$SOURCE"/CONTRIBUTING.md $(find "$SOURCE"/docs -name '*.md' -not -path '*/adr/*' | sort))

# commands_of PAGE: one command a line, without comments; continued lines are joined.
commands_of() {
  awk '
    /^```/ { in_block = !in_block; is_shell = $0 == "```sh"; next }
    in_block && is_shell {
      sub(/(^|[ \t]+)#.*/, "")
      if (sub(/\\$/, "")) { line = line $0; next }
      line = line $0
      if (line ~ /[^ \t]/) print line
      line = ""
    }' "$1"
  grep -oE '`((mpirun|launch/run.sh) [^`]*)?(build/bin/)?stipple (train|dry-run|keys)[^`]*`' "$1" | tr -d '`' | grep -E 'yaml|keys|task/' || true
}

# A block without a language must not hide commands.
hidden=$(awk 'FNR == 1 { in_block = 0 } /^```/ { in_block = !in_block; is_plain = $0 == "```"; next }
  in_block && is_plain && /^(\.\/)?(stipple|mpirun|launch|build[a-z-]*|bench|ctest|cmake)[ \/]/ { print FILENAME ": " $0 }' "${pages[@]}")
[ -z "$hidden" ] || fail "commands in blocks that are not marked as sh: $hidden"

ran=0 unused=$(not_run | sed 's/ | .*//')
for page in "${pages[@]}"; do
  while IFS= read -r command; do
    command=$(sed 's/[ \t]*$//' <<<"$command")
    if not_run | grep -qF -- "$command | "; then
      unused=$(grep -vxF -- "$command" <<<"$unused" || true)
      continue
    fi
    # What a page trains is there from the page's own commands, or is made here.
    if [[ $command = *stipple*train* || $command = launch/local.sh* ]]; then
      [ -d datasets/listops ] || stipple data listops --out datasets/listops >/dev/null 2>&1
      [ -d datasets/listops-short ] || cp -r datasets/listops datasets/listops-short
    fi
    expect 0 bash -c "$command" </dev/null
    ran=$((ran + 1))
  done < <(commands_of "$page")
done
[ -z "$unused" ] || fail "listed as not run here, but no page shows it: $unused"
[ $ran -ge 10 ] || fail "only $ran commands found"
echo "$ran commands ran"

# The page of keys is what the program says.
"$STIPPLE" keys | cmp - "$SOURCE/docs/config.md" || fail "docs/config.md is old: build/bin/stipple keys > docs/config.md"
