#!/usr/bin/env bash
# Every measurement that wants a CUDA GPU, one after the other, into a folder of results.
#
#     bash benchmarks/gpu.sh DATA [OUT] [PYTHON]      DATA: CIFAR-10 as angularkd takes it, for example cifar10:DIR
#
# Tests of the GPU; loss, step, filling and epoch (with torchdistill where PYTHON has it); the start; a teacher and an AMD
# student of 200 epochs each, compiled, with the live teacher, whose wall-clock is in timing.txt.
set -uo pipefail
data=${1:?DATA, for example cifar10:DIR}
out=${2:-gpu-results}
python=${3:-python}
here=$(dirname "$0")
mkdir -p "$out"
kd="$python -m angularkd"
recipe="--epochs 200 --augment crop flip --precision bf16-mixed --device cuda --compile always"

stage() { echo "== $1 $(date +%T)" | tee -a "$out/timing.txt"; }

stage tests
$python -m pytest -q -m gpu 2>&1 | tail -5 | tee "$out/tests.txt"
stage loss
$python "$here/loss.py" --device cuda --json-file "$out/loss.json" 2>&1 | tee "$out/loss.txt"
stage step
$python "$here/step.py" --device cuda --json-file "$out/step.json" 2>&1 | tee "$out/step.txt"
stage fill
$python "$here/fill.py" --device cuda --data "$data" --compile --json-file "$out/fill.json" 2>&1 | tee "$out/fill.txt"
stage start
$python "$here/start.py" --json-file "$out/start.json" -- train "$data" --model cifar/wrn_16_1 --augment flip 2>&1 |
  tee "$out/start.txt"
stage epoch
$python "$here/epoch.py" --device cuda --data "$data" --images 25600 --workers 8 --json-file "$out/epoch.json" 2>&1 |
  tee "$out/epoch.txt"
stage teacher
$kd train "$data" --model cifar/wrn_16_3 $recipe --out "$out/teacher" 2>&1 | tail -12 | tee "$out/teacher.txt"
[ -e "$out/teacher/student.safetensors" ] || { echo "there is no teacher, so no student either"; exit 1; }
stage student
$kd distill "$data" --teacher "$out/teacher" --student cifar/wrn_16_1 $recipe --out "$out/student" 2>&1 |
  tail -30 | tee "$out/student.txt"
stage end
