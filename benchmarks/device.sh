#!/usr/bin/env bash
# Everything that wants a GPU, in nine minutes at most: the tests on CUDA, then what it is fast at, the most important
# first. Each part has its time and is stopped at it; its tables are written row by row, so that what was measured stays.
#
#   OUT=FOLDER bash benchmarks/device.sh                   # on a CUDA device
#   QUICK=1 DEVICE=cpu OUT=FOLDER bash benchmarks/device.sh  # the same in small on a CPU, to see that it runs
#
# The folder gets device.log, device.png, updates.csv, updates-best.csv, steps.csv, argmax.csv, wide.csv and qp.csv.
# PYTHON may name an interpreter. Nothing is installed into it: what it lacks goes into a folder of its own, from the
# wheels in the folder WHEELS (./wheels) or, where there are none, from the network (not with QUICK); what is still
# missing is told.
set -uo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:?the folder for the results} DEVICE=${DEVICE:-cuda} QUICK=${QUICK:-} WHEELS=${WHEELS:-wheels}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT
export OMP_NUM_THREADS=1 MUJOCO_GL=${MUJOCO_GL:-egl} PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore
export PYTHONPATH="$PWD:$SITE${PYTHONPATH:+:$PYTHONPATH}"
[ -z "$QUICK" ] || export ICNN_RL_COMPILED=0 # the way that tensors on a GPU go, and nothing to compile
failed=0

find_python() {
  local test='import torch' candidate
  [ "$DEVICE" = cpu ] || test='import torch; assert torch.cuda.is_available()'
  for candidate in ${PYTHON:+"$PYTHON"} .venv/bin/python python3 python; do
    command -v "$candidate" >/dev/null && "$candidate" -c "$test" 2>/dev/null && python=$candidate && return
  done
  echo "No Python here has a torch for DEVICE=$DEVICE: tried ${PYTHON:-PYTHON (not set)}, .venv/bin/python, python3, python."
  return 1
}

install_missing() {
  local missing
  missing=$("$python" -m benchmarks.device.needs 2>/dev/null) || return
  [ -n "$missing" ] || return
  if [ -n "$QUICK" ]; then
    :
  elif compgen -G "$WHEELS/*.whl" >/dev/null; then
    timeout 30 "$python" -m pip install -q --no-index --no-deps --no-compile --target "$SITE" "$WHEELS"/*.whl
  else
    # without their dependencies: they would bring another torch
    echo "$missing" |
      timeout 30 xargs -n 1 "$python" -m pip install -q --no-deps --no-compile --retries 0 --target "$SITE"
  fi || echo "pip could not install what is missing."
  "$python" -m benchmarks.device.needs >/dev/null
}

part() { # part NAME SECONDS COMMAND...
  local name=$1 limit=$2 began=$SECONDS status=0
  shift 2
  [ -z "$QUICK" ] || limit=$((3 * limit)) # a slow machine is no failure there
  echo
  echo "== $name, $limit s at most"
  timeout --kill-after=5 "$limit" "$@" || status=$?
  case $status in
    0) echo "== $name: done in $((SECONDS - began)) s" ;;
    124 | 137) echo "== $name: stopped after $limit s" ;;
    *) echo "== $name: failed, status $status" && failed=1 && return 1 ;;
  esac
}

main() {
  find_python || return 1
  install_missing
  "$python" - <<'PY'
import os, platform, torch
where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
print(f"{where}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}")
PY
  local env=HalfCheetah-v5
  "$python" -c "import gymnasium; gymnasium.make('$env')" 2>/dev/null || { env=Pendulum-v1 && echo "No HalfCheetah-v5: $env."; }

  # one process for each: what cannot be captured must not take the others' numbers along
  local plain="fixed steps" best="CUDA graph"
  [ "$DEVICE" = cpu ] && plain="stacked" best="fixed steps"
  local both=(--seeds 1 16 --starts 300 --warm 100) steps=(--seeds 16 10) argmax=() qp=(--budget 0.3)
  local wide=(--contexts 512 1024 --batches 256 512 --starts 600 --warm 50 --rounds 3)
  if [ -n "$QUICK" ]; then
    both=(--seeds 2 --starts 20 --warm 5 --rounds 1 --updates 3)
    steps=(--seeds 2 --starts 20 --warm 5 --rounds 1 --steps 5)
    wide=(--contexts 64 --batches 32 --starts 40 --warm 5 --rounds 1 --updates 3)
    argmax=(--batches 1 16 --actions 1 6 --seconds 0.1) qp=(--budget 0.05 --largest 8)
  fi

  # a: the tests that are skipped elsewhere
  local tests
  mapfile -t tests < <(grep -rlE 'skipif\(not torch.cuda' tests/unit)
  part tests 80 "$python" -m pytest -q -p no:cacheprovider -W default -k cuda "${tests[@]}"
  # b: updates of one learner and of many, with and without a CUDA graph
  local learn=("$python" -m benchmarks.stacked --device "$DEVICE" --env "$env")
  part "updates, $plain" 60 "${learn[@]}" "${both[@]}" --ways "$plain" --csv "$OUT/updates.csv"
  part "updates, $best" 60 "${learn[@]}" "${both[@]}" --ways "$best" --csv "$OUT/updates-best.csv" || best=$plain
  # c and g: environment steps of sixteen and of ten learners; what a million steps of each of ten would take
  part steps 100 "$python" -m benchmarks.device.steps --device "$DEVICE" --env "$env" "${steps[@]}" --way "$best" \
    --csv "$OUT/steps.csv"
  # d: greedy actions
  part argmax 60 "$python" -m benchmarks.argmax_throughput --device "$DEVICE" "${argmax[@]}" --csv "$OUT/argmax.csv"
  # e: wide contexts
  part "wide contexts" 50 "${learn[@]}" --seeds 1 "${wide[@]}" --ways "$best" --csv "$OUT/wide.csv"
  # f: quadratic programmes
  part "quadratic programmes" 70 "$python" -m benchmarks.qp --throughput "$DEVICE" "${qp[@]}" --csv "$OUT/qp.csv"
  part picture 10 "$python" -m benchmarks.device.picture "$OUT"
  return $failed
}

main 2>&1 | tee "$OUT/device.log"
exit "${PIPESTATUS[0]}"
